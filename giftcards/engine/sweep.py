"""Following orders with sweeps.

A sweep is one pass over the orders that are due. A sweep makes its requests outside any transaction
(see :mod:`giftcards.engine.checking`). The sweep records answers in batches as they arrive (see
:mod:`giftcards.engine.recording`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import chain

from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine import outbox
from giftcards.engine.approvals import end_waits
from giftcards.engine.checking import (
    Checked,
    CheckedPage,
    check_orders,
    conclude,
    is_list_worthwhile,
)
from giftcards.engine.database import isolate_failures, tolerating, write_together
from giftcards.engine.gateway import Gateway
from giftcards.engine.listing import Listing, find_orphans
from giftcards.engine.placing import give_up, mark_unconfirmed, send_due
from giftcards.engine.pool import Pulse
from giftcards.engine.recording import find_owners, record_answers, record_changes, record_failures
from giftcards.engine.recovering import recover
from giftcards.engine.repetitions import note_repetitions
from giftcards.engine.tuning import tuning
from giftcards.models import Order, OrderQuerySet, StatusChange
from giftcards.provider.answers import OrderAnswer
from giftcards.rules.purposes import Purpose
from giftcards.rules.states import FOLLOWED, URGENT, Status
from giftcards.rules.verdict import Verdict

# The number of pending orders that are read at a time. It is higher than the number of orders that
# can be sent before the next read.
_SLICE = 100
# The length of a claim. If a process dies, other processes cannot check the orders that it has
# claimed until the claim ends.
_CLAIM = timedelta(seconds=15)
# The maximum number of seconds for which orders are sent before due orders are checked.
_LONGEST_SENDING = 5.0
# A batch is recorded after this many answers, or this time (seconds).
_RECORD_AT = 100
_RECORD_AFTER = 1.0


@dataclass(frozen=True, slots=True)
class Swept:
    """Counts of the orders in one or more sweeps, by result.

    ``postponed`` is the number of orders that were due in the last sweep, but were not checked
    because the request quota was used up or requests to the provider were paused.
    """

    sent: int = 0
    checked: int = 0
    settled: int = 0
    failed: int = 0
    postponed: int = 0
    is_paused: bool = False

    def __add__(self, other: Swept) -> Swept:
        return replace(
            other,
            sent=self.sent + other.sent,
            checked=self.checked + other.checked,
            settled=self.settled + other.settled,
            failed=self.failed + other.failed,
        )

    def __str__(self) -> str:
        counts = (
            f"{self.sent} sent, {self.checked} checked, {self.settled} settled,"
            f" {self.failed} failed"
        )
        if self.postponed:
            counts = f"{counts}, {self.postponed} postponed"
        return f"{counts}; paused" if self.is_paused else counts


def sweep(
    gateway: Gateway,
    orders: OrderQuerySet | None = None,
    *,
    should_continue: Callable[[], bool] = lambda: True,
) -> Swept:
    """Send, check and recover the orders that are due, and note delays.

    The sweep is limited to ``orders``, or includes all orders if ``orders`` is ``None``. As soon as
    ``should_continue`` returns False, the sweep only records the answers to requests in flight.
    """
    scope = Order.objects.all() if orders is None else orders
    done = _Sweep(gateway, scope, should_continue).run()
    outbox.announce(should_continue)
    return done


class _Sweep:
    def __init__(
        self, gateway: Gateway, scope: OrderQuerySet, should_continue: Callable[[], bool]
    ) -> None:
        self._gateway = gateway
        self._scope = scope
        self._should_continue = should_continue
        self._pulse = Pulse(should_continue, self._beat)
        self._claimed: list[Order] = []
        self._sent = self._unsent = 0
        self._beat_at = time.monotonic()

    def run(self) -> Swept:
        is_open = self._gateway.try_open()
        for order in self._scope.abandoned(timezone.now())[:_SLICE]:
            with isolate_failures(order):
                mark_unconfirmed(order)
        end_waits(self._scope)
        # Sending comes first, because a late check only delays a code, but a late purchase may lose
        # the sale.
        self._send()
        done = Swept()
        if is_open:
            self._beat_at = time.monotonic()
            done = self._check()
            if self._should_continue():
                recover(self._scope, self._gateway, self._pulse)
        # The flush also records that a worker is alive, even if calls are paused.
        self._gateway.flush()
        if self._should_continue():
            self._mark_delayed()
            self._note_waits()
        failed, is_paused = done.failed + self._unsent, not self._gateway.is_open
        return replace(done, sent=self._sent, failed=failed, is_paused=is_paused)

    def _mark_delayed(self) -> None:
        now = timezone.now()
        poll_timeout = timedelta(seconds=conf.poll_timeout)
        overdue = self._scope.overdue(now, accepted_by=self._gateway.clock.long_ago(poll_timeout))
        move = partial(
            OrderQuerySet.move_all,
            origin=Status.HANDLING,
            target=Status.DELAYED,
            source=StatusChange.Source.CLOCK,
            due_at=now + timedelta(minutes=1),
        )
        failed = True
        with tolerating("Recording that orders are late"):
            move(overdue)
            failed = False
        for order in overdue[:_SLICE] if failed else ():
            with isolate_failures(order):
                move(overdue.filter(pk=order.pk))

    def _note_waits(self) -> None:
        poll_timeout = timedelta(seconds=conf.poll_timeout)
        recorded_by = self._gateway.clock.long_ago(poll_timeout)
        for order in self._scope.kept_waiting(recorded_by=recorded_by)[:_SLICE]:
            with isolate_failures(order):
                order.note_wait()

    def _send(self) -> None:
        now, began = timezone.now(), time.monotonic()
        pending = self._give_up_expired(self._scope.to_send(now)[:_SLICE])
        self._gateway.waiting = len(pending)
        if not (pending and self._gateway.is_open):
            return
        seconds = _LONGEST_SENDING
        if next_check := self._scope.next_due_at(FOLLOWED, now):
            seconds = min(seconds, (next_check - now).total_seconds())
        ends_at = began + max(seconds, tuning.shortest_sending)

        def should_continue() -> bool:
            return self._should_continue() and time.monotonic() < ends_at

        sent, unsent = send_due(pending, self._gateway, should_continue=should_continue)
        self._sent += sent
        self._unsent += unsent
        self._gateway.waiting -= sent + unsent

    def _give_up_expired(self, orders: Iterable[Order]) -> list[Order]:
        """Give up expired orders, and return the other orders.

        An order has expired if it has been queued for longer than ``SEND_TIMEOUT``. The app rejects
        expired orders, or puts them on hold if ``REVIEW_ORDER`` fails.
        """
        oldest = self._gateway.clock.long_ago(timedelta(seconds=conf.send_timeout))
        pending = []
        for order in orders:
            if order.queued_at < oldest:
                with isolate_failures(order):
                    give_up(order)
            else:
                pending.append(order)
        return pending

    def _beat(self) -> None:
        if time.monotonic() - self._beat_at < tuning.sweep_renewal:
            return
        Order.objects.still_claimed(self._claimed).update(claimed_until=timezone.now() + _CLAIM)
        # try_open() also notices a pause that another process has started.
        if self._gateway.is_proven and self._gateway.try_open():
            self._send()
        self._beat_at = time.monotonic()

    def _check(self) -> Swept:
        now = timezone.now()
        # Orders that are due soon are also checked, because the same pages of the list contain
        # them.
        soon = now + timedelta(seconds=conf.poll_interval)
        wanted = self._scope.to_check(now=now, due_by=soon, limit=tuning.sweep_orders)
        due = [order for order in wanted if order.due_at and order.due_at <= now]
        if not (due and self._gateway.is_open and self._should_continue()):
            return Swept(postponed=len(due))
        if not is_list_worthwhile(wanted, self._gateway):
            wanted = due
        claimed = _claim(wanted, now, due_by=soon)
        if not claimed:
            return Swept()
        self._claimed = claimed
        recorder = _Recorder(self._gateway, now)
        for found in check_orders(claimed, due_by=now, gateway=self._gateway, pulse=self._pulse):
            if isinstance(found, CheckedPage):
                recorder.add(found.checked)
                recorder.add(self._match_others(found, due_by=soon, excluded=recorder.checked))
            else:
                recorder.add([found])
        recorder.flush()
        self._postpone([order for order in claimed if order.pk not in recorder.checked])
        return Swept(
            checked=len(recorder.checked),
            settled=recorder.settled,
            failed=recorder.failed,
            postponed=len([order for order in due if order.pk not in recorder.checked]),
        )

    def _postpone(self, orders: Collection[Order]) -> None:
        if not orders:
            return
        claimed = Order.objects.still_claimed(orders)
        if turn := self._gateway.list_turn():
            # The orders become due at the next reading of the list. Otherwise, the next sweep would
            # follow immediately, and would read the first page again.
            fresh = claimed.filter(status=Status.HANDLING, due_at__lt=turn)
            fresh.update(claimed_until=None, due_at=turn)
        claimed.update(claimed_until=None)

    def _match_others(
        self, page: CheckedPage, *, due_by: datetime, excluded: Collection[int]
    ) -> Iterator[Checked]:
        """Claim and yield the open orders whose rows are in ``page.others``.

        Settled orders are not claimed, but differences from their rows are recorded.
        """
        # The time is read again, because the sweep may have waited for this page.
        now = timezone.now()
        shown = list(find_owners({row.provider_id: row for row in page.others}, self._scope))
        known = {row.provider_id for _order, row in shown}
        unknown = [row for row in page.others if row.provider_id not in known]
        self._note_repetitions(unknown, page.rows)
        record_changes([(order, row) for order, row in shown if order.is_settled], now=now)
        judged = {
            order.pk: (order, row, verdict)
            for order, row in shown
            if order.may_be_claimed(now, due_by=due_by)
            and order.pk not in excluded
            and (verdict := conclude(row, order))
        }
        wanted = [order for order, _row, _verdict in judged.values()]
        for order in _claim(wanted, now, due_by=due_by):
            judged_as, row, verdict = judged[order.pk]
            # If ``_claim()`` has read the order again, the row has to be judged again.
            yield order, row, verdict if order is judged_as else None

    def _note_repetitions(self, rows: Sequence[OrderAnswer], page: Sequence[OrderAnswer]) -> None:
        """Find rows that are second purchases of an order, and notify staff.

        ``page`` contains all rows of the page.
        """
        if not any(row.reference for row in rows):
            return
        listing = Listing({row.provider_id: row for row in page}, is_whole=False)
        unknown = Listing({row.provider_id: row for row in rows}, is_whole=False)
        with tolerating("Recording repeated purchases"):
            note_repetitions(find_orphans(unknown), listing, self._gateway)


def _claim(orders: Sequence[Order], now: datetime, *, due_by: datetime) -> list[Order]:
    claim = partial(Order.objects.claim, now=now, due_by=due_by, until=now + _CLAIM)
    return list(chain.from_iterable(write_together(orders, claim)))


def check_now(order: Order, gateway: Gateway) -> Swept:
    """Send or check ``order``, even if the order is not due.

    Does nothing if another process has claimed the order, if the order is on hold, if it was
    checked within ``POLL_INTERVAL``, or if the quota is used up.
    :func:`~giftcards.engine.schedule.time_to_check` returns when a check is possible.
    """
    scope = Order.objects.filter(pk=order.pk)
    now = timezone.now()
    waiting = scope.filter(status__in=[Status.PENDING, Status.UNCONFIRMED])
    # An order on hold has no due time, and stays on hold.
    waiting.exclude(due_at=None).unclaimed(now).update(due_at=now)
    scope.check_soon(now=now, interval=timedelta(seconds=conf.poll_interval))
    return sweep(gateway, scope)


def check_settled(order: Order, gateway: Gateway) -> bool:
    """Request the state of a settled ``order``, and record differences.

    Returns False if calls are paused or the quota is used up. Raises
    :exc:`~giftcards.exceptions.ProviderError` if there is no usable answer.
    """
    if not gateway.try_open():
        return False
    check = partial(gateway.client.check, order.provider_order_id or "")
    answer = gateway.ask(check, Purpose.CHECKING)
    gateway.flush()
    if answer is None:
        return False
    record_changes([(order, answer)], now=timezone.now(), is_thorough=True)
    return True


def watch(order: Order, gateway: Gateway) -> Iterator[Order]:
    """Follow one order in this process, and yield it after every sweep.

    The function returns when the order is final, delayed, unconfirmed or on hold, and at the latest
    one ``POLL_INTERVAL`` after ``POLL_TIMEOUT``. If requests to the provider are paused until after
    that time, the function returns after the current sweep instead of waiting.
    """
    scope = Order.objects.filter(pk=order.pk)
    ends_at = time.monotonic() + conf.poll_timeout + conf.poll_interval
    is_last = False
    while not is_last:
        is_last = time.monotonic() >= ends_at
        sweep(gateway, scope)
        order = scope.get()
        yield order
        left = timedelta(seconds=ends_at - time.monotonic())
        if order.status not in URGENT or order.is_on_hold or not gateway.reopens_within(left):
            return
        wait = conf.poll_interval
        if order.due_at:
            until_due = (order.due_at - timezone.now()).total_seconds()
            wait = max(until_due, gateway.wait_for(Purpose.CHECKING), 0.05)
        if not is_last:
            time.sleep(max(0, min(wait, conf.poll_interval, ends_at - time.monotonic())))


class _Recorder:
    """A buffer that records results in batches of limited size and age."""

    def __init__(self, gateway: Gateway, now: datetime) -> None:
        self.checked: set[int] = set()
        self.settled = self.failed = 0
        long_ago = gateway.clock.long_ago
        watched_since = long_ago(timedelta(hours=conf.late_watch_hours))
        self._record_answers = partial(
            record_answers,
            now=now,
            watched_since=watched_since,
            was_clock_right=gateway.was_clock_right,
        )
        self._record_failures = partial(
            record_failures,
            now=now,
            watched_since=watched_since,
            proof_ago=long_ago(timedelta(seconds=tuning.proof_of_absence)),
            key=gateway.key,
        )
        self._answers: list[tuple[Order, OrderAnswer, Verdict | None]] = []
        self._failures: list[tuple[Order, Exception]] = []
        self._flushed_at = time.monotonic()

    def add(self, results: Iterable[Checked]) -> None:
        for order, result, verdict in results:
            self.checked.add(order.pk)
            if isinstance(result, OrderAnswer):
                self._answers.append((order, result, verdict))
            else:
                self.failed += 1
                self._failures.append((order, result))
            is_late = time.monotonic() - self._flushed_at >= _RECORD_AFTER
            if is_late or len(self._answers) >= _RECORD_AT:
                self.flush()

    def flush(self) -> None:
        if self._answers:
            self.settled += self._record_answers(self._answers)
        if self._failures:
            self._record_failures(self._failures)
        self._answers, self._failures = [], []
        self._flushed_at = time.monotonic()
