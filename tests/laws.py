"""Laws, which hypothesis tries with examples of its own."""

from __future__ import annotations

from django.apps import apps
from django.db import connection


def examples(count: int) -> int:
    """The number of examples to try: all on SQLite, a fifth on others and with the core alone.

    What a law says is a matter of our code, and in CI the examples are the same in each run.
    """
    if connection.vendor == "sqlite" and apps.is_installed("giftcards.books"):
        return count
    return max(count // 5, 5)
