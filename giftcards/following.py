"""Following orders: one sweep over what is due.

The provider is asked outside any transaction; see :mod:`giftcards.asking`. Answers are recorded in
batches as they come; see :mod:`giftcards.recording`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from django.utils import timezone

from giftcards import outbox
from giftcards.asking import ask, pays_list
from giftcards.conf import conf
from giftcards.fulfilment import call_unconfirmed, give_up, send_due
from giftcards.gateway import Gateway
from giftcards.models import Order, OrderQuerySet, StatusChange
from giftcards.provider import OrderAnswer
from giftcards.recording import record_answers, record_failures
from giftcards.recovery import recover
from giftcards.statuses import FOLLOWED, URGENT, Status

# The most orders that one sweep claims.
_MOST = 1_000
# Claims end by themselves this long after the process that has them died.
_CLAIM = timedelta(seconds=15)
# Orders are sent for so long at a time before others are asked about (seconds).
_SENDING = 5.0
# Below this many requests a minute the burst is one request.
_SMALL_BUDGET = 16
# A sweep that takes long renews its claims, and sends what was recorded meanwhile, this often
# (seconds).
_HEARTBEAT = 2.0
# Answers are recorded when there are this many, or once the first has waited this long (seconds).
_RECORD_AT = 100
_RECORD_AFTER = 1.0


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did, in numbers of orders.

    ``postponed`` were due but not asked about: the request budget was short, or calls had to stop.
    """

    sent: int = 0
    checked: int = 0
    settled: int = 0
    failed: int = 0
    postponed: int = 0
    is_paused: bool = False

    def __add__(self, other: Swept) -> Swept:
        return Swept(
            self.sent + other.sent,
            self.checked + other.checked,
            self.settled + other.settled,
            self.failed + other.failed,
            other.postponed,
            other.is_paused,
        )

    def as_dict(self) -> dict[str, int | bool]:
        return asdict(self)

    def __str__(self) -> str:
        counts = (
            f"{self.sent} sent, {self.checked} checked, {self.settled} settled,"
            f" {self.failed} failed"
        )
        if self.postponed:
            counts = f"{counts}, {self.postponed} postponed"
        return f"{counts}; paused" if self.is_paused else counts


def _always() -> bool:
    return True


def sweep(
    gateway: Gateway,
    orders: OrderQuerySet | None = None,
    *,
    go_on: Callable[[], bool] = _always,
) -> Swept:
    """Do what is due for ``orders`` (``None``: for all): send, ask, look for lost ones, time out.

    ``go_on`` is called between requests: when it says no, what is under way is recorded and the
    rest is left for the next sweep.
    """
    done = _Sweep(gateway, Order.objects.all() if orders is None else orders, go_on).run()
    outbox.announce(go_on)
    return done


class _Sweep:
    """One sweep over ``scope``: what it holds, and what it has sent."""

    def __init__(
        self, gateway: Gateway, scope: OrderQuerySet, may_go_on: Callable[[], bool]
    ) -> None:
        self._gateway = gateway
        self._scope = scope
        self._may_go_on = may_go_on
        self._claim = ""
        self._sent = self._unsent = 0
        self._beat_at = time.monotonic()

    def run(self) -> Swept:
        now = timezone.now()
        is_open = self._gateway.is_open()
        chores = list(self._scope.chores(now, poll_timeout=timedelta(seconds=conf.poll_timeout)))
        of_status = {status: [o for o in chores if o.status == status] for status in Status}
        for order in of_status[Status.PLACING]:
            call_unconfirmed(order)
        to_send = []
        for order in of_status[Status.PENDING]:
            if now - order.queued_at > timedelta(seconds=conf.send_timeout):
                give_up(order)
            else:
                to_send.append(order)
        done = Swept()
        if is_open:
            # Placing goes first: what is asked later comes later, what is bought later is lost. But
            # where it is slow, it does not go on until all are sent.
            self._send(to_send)
            self._beat_at = time.monotonic()
            done = self._check()
            if of_status[Status.UNCONFIRMED] and self._go_on():
                recover(self._scope, self._gateway, self._go_on)
        # Also when nothing may be asked: whoever looks sees that there is a worker.
        self._gateway.note()
        overdue = of_status[Status.HANDLING]
        if overdue and self._may_go_on():
            # After they were asked about: the last answer in time counts.
            held = self._scope.filter(pk__in=[order.pk for order in overdue])
            held.unclaimed(timezone.now()).move_all(
                Status.HANDLING,
                Status.DELAYED,
                source=StatusChange.Source.CLOCK,
                due_at=timezone.now() + timedelta(minutes=1),
            )
        return replace(
            done,
            sent=self._sent,
            failed=done.failed + self._unsent,
            is_paused=not self._gateway.allows_calls,
        )

    def _send(self, orders: Iterable[Order]) -> None:
        ends_at = time.monotonic() + _SENDING

        def go_on() -> bool:
            return self._may_go_on() and time.monotonic() < ends_at

        sent, unsent = send_due(orders, self._gateway, go_on=go_on)
        self._sent += sent
        self._unsent += unsent

    def _go_on(self) -> bool:
        """Whether more may be done; between requests, does what cannot wait for the sweep's end."""
        is_time = time.monotonic() - self._beat_at >= _HEARTBEAT
        if is_time:
            self._claimed().update(claimed_until=timezone.now() + _CLAIM)
        # Where the budget can keep nothing for placing, questions would always be first to take it.
        may_send = self._gateway.is_proven and self._gateway.allows_calls
        if may_send and (is_time or conf.requests_per_minute < _SMALL_BUDGET):
            self._send(self._scope.to_send(timezone.now()))
        if is_time:
            self._beat_at = time.monotonic()
        return self._may_go_on()

    def _claimed(self) -> OrderQuerySet:
        return Order.objects.filter(claim=self._claim, claimed_until__isnull=False)

    def _check(self) -> Swept:
        """Ask about the orders that are due, and record what the provider says."""
        now = timezone.now()
        # The list shows those that are due soon too, for nothing; from then on they keep in step.
        soon = now + timedelta(seconds=conf.poll_interval / 2)
        wanted = list(self._scope.to_check(now=now, due_by=soon)[:_MOST])
        due = [order for order in wanted if order.due_at and order.due_at <= now]
        if not (due and self._gateway.allows_calls and self._may_go_on()):
            return Swept(postponed=len(due))
        if not pays_list(due, self._gateway):
            wanted = due
        claimed = Order.objects.claim(wanted, now=now, due_by=soon, until=now + _CLAIM)
        if not claimed:
            return Swept()
        self._claim = claimed[0].claim
        recorder = _Recorder(now)
        for order, result in ask(claimed, due_by=now, gateway=self._gateway, go_on=self._go_on):
            recorder.add(order, result)
        recorder.flush()
        if len(recorder.asked) < len(claimed):
            self._claimed().update(claimed_until=None)
        return Swept(
            checked=len(recorder.asked),
            settled=recorder.settled,
            failed=recorder.failed,
            postponed=len([order for order in due if order.pk not in recorder.asked]),
        )


def time_to_check(order: Order, gateway: Gateway) -> float:
    """Seconds until ``order`` may be asked about: once an interval, and as the budget allows."""
    wait = gateway.wait_for()
    if order.status in FOLLOWED and order.checked_at:
        since = timezone.now() - order.checked_at
        wait = max(wait, conf.poll_interval - since.total_seconds())
    return wait


def check_now(order: Order, gateway: Gateway) -> Swept:
    """Send or check ``order``, whether it is due or not, unless another process is at it.

    Not if it was asked about within the interval, or if the budget is short; see
    :func:`time_to_check`.
    """
    scope = Order.objects.filter(pk=order.pk)
    now = timezone.now()
    waiting = scope.filter(status__in=[Status.PENDING, Status.UNCONFIRMED])
    waiting.unclaimed(now).update(due_at=now)
    scope.check_soon(now=now, interval=timedelta(seconds=conf.poll_interval))
    return sweep(gateway, scope)


def watch(order: Order, gateway: Gateway) -> Iterator[Order]:
    """Follow one order in this process; yield it after every sweep that was due.

    Ends when the order is final or delayed, when only a person can tell what became of it, when
    the provider refuses the key, and in any case after the poll timeout.
    """
    scope = Order.objects.filter(pk=order.pk)
    ends_at = time.monotonic() + conf.poll_timeout + conf.poll_interval
    while time.monotonic() < ends_at:
        sweep(gateway, scope)
        order = scope.get()
        yield order
        if order.status not in URGENT or not gateway.may_reopen():
            return
        time.sleep(min(_time_to(order.due_at, gateway), conf.poll_interval))


def _time_to(due_at: datetime | None, gateway: Gateway) -> float:
    """Seconds until ``due_at``, but no less than until the request can be afforded."""
    wait = (due_at - timezone.now()).total_seconds() if due_at else conf.poll_interval
    return max(wait, gateway.wait_for(), 0.05)


class _Recorder:
    """Collects what a sweep hears and records it in batches, none of it late."""

    def __init__(self, now: datetime) -> None:
        self.asked: set[int] = set()
        self.settled = self.failed = 0
        self._now = now
        self._answers: list[tuple[Order, OrderAnswer]] = []
        self._failures: list[tuple[Order, Exception]] = []
        self._flushed_at = time.monotonic()

    def add(self, order: Order, result: OrderAnswer | Exception) -> None:
        self.asked.add(order.pk)
        if isinstance(result, OrderAnswer):
            self._answers.append((order, result))
        else:
            self.failed += 1
            self._failures.append((order, result))
        is_late = time.monotonic() - self._flushed_at >= _RECORD_AFTER
        if is_late or len(self._answers) >= _RECORD_AT:
            self.flush()

    def flush(self) -> None:
        if self._answers:
            self.settled += record_answers(self._answers, now=self._now)
        if self._failures:
            record_failures(self._failures, now=self._now)
        self._answers, self._failures = [], []
        self._flushed_at = time.monotonic()
