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

    # Programs that try links press the button sooner than people, so a press within this time after
    # the page was sent is not enough (seconds).
    press_after: float = 1.0
    # The most reveals of a link. A limit is needed because each reveal adds a row.
    link_reveals: int = 10_000
    # The shortest time between two digests to the same person, unless something urgent begins.
    digest_interval: timedelta = timedelta(minutes=30)


tuning = Tuning()
