"""Laws, which hypothesis tests with generated examples."""

from __future__ import annotations

from django.apps import apps
from django.db import connection


def examples(count: int) -> int:
    """Return the number of examples: all on SQLite, a fifth elsewhere and with the core alone.

    The laws concern only our code, and in CI the examples are the same in each run.
    """
    if connection.vendor == "sqlite" and apps.is_installed("giftcards.books"):
        return count
    return max(count // 5, 5)
