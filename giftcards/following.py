"""Following orders: one sweep over what is due, and the loop that sweeps while orders are open.

The provider is asked outside any transaction, in threads that never touch the database; answers
are recorded by the one thread that does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from django.db import InterfaceError, OperationalError, close_old_connections
from django.db.models import Min
from django.utils import timezone

from giftcards import outbox
from giftcards.conf import conf
from giftcards.exceptions import ProviderError
from giftcards.fulfilment import LOOP_LEASE, give_up_lost, send_due
from giftcards.gateway import Gateway
from giftcards.models import Order, OrderQuerySet, ProviderState, StatusChange
from giftcards.provider import Client, OrderAnswer
from giftcards.recording import record_answers, record_failures
from giftcards.statuses import FOLLOWED, URGENT, Status

logger = logging.getLogger(__name__)

# More would spend the attempts that a wrong key has before the first refusal is read.
MAX_IN_FLIGHT = 4
# Orders claimed, asked about and recorded together.
BATCH = 40
# The loop looks for orders to send, and renews its lease, at least this often (seconds).
_HEARTBEAT = 1.0
# The pause after the database went away (seconds).
_DATABASE_PAUSE = 2.0


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did, in numbers of orders."""

    sent: int = 0
    checked: int = 0
    settled: int = 0
    failed: int = 0
    is_paused: bool = False

    def __add__(self, other: Swept) -> Swept:
        return Swept(
            self.sent + other.sent,
            self.checked + other.checked,
            self.settled + other.settled,
            self.failed + other.failed,
            other.is_paused,
        )

    def as_dict(self) -> dict[str, int | bool]:
        return asdict(self)

    def __str__(self) -> str:
        counts = (
            f"{self.sent} sent, {self.checked} checked, {self.settled} settled,"
            f" {self.failed} failed"
        )
        return f"{counts}; paused" if self.is_paused else counts


def _always() -> bool:
    return True


def sweep(
    gateway: Gateway,
    orders: OrderQuerySet | None = None,
    *,
    go_on: Callable[[], bool] = _always,
) -> Swept:
    """Send and check those of ``orders`` (``None``: of all) that are due, and note who is late.

    ``go_on`` is called between requests: when it says no, what is under way is recorded and the
    rest is left for the next sweep.
    """
    scope = Order.objects.all() if orders is None else orders
    give_up_lost(scope)
    done = _send_and_check(scope, gateway, go_on)
    gateway.note()
    timeout = timedelta(seconds=conf.poll_timeout)
    scope.overdue(timezone.now(), timeout).move_all(
        Status.HANDLING,
        Status.DELAYED,
        source=StatusChange.Source.CLOCK,
        due_at=timezone.now() + timedelta(minutes=1),
    )
    outbox.announce()
    return replace(done, is_paused=not gateway.is_open())


def check_now(order: Order, gateway: Gateway) -> Swept:
    """Send or check ``order``, whether it is due or not, unless another process is at it."""
    scope = Order.objects.filter(pk=order.pk)
    now = timezone.now()
    scope.filter(status__in=[Status.PENDING, *FOLLOWED]).unclaimed(now).update(due_at=now)
    return sweep(gateway, scope)


def watch(order: Order, gateway: Gateway) -> Iterator[Order]:
    """Follow one order in this process; yield it after every check.

    Ends when the order is final or delayed, when only a person can tell what became of it, when
    the provider refuses the key, and in any case after the poll timeout.
    """
    scope = Order.objects.filter(pk=order.pk)
    loop = _Loop(conf.poll_timeout + conf.poll_interval, threading.Event())
    while loop.go_on():
        done = sweep(gateway, scope)
        order = scope.get()
        yield order
        if order.status not in URGENT or not gateway.may_reopen():
            return
        loop.wait_for_work(scope, is_paused=done.is_paused)


def _send_and_check(scope: OrderQuerySet, gateway: Gateway, go_on: Callable[[], bool]) -> Swept:
    """Check in batches, and look before each of them whether there is something to send."""
    done = Swept()
    due: datetime | None = None
    while gateway.is_open():
        accepted, not_accepted = send_due(scope, gateway, go_on=go_on)
        # Once a sweep, even if some are due again before all have been checked.
        due = due or timezone.now()
        checked = _check_batch(scope.to_check(due), gateway, go_on)
        done += Swept(sent=accepted, failed=not_accepted) + checked
        if not checked.checked:
            break
    return done


def _check_batch(orders: OrderQuerySet, gateway: Gateway, go_on: Callable[[], bool]) -> Swept:
    now = timezone.now()
    # A claim outlives the slowest batch, so that nobody else asks about its orders meanwhile.
    until = now + timedelta(seconds=conf.request_timeout * (BATCH / MAX_IN_FLIGHT + 1) + 10)
    # Is it open still? Sending may have failed in a way that stops everything.
    may_ask = go_on() and gateway.is_open()
    batch = orders.claim(now=now, until=until, limit=BATCH) if may_ask else []
    if not batch:
        return Swept()
    answers: list[tuple[Order, OrderAnswer]] = []
    failures: list[tuple[Order, Exception]] = []
    for order, result in _ask(batch, gateway, go_on):
        if isinstance(result, OrderAnswer):
            answers.append((order, result))
        else:
            failures.append((order, result))
    settled = record_answers(answers, now=now)
    record_failures(failures, now=now)
    asked = len(answers) + len(failures)
    if asked < len(batch):
        # Stopped: give the others back to whoever comes next.
        Order.objects.filter(claim=batch[0].claim, claimed_until=until).update(claimed_until=None)
    return Swept(checked=asked, settled=settled, failed=len(failures))


def _ask(
    orders: list[Order], gateway: Gateway, go_on: Callable[[], bool]
) -> Iterator[tuple[Order, OrderAnswer | Exception]]:
    """Ask about ``orders``; yield each one's answer, or why there is none, as it comes.

    Stops early, without the orders that were not asked about, when calls have to stop.
    """
    waiting = deque(orders)
    running: dict[Future[OrderAnswer | Exception], Order] = {}
    may_ask = True
    with ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix="giftcards") as pool:
        while True:
            may_ask = go_on() and may_ask
            # Until the key is known to be good: one at a time.
            in_flight = MAX_IN_FLIGHT if gateway.is_proven else 1
            while waiting and may_ask and len(running) < in_flight:
                order = waiting.popleft()
                running[pool.submit(_check, gateway.client, order)] = order
            if not running:
                return
            finished, _ = wait(running, timeout=_HEARTBEAT, return_when=FIRST_COMPLETED)
            for future in finished:
                order, result = running.pop(future), future.result()
                if isinstance(result, OrderAnswer):
                    gateway.heard(None)
                elif isinstance(result, ProviderError):
                    may_ask = gateway.heard(result) and may_ask
                else:
                    logger.error(
                        "Order %s could not be asked about: %s",
                        order.reference,
                        type(result).__name__,
                    )
                yield order, result


def _check(client: Client, order: Order) -> OrderAnswer | Exception:
    try:
        return client.check(order.provider_order_id or "")
    except Exception as error:  # noqa: BLE001 (one order's failure is never another's)
        return error


def follow(
    *,
    seconds: float | None,
    stop: threading.Event | None = None,
    patience: timedelta = timedelta(0),
) -> Swept | None:
    """Run the loop: sweep whenever orders are due; return what was done.

    Ends after ``seconds``, when ``stop`` is set, when no order is urgent any more, or when the
    provider refuses the key; with ``seconds=None`` only when ``stop`` is set. Only one process runs
    the loop: where another one does and its lease does not run out within ``patience``, ``None``.
    """
    loop = _Loop(seconds, stop or threading.Event())
    if not loop.take(patience):
        return None
    done = Swept()
    try:
        with Gateway() as gateway:
            while True:
                try:
                    if not loop.go_on():
                        break
                    done += sweep(gateway, go_on=loop.go_on)
                    if seconds is not None and not (gateway.may_reopen() and is_work_left()):
                        break
                    loop.wait_for_work(Order.objects.all(), is_paused=done.is_paused)
                except (OperationalError, InterfaceError) as error:
                    logger.error(  # noqa: TRY400 (a traceback may hold a row)
                        "The database failed the loop, which goes on in %g s: %s",
                        _DATABASE_PAUSE,
                        type(error).__name__,
                    )
                    loop.stop.wait(_DATABASE_PAUSE)
                    close_old_connections()
    finally:
        loop.release()
    return done


def is_work_left() -> bool:
    """Whether any order needs the loop to go on."""
    return Order.objects.urgent().exists()


class _Loop:
    """One run of the loop: how long it may take, and the lease that makes it the only one."""

    def __init__(self, seconds: float | None, stop: threading.Event) -> None:
        self.stop = stop
        self._ends_at = None if seconds is None else time.monotonic() + seconds
        # Of the lease; "" for a run that needs none.
        self._token = ""
        self._beat_at = 0.0
        # Whether another process has taken the lease over.
        self._is_lost = False

    def take(self, patience: timedelta) -> bool:
        """Become the one process; wait up to ``patience`` for a holder that may have died."""
        until = time.monotonic() + patience.total_seconds()
        held_until = ProviderState.objects.current().loop_until
        while True:
            token = ProviderState.objects.take_loop(now=timezone.now(), lease=LOOP_LEASE)
            if token is not None:
                self._token = token
                self._beat_at = time.monotonic()
                # From here on, who places an order relies on this run, not on one that is queued.
                ProviderState.objects.filter(pk=1).update(kicked_at=None)
                return True
            if ProviderState.objects.current().loop_until != held_until:
                # It was renewed: the holder lives.
                return False
            if time.monotonic() >= until or self.stop.wait(_HEARTBEAT):
                return False

    def go_on(self) -> bool:
        """Whether the run may do more; renews the lease in passing."""
        if self.stop.is_set():
            return False
        now = time.monotonic()
        if self._ends_at is not None and now >= self._ends_at:
            return False
        if self._token and now - self._beat_at >= _HEARTBEAT:
            self._beat_at = now
            self._is_lost = not ProviderState.objects.keep_loop(
                self._token, now=timezone.now(), lease=LOOP_LEASE
            )
        return not self._is_lost

    def wait_for_work(self, orders: OrderQuerySet, *, is_paused: bool) -> None:
        """Return when an order is due, or an interval has passed."""
        waited_until = time.monotonic() + conf.poll_interval
        while (left := waited_until - time.monotonic()) > 0 and self.go_on():
            if not is_paused:
                now = timezone.now()
                due_at = orders.unclaimed(now).aggregate(first=Min("due_at"))["first"]
                if due_at is not None:
                    left = min(left, (due_at - now).total_seconds())
                if left <= 0:
                    return
            self.stop.wait(min(left, _HEARTBEAT))

    def release(self) -> None:
        ProviderState.objects.release_loop(self._token)
