"""Asking the provider about many orders with few requests: through its list, or one by one.

Requests are made in threads that never touch the database, a few at a time; what they bring is
yielded to the one thread that does.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

from django.utils import timezone

from giftcards.conf import conf
from giftcards.exceptions import ProviderError
from giftcards.gateway import Gateway
from giftcards.models import Order
from giftcards.provider import OrderAnswer, OrderPage
from giftcards.statuses import Status
from giftcards.verdict import judge

logger = logging.getLogger(__name__)

K = TypeVar("K")
T = TypeVar("T")

# With an order that is sent meanwhile, four: more would spend the attempts that a wrong key has
# before the first refusal is read.
MAX_IN_FLIGHT = 3
PAGE_SIZE = 100
# How many orders are asked about one by one in one go.
BATCH = 40
# How far the provider's clock may be from ours before its list does not show our orders.
CLOCK_SKEW = timedelta(minutes=10)
# How long the list is done without: after it failed, and after it showed none of our orders.
# Shorter than an order may take, because some orders are known by the list only.
PASSING_TROUBLE = timedelta(seconds=30)
USELESS = timedelta(minutes=2)
# Within this part of the timeout after it was accepted, an order usually is in the list, and has
# settled.
_USUAL = 1 / 5
# Of the sweeps in which the budget is spent on fresh orders: in how many a late one has its turn.
_LATE_SHARE = 1 / 8
# How often `go_on` is asked while calls are under way (seconds).
_HEARTBEAT = 1.0
# How long a request that was paid for in advance may be made: the budget is worked out for 65
# seconds instead of 60.
_PAID_FOR = 3.0
# How long calls that are under way are waited for once no more may be made (seconds).
_GRACE = 3.0


def pays_list(orders: Sequence[Order], gateway: Gateway) -> bool:
    """Whether asking for the list is likely to be cheaper than asking about each order."""
    return any(_is_worth_listing(group, gateway) for group in _by_age(orders))


def ask(
    orders: Sequence[Order], *, due_by: datetime, gateway: Gateway, go_on: Callable[[], bool]
) -> Iterator[tuple[Order, OrderAnswer | Exception]]:
    """Ask about ``orders``, fresh ones first; yield each one's answer, or why there is none.

    Those that are not due by ``due_by`` are answered in passing only, if the list shows them.
    Orders about which nothing is yielded were not asked about: calls had to stop, the request
    budget is short, or there are too many for one go.
    """
    fresh, late = _by_age(orders)
    for group in (fresh, late):
        shown: set[int] = set()
        if _is_worth_listing(group, gateway):
            shown = yield from _read_list(_listed(group), gateway, go_on)
        left = [
            order
            for order in group
            if order.pk not in shown and order.due_at and order.due_at <= due_by
        ][:BATCH]
        if not gateway.allows_calls:
            # The list was refused: one wrong key is enough.
            return
        granted = gateway.afford(len(left)) if left else 0
        yield from fan_out(_checks(left[:granted], gateway), gateway, go_on, is_paid=True)
        if not granted and group is late and random.random() < _LATE_SHARE:  # noqa: S311
            # Fresh ones go first, but they don't keep it waiting for ever.
            yield from fan_out(_checks(left[:1], gateway), gateway, go_on)


def _checks(
    orders: Iterable[Order], gateway: Gateway
) -> list[tuple[Order, Callable[[], OrderAnswer]]]:
    check = gateway.client.check
    return [(order, partial(check, order.provider_order_id or "")) for order in orders]


def _by_age(orders: Sequence[Order]) -> tuple[list[Order], list[Order]]:
    """Fresh orders and late ones: of other times, so of other pages of the list."""
    late = [order for order in orders if order.status == Status.DELAYED]
    return [order for order in orders if order.status != Status.DELAYED], late


def _is_worth_listing(group: Sequence[Order], gateway: Gateway) -> bool:
    listed = _listed(group)
    # Of some orders nothing else tells.
    is_only_way = any(order.is_only_listed for order in listed)
    return is_only_way or (gateway.is_list_useful and len(listed) > 2)


def _listed(orders: Sequence[Order]) -> list[Order]:
    """Those of ``orders`` that the list can be expected to show under a name we know."""
    # Where ids in the list are other ones, an order's is learnt from the first answer about it.
    ids_differ = any(order.provider_alias not in {"", order.provider_order_id} for order in orders)
    return [order for order in orders if order.provider_alias or order.checked_at or not ids_differ]


def _read_list(
    orders: Sequence[Order], gateway: Gateway, go_on: Callable[[], bool]
) -> Generator[tuple[Order, OrderAnswer], None, set[int]]:
    """Look for ``orders`` in as many pages of the list as are cheaper than asking one by one.

    Returns the keys of those about which it told.
    """
    wanted = {
        name: order
        for order in orders
        for name in (order.provider_order_id, order.provider_alias)
        if name
    }
    shown: set[int] = set()
    sent = [order.sent_at for order in orders if order.sent_at]
    if not sent:
        return shown
    pages = read_pages(
        gateway,
        go_on,
        start=min(sent) - CLOCK_SKEW,
        end=max(sent) + CLOCK_SKEW,
        # Reading on pays while a page costs less than what it may save.
        limit=lambda: len(orders) - len(shown),
    )
    old = [order for order in orders if _is_old(order)]
    # The list may be out of date: each time one order is asked about itself all the same.
    doubted = min((o for o in old if not o.is_only_listed), key=_accepted_at, default=None)
    knows_ours, page = False, None
    for page in pages:
        if isinstance(page, Exception):
            is_passing = isinstance(page, ProviderError) and page.status != 404
            gateway.give_up_list(PASSING_TROUBLE if is_passing else USELESS)
            return shown
        for row in page.items:
            order = wanted.get(row.provider_id)
            knows_ours |= order is not None
            # An order of another shop on the account, a row that slipped from one page to the
            # next, one that is not whole: what is left is asked about itself.
            if order and order.pk not in shown and _is_believed(row, order, order is doubted):
                shown.add(order.pk)
                yield order, row
    if page and not knows_ours:
        # Orders that have not been asked about may have other ids there, new ones come later.
        is_surprise = any(order.checked_at for order in old)
        gateway.give_up_list(USELESS if is_surprise else PASSING_TROUBLE)
    return shown


def _accepted_at(order: Order) -> datetime:
    assert order.accepted_at is not None  # noqa: S101 (a constraint of the table)
    return order.accepted_at


def _is_old(order: Order) -> bool:
    usual = timedelta(seconds=_USUAL * conf.poll_timeout)
    return timezone.now() - _accepted_at(order) > usual


def _is_believed(row: OrderAnswer, order: Order, is_doubted: bool) -> bool:
    verdict = judge(row, quantity=order.quantity, known_price=order.price_per_card)
    if verdict.settlement:
        return True
    # A list that is out of date would keep a late order late.
    may_wait = order.is_only_listed or (order.status == Status.HANDLING and not is_doubted)
    return row.status == Status.HANDLING and may_wait and not verdict.problem


def read_pages(
    gateway: Gateway,
    go_on: Callable[[], bool],
    *,
    start: datetime,
    end: datetime,
    limit: Callable[[], int],
) -> Iterator[OrderPage | Exception]:
    """Yield the pages of the list of orders created from ``start`` to ``end``, as they come.

    The first page says how many there are; the others are read if they are no more than ``limit``
    then. Where it does not say, pages are read until one brings nothing new. A page that fails is
    yielded as its error.
    """
    call = partial(gateway.client.list_orders, start=start, end=end, page_size=PAGE_SIZE)

    def read(numbers: Iterable[int]) -> Iterator[OrderPage | Exception]:
        jobs = [(number, partial(call, page=number)) for number in numbers]
        for _number, page in fan_out(jobs, gateway, go_on):
            yield page

    page: OrderPage | Exception | None = None
    for page in read([1]):
        yield page
    if not isinstance(page, OrderPage):
        return
    if (count := page.page_count) is not None:
        if 1 < count <= limit() + 1:
            yield from read(range(2, count + 1))
        return
    seen: set[str] = set()
    number = 1
    while isinstance(page, OrderPage) and number <= limit():
        names = {row.provider_id for row in page.items}
        if names <= seen:
            return
        seen |= names
        number, page = number + 1, None
        for page in read([number]):
            yield page


def fan_out(
    jobs: Iterable[tuple[K, Callable[[], T]]],
    gateway: Gateway,
    go_on: Callable[[], bool],
    *,
    is_paid: bool = False,
) -> Iterator[tuple[K, T | Exception]]:
    """Make the calls, a few at a time; yield each one's key and what came of it.

    Unless ``is_paid``, each call waits until the request budget can afford it; those that were paid
    for have to begin soon, or are paid for again. One that is worth repeating is made once more,
    before the others; if it was paid for in advance, only if the budget can afford that now. Once
    calls have to stop, what is under way is waited for briefly, and the rest is left out. The
    threads are daemons: one that waits for its answer even then does not keep the process alive.
    """
    waiting = deque(jobs)
    unrepeated = dict(waiting)
    results: SimpleQueue[tuple[K, T | Exception]] = SimpleQueue()
    running = 0
    may_call = gateway.allows_calls
    ends_at = float("inf")
    paid_until = time.monotonic() + _PAID_FOR if is_paid else 0.0
    while True:
        if may_call and not go_on():
            may_call, ends_at = False, time.monotonic() + _GRACE
        # Another process may have been refused while this one waited to begin.
        may_call = may_call and gateway.allows_calls
        # Until the key is known to be good: one at a time.
        in_flight = MAX_IN_FLIGHT if gateway.is_proven else 1
        while waiting and may_call and running < in_flight:
            is_affordable = time.monotonic() < paid_until or gateway.afford()
            if not (is_affordable and gateway.may_begin()):
                break
            threading.Thread(target=_call, args=(*waiting.popleft(), results), daemon=True).start()
            running += 1
        left = ends_at - time.monotonic()
        if not (running or (waiting and may_call)) or left <= 0:
            return
        wait = min(_HEARTBEAT, left)
        if waiting and running < in_flight:
            wait = min(wait, max(gateway.wait_for(), 0.01))
        try:
            key, result = results.get(timeout=wait)
        except Empty:
            continue
        running -= 1
        job = unrepeated.pop(key, None)
        is_worth_repeating = isinstance(result, ProviderError) and result.is_worth_repeating
        if is_worth_repeating and job and (not is_paid or gateway.afford()):
            waiting.appendleft((key, job))
            continue
        may_call = _heard(result, gateway) and may_call
        yield key, result


def _heard(result: object, gateway: Gateway) -> bool:
    """Tell the gateway how a call ended; false if calls have to stop now."""
    if isinstance(result, Exception) and not isinstance(result, ProviderError):
        logger.error("A call to the provider failed: %s", type(result).__name__)
        return True
    return gateway.heard(result if isinstance(result, ProviderError) else None)


def _call(key: K, job: Callable[[], T], results: SimpleQueue[tuple[K, T | Exception]]) -> None:
    try:
        results.put((key, job()))
    except Exception as error:  # noqa: BLE001 (one order's failure is never another's)
        results.put((key, error))
