"""Refund arithmetic: pure and exact, on plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from giftcards.rules.states import SETTLED, Status


@dataclass(frozen=True, slots=True)
class RefundBreakdown:
    """The amounts that the provider charged and refunded for a settled order.

    Amounts are in ``GIFTCARDS["CURRENCY"]``; ``None`` means unknown, not 0. ``is_consistent`` is
    False if the provider's figures contradict each other or are negative; a missing figure is not
    a contradiction.
    """

    ordered_amount: Decimal | None
    charged_amount: Decimal | None
    refunded_quantity: int
    refunded_amount: Decimal | None
    is_consistent: bool


class Settleable(Protocol):
    """The attributes of an order that :func:`refund_breakdown` reads."""

    status: str
    quantity: int
    fulfilled_quantity: int
    price_per_card: Decimal | None
    fulfilled_amount: Decimal | None


def refund_breakdown(order: Settleable) -> RefundBreakdown | None:
    """Return the breakdown of ``order``; ``None`` if it is open or was rejected: no money moved."""
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
    """Return the breakdown of a settled order; :exc:`ValueError` for any other status.

    The refund is (quantity − fulfilled_quantity) × price_per_card for ``PARTIALLY_FILLED`` (the
    provider's guide), 0 for ``FULFILLED`` and the whole price for ``REFUNDED``. The charge is the
    provider's ``fulfilled_amount``; if that is missing, a refunded order was charged 0.
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
    """True if the charge equals the price of the delivered cards, as far as both are known.

    If the quantities agree, this is equivalent to ordered = charged + refunded.
    """
    if any(amount is not None and amount < 0 for amount in (price_per_card, charged)):
        return False
    if charged is None:
        return True
    if price_per_card is None:
        # Without a price, only a charge for no cards is a contradiction.
        return fulfilled_quantity > 0 or charged == 0
    return charged == fulfilled_quantity * price_per_card
