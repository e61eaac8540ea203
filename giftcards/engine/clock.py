"""Detecting when the wall clock is set forward or back.

Times in the database come from the wall clock, which NTP or a person can set. A step of the wall
clock must not count as waiting time. The app detects a step by comparing the wall clock with the
steady (monotonic) clock. ``ProviderState`` stores the difference between the two clocks of each
machine, so steps are detected even if no process was running.

If no difference is stored for a machine, the app trusts the machine's wall clock, unless the
recorded time of the last sweep is in the future.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django.db import transaction
from django.db.models import F
from django.dispatch import Signal
from django.utils import timezone

from giftcards.engine.tuning import tuning
from giftcards.models import Order, ProviderState, RequestSlot, StatusChange
from giftcards.models.provider import LONGEST_PAUSE
from giftcards.rules.states import Status
from giftcards.rules.times import LONGEST_HOLD, SLACK

logger = logging.getLogger(__name__)

# Sent after the clock was set back, in the transaction that records the step. Receivers get ``now``
# and the negative length of the step as ``span``.
clock_set_back = Signal()

# The wall clock has made a step if it drifts by more than this from the steady clock. A smaller
# drift may be a gradual correction by NTP.
_TOLERANCE = timedelta(seconds=2)
# A drift of more than this is stored, so that slow drift does not add up to a step.
_DRIFT = timedelta(seconds=0.5)
_MOST_STEPS = 32
# The maximum number of machines whose clock differences are stored. It must be higher than the
# number of machines in any shop, because a new machine displaces the oldest one.
_MOST_MACHINES = 256
# The longest times for which the engine postpones an urgent order (after a 429 response) and any
# other order.
_LONGEST_URGENT = timedelta(minutes=15)
_LONGEST_OTHER = timedelta(hours=1.25)


def longest_request() -> timedelta:
    """Return how long a request can count towards the provider's quota.

    The result is the time-out of a request plus one minute.
    """
    return timedelta(seconds=tuning.request_timeout + 60)


try:
    # The name of the machine is its boot id, because each boot restarts the steady clock.
    _MACHINE = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
except OSError:
    _MACHINE = uuid.uuid4().hex


def steady_time() -> float:
    """Return the time of the machine's steady clock in seconds.

    All processes of the machine share this clock. On Linux, the clock also runs while the machine
    is suspended.
    """
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def _read_clocks() -> tuple[datetime, float]:
    """Return the current time, and the wall clock's offset in seconds.

    The offset is the time of the wall clock minus the time of the steady clock.
    """
    while True:
        began = steady_time()
        now = timezone.now()
        ended = steady_time()
        # If the process was halted between the two readings, the difference is wrong.
        if ended - began < _DRIFT.total_seconds() / 2:
            return now, _as_seconds(now) - ended


def _as_seconds(moment: datetime) -> float:
    return (moment - _epoch(moment)).total_seconds()


def _epoch(moment: datetime) -> datetime:
    """Return the Unix epoch, as a naive time if ``moment`` is naive.

    Times are naive if ``USE_TZ`` is False. The difference between two naive times jumps when
    daylight saving time begins or ends.
    """
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch.replace(tzinfo=None) if timezone.is_naive(moment) else epoch


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the wall clock, which was set forward or back.

    ``before`` is the time that the clock showed immediately before the step. ``seconds`` is the
    length of the step, and is negative if the clock was set back.
    """

    before: datetime
    seconds: float

    @property
    def span(self) -> timedelta:
        return timedelta(seconds=self.seconds)


class Clock:
    """The wall clock and its steps, as recorded by all processes."""

    def __init__(self) -> None:
        self.compare(ProviderState.objects.current())

    def compare(self, state: ProviderState) -> ProviderState:
        """Record that the clock was set, if this has happened.

        Returns ``state``, or a newer state from the database.
        """
        self._take_over(state)
        self._check()
        return self._state

    def long_ago(self, length: timedelta) -> datetime:
        """Return a time that the clock showed at least ``length`` ago.

        Steps of the clock since then are taken into account.
        """
        moment = self._check() - length
        candidates = []
        for _start, end, set_since in self._eras():
            shown = moment - set_since  # what the clock showed at that moment
            if shown < end:
                candidates.append(shown)
        return min(candidates)

    def set_since(self, moment: datetime) -> list[timedelta]:
        """Return the sum of all clock steps since a given time.

        ``moment`` is a time that the clock showed. If the clock showed this time repeatedly, the
        list contains several sums.
        """
        return [set_since for start, end, set_since in self._eras() if start < moment <= end]

    def _eras(self) -> Iterator[tuple[datetime, datetime, timedelta]]:
        """Yield the periods between steps, newest first.

        Each period consists of its start, its end, and the sum of all later steps. Periods can
        overlap, because the clock can show a time twice, and because the time of a step is known
        only within the tolerance.
        """
        zone = timezone.now().tzinfo
        end = datetime.max.replace(tzinfo=zone)
        set_since = timedelta(0)
        for step in reversed(self._steps):
            start = min(step.before, step.before + step.span) - _TOLERANCE
            yield start, end, set_since
            # The period that is yielded next is the one before this step.
            end = step.before + _TOLERANCE
            set_since += step.span
        yield datetime.min.replace(tzinfo=zone), end, set_since

    def _take_over(self, state: ProviderState) -> None:
        self._state = state
        # By machine, the seconds by which the wall clock is ahead of the steady clock.
        self._offsets: dict[str, float] = dict(state.clock.get("offsets", ()))
        # The steps are sorted, oldest first.
        epoch = _epoch(timezone.now())
        self._steps = [
            Step(epoch + timedelta(seconds=before), seconds)
            for before, seconds in state.clock.get("steps", ())
        ]

    def _check(self) -> datetime:
        """Record a step if the clock was set, and return the current time.

        After a step, future times in the database are corrected.
        """
        while True:
            now, offset = _read_clocks()
            seconds = self._seconds_set(now, offset)
            span = timedelta(seconds=seconds)
            if abs(span) < _DRIFT and _MACHINE in self._offsets:
                return now
            self._store(offset, Step(now - span, seconds), now)
            # Another process may have recorded the same step.
            self._take_over(ProviderState.objects.current())

    def _seconds_set(self, now: datetime, offset: float) -> float:
        if _MACHINE in self._offsets:
            return offset - self._offsets[_MACHINE]
        swept_at = self._state.swept_at
        # If the last sweep lies in the future, the clock was set back by at least the difference.
        return min((now - swept_at).total_seconds(), 0) if swept_at else 0

    def _store(self, offset: float, step: Step, now: datetime) -> None:
        """Store the ``offset`` and the ``step``, and adjust stored times.

        Does nothing if another process has changed the stored clock row. If the length of the step
        is within the tolerance, only ``offset`` is stored.
        """
        others = [(name, value) for name, value in self._offsets.items() if name != _MACHINE]
        is_step = abs(step.span) > _TOLERANCE
        steps = [*self._steps, step] if is_step else self._steps
        surplus = len(steps) - _MOST_STEPS
        if surplus > 0:
            oldest = steps[: surplus + 1]
            merged = Step(oldest[-1].before, sum(each.seconds for each in oldest))
            steps = [merged, *steps[surplus + 1 :]]
        clock = {
            # The offsets are stored as a list, because a database may sort the keys of an object.
            "offsets": [*others, (_MACHINE, offset)][-_MOST_MACHINES:],
            "steps": [(_as_seconds(each.before), each.seconds) for each in steps],
        }
        version = self._state.clock_version
        with transaction.atomic():
            row = ProviderState.objects.filter(pk=1, clock_version=version)
            if row.update(clock=clock, clock_version=version + 1) and is_step:
                logger.warning("The clock of this server was changed by %+.0f s.", step.seconds)
                _follow(step, self._state, now)


def _follow(step: Step, state: ProviderState, now: datetime) -> None:
    span = step.span
    RequestSlot.objects.follow_clock(before=step.before, now=now, max_hold=longest_request())
    if state.paused_until and _is_pause_of_old_clock(state, step, now):
        # Because of the filter on ``paused_until``, a pause that another process has started in the
        # meantime is not changed.
        paused = ProviderState.objects.filter(pk=1, paused_until=state.paused_until)
        # The new end is capped, because another machine may have recorded the same step and already
        # corrected the end.
        paused.update(paused_until=min(state.paused_until + span, now + LONGEST_PAUSE))
    # Orders that are still being sent must not be marked as lost.
    sending = Order.objects.open().filter(status=Status.PLACING, sent_at__lte=step.before)
    sending.filter(claimed_until__gt=step.before).update(claimed_until=F("claimed_until") + span)
    if step.seconds > 0:
        too_long = sending.filter(claimed_until__gt=now + LONGEST_HOLD)
        too_long.update(claimed_until=now + LONGEST_HOLD)
    if step.seconds < 0:
        # After a step forward, times are not corrected. Orders are then due too early, which is
        # harmless.
        Order.objects.open().filter(due_at__gt=now).update(due_at=F("due_at") + span)
        by_rule = Order.objects.open().filter(send_before__gt=now)
        by_rule.update(send_after=F("send_after") + span, send_before=F("send_before") + span)
        changes = StatusChange.objects.filter(announced_at=None, announce_at__gt=now)
        changes.update(announce_at=F("announce_at") + span)
        for name in ("paused_at", "succeeded_at", "list_usable_at"):
            later = ProviderState.objects.filter(pk=1, **{f"{name}__gt": now})
            later.update(**{name: F(name) + span})
        clock_set_back.send(Clock, span=span, now=now)


def _is_pause_of_old_clock(state: ProviderState, step: Step, now: datetime) -> bool:
    """Return True if the end of the pause has to follow the step of the clock.

    After the clock was set back, a pause that is over must not begin again when the clock shows
    its time for the second time. Other machines, whose clocks may have been right, can have
    recorded a pause that ends between ``now`` and the time before the step. It counts as over only
    if it began after ``now``, or if a call has succeeded after its end.
    """
    until = state.paused_until
    if until is None or until <= min(now, step.before):
        return False
    has_begun_later = state.paused_at is not None and state.paused_at > now
    has_ended = state.succeeded_at is not None and state.succeeded_at > until
    return until > step.before or has_begun_later or has_ended


def recall_far_future() -> None:
    """Replace times that are too far in the future with the current time.

    The due times of orders and announcements, and the end of a pause, can be too far in the future
    if the clock was set back while no process was running.
    """
    now = timezone.now()
    others = max(_LONGEST_OTHER, timedelta(seconds=tuning.proof_of_absence / 2))
    Order.objects.put_off_too_far(now, urgent_delay=_LONGEST_URGENT, other_delay=others).update(
        due_at=now
    )
    changes = StatusChange.objects.filter(announced_at=None)
    changes.filter(announce_at__gt=now + timedelta(hours=1) + SLACK).update(announce_at=now)
    pauses = ProviderState.objects.filter(paused_until__gt=now + LONGEST_PAUSE + SLACK)
    pauses.update(paused_until=now)
