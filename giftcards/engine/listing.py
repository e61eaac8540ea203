"""Reading the provider's list of orders, and finding unknown orders in it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from django.utils import timezone

from giftcards.engine.gateway import Gateway
from giftcards.engine.pool import MAX_IN_FLIGHT, Pulse, fan_out
from giftcards.engine.tuning import tuning
from giftcards.models import Order
from giftcards.provider.answers import OrderAnswer, OrderPage
from giftcards.rules.identity import find_difference
from giftcards.rules.purposes import Purpose
from giftcards.rules.times import with_zone

# The maximum number of pages that one search reads. Each page contains 100 orders.
_MOST_PAGES = 50
# Further pages are requested for the same purpose as the first page, unless this table contains
# another purpose for them.
_OF_FURTHER = {Purpose.LISTING: Purpose.PAGES}
# Requests for these purposes wait for the request quota. Other pages are skipped if the quota is
# used up.
_AWAITED = {Purpose.LISTING, Purpose.SEARCHING}

Pages = Iterator[OrderPage | Exception]


def read_pages(
    gateway: Gateway,
    pulse: Pulse,
    purpose: Purpose,
    *,
    start: datetime,
    end: datetime,
    limit: Callable[[], int],
) -> Pages:
    """Yield the pages of the provider's list of orders as they arrive.

    The list contains the orders that were created from ``start`` to ``end``. ``limit()`` returns
    the number of further pages that are worth reading:

    - If the provider reports the number of pages, further pages are read only if ``limit()`` is
      high enough for all of them. Reading ends when ``limit()`` returns 0, or when the quota is
      used up. The next reading starts with the unread pages.
    - Otherwise, at most ``limit()`` further pages are read. Reading ends at a page without new ids.

    If the request for a page fails, the error is yielded instead of the page.
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
    """Yield the further pages that one reading is allowed to request.

    The number of the first unread page is stored for the next reading.
    """
    begin = gateway.next_page if gateway.next_page <= count else 2
    numbers = [*range(begin, count + 1), *range(2, begin)]
    at_most = gateway.pages_at_once()
    unread = yield from _read_counted(numbers[:at_most], read, limit)
    unread = [*unread, *numbers[at_most:]]
    gateway.next_page = unread[0] if unread and limit() else 2


def _read_counted(
    numbers: Sequence[int], read: Callable[..., Pages], limit: Callable[[], int]
) -> Generator[OrderPage | Exception, object, Sequence[int]]:
    """Yield the pages in ``numbers``, and return the numbers left unread.

    Reading ends when ``limit()`` returns 0, or when the quota is used up.
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
    """Yield the pages that follow ``page``, which is the first page.

    Reading ends at a page without new ids.
    """
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


@dataclass(frozen=True, slots=True)
class Listing:
    """The part of the provider's list of orders for one period of time.

    ``rows`` maps the ids to the rows. ``is_whole`` is True if the listing is complete and every row
    has an id and a creation time.
    """

    rows: Mapping[str, OrderAnswer]
    is_whole: bool

    @property
    def has_failed(self) -> bool:
        return not (self.rows or self.is_whole)

    def row_of(self, order: Order) -> OrderAnswer | None:
        """Return the row that belongs to ``order``, or ``None``.

        The row has one of the ids in ``order.names``, and the same product, type and quantity as
        the order.
        """
        named = (self.rows.get(name) for name in order.names)
        line = order.line_at_provider
        return next((row for row in named if row and not find_difference(row, line)), None)


def read_listing(gateway: Gateway, pulse: Pulse, *, start: datetime, end: datetime) -> Listing:
    """Read the list of orders that were created between two times."""
    purpose = Purpose.SEARCHING
    answers = list(
        read_pages(gateway, pulse, purpose, start=start, end=end, limit=lambda: _MOST_PAGES)
    )
    pages = [answer for answer in answers if isinstance(answer, OrderPage)]
    rows: dict[str, OrderAnswer] = {}
    has_new_rows = True
    for page in pages:
        by_id = {row.provider_id: row for row in page.items if row.provider_id}
        has_new_rows = not by_id.keys() <= rows.keys()
        rows |= by_id
    # A row without an id or a time could be any order.
    is_identifiable = not any(page.flaws for page in pages) and all(
        row.provider_id and row.created_at for page in pages for row in page.items
    )
    is_read = len(pages) == len(answers) and is_identifiable
    return Listing(rows, is_read and _is_complete(pages, len(rows), has_new_rows=has_new_rows))


def _is_complete(pages: Sequence[OrderPage], rows: int, *, has_new_rows: bool) -> bool:
    """Return True if all pages were read.

    ``has_new_rows`` is True if the last page contained new rows.
    """
    if not pages:
        return False
    count = pages[0].page_count
    if count is None:
        return rows > 0 and not has_new_rows
    # The provider may have sent one page twice and omitted another, so rows are also counted.
    return len(pages) >= max(count, *(page.total_pages or 0 for page in pages)) and rows >= max(
        page.total_results or 0 for page in pages
    )


def find_orphans(listing: Listing) -> list[OrderAnswer]:
    """Return the rows that do not belong to any of our orders, oldest first.

    A row that has the id of an order, but a different product, type or quantity, does not belong to
    that order.
    """
    owned = {
        row.provider_id
        for order in Order.objects.owners(listing.rows)
        if (row := listing.row_of(order))
    }
    orphans = [row for name, row in listing.rows.items() if name not in owned]
    now = with_zone(timezone.now())
    return sorted(orphans, key=lambda row: (row.created_at or now, row.provider_id))
