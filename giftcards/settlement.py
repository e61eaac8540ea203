"""Refunds to customers: the amounts owed, and the refunds recorded.

The app only records refunds. The shop pays the refunds outside the app.
"""

from __future__ import annotations

import logging
from copy import copy
from datetime import date, timedelta
from decimal import Decimal

from django.db import transaction
from django.utils import timezone

from giftcards.conf import conf
from giftcards.models import CustomerRefund, Order
from giftcards.rules.money import CustomerBreakdown, customer_breakdown
from giftcards.signals import customer_refund_changed

__all__ = [
    "CustomerBreakdown",
    "cancel_refund",
    "customer_breakdown",
    "is_past",
    "promised_day",
    "record_refund",
]

logger = logging.getLogger(__name__)


def promised_day(order: Order) -> date | None:
    """Return the date by which the shop has promised to pay the customer back.

    The date is ``REFUND_DAYS`` days after the order became final, in the site's time zone. Returns
    ``None`` if the order is open or ``REFUND_DAYS`` is not set.
    """
    if conf.refund_days is None or order.finalized_at is None:
        return None
    day = timezone.localdate(order.finalized_at, timezone.get_default_timezone())
    return day + timedelta(days=conf.refund_days)


def is_past(day: date) -> bool:
    """True if ``day`` is over in the site's time zone."""
    return day < timezone.localdate(timezone=timezone.get_default_timezone())


def record_refund(
    order: Order,
    *,
    amount: Decimal | int,
    reference: str,
    method: str = "",
    by: str | None = None,
    comment: str = "",
    source: str = "code",
) -> CustomerRefund:
    """Record a refund that was paid to the customer of an order.

    The function does not move any money. The ``reference`` identifies the payment, and is unique
    within the order. A second call with the same reference, amount and method returns the existing
    refund. The ``source`` is ``"code"``, ``"staff"`` or ``"command"``. The function also updates
    the sums in the ``order`` instance. The :data:`~giftcards.signals.customer_refund_changed`
    signal is sent after the commit.

    Returns the refund. Raises :exc:`~django.core.exceptions.ValidationError` if a value is invalid.
    Raises :exc:`~giftcards.exceptions.RefundError` in these cases:

    - The amount is higher than the order's ``open_amount``, which is the amount owed minus the
      amount that has already been paid back.
    - You do not owe the customer anything for this order.
    - The reference belongs to another refund of the order.
    """
    refund = order.refunds.record(
        order,
        CustomerRefund(
            amount=amount,
            reference=reference,
            method=method,
            comment=comment,
            source=source,
            created_by=by or "",
        ),
    )
    _announce(refund)
    return refund


def cancel_refund(refund: CustomerRefund, *, by: str, reason: str = "") -> CustomerRefund:
    """Cancel a refund, so that its amount is owed to the customer again.

    The app records the ``reason`` and the person given in the ``by`` argument. If the refund has
    already been cancelled, the function does nothing. Raises
    :exc:`~django.core.exceptions.ValidationError` if ``by`` or ``reason`` is invalid.
    """
    CustomerRefund.objects.cancel(refund, by=by, reason=reason)
    _announce(refund)
    return refund


def _announce(refund: CustomerRefund) -> None:
    if refund.has_changed:
        # The row is copied, because a later change in the same transaction is announced separately.
        told = copy(refund)
        # A lambda is used, because Django logs the name of a function that fails, and a partial has
        # none.
        transaction.on_commit(lambda: _tell(told), robust=True)


def _tell(refund: CustomerRefund) -> None:
    logger.info(
        "Refund %s of order %s is %s.", refund.reference, refund.order.reference, refund.state
    )
    customer_refund_changed.send_robust(CustomerRefund, refund=refund)
