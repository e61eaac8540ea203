"""Laws, which hypothesis tries with examples of its own."""

from __future__ import annotations

from django.db import connection


def examples(count: int) -> int:
    """How many examples to try: all of them on SQLite, a fifth on the other databases.

    What a law says is a matter of our code, and in CI the examples are the same in each run.
    """
    return count if connection.vendor == "sqlite" else max(count // 5, 5)
