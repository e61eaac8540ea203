"""The refund arithmetic: pure, exact, from plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from giftcards.statuses import SETTLED, Status


@dataclass(frozen=True, slots=True)
class RefundBreakdown:
    """What the provider charged for a settled order and what it gave back.

    Amounts are in the currency of ``GIFTCARDS["CURRENCY"]``; ``None`` means unknown, which is not
    0. ``is_consistent`` is false where the provider's own figures contradict each other or are
    negative; a figure that is missing contradicts nothing.
    """

    ordered_amount: Decimal | None
    charged_amount: Decimal | None
    refunded_quantity: int
    refunded_amount: Decimal | None
    is_consistent: bool


class Settleable(Protocol):
    """What :func:`refund_breakdown` reads of an order."""

    status: str
    quantity: int
    fulfilled_quantity: int
    price_per_card: Decimal | None
    fulfilled_amount: Decimal | None


def refund_breakdown(order: Settleable) -> RefundBreakdown | None:
    """Return the breakdown of ``order``, or ``None`` while there is nothing to break down.

    That is: while the order is open, and where it was rejected and no money moved.
    """
    if order.status not in SETTLED:
        return None
    return compute(
        status=Status(order.status),
        quantity=order.quantity,
        fulfilled_quantity=order.fulfilled_quantity,
        price_per_card=order.price_per_card,
        fulfilled_amount=order.fulfilled_amount,
    )


def compute(
    *,
    status: Status,
    quantity: int,
    fulfilled_quantity: int,
    price_per_card: Decimal | None,
    fulfilled_amount: Decimal | None,
) -> RefundBreakdown:
    """Break a settled order down.

    The refund is (quantity − fulfilled_quantity) × price_per_card for ``PARTIALLY_FILLED`` (the
    provider's guide), nothing for ``FULFILLED``, everything for ``REFUNDED``. What was charged is
    ``fulfilled_amount`` as the provider gave it; of a refunded order that is 0 unless it says so.
    """
    match status:
        case Status.FULFILLED:
            refunded_quantity = 0
        case Status.PARTIALLY_FILLED:
            refunded_quantity = quantity - fulfilled_quantity
        case Status.REFUNDED:
            refunded_quantity = quantity
        case _:
            raise ValueError(f"An order that is {status} has no refund breakdown.")

    charged = fulfilled_amount
    if charged is None and status is Status.REFUNDED:
        charged = Decimal(0)
    ordered = refunded = None
    if price_per_card is not None:
        ordered = quantity * price_per_card
        refunded = refunded_quantity * price_per_card
    elif refunded_quantity == 0:
        refunded = Decimal(0)
    return RefundBreakdown(
        ordered_amount=ordered,
        charged_amount=charged,
        refunded_quantity=refunded_quantity,
        refunded_amount=refunded,
        is_consistent=(
            0 <= fulfilled_quantity == quantity - refunded_quantity <= quantity
            and _adds_up(fulfilled_quantity, price_per_card, charged)
        ),
    )


def _adds_up(
    fulfilled_quantity: int, price_per_card: Decimal | None, charged: Decimal | None
) -> bool:
    """Whether what was charged is the price of the cards that were delivered.

    Where the quantities fit, that is the same as ordered = charged + refunded.
    """
    if any(amount is not None and amount < 0 for amount in (price_per_card, charged)):
        return False
    if charged is None:
        return True
    if price_per_card is None:
        # Without a price one thing can still be told: money kept for no card.
        return fulfilled_quantity > 0 or charged == 0
    return charged == fulfilled_quantity * price_per_card
