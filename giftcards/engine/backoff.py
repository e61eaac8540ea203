"""Pauses after failures, outages and rate limits."""

from __future__ import annotations

import random
from datetime import timedelta

# The pause after a 429 response without ``Retry-After``, and the limits for the pause that
# ``Retry-After`` requests. An immediate retry (``Retry-After: 0``) would be refused again.
_LIMIT_PAUSE = timedelta(minutes=1)
_SHORTEST_RETRY_AFTER = timedelta(seconds=5)
_LONGEST_RETRY_AFTER = timedelta(minutes=15)
# The pause after the first failed sweep of an outage, and the longest pause.
_OUTAGE_PAUSE = timedelta(seconds=1)
_LONGEST_OUTAGE_PAUSE = timedelta(seconds=15)


def backoff(
    failures: int, *, first_pause: timedelta, max_pause: timedelta, jitter: float = 0.0
) -> timedelta:
    """Return the pause after a number of consecutive ``failures``.

    The pause after one failure is ``first_pause``, which must be positive. The pause doubles with
    each further failure, up to ``max_pause``. A random time of up to ``jitter * pause`` is then
    added, so the result can exceed ``max_pause``. A value of 0 for ``failures`` counts as 1.
    """
    # The limit prevents an overflow of the ``timedelta``.
    doublings = min(max(failures - 1, 0), (max_pause // first_pause).bit_length())
    pause: timedelta = min(first_pause * 2**doublings, max_pause)
    return pause * random.uniform(1, 1 + jitter)  # noqa: S311 (not a secret)


def pause_after_outage(outages: int) -> timedelta:
    """Return how long a machine pauses after consecutive failed sweeps.

    ``outages`` is the number of these sweeps.
    """
    return backoff(outages, first_pause=_OUTAGE_PAUSE, max_pause=_LONGEST_OUTAGE_PAUSE, jitter=0.25)


def pause_after_limit(retry_after: float | None) -> timedelta:
    """Return the pause after a response with the status 429.

    ``retry_after`` is in seconds. The pause is at least 5 seconds and at most 15 minutes. If
    ``retry_after`` is ``None``, the pause is one minute.
    """
    if retry_after is None:
        return _LIMIT_PAUSE
    asked = min(timedelta(seconds=retry_after), _LONGEST_RETRY_AFTER)
    return max(asked, _SHORTEST_RETRY_AFTER)
