"""Pauses after failures, outages and rate limits."""

from __future__ import annotations

import random
from datetime import timedelta

# The pause after a 429 without ``Retry-After``, and the bounds of a pause that ``Retry-After`` asks
# for. An immediate retry (``Retry-After: 0``) would be refused again.
_LIMIT_PAUSE = timedelta(minutes=1)
_SHORTEST_RETRY_AFTER = timedelta(seconds=5)
_LONGEST_RETRY_AFTER = timedelta(minutes=15)
# The pause after the first failed sweep of an outage, and the longest pause.
_OUTAGE_PAUSE = timedelta(seconds=1)
_LONGEST_OUTAGE_PAUSE = timedelta(seconds=15)


def backoff(
    failures: int, *, first: timedelta, longest: timedelta, jitter: float = 0.0
) -> timedelta:
    """Return the pause after ``failures`` failures in a row; 0 counts as 1.

    The pause is ``first`` (which must be positive), and doubles with each failure up to
    ``longest``. A random part of at most ``jitter * pause`` is added, even beyond ``longest``.
    """
    # More doublings would overflow the ``timedelta``.
    doublings = min(max(failures - 1, 0), (longest // first).bit_length())
    pause: timedelta = min(first * 2**doublings, longest)
    return pause * random.uniform(1, 1 + jitter)  # noqa: S311 (not a secret)


def pause_after_outage(outages: int) -> timedelta:
    """Return the pause of a machine after ``outages`` failed sweeps in a row."""
    return backoff(outages, first=_OUTAGE_PAUSE, longest=_LONGEST_OUTAGE_PAUSE, jitter=0.25)


def pause_after_limit(retry_after: float | None) -> timedelta:
    """Return the pause after a 429: ``retry_after`` seconds within bounds, or else a minute."""
    if retry_after is None:
        return _LIMIT_PAUSE
    asked = min(timedelta(seconds=retry_after), _LONGEST_RETRY_AFTER)
    return max(asked, _SHORTEST_RETRY_AFTER)
