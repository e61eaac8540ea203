"""The wall clock, and how it was set: a wait counts only if the time has really passed.

Stored times are those of the wall clock, which NTP or a person can set. A clock that nobody can set
runs beside it. Where the wall clock has moved more, or less, than that one, it was set: that is a
step. ``ProviderState`` keeps, for each machine, the difference of its two clocks, and the latest
steps of all of them, so that a step between two processes is noticed as well.

Without a difference on record (at first, and after a reboot) the wall clock is believed, unless it
shows less than at the last sweep.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine import task_queue
from giftcards.models import Order, ProviderState, RequestSlot, StatusChange
from giftcards.models.provider import LONGEST_PAUSE
from giftcards.models.times import LONGEST_HOLD, SLACK
from giftcards.statuses import Status

logger = logging.getLogger(__name__)

# From this difference on, the clock was set. NTP may correct less by and by.
_TOLERANCE = timedelta(seconds=2)
# From this difference on, a clock that drifts is compared with its latest reading.
_DRIFT = timedelta(seconds=0.5)
_MOST_STEPS = 32
_MOST_MACHINES = 16
# The most that the engine puts off, at a time: urgent orders (after a 429), and the others.
_LONGEST_URGENT = timedelta(minutes=15)
_LONGEST_OTHER = timedelta(hours=1.25)


def longest_request() -> timedelta:
    """How long a request counts at the provider, at most: a minute after it has timed out."""
    return timedelta(seconds=conf.request_timeout + 60)


def _identify_machine() -> str:
    """The current boot of this machine: the steady clock begins anew with the next one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return uuid.uuid4().hex


_MACHINE = _identify_machine()


def steady_time() -> float:
    """Seconds by a clock that nobody can set, and that all processes of the machine share.

    On Linux it also counts the time for which the machine was suspended.
    """
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def _read_clocks() -> tuple[datetime, float]:
    """The time, and by how many seconds the wall clock is ahead of the steady one."""
    while True:
        began = steady_time()
        now = timezone.now()
        ended = steady_time()
        # If the process was halted in between, the difference is wrong.
        if ended - began < _DRIFT.total_seconds() / 2:
            return now, _as_seconds(now) - ended


def _as_seconds(moment: datetime) -> float:
    return (moment - _epoch(moment)).total_seconds()


def _epoch(moment: datetime) -> datetime:
    """Naive if ``moment`` is (``USE_TZ = False``); those times jump with daylight saving time."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch.replace(tzinfo=None) if timezone.is_naive(moment) else epoch


@dataclass(frozen=True, slots=True)
class Step:
    """The clock was set ahead by ``seconds``, or back if negative, when it showed ``before``."""

    before: datetime
    seconds: float

    @property
    def after(self) -> datetime:
        return self.before + timedelta(seconds=self.seconds)


class Era(NamedTuple):
    """A time between two steps, in which the clock showed ``start`` to ``end``.

    ``set_since`` is the sum of the steps after it.
    """

    start: datetime
    end: datetime
    set_since: timedelta


@dataclass(frozen=True, slots=True)
class _Record:
    """What ``ProviderState.clock`` holds."""

    # By machine: by how many seconds its wall clock is ahead of its steady clock.
    offsets: Mapping[str, float]
    # Oldest first.
    steps: Sequence[Step]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        epoch = _epoch(timezone.now())
        return cls(
            dict(stored.get("offsets", ())),
            [
                Step(epoch + timedelta(seconds=before), seconds)
                for before, seconds in stored.get("steps", ())
            ],
        )

    def with_reading(self, offset: float, steps: Iterable[Step]) -> Self:
        others = {name: value for name, value in self.offsets.items() if name != _MACHINE}
        offsets = [*others.items(), (_MACHINE, offset)]
        return type(self)(
            dict(offsets[-_MOST_MACHINES:]), _merge_oldest([*self.steps, *steps], _MOST_STEPS)
        )

    def eras(self) -> Iterator[Era]:
        """The eras of the clock, newest first; a time that it showed twice is in two of them.

        Their limits overlap by the tolerance, to which steps are known.
        """
        zone = timezone.now().tzinfo
        end = datetime.max.replace(tzinfo=zone)
        set_since = timedelta(0)
        for step in reversed(self.steps):
            start = min(step.before, step.after) - _TOLERANCE
            yield Era(start, end, set_since)
            # The era before this step.
            end = step.before + _TOLERANCE
            set_since += timedelta(seconds=step.seconds)
        yield Era(datetime.min.replace(tzinfo=zone), end, set_since)

    def as_dict(self) -> dict[str, Any]:
        # A list, because a database may sort the keys of an object.
        return {
            "offsets": list(self.offsets.items()),
            "steps": [(_as_seconds(step.before), step.seconds) for step in self.steps],
        }


def _merge_oldest(steps: Sequence[Step], most: int) -> list[Step]:
    """Count the oldest of more than ``most`` steps as one: none is forgotten."""
    surplus = len(steps) - most
    if surplus <= 0:
        return list(steps)
    oldest, rest = steps[: surplus + 1], steps[surplus + 1 :]
    return [Step(oldest[-1].before, sum(step.seconds for step in oldest)), *rest]


class Clock:
    """The clock of this process, compared with what all processes have on record."""

    def __init__(self) -> None:
        self.compare(ProviderState.objects.current())

    def compare(self, state: ProviderState) -> ProviderState:
        """Note whether the clock was set since it was compared last; return the current state.

        ``state`` was just loaded. If the clock was set, what is stored is adapted to it.
        """
        self._take_over(state)
        self._check()
        return self._state

    def long_ago(self, length: timedelta) -> datetime:
        """The latest stored time that is certainly ``length`` or longer ago.

        The time by which a clock was set ahead does not count: nobody has lived through it.
        """
        moment = self._check() - length
        candidates = []
        for era in self._record.eras():
            shown = moment - era.set_since  # what the clock showed then, or would have shown
            if shown < era.end:
                candidates.append(shown)
        return min(candidates)

    def set_since(self, moment: datetime) -> list[timedelta]:
        """By how much the clock was set, in total, since it showed ``moment``.

        Several values if it may have shown it several times.
        """
        eras = self._record.eras()
        return [era.set_since for era in eras if era.start < moment <= era.end]

    def _take_over(self, state: ProviderState) -> None:
        self._state = state
        self._record = _Record.of(state.clock)

    def _check(self) -> datetime:
        """Note a step since the clock was compared last; return the time."""
        while True:
            now, offset = _read_clocks()
            seconds = self._seconds_set(now, offset)
            span = timedelta(seconds=seconds)
            if abs(span) < _DRIFT and _MACHINE in self._record.offsets:
                return now
            steps = [Step(now - span, seconds)] if abs(span) > _TOLERANCE else []
            self._store(offset, steps, now)
            # Also if another process was faster: it may have noted the same step.
            self._take_over(ProviderState.objects.current())

    def _seconds_set(self, now: datetime, offset: float) -> float:
        if _MACHINE in self._record.offsets:
            return offset - self._record.offsets[_MACHINE]
        swept_at = self._state.swept_at
        # If the last sweep lies ahead, the clock was set back, at least to before it.
        return min((now - swept_at).total_seconds(), 0) if swept_at else 0

    def _store(self, offset: float, steps: Sequence[Step], now: datetime) -> None:
        """Put the reading on record, and adapt what is stored, unless another process did."""
        version = self._state.clock_version
        record = self._record.with_reading(offset, steps)
        with transaction.atomic():
            row = ProviderState.objects.filter(pk=1, clock_version=version)
            if not row.update(clock=record.as_dict(), clock_version=version + 1):
                return
            for step in steps:
                logger.warning("The clock of this server was set by %+.0f s.", step.seconds)
                _follow(step, self._state, now)


def _follow(step: Step, state: ProviderState, now: datetime) -> None:
    """Adapt the times that lie ahead to the clock after ``step``."""
    span = timedelta(seconds=step.seconds)
    RequestSlot.objects.follow_clock(before=step.before, now=now, longest=longest_request())
    if state.paused_until and state.paused_until > step.before:
        # Guarded: another process may have started a pause in the meantime.
        paused = ProviderState.objects.filter(pk=1, paused_until=state.paused_until)
        # Capped: another machine may have followed a step of its own already.
        paused.update(paused_until=min(state.paused_until + span, now + LONGEST_PAUSE))
    # Orders whose sender is still at work, and that must not be taken for lost.
    sending = Order.objects.open().filter(status=Status.PLACING, sent_at__lte=step.before)
    sending.filter(claimed_until__gt=step.before).update(claimed_until=F("claimed_until") + span)
    if step.seconds > 0:
        too_long = sending.filter(claimed_until__gt=now + LONGEST_HOLD)
        too_long.update(claimed_until=now + LONGEST_HOLD)
    if step.seconds < 0:
        # What is due too early after a step ahead does no harm.
        Order.objects.open().filter(due_at__gt=now).update(due_at=F("due_at") + span)
        changes = StatusChange.objects.filter(announced_at=None, announce_at__gt=now)
        changes.update(announce_at=F("announce_at") + span)
        without_list = ProviderState.objects.filter(list_usable_at__gt=now)
        without_list.update(list_usable_at=F("list_usable_at") + span)
        task_queue.follow_clock(span, now=now)


def recall_far_future() -> None:
    """Make due what is due later than anything is put off.

    It was written before the clock was set back, and nobody has noticed that: all processes were
    down, for example.
    """
    now = timezone.now()
    others = max(_LONGEST_OTHER, timedelta(seconds=conf.proof_of_absence / 2))
    Order.objects.put_off_too_far(now, urgent=_LONGEST_URGENT, others=others).update(due_at=now)
    changes = StatusChange.objects.filter(announced_at=None)
    changes.filter(announce_at__gt=now + timedelta(hours=1) + SLACK).update(announce_at=now)
