"""The bookings expected for orders in the ledger of the account of the configured API key."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from giftcards.books.pairing import Expected
from giftcards.keys.keyring import configured_key
from giftcards.models import ApiKey, Order
from giftcards.rules.money import refund_breakdown
from giftcards.rules.states import ACCEPTED

# An entry counts as missing this long after its order was sent or has settled.
GRACE = timedelta(minutes=15)
# A refund is booked when the order settles at the provider. This is the longest time until that is
# noticed here: a night without a worker.
UNNOTICED = timedelta(hours=12)
# Largest difference assumed between the provider's clock and ours, until it is learnt.
SKEW = timedelta(minutes=5)
# How long before its sending an order may seem booked: the learnt offset may be off by SKEW.
_EARLIER = 2 * SKEW


class LedgerAccount:
    """The account whose ledger is read; it has no entries about orders of other accounts."""

    def __init__(self) -> None:
        key = ApiKey.objects.filter(pk=configured_key())
        self._environments = {"", *key.values_list("environment", flat=True)}

    def bought(self, order: Order) -> bool:
        """True if the order may be this account's."""
        return order.environment in self._environments


def ordered_amount(order: Order) -> Decimal | None:
    """The price of the whole order; ``None`` if it is not known."""
    price = order.price_at_placing if order.price_per_card is None else order.price_per_card
    return None if price is None else order.quantity * price


def refund_amount(order: Order) -> Decimal | None:
    """The refund that the provider promised, which may be 0.

    ``None`` if the order has not settled, or if the amount is not known.
    """
    breakdown = refund_breakdown(order)
    return breakdown.refunded_amount if breakdown else None


def charge(order: Order) -> Expected | None:
    """The expected charge of an order that the provider has accepted; ``None`` if there is none."""
    amount = ordered_amount(order)
    if not amount or order.sent_at is None or order.status not in ACCEPTED:
        return None
    return Expected(order.pk, -amount, order.sent_at, order.sent_at - _EARLIER)


def credit(order: Order) -> Expected | None:
    """The expected refund of an order; ``None`` if there is none."""
    amount = refund_amount(order)
    if not amount or order.settled_at is None:
        return None
    sent_at = order.sent_at or order.created_at
    return Expected(order.pk, amount, order.settled_at, sent_at - _EARLIER)
