"""Correcting the customer of an order: a mistyped address, a phone number that has changed."""

from __future__ import annotations

import logging
from copy import copy

from django.db import transaction

from giftcards.models import CustomerChange, Order
from giftcards.signals import customer_changed

logger = logging.getLogger(__name__)


def change_customer(
    order: Order,
    *,
    email: str | None = None,
    name: str | None = None,
    phone: str | None = None,
    language: str | None = None,
    by: str = "",
    reason: str = "",
) -> bool:
    """Correct the customer of ``order``, open or final; False if that changed nothing.

    ``None`` leaves a detail as it is, and ``""`` removes it; other values are validated as in
    :func:`~giftcards.fulfilment.place_order`. ``by`` names who decided, and ``reason`` says why
    (one line, at most 200 characters): both are kept in the order's timeline, with the old values.
    ``order`` is updated in place.

    With ``giftcards.delivery``, messages that are not sent yet go to the new address, and links
    that were sent to the old one are withdrawn; what was sent is not taken back.

    It can be called in a transaction. If a receiver of
    :data:`~giftcards.signals.customer_changed` raises, the correction is rolled back. Raises
    :exc:`~django.core.exceptions.ValidationError` for invalid values, and
    :exc:`~giftcards.exceptions.CustomerConflict` if the customer was corrected, or erased, since
    ``order`` was read.
    """
    details = {
        "customer_email": email,
        "customer_name": name,
        "customer_phone": phone,
        "customer_language": language,
    }
    given = {name: value for name, value in details.items() if value is not None}
    with transaction.atomic():
        change = CustomerChange.objects.make(order, given, by=by, reason=reason)
        corrected = copy(order)
        _take_over(corrected, given)
        if change is not None:
            customer_changed.send(Order, order=corrected, change=change)
    _take_over(order, given)
    if change is None:
        return False
    logger.info("The customer of order %s was corrected.", order.reference)
    return True


def _take_over(order: Order, given: dict[str, str]) -> None:
    for name, value in given.items():
        setattr(order, name, value)
