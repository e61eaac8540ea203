"""The customer's money: what is owed for cards that did not come, and refunds.

Refunds are only recorded here; the money itself moves outside this app.
"""

from __future__ import annotations

import logging
from copy import copy
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

from django.db import transaction
from django.utils import timezone

from giftcards.models import CustomerRefund, Order
from giftcards.models.money import RefundState
from giftcards.sales import CustomerBreakdown, customer_breakdown
from giftcards.signals import customer_refund_changed

__all__ = [
    "CustomerBreakdown",
    "cancel_refund",
    "complete_refund",
    "customer_breakdown",
    "record_refund",
]

logger = logging.getLogger(__name__)


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

    ``reference`` names the payment, uniquely for the order. Recording it again with the same amount
    and method is idempotent, even at the same moment: it returns the existing refund. ``by`` names
    who paid it back, for the order's page. With ``is_paid=False`` the refund is only planned, until
    :func:`complete_refund`, or until it is recorded again as paid; meanwhile, its amount is
    reserved. ``source`` is ``"code"``, ``"staff"`` or ``"command"``. The sums of ``order`` are
    brought up to date.

    Raises :exc:`~giftcards.exceptions.RefundError` if ``amount`` is above what is still owed beside
    the planned refunds (``customer_breakdown(order).open_amount``), if nothing can be owed, or if
    the reference names another refund of the order. Raises
    :exc:`~django.core.exceptions.ValidationError` for an amount that is not above 0 or has more
    than two decimals, and for texts that are too long or have control or direction characters.

    :data:`~giftcards.signals.customer_refund_changed` is sent after the commit.
    """
    now = timezone.now()
    refund = CustomerRefund.objects.record(
        order,
        CustomerRefund(
            amount=amount,
            reference=reference,
            method=method,
            comment=comment,
            source=source,
            created_by=by or "",
            created_at=now,
            **_paid(by, now) if is_paid else {"state": RefundState.CREATED},
        ),
    )
    _announce(refund)
    return refund


def _paid(by: str | None, now: datetime) -> dict[str, Any]:
    return {"state": RefundState.DONE, "executed_by": by or "", "executed_at": now}


def complete_refund(refund: CustomerRefund, *, by: str) -> CustomerRefund:
    """Record that a planned ``refund`` has been paid; ``by`` names who paid it.

    Does nothing if it was paid already. Raises :exc:`~giftcards.exceptions.RefundError` if it was
    taken back, and :exc:`~django.core.exceptions.ValidationError` for an invalid name.
    """
    CustomerRefund.objects.complete(refund, by=by)
    _announce(refund)
    return refund


def cancel_refund(refund: CustomerRefund, *, by: str, why: str = "") -> CustomerRefund:
    """Take ``refund`` back, so that its amount is owed again.

    ``by`` names who did so, and ``why`` is kept. Does nothing if the refund was taken back already.
    Raises :exc:`~django.core.exceptions.ValidationError` for invalid texts.
    """
    CustomerRefund.objects.cancel(refund, by=by, why=why)
    _announce(refund)
    return refund


def _announce(refund: CustomerRefund) -> None:
    """Log the refund and send the signal after the commit, if the refund has changed."""
    if refund.has_changed:
        # A copy: a later change in the same transaction is announced separately.
        transaction.on_commit(partial(_tell, copy(refund)), robust=True)


def _tell(refund: CustomerRefund) -> None:
    logger.info(
        "Refund %s of order %s is %s.", refund.reference, refund.order.reference, refund.state
    )
    customer_refund_changed.send_robust(CustomerRefund, refund=refund)
