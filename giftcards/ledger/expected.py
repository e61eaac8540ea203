"""What orders should have booked in the ledger of the account that this process has the key of."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from django.utils import timezone

from giftcards.crypto import configured_key
from giftcards.ledger.pairing import Expected
from giftcards.models import ApiKey, Order, ProviderState
from giftcards.refunds import refund_breakdown
from giftcards.statuses import ACCEPTED

# How long after its order was sent, or has settled, an entry is missed.
GRACE = timedelta(minutes=15)
# A refund is booked when the order settles there, which is noticed later: after a night without a
# worker at the latest.
UNNOTICED = timedelta(hours=12)
# How far the clocks of the provider and ours differ at most, as long as nothing else is known.
SKEW = timedelta(minutes=5)
# What was learnt of that may be wrong by as much.
_EARLIER = 2 * SKEW
# What of an order is read here.
NEEDED = (
    "reference",
    "status",
    "environment",
    "quantity",
    "price_at_placing",
    "price_per_card",
    "fulfilled_quantity",
    "fulfilled_amount",
    "is_credited",
    "problems",
    "needs_attention",
    "created_at",
    "sent_at",
    "settled_at",
)


class LedgerAccount:
    """The account whose ledger is read: that of one knows nothing of what another one bought."""

    def __init__(self) -> None:
        key = ApiKey.objects.filter(pk=configured_key()).first()
        self._environments = {"", key.environment if key else ""}

    def bought(self, order: Order) -> bool:
        """Whether the order may be this account's."""
        return order.environment in self._environments


def ledger_read_until() -> datetime | None:
    """Until when the ledger is known, not counting what the clock was set back since."""
    known = ProviderState.objects.values_list("ledger_read_until", flat=True).first()
    return min(known, timezone.now()) if known else None


def ordered_amount(order: Order) -> Decimal | None:
    """What the order costs, as far as its price is known."""
    price = order.price_at_placing if order.price_per_card is None else order.price_per_card
    return None if price is None else order.quantity * price


def refund_amount(order: Order) -> Decimal | None:
    """What the provider promised to credit back; ``None`` if that is nothing, or not known."""
    breakdown = refund_breakdown(order)
    return breakdown.refunded_amount if breakdown else None


def charge(order: Order) -> Expected | None:
    """The charge of an order that the provider has accepted; ``None`` if none is to be expected."""
    amount = ordered_amount(order)
    if not amount or order.sent_at is None or order.status not in ACCEPTED:
        return None
    return Expected(order.pk, -amount, order.sent_at, order.sent_at - _EARLIER)


def credit(order: Order) -> Expected | None:
    """The refund of an order; ``None`` if none is to be expected."""
    amount = refund_amount(order)
    if not amount or order.settled_at is None:
        return None
    sent_at = order.sent_at or order.created_at
    return Expected(order.pk, amount, order.settled_at, sent_at - _EARLIER)
