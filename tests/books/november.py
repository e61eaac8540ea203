"""A month of books: ledger entries, and an order that settled in November."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from giftcards.books.models import LedgerEntry
from giftcards.models import Order
from giftcards.statuses import Status
from tests.builders import make_guide_order

NOVEMBER = date(2026, 11, 1)
NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)


def partly_delivered(**values: Any) -> Order:
    """Make an order of five cards, three of which came: cost 490 each, sold for 550 each.

    It settled on 15 November.
    """
    given = {"fulfilled_amount": 1470, "sale_price": Decimal(550), "finalized_at": NOON}
    return make_guide_order(
        Status.PARTIALLY_FILLED, **{**given, "sent_at": NOON, "created_at": NOON, **values}
    )


def enter(kind: str, amount: Any, **values: Any) -> LedgerEntry:
    given = {"provider_id": f"e{LedgerEntry.objects.count()}", "time": NOON, **values}
    return LedgerEntry.objects.create(type=kind, amount=Decimal(amount), **given)
