"""Intervals and limits for messages, links and digests.

These values are constants instead of settings, because shops do not need to change them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(slots=True)
class Tuning:
    """Intervals and limits, which tests can change.

    The values are read each time they are needed, so a change takes effect at once.
    """

    # Programs that try links press the button faster than people. A press is therefore not accepted
    # within this time after the page was sent (seconds).
    press_after: float = 1.0
    # The maximum number of reveals per link. A limit is needed because each reveal adds a row.
    link_reveals: int = 10_000
    # The shortest interval between two digests to the same person, unless a new condition is
    # urgent.
    digest_interval: timedelta = timedelta(minutes=30)


tuning = Tuning()
