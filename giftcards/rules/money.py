"""The amounts that are charged, paid and owed for an order.

The provider charges the shop for the cards that it delivered, and credits back the rest. The
customer has paid for all cards. Therefore, the shop owes the customer the payment for the cards
that were not delivered. The functions do not use the database, and calculate with ``Decimal``
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Protocol

from giftcards.rules.states import FINAL, SETTLED, STATES, Cards

_CENTIME = Decimal("0.01")


# The provider's side.


@dataclass(frozen=True, slots=True)
class RefundBreakdown:
    """The amounts that the provider charged and credited back for an order.

    Amounts are in dinars. ``None`` means that an amount is unknown, which is not the same as 0. The
    ``is_consistent`` attribute is False if the provider's figures are negative or contradict each
    other. A missing figure is not a contradiction.
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
    """Return what the provider charged and credited back for an order.

    Returns ``None`` if the provider has not settled the order. The figures of an open order are not
    final, and the provider does not charge anything for a rejected order.
    """
    if order.status not in SETTLED:
        return None
    return purchase_breakdown(
        status=order.status,
        quantity=order.quantity,
        fulfilled_quantity=order.fulfilled_quantity,
        price_per_card=order.price_per_card,
        fulfilled_amount=order.fulfilled_amount,
    )


def purchase_breakdown(
    *,
    status: str,
    quantity: int,
    fulfilled_quantity: int,
    price_per_card: Decimal | None,
    fulfilled_amount: Decimal | None,
) -> RefundBreakdown:
    """Return the refund breakdown of an order with these values.

    The result is the same as for :func:`refund_breakdown`. According to the provider's guide, the
    provider credits back (quantity − fulfilled_quantity) × price_per_card for a
    ``PARTIALLY_FILLED`` order, nothing for a ``FULFILLED`` order, and the whole price for a
    ``REFUNDED`` order. A refunded order without ``fulfilled_amount`` was charged 0. Raises
    :exc:`ValueError` for any other status.
    """
    cards = STATES[status].cards
    match cards:
        case Cards.ALL:
            refunded_quantity = 0
        case Cards.SOME:
            refunded_quantity = quantity - fulfilled_quantity
        case Cards.NONE:
            refunded_quantity = quantity
        case None:
            raise ValueError(f"An order that is {status} has no refund breakdown.")

    charged = fulfilled_amount
    if charged is None and cards is Cards.NONE:
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
    """Return True if the charge is the price of the delivered cards.

    Unknown amounts do not count as a contradiction.
    """
    if any(amount is not None and amount < 0 for amount in (price_per_card, charged)):
        return False
    if charged is None:
        return True
    if price_per_card is None:
        # If the price is unknown, the only contradiction is a charge although no cards were
        # delivered.
        return fulfilled_quantity > 0 or charged == 0
    return charged == fulfilled_quantity * price_per_card


# The customer's side.


@dataclass(frozen=True, slots=True)
class CustomerBreakdown:
    """The breakdown of the customer's payment for a final order, in dinars.

    - ``paid_amount`` is the payment. The payment is the sum of ``kept_amount`` and ``owed_amount``.
    - ``kept_amount`` is the part of the payment for the delivered cards.
    - ``owed_amount`` is the part of the payment for the missing cards.
    - ``paid_back_amount`` is the amount that was paid back to the customer.
    - ``open_amount`` is the part of ``owed_amount`` that has not been paid back. If the missing
      cards were ordered again, ``open_amount`` is 0.
    """

    paid_amount: Decimal
    kept_amount: Decimal
    owed_amount: Decimal
    paid_back_amount: Decimal
    open_amount: Decimal


class Sold(Protocol):
    """The attributes of an order that :func:`customer_breakdown` reads."""

    status: str
    quantity: int
    fulfilled_quantity: int
    sale_amount: Decimal | None
    paid_back_amount: Decimal
    reordered_amount: Decimal | None


def customer_breakdown(order: Sold) -> CustomerBreakdown | None:
    """Return the breakdown of the customer's payment for an order.

    Returns ``None`` if the order is open or has no sale amount. For a rejected order, you owe the
    customer the whole payment. Cards that arrive after the order was settled do not change the
    amounts.

    If the missing cards were ordered again, their payment belongs to the new order. Therefore, when
    you add up the amounts of several orders, subtract
    :attr:`~giftcards.models.Order.reordered_amount` from ``paid_amount`` and ``owed_amount``.
    """
    if order.sale_amount is None or order.status not in FINAL:
        return None
    split = payment_breakdown(
        paid=order.sale_amount,
        quantity=order.quantity,
        fulfilled_quantity=order.fulfilled_quantity,
    )
    paid_back = order.paid_back_amount
    is_open = order.reordered_amount is None
    left = split.owed_amount - paid_back if is_open else Decimal(0)
    return replace(split, paid_back_amount=paid_back, open_amount=left)


def amount_of_missing(order: Sold, quantity: int) -> Decimal | None:
    """Return the customer's payment for ``quantity`` missing cards.

    The amount is rounded like ``owed_amount``. Returns ``None`` if the payment is unknown.
    """
    if order.sale_amount is None:
        return None
    split = payment_breakdown(
        paid=order.sale_amount,
        quantity=order.quantity,
        fulfilled_quantity=order.quantity - quantity,
    )
    return split.owed_amount


def payment_breakdown(
    *, paid: Decimal, quantity: int, fulfilled_quantity: int
) -> CustomerBreakdown:
    """Divide a payment between the delivered and the missing cards.

    The kept amount is rounded half up to two decimals, and the rest is owed. Raises
    :exc:`ValueError` unless ``paid`` ≥ 0, ``quantity`` ≥ 1, and ``fulfilled_quantity`` is between 0
    and ``quantity``.
    """
    if paid < 0 or quantity < 1 or not 0 <= fulfilled_quantity <= quantity:
        raise ValueError("These figures do not belong to an order.")
    kept = (paid * fulfilled_quantity / quantity).quantize(_CENTIME, ROUND_HALF_UP)
    owed = paid - kept
    return CustomerBreakdown(
        paid_amount=paid,
        kept_amount=kept,
        owed_amount=owed,
        paid_back_amount=Decimal(0),
        open_amount=owed,
    )


class Final(Settleable, Sold, Protocol):
    """The attributes of an order that :func:`final_figures` reads."""


def final_figures(order: Final) -> dict[str, Decimal | bool | None]:
    """Return the column values to store when ``order`` becomes final.

    The values are stored so that database queries can compute totals over orders.
    """
    customer, provider = customer_breakdown(order), refund_breakdown(order)
    return {
        "open_amount": None if customer is None else customer.open_amount,
        "is_consistent": None if provider is None else provider.is_consistent,
    }
