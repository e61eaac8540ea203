"""Checking many orders with few requests: through the provider's list, or one by one.

Requests run in threads that never touch the database. Their results are yielded to the calling
thread, which uses the database.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.gateway import Gateway
from giftcards.engine.request_budget import Slot
from giftcards.engine.threads import start_thread
from giftcards.engine.tuning import tuning
from giftcards.exceptions import ProviderError
from giftcards.models import Order
from giftcards.provider.answers import OrderAnswer, OrderPage
from giftcards.rules.identity import CLOCK_SKEW
from giftcards.rules.purposes import Purpose
from giftcards.rules.states import STATES, Status
from giftcards.rules.verdict import Verdict, evaluate_for

K = TypeVar("K")
T = TypeVar("T")

# At most three checks are in flight, or four requests while an order is being sent. Five requests
# with a wrong key get the IP address blocked: with more in flight, the block could come before the
# first refusal is read.
MAX_IN_FLIGHT = 3
# The most single checks in a sweep, for fresh orders and for late orders each.
BATCH = 40
# The usual difference between the provider's clock and ours. The list is first read with this small
# margin, because a larger one would include many other orders of a busy account.
_USUAL_SKEW = timedelta(minutes=1)
# The times for which the list is not used: after it failed, and after it showed none of our orders.
# Both are shorter than the poll timeout, because some orders can only be followed through the list.
_LIST_FAILED = timedelta(seconds=30)
_LIST_USELESS = timedelta(minutes=2)
# For this many orders or fewer, single checks are as cheap as a page of the list.
_FEW = 2
# The share of the poll timeout within which an accepted order is usually listed and settled.
_USUAL = 1 / 5
# The longest wait for requests in flight, once no further request may start (seconds).
_GRACE = 3.0


@dataclass(frozen=True, slots=True)
class Pulse:
    """Callbacks that a long operation calls between requests.

    Once ``should_continue`` returns False, no request is started; results in flight are yielded.
    """

    should_continue: Callable[[], bool] = lambda: True
    beat: Callable[[], object] = lambda: None


# Requests for further pages have the purpose of the first page, except where this table differs.
_OF_FURTHER = {Purpose.LISTING: Purpose.PAGES}
# Pages for these purposes wait for the request budget. Other pages are skipped if the budget is
# short.
_AWAITED = {Purpose.LISTING, Purpose.SEARCHING}

Rows = Sequence[OrderAnswer]
# Orders, each with its row and the verdict on the row; None if the row is not judged yet.
Answers = Iterator[tuple[Order, OrderAnswer, Verdict | None]]
Pages = Iterator[OrderPage | Exception]


def next_check(
    order: Order, now: datetime, *, watched_since: datetime | None = None
) -> datetime | None:
    """Return when to check ``order`` next; ``None`` if the order is late and no longer watched.

    A late order is watched if it was accepted at ``watched_since`` (by default,
    ``LATE_WATCH_HOURS`` before ``now``) or later.
    """
    state = STATES[order.status]
    if state.last_pause is None:
        return now + timedelta(seconds=conf.poll_interval)
    assert order.accepted_at is not None  # noqa: S101 (a constraint of the table)
    if order.accepted_at < (watched_since or now - timedelta(hours=conf.late_watch_hours)):
        return None
    late_for = now - order.accepted_at - timedelta(seconds=conf.poll_timeout)
    pauses = (pause for limit, pause in state.pauses if late_for < limit)
    return now + next(pauses, state.last_pause)


def is_list_worthwhile(orders: Sequence[Order], gateway: Gateway) -> bool:
    """True if the list probably takes fewer requests than single checks, or an order needs it."""
    return any(_is_worth_listing(group, gateway) for group in _by_age(orders))


def ask(
    orders: Sequence[Order],
    *,
    due_by: datetime,
    gateway: Gateway,
    pulse: Pulse,
    match_others: Callable[[Rows, Rows], Answers],
) -> Iterator[tuple[Order, OrderAnswer | Exception, Verdict | None]]:
    """Check ``orders``, fresh ones first; yield each order with its answer or error, and a verdict.

    The verdict is ``None`` if the answer is not a row of the list. Orders that are not due by
    ``due_by`` are yielded only if the list happens to show them. Orders that are not yielded were
    not checked: calls were paused, the budget ran out, or the batch was full.

    ``match_others`` is called for each page of the list. It gets the rows that belong to none of
    ``orders``, and all rows of the page. The answers that it returns are yielded, too.
    """
    fresh, late = _by_age(orders)
    if is_list_worthwhile(orders, gateway):
        gateway.note_list_read()
    check = gateway.client.check
    for group, listing, checking in (
        (fresh, Purpose.LISTING, Purpose.CHECKING),
        (late, Purpose.CHECKING_LATE, Purpose.CHECKING_LATE),
    ):
        search = _Search(_listed(group), listing)
        if _is_worth_listing(group, gateway):
            yield from _read_list(search, gateway, pulse, match_others)
        left = search.left_of(group, due_by)[:BATCH]
        if group is fresh:
            search.note_questions(left, gateway)
        jobs = [(order, partial(check, order.provider_order_id or "")) for order in left]
        for order, result in fan_out(jobs, gateway, pulse, purpose=checking, is_patient=False):
            yield order, search.complete(order, result), None


def _by_age(orders: Sequence[Order]) -> tuple[list[Order], list[Order]]:
    late = [order for order in orders if order.status == Status.DELAYED]
    return [order for order in orders if order.status != Status.DELAYED], late


def _is_worth_listing(group: Sequence[Order], gateway: Gateway) -> bool:
    listed = _listed(group)
    return any(order.is_only_listed for order in listed) or (
        gateway.is_list_useful and len(listed) > _FEW
    )


def _listed(orders: Sequence[Order]) -> list[Order]:
    """Return the ``orders`` that the list should show under an id that we know."""
    # The list may show other ids than single checks do. In this case, an order's id in the list is
    # unknown until its first single check.
    ids_differ = any(order.provider_alias and not order.was_adopted for order in orders)
    return [order for order in orders if order.provider_alias or order.checked_at or not ids_differ]


# The list.


def _read_list(
    search: _Search, gateway: Gateway, pulse: Pulse, match_others: Callable[[Rows, Rows], Answers]
) -> Answers:
    for skew in (_USUAL_SKEW, CLOCK_SKEW):
        for page in search.read(gateway, pulse, skew):
            if isinstance(page, Exception):
                search.has_failed = True
                gateway.give_up_list(_pause_after(page))
                return
            yield from search.match(page)
            yield from match_others(search.find_others(page), page.items)
        if search.has_match or search.pages_left or not search.has_read:
            return
    # New orders may appear in the list later. Old orders should be there, unless the list uses ids
    # of its own.
    is_unexpected = any(order.checked_at for order in search.old)
    gateway.give_up_list(_LIST_USELESS if is_unexpected else _LIST_FAILED)


def _pause_after(error: Exception) -> timedelta:
    is_transient = isinstance(error, ProviderError) and error.status != 404
    return _LIST_FAILED if is_transient else _LIST_USELESS


class _Search:
    def __init__(self, orders: Sequence[Order], purpose: Purpose) -> None:
        self._orders = orders
        self._purpose = purpose
        self._by_id = {provider_id: order for order in orders for provider_id in order.names}
        usual = timezone.now() - timedelta(seconds=_USUAL * conf.poll_timeout)
        self.old = [order for order in orders if _accepted_at(order) < usual]
        # The list may be stale, so each search also checks the oldest order singly.
        self.to_verify = min(
            (order for order in self.old if not order.is_only_listed),
            key=_accepted_at,
            default=None,
        )
        self.shown: set[int] = set()
        self._unclear: dict[int, OrderAnswer] = {}
        self.has_read = self.has_match = self.has_failed = False
        self._pages = self._pages_read = self._rows_read = 0

    def read(self, gateway: Gateway, pulse: Pulse, skew: timedelta) -> Pages:
        """Yield the pages that cover the orders' sending times, plus or minus ``skew``."""
        sent = [order.sent_at for order in self._orders if order.sent_at]
        if not sent:
            return iter(())
        self._pages = self._pages_read = self._rows_read = 0
        start, end = min(sent) - skew, max(sent) + skew
        return read_pages(
            gateway, pulse, self._purpose, start=start, end=end, limit=self._count_missing
        )

    def _count_missing(self) -> int:
        """The number of orders without a row so far.

        Reading more pages than this would cost more than single checks.
        """
        return len(self._orders) - len(self.shown | self._unclear.keys())

    @property
    def pages_left(self) -> int:
        """The number of pages that are worth reading, but were left out for lack of budget."""
        left = max(self._pages - self._pages_read, 0)
        return left if left <= self._count_missing() and not self.has_failed else 0

    def note_questions(self, left: Sequence[Order], gateway: Gateway) -> None:
        """Tell the gateway how many requests this reading takes after the first page.

        These are requests for further pages, even if they were left out, and for single checks of
        ``left``.
        """
        if not self.has_read:
            return
        further = max(self._pages_read - 1, 0) + self.pages_left
        others = len(set(left) - {self.to_verify})
        # If the free room on the last page is unknown, half a page is assumed.
        is_only_page = self._pages_read + self.pages_left == 1
        room = tuning.page_size - self._rows_read if is_only_page else tuning.page_size // 2
        gateway.note_questions(further + others, page_size=tuning.page_size, room=room)

    def left_of(self, orders: Iterable[Order], due_by: datetime) -> list[Order]:
        """Return the ``orders`` that are due by ``due_by`` and have to be checked singly.

        Orders that may be on unread pages are left out: the next reading begins with these pages.
        """
        due = [order for order in orders if order.due_at and order.due_at <= due_by]
        left = [order for order in due if order.pk not in self.shown]
        if self.pages_left:
            left = [order for order in left if order.pk in self._unclear]
        return sorted(left, key=lambda order: order is self.to_verify)

    def match(self, page: OrderPage) -> Answers:
        """Yield our orders with their rows, except repeated and inconclusive rows."""
        self.has_read = True
        self._pages = self._pages or page.page_count or 0
        self._pages_read += 1
        self._rows_read += len(page.items)
        for row in page.items:
            order = self._by_id.get(row.provider_id)
            if order is None:
                continue
            self.has_match = True
            if order.pk in self.shown:
                continue
            if verdict := conclude(row, order, is_to_verify=order is self.to_verify):
                self.shown.add(order.pk)
                yield order, row, verdict
            else:
                self._unclear[order.pk] = row

    def find_others(self, page: OrderPage) -> Rows:
        return [row for row in page.items if row.provider_id and row.provider_id not in self._by_id]

    def complete(self, order: Order, result: OrderAnswer | Exception) -> OrderAnswer | Exception:
        """Fill gaps in the answer to a single check from the order's row in the list.

        Nothing is filled in once an answer has confirmed the order's id.
        """
        row = self._unclear.get(order.pk)
        if order.identified_at or row is None or not isinstance(result, OrderAnswer):
            return result
        return replace(
            result,
            product_id=result.product_id or row.product_id,
            type_id=result.type_id or row.type_id,
            created_at=result.created_at or row.created_at,
        )


def conclude(row: OrderAnswer, order: Order, *, is_to_verify: bool = False) -> Verdict | None:
    """Return the verdict on ``row``; ``None`` if a single check is needed.

    No single check is needed if the row settles the order, or credibly shows it as open.
    ``evaluate_for`` is called without options, because these only make verdicts more lenient.
    """
    verdict = evaluate_for(order, row)
    # A row that shows a late order as open is not trusted, because the list may be stale.
    is_fresh = order.status == Status.HANDLING and not is_to_verify
    is_row_trusted = order.is_only_listed or is_fresh
    shows_open = row.status == Status.HANDLING and is_row_trusted and not verdict.problems
    return verdict if verdict.settlement or shows_open else None


def _accepted_at(order: Order) -> datetime:
    assert order.accepted_at is not None  # noqa: S101 (a constraint of the table)
    return order.accepted_at


def read_pages(
    gateway: Gateway,
    pulse: Pulse,
    purpose: Purpose,
    *,
    start: datetime,
    end: datetime,
    limit: Callable[[], int],
) -> Pages:
    """Yield the pages of the list of orders created from ``start`` to ``end``, as they arrive.

    ``limit()`` is the number of further pages that are worth reading:

    - If the provider tells the number of pages, further pages are read only if ``limit()`` covers
      them all. Reading ends when ``limit()`` falls to 0, or when the budget is short. The next
      reading begins with the unread pages.
    - Otherwise, at most ``limit()`` further pages are read, until a page has no new ids.

    A page that fails is yielded as its error.
    """
    call = partial(gateway.client.list_orders, start=start, end=end, page_size=tuning.page_size)
    further = _OF_FURTHER.get(purpose, purpose)

    def read(*numbers: int) -> Pages:
        jobs = [(number, partial(call, page=number)) for number in numbers]
        of_these = purpose if numbers == (1,) else further
        is_patient = of_these in _AWAITED
        for _number, page in fan_out(jobs, gateway, pulse, purpose=of_these, is_patient=is_patient):
            yield page

    first = next(read(1), None)
    if first is not None:
        yield first
    if not isinstance(first, OrderPage):
        return
    count = first.page_count
    if count is None:
        yield from _read_uncounted(first, read, limit)
    elif not 1 < count <= limit() + 1:
        return
    elif further in _AWAITED:
        yield from _read_counted(range(2, count + 1), read, limit)
    else:
        yield from _read_share(count, gateway, read, limit)


def _read_share(
    count: int, gateway: Gateway, read: Callable[..., Pages], limit: Callable[[], int]
) -> Pages:
    """Yield as many further pages as one reading may request; note the first page of the next."""
    begin = gateway.next_page if gateway.next_page <= count else 2
    numbers = [*range(begin, count + 1), *range(2, begin)]
    at_most = gateway.pages_at_once()
    unread = yield from _read_counted(numbers[:at_most], read, limit)
    unread = [*unread, *numbers[at_most:]]
    gateway.next_page = unread[0] if unread and limit() else 2


def _read_counted(
    numbers: Sequence[int], read: Callable[..., Pages], limit: Callable[[], int]
) -> Generator[OrderPage | Exception, object, Sequence[int]]:
    """Yield the pages with these ``numbers``; return the numbers of the unread pages.

    Reading ends when ``limit()`` is 0 or the budget is short.
    """
    while numbers and limit():
        batch = numbers[:MAX_IN_FLIGHT]
        pages = list(read(*batch))
        yield from pages
        numbers = numbers[len(pages) :]
        if len(pages) < len(batch):
            break
    return numbers


def _read_uncounted(
    page: OrderPage | Exception | None, read: Callable[..., Pages], limit: Callable[[], int]
) -> Pages:
    """Yield the pages after ``page``, which is the first one, until a page has no new ids."""
    seen: set[str] = set()
    number = 1
    while isinstance(page, OrderPage) and number <= limit():
        ids = {row.provider_id for row in page.items}
        if ids <= seen:
            return
        seen |= ids
        number += 1
        page = next(read(number), None)
        if page is not None:
            yield page


# Concurrent calls.


def fan_out(
    jobs: Iterable[tuple[K, Callable[[], T]]],
    gateway: Gateway,
    pulse: Pulse,
    *,
    purpose: Purpose = Purpose.CHECKING,
    is_patient: bool = True,
) -> Iterator[tuple[K, T | Exception]]:
    """Make the calls of ``jobs``, a few at a time; yield each key with the result or the error.

    With ``is_patient``, calls wait for the request budget; otherwise, calls without budget are
    skipped. A call whose error is worth repeating is retried once, if the budget allows that
    without a wait. When calls have to stop, those in flight get a few seconds to end.
    """
    calls = _Calls(jobs, gateway, pulse, purpose)
    ends_at = float("inf")
    while calls.are_left and time.monotonic() < ends_at:
        calls.check_may_start()
        if not calls.may_start:
            ends_at = min(ends_at, time.monotonic() + _GRACE)
        pulse.beat()
        calls.start()
        if not (is_patient or calls.running):
            return
        yield from calls.results(timeout=min(tuning.polling_pulse, ends_at - time.monotonic()))


@dataclass(slots=True)
class _Call(Generic[K, T]):
    key: K
    job: Callable[[], T]
    may_repeat: bool = True


class _Calls(Generic[K, T]):
    def __init__(
        self,
        jobs: Iterable[tuple[K, Callable[[], T]]],
        gateway: Gateway,
        pulse: Pulse,
        purpose: Purpose,
    ) -> None:
        self._waiting = deque(_Call(key, job) for key, job in jobs)
        self._gateway = gateway
        self._pulse = pulse
        self._purpose = purpose
        self._ended: SimpleQueue[tuple[_Call[K, T], Slot, T | Exception]] = SimpleQueue()
        self.running = 0  # calls in flight
        self.may_start = True

    @property
    def are_left(self) -> bool:
        return self.running > 0 or (self.may_start and bool(self._waiting))

    def check_may_start(self) -> None:
        """Set :attr:`may_start` to False, for good, once the caller or the gateway stops calls."""
        if self.may_start:
            self.may_start = self._pulse.should_continue() and self._gateway.is_open

    @property
    def _has_room(self) -> bool:
        # Until the key is proven, calls are made one at a time.
        in_flight = MAX_IN_FLIGHT if self._gateway.is_proven else 1
        return self.may_start and bool(self._waiting) and self.running < in_flight

    def start(self) -> None:
        """Start as many waiting calls as the gateway and ``MAX_IN_FLIGHT`` allow."""
        while self._has_room and (slot := self._gateway.begin(self._purpose)):
            self._start(self._waiting.popleft(), slot)

    def _start(self, call: _Call[K, T], slot: Slot) -> None:
        self.running += 1
        if start_thread(self._run, call, slot) is None:
            self._run(call, slot)

    def _run(self, call: _Call[K, T], slot: Slot) -> None:
        try:
            self._ended.put((call, slot, call.job()))
        except Exception as error:  # noqa: BLE001 (one order's failure is never another's)
            self._ended.put((call, slot, error))

    def results(self, *, timeout: float) -> Iterator[tuple[K, T | Exception]]:
        """Wait until a call ends or a slot is free; yield the result of an ended call."""
        if self._has_room:
            timeout = min(timeout, max(self._gateway.wait_for(self._purpose), 0.01))
        try:
            call, slot, result = self._ended.get(timeout=max(timeout, 0))
        except Empty:
            return
        self.running -= 1
        error = result if isinstance(result, Exception) else None
        is_worth_repeating = isinstance(error, ProviderError) and error.is_worth_repeating
        if call.may_repeat and is_worth_repeating:
            call.may_repeat = False
            self.check_may_start()
            if not self.may_start:
                self._gateway.release(slot)
                return
            if (again := self._gateway.repeat(slot, self._purpose)) is not None:
                self._start(call, again)
                return
        self._gateway.finish(slot, error)
        yield call.key, result
