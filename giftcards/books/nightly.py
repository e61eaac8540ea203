"""Automatic reading of the provider's ledger: once a night, a few seconds at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from django.utils import timezone

from giftcards.books.models import LedgerState
from giftcards.books.reading import LedgerReading, read_ledger
from giftcards.engine.background import Stopped
from giftcards.engine.backoff import backoff
from giftcards.engine.gateway import Gateway
from giftcards.keys.keyring import configured_key
from giftcards.models.times import begin_of, day_of, is_ahead

logger = logging.getLogger(__name__)

# Earliest start of the night's reading, after midnight in the site's time zone. Each shop starts at
# its own minute of the following three hours, so that not all come at once.
_FROM = timedelta(hours=2)
_MINUTES = 180
# Time limit for one part of a reading, beyond its first request (seconds).
_SECONDS = 5.0
# Back-off after a reading that failed.
_FIRST_PAUSE = timedelta(minutes=2)
_LONGEST_PAUSE = timedelta(hours=1)


def read_if_due(should_continue: Callable[[], bool]) -> None:
    """Read a part of the ledger if its nightly reading is due; the very first call plans it.

    Makes one request, and more for five seconds while ``should_continue`` and the budget allow it.
    """
    state = LedgerState.objects.current()
    now = timezone.now()
    if state.due_at is None:
        _put_off_to_next_night()
    elif not is_ahead(state.due_at, now, longest=timedelta(days=2)):
        _read_part(state, should_continue)


def _read_part(state: LedgerState, should_continue: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + _SECONDS
    with Gateway() as gateway:
        reading = read_ledger(
            gateway,
            on_wait=_do_not_wait,
            should_continue=lambda: time.monotonic() < ends_at and should_continue(),
        )
    for day, count in reading.changed_days.items():
        logger.warning("The provider's ledger of %s has changed: %d entries.", day, count)
    if reading.is_whole:
        _put_off_to_next_night()
    elif reading.trouble:
        failures = state.failures + 1
        pause = backoff(failures, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE, jitter=0.25)
        LedgerState.objects.note(due_at=timezone.now() + pause, failures=min(failures, 20))
        logger.warning("The provider's ledger could not be read. %s", reading.trouble)
    elif state.failures:
        LedgerState.objects.note(failures=0)


def _do_not_wait(_reading: LedgerReading) -> None:
    # Requests about orders come first. The next tick tries again.
    raise Stopped


def next_night(now: datetime, minute: int) -> datetime:
    """The next time after ``now`` that it is ``minute`` minutes past 2 a.m. in the site's zone."""
    nights = (begin_of(day_of(now) + timedelta(days=number)) for number in range(2))
    moments = (night + _FROM + timedelta(minutes=minute) for night in nights)
    return next(moment for moment in moments if moment > now)


def _put_off_to_next_night() -> None:
    minute = int(configured_key() or "0", 16) % _MINUTES
    due_at = next_night(timezone.now(), minute)
    LedgerState.objects.note(due_at=due_at, failures=0)
