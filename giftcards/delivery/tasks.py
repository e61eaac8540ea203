"""The task for django-q2 that sends messages."""

from __future__ import annotations


def deliver() -> str:
    """Send what is due; return how many, in words."""
    raise NotImplementedError
