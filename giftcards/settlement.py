"""The customer's money: what was paid and is owed for cards that did not come, and refunds.

The arithmetic is pure and exact, on plain numbers; the provider's side is in
:mod:`giftcards.refunds`. Refunds are only recorded here: the money itself moves outside this app.
"""

from __future__ import annotations

import logging
from copy import copy
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Protocol

from django.db import transaction
from django.utils import timezone

from giftcards.conf import conf
from giftcards.rules.states import FINAL
from giftcards.signals import customer_refund_changed

if TYPE_CHECKING:
    from giftcards.models import CustomerRefund, Order

logger = logging.getLogger(__name__)

_CENTIME = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class CustomerBreakdown:
    """The parts of what the customer paid for a final order, in ``GIFTCARDS["CURRENCY"]``.

    ``paid_amount`` is ``kept_amount``, for the delivered cards, plus ``owed_amount``, for the
    missing ones. Of ``owed_amount``, ``refunded_amount`` was paid back, ``planned_amount`` is
    planned to be, and ``open_amount`` is the rest, unless missing cards were ordered again.
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
    settled_at: datetime | None
    sale_price: Decimal | None
    sale_amount: Decimal | None
    paid_back_amount: Decimal
    planned_amount: Decimal
    reordered_amount: Decimal | None


def customer_breakdown(order: Sold) -> CustomerBreakdown | None:
    """Return the breakdown of ``order``; ``None`` while it is open, or without a sale amount.

    A rejected order owes everything. Cards that come after the order has settled change nothing.

    If the missing cards are ordered again, the customer's payment for them moves to the new order:
    ``open_amount`` becomes 0, and sums over orders subtract
    :attr:`~giftcards.models.Order.reordered_amount` from ``paid_amount`` and ``owed_amount``.
    """
    paid = paid_amount(order)
    if paid is None or order.status not in FINAL:
        return None
    split = compute(paid=paid, quantity=order.quantity, fulfilled_quantity=order.fulfilled_quantity)
    refunded, planned = order.paid_back_amount, order.planned_amount
    is_open = order.reordered_amount is None
    left = split.owed_amount - refunded - planned if is_open else Decimal(0)
    return replace(split, refunded_amount=refunded, planned_amount=planned, open_amount=left)


def promised_day(order: Sold) -> date | None:
    """Return the last day on which the customer has the money back, by the shop's own promise.

    That is so many days after the day on which the order became final, in the time zone of the
    site. ``None`` while the order is open, and without ``REFUND_DAYS``.
    """
    if conf.refund_days is None or order.settled_at is None:
        return None
    day = timezone.localdate(order.settled_at, timezone.get_default_timezone())
    return day + timedelta(days=conf.refund_days)


def is_past(day: date) -> bool:
    """True if ``day`` is over in the time zone of the site."""
    return day < timezone.localdate(timezone=timezone.get_default_timezone())


def amount_of_missing(order: Sold, quantity: int) -> Decimal | None:
    """The customer's payment for ``quantity`` missing cards of the order.

    This is the ``owed_amount`` as if all other cards had been delivered; ``None`` if the shop has
    not said what was paid.
    """
    paid = paid_amount(order)
    if paid is None:
        return None
    delivered = order.quantity - quantity
    return compute(paid=paid, quantity=order.quantity, fulfilled_quantity=delivered).owed_amount


def paid_amount(order: Sold) -> Decimal | None:
    """The customer's payment for all the cards; ``None`` if the shop has not said."""
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


# Refunds.


def record_refund(
    order: Order,
    *,
    amount: Decimal | int,
    reference: str,
    method: str = "",
    by: str | None = None,
    comment: str = "",
    is_paid: bool = True,
    source: str = "code",
) -> CustomerRefund:
    """Record that the customer of ``order`` was paid back ``amount``; return the refund.

    It moves no money. ``reference`` names the payment, uniquely for the order. Recording it again
    with the same amount and method returns the existing refund. With
    ``is_paid=False`` the refund is only planned, until :func:`complete_refund`, or until it is
    recorded again as paid; meanwhile, its amount is reserved. ``source`` is ``"code"``, ``"staff"``
    or ``"command"``. The sums of ``order`` are brought up to date.

    Raises :exc:`~giftcards.exceptions.RefundError` if ``amount`` is above what is still owed beside
    the planned refunds (``open_amount``), if nothing can be owed, or if the reference names another
    refund of the order. Raises :exc:`~django.core.exceptions.ValidationError` for invalid values.

    :data:`~giftcards.signals.customer_refund_changed` is sent after the commit.
    """
    now = timezone.now()
    model = order.refunds.model
    is_done = {"state": model.State.DONE, "executed_by": by or "", "executed_at": now}
    refund = order.refunds.record(
        order,
        model(
            amount=amount,
            reference=reference,
            method=method,
            comment=comment,
            source=source,
            created_by=by or "",
            created_at=now,
            **is_done if is_paid else {"state": model.State.CREATED},
        ),
    )
    _announce(refund)
    return refund


def complete_refund(refund: CustomerRefund, *, by: str) -> CustomerRefund:
    """Record that a planned ``refund`` has been paid; ``by`` names who paid it.

    Does nothing if it was paid already. Raises :exc:`~giftcards.exceptions.RefundError` if it was
    taken back, and :exc:`~django.core.exceptions.ValidationError` for an invalid name.
    """
    type(refund).objects.complete(refund, by=by)
    _announce(refund)
    return refund


def cancel_refund(refund: CustomerRefund, *, by: str, why: str = "") -> CustomerRefund:
    """Take ``refund`` back, so that its amount is owed again.

    ``by`` names who did so, and ``why`` is kept. Does nothing if the refund was taken back already.
    Raises :exc:`~django.core.exceptions.ValidationError` for invalid texts.
    """
    type(refund).objects.cancel(refund, by=by, why=why)
    _announce(refund)
    return refund


def _announce(refund: CustomerRefund) -> None:
    """Log the refund and send the signal after the commit, if the refund has changed."""
    if refund.has_changed:
        # A copy: a later change in the same transaction is announced separately.
        told = copy(refund)
        # No partial: Django logs the name of a function that fails, and a partial has none.
        transaction.on_commit(lambda: _tell(told), robust=True)


def _tell(refund: CustomerRefund) -> None:
    logger.info(
        "Refund %s of order %s is %s.", refund.reference, refund.order.reference, refund.state
    )
    customer_refund_changed.send_robust(type(refund), refund=refund)
