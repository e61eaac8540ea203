"""Reading the provider's list of orders, and finding rows that belong to no order here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from giftcards.engine.following import Pulse, read_pages
from giftcards.engine.gateway import Gateway
from giftcards.models import Order
from giftcards.provider.answers import OrderAnswer, OrderPage
from giftcards.rules.identity import find_difference
from giftcards.rules.purposes import Purpose
from giftcards.rules.times import with_zone

# The most pages, each with 100 orders, that one search reads.
_MOST_PAGES = 50


@dataclass(frozen=True, slots=True)
class Listing:
    """The rows of the provider's list in a span of time, by id.

    ``is_whole`` is True if no row is missing, and each row has an id and a creation time.
    """

    rows: Mapping[str, OrderAnswer]
    is_whole: bool

    @property
    def has_failed(self) -> bool:
        return not (self.rows or self.is_whole)

    def row_of(self, order: Order) -> OrderAnswer | None:
        """The row with an id of ``order`` that fits its product, type and quantity, or ``None``."""
        named = (self.rows.get(name) for name in order.names)
        line = order.line_at_provider
        return next((row for row in named if row and not find_difference(row, line)), None)


def read_listing(gateway: Gateway, pulse: Pulse, *, start: datetime, end: datetime) -> Listing:
    """Read every page of the list of orders created from ``start`` to ``end``."""
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
    """True if no page is missing; ``has_new_rows`` is True if the last page had new rows."""
    if not pages:
        return False
    count = pages[0].page_count
    if count is None:
        return rows > 0 and not has_new_rows
    # The provider may have sent one page twice and omitted another, so rows are counted, too.
    return len(pages) >= max(count, *(page.total_pages or 0 for page in pages)) and rows >= max(
        page.total_results or 0 for page in pages
    )


def find_orphans(listing: Listing) -> list[OrderAnswer]:
    """The rows that belong to no order of ours, oldest first.

    If a row has an order's id, but another product, type or quantity, it is not the order's row.
    """
    owned = {
        row.provider_id
        for order in Order.objects.owners(listing.rows)
        if (row := listing.row_of(order))
    }
    orphans = [row for name, row in listing.rows.items() if name not in owned]
    now = with_zone(timezone.now())
    return sorted(orphans, key=lambda row: (row.created_at or now, row.provider_id))
