"""The customer's side of an order: what was paid for, and what is owed for cards that did not come.

Pure and exact, on plain numbers; the provider's side is :mod:`giftcards.refunds`, and paying back
what is owed is :mod:`giftcards.settlement`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Protocol

from giftcards.statuses import FINAL

_CENTIME = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class CustomerBreakdown:
    """What the customer paid for a final order, in ``GIFTCARDS["CURRENCY"]``.

    ``paid_amount`` is ``kept_amount``, for the cards that were delivered, plus ``owed_amount``, for
    those that were not. Of that, ``refunded_amount`` was paid back, ``planned_amount`` is to be by
    refunds that are planned, and ``open_amount`` is still owed beside these: so
    refunded + planned + open = owed, unless the missing cards were ordered again.
    """

    paid_amount: Decimal
    kept_amount: Decimal
    owed_amount: Decimal
    refunded_amount: Decimal
    planned_amount: Decimal
    open_amount: Decimal


class Sold(Protocol):
    """The attributes of an order that :func:`customer_breakdown` reads."""

    status: str
    quantity: int
    fulfilled_quantity: int
    sale_price: Decimal | None
    sale_amount: Decimal | None
    paid_back_amount: Decimal
    planned_amount: Decimal
    reordered_amount: Decimal | None


def customer_breakdown(order: Sold) -> CustomerBreakdown | None:
    """Return the breakdown of ``order``; ``None`` while it is open, or without a sale amount.

    A rejected order was paid for as well, and owes everything. Cards that came after the order had
    settled change nothing: the shop decides what its customer gets of them.

    Once its missing cards are ordered again, what the customer paid for them is what that new order
    is paid: ``open_amount`` is 0 then, though ``owed_amount`` stays. So sums over orders count
    ``paid_amount`` and ``owed_amount`` less :attr:`~giftcards.models.Order.reordered_amount`:
    then no dinar is counted twice, and paid = kept + owed still holds.

    If cards had come late by then, only what was paid for the others went along. The late cards
    count as handed over: what is left of ``owed_amount`` is the shop's, like ``kept_amount``.
    """
    paid = paid_amount(order)
    if paid is None or order.status not in FINAL:
        return None
    split = compute(paid=paid, quantity=order.quantity, fulfilled_quantity=order.fulfilled_quantity)
    refunded, planned = order.paid_back_amount, order.planned_amount
    is_open = order.reordered_amount is None
    left = split.owed_amount - refunded - planned if is_open else Decimal(0)
    return replace(split, refunded_amount=refunded, planned_amount=planned, open_amount=left)


def amount_of_missing(order: Sold, quantity: int) -> Decimal | None:
    """What the customer paid for ``quantity`` cards of the order that are missing.

    It is what a breakdown would owe if all the others had been delivered; ``None`` if the shop has
    not said what was paid.
    """
    paid = paid_amount(order)
    if paid is None:
        return None
    delivered = order.quantity - quantity
    return compute(paid=paid, quantity=order.quantity, fulfilled_quantity=delivered).owed_amount


def paid_amount(order: Sold) -> Decimal | None:
    """What the customer pays for all the cards; ``None`` if the shop has not said."""
    # An order that was just recorded may hold whole numbers, as the shop gave them.
    if order.sale_amount is not None:
        return Decimal(order.sale_amount)
    return None if order.sale_price is None else Decimal(order.sale_price) * order.quantity


def compute(*, paid: Decimal, quantity: int, fulfilled_quantity: int) -> CustomerBreakdown:
    """Split ``paid`` by the share of the cards that were delivered.

    What is kept is rounded half up to two decimals, and the rest is owed: nothing is lost. Raises
    :exc:`ValueError` unless ``paid`` is at least 0, ``quantity`` at least 1, and
    ``fulfilled_quantity`` between 0 and ``quantity``.
    """
    if paid < 0 or quantity < 1 or not 0 <= fulfilled_quantity <= quantity:
        raise ValueError("These figures are not those of an order.")
    kept = (paid * fulfilled_quantity / quantity).quantize(_CENTIME, ROUND_HALF_UP)
    owed = paid - kept
    return CustomerBreakdown(
        paid_amount=paid,
        kept_amount=kept,
        owed_amount=owed,
        refunded_amount=Decimal(0),
        planned_amount=Decimal(0),
        open_amount=owed,
    )
