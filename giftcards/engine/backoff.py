"""Exponential back-off for retries."""

from __future__ import annotations

import random
from datetime import timedelta


def backoff(
    failures: int, *, first: timedelta, longest: timedelta, jitter: float = 0.0
) -> timedelta:
    """Return the pause after the ``failures``-th failure in a row, counted from 1.

    The pause is ``first`` after the first failure (and for 0), doubles with each further one, and
    stays at ``longest``. ``first`` must be positive. Then a random fraction of the pause, from 0 to
    ``jitter`` (0.25: a quarter), is added, even to ``longest``.
    """
    # Capped where ``longest`` is exceeded, because more doublings would overflow.
    doublings = min(max(failures - 1, 0), (longest // first).bit_length())
    pause: timedelta = min(first * 2**doublings, longest)
    return pause * random.uniform(1, 1 + jitter)  # noqa: S311 (not a secret)
