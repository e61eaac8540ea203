"""Checking many orders with few requests.

Orders are checked together, by reading the provider's list of orders, or with one request for each
order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.gateway import Gateway
from giftcards.engine.listing import Pages, read_pages
from giftcards.engine.pool import Pulse, fan_out
from giftcards.engine.tuning import tuning
from giftcards.exceptions import ProviderError
from giftcards.models import Order
from giftcards.provider.answers import OrderAnswer, OrderPage
from giftcards.rules.identity import CLOCK_SKEW
from giftcards.rules.purposes import Purpose
from giftcards.rules.states import Status
from giftcards.rules.verdict import Verdict, evaluate_for

# The maximum number of single checks in a sweep for fresh orders, and also for late orders.
BATCH = 40
# The usual difference between the provider's clock and ours. The list is first read with this small
# margin, because a larger margin would include many other orders of a busy account.
_USUAL_SKEW = timedelta(minutes=1)
# How long the list is not used if it failed or did not contain any of our orders. The longer pause
# applies if the list seems to be useless, for example after a 404 response. Both are shorter than
# the default poll timeout, because some orders can only be followed through the list.
_LIST_FAILED = timedelta(seconds=30)
_LIST_USELESS = timedelta(minutes=2)
# For this many orders or fewer, single checks are as cheap as a page of the list.
_FEW = 2
# The share of the poll timeout within which an accepted order is usually listed and settled.
_USUAL = 1 / 5

Rows = Sequence[OrderAnswer]
# An order, its answer or error, and the verdict, which is None if the answer was not judged yet.
Checked = tuple[Order, OrderAnswer | Exception, Verdict | None]


@dataclass(frozen=True, slots=True)
class CheckedPage:
    """A page of the provider's list of orders.

    If a row settles its order, or credibly shows that the order is open, ``checked`` contains the
    order, the row and the verdict. ``rows`` contains all rows of the page. ``others`` contains the
    rows whose ids do not belong to the orders that are being checked.
    """

    checked: Sequence[Checked]
    rows: Rows
    others: Rows


def is_list_worthwhile(orders: Sequence[Order], gateway: Gateway) -> bool:
    """Return True if the list should be used to check ``orders``.

    The list should be used if it is likely to take fewer requests than single checks, or if an
    order can only be found in the list.
    """
    return any(_is_worth_listing(group, gateway) for group in _by_age(orders))


def check_orders(
    orders: Sequence[Order], *, due_by: datetime, gateway: Gateway, pulse: Pulse
) -> Iterator[CheckedPage | Checked]:
    """Check ``orders``, starting with fresh orders, and yield the results.

    The results are pages of the list and single checks. Each page is yielded before the next page
    is requested. An order whose due time is after ``due_by`` is yielded only if one of the pages
    happens to contain the order. If an order is due but is not yielded, it was not checked because
    calls were paused, the quota was used up, or the batch was full.
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
            yield from _read_list(search, gateway, pulse)
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
    """Return the ``orders`` that can be recognised in the list by their id."""
    # The list may contain different ids than single checks. In this case, an order's id in the list
    # is unknown until its first single check.
    ids_differ = any(order.provider_alias and not order.was_adopted for order in orders)
    return [order for order in orders if order.provider_alias or order.checked_at or not ids_differ]


# The list.


def _read_list(search: _Search, gateway: Gateway, pulse: Pulse) -> Iterator[CheckedPage]:
    for skew in (_USUAL_SKEW, CLOCK_SKEW):
        for page in search.read(gateway, pulse, skew):
            if isinstance(page, Exception):
                search.has_failed = True
                gateway.give_up_list(_pause_after(page))
                return
            checked = list(search.match(page))
            yield CheckedPage(checked, page.items, search.find_others(page))
        if search.has_match or search.pages_left or not search.has_read:
            return
    # New orders may appear in the list later. Old orders should be in it, unless the list uses
    # different ids.
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
        # The list may be out of date, so each search also makes a single check of the oldest order.
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
        """Yield the pages for the period in which the orders were sent.

        The period is extended by ``skew`` at both ends.
        """
        sent = [order.sent_at for order in self._orders if order.sent_at]
        if not sent:
            return iter(())
        self._pages = self._pages_read = self._rows_read = 0
        start, end = min(sent) - skew, max(sent) + skew
        return read_pages(
            gateway, pulse, self._purpose, start=start, end=end, limit=self._count_missing
        )

    def _count_missing(self) -> int:
        """Return the number of orders whose row has not been found so far.

        If the unread pages outnumber these orders, single checks take fewer requests.
        """
        return len(self._orders) - len(self.shown | self._unclear.keys())

    @property
    def pages_left(self) -> int:
        """The number of unread pages of the list that are still worth reading."""
        left = max(self._pages - self._pages_read, 0)
        return left if left <= self._count_missing() and not self.has_failed else 0

    def note_questions(self, unread: Sequence[Order], gateway: Gateway) -> None:
        """Tell the gateway how many requests this reading needs after page 1.

        The number includes the pages after page 1, even if they were not read. It also includes a
        single check for each order in ``unread`` except ``to_verify``.
        """
        if not self.has_read:
            return
        further = max(self._pages_read - 1, 0) + self.pages_left
        others = len(set(unread) - {self.to_verify})
        # If the free room on the last page is unknown, half a page is assumed.
        is_only_page = self._pages_read + self.pages_left == 1
        room = tuning.page_size - self._rows_read if is_only_page else tuning.page_size // 2
        gateway.note_questions(further + others, page_size=tuning.page_size, free_rows=room)

    def left_of(self, orders: Iterable[Order], due_by: datetime) -> list[Order]:
        """Return the ``orders`` that are due and need a single check.

        An order is due if its due time is ``due_by`` or earlier. Orders that might be on unread
        pages are left out, because the next reading starts with these pages.
        """
        due = [order for order in orders if order.due_at and order.due_at <= due_by]
        left = [order for order in due if order.pk not in self.shown]
        if self.pages_left:
            left = [order for order in left if order.pk in self._unclear]
        return sorted(left, key=lambda order: order is self.to_verify)

    def match(self, page: OrderPage) -> Iterator[Checked]:
        """Yield our orders on the page, each with its row and the verdict.

        Repeated rows, and rows that require a single check, are left out.
        """
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
        """Fill gaps in the answer to a single check from the order's list row.

        If an earlier answer has confirmed the order's id, ``result`` is returned unchanged.
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
    """Return the verdict on ``row``, or ``None`` if a single check is needed.

    The row is sufficient if it settles the order, or if it credibly shows that the order is open.
    The optional arguments of ``evaluate_for`` are not used, because they only make verdicts more
    lenient.
    """
    verdict = evaluate_for(order, row)
    # A row that shows a late order as open is not trusted, because the list may be out of date.
    is_fresh = order.status == Status.HANDLING and not is_to_verify
    is_row_trusted = order.is_only_listed or is_fresh
    shows_open = row.status == Status.HANDLING and is_row_trusted and not verdict.problems
    return verdict if verdict.settlement or shows_open else None


def _accepted_at(order: Order) -> datetime:
    assert order.accepted_at is not None  # noqa: S101 (a constraint of the table)
    return order.accepted_at
