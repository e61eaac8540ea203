"""Functions for a shop: buying cards, correcting customers, and deciding about waiting orders."""

from __future__ import annotations

import logging
from datetime import datetime
from decimal import Decimal
from typing import Unpack

from asgiref.sync import sync_to_async
from django.db import transaction
from django.utils import timezone

from giftcards.engine.approvals import approve_price, approve_review, cancel_order
from giftcards.engine.reordering import reorder_missing
from giftcards.engine.task_queue import wake_worker
from giftcards.engine.tuning import tuning
from giftcards.models import (
    CustomerChange,
    Order,
    OrderDetails,
    ProductType,
    customer_refunds,
    new_order,
)
from giftcards.models.catalogue import ids_of
from giftcards.models.fields import assign
from giftcards.signals import customer_changed

logger = logging.getLogger(__name__)

__all__ = [
    "OrderDetails",
    "aplace_order",
    "approve_price",
    "approve_review",
    "cancel_order",
    "change_customer",
    "check_soon",
    "place_order",
    "record_sale_amount",
    "reorder_missing",
]


def place_order(
    *,
    quantity: int,
    product_type: ProductType | None = None,
    product_id: str | None = None,
    type_id: str | None = None,
    **details: Unpack[OrderDetails],
) -> Order:
    """Record an order; a worker sends it once the caller's transaction commits.

    The function makes no request. It is idempotent: the same ``reference`` with the same values
    returns the same order, also after :func:`change_customer`.

    ``product_type`` is the card to buy, a row of the catalogue. For a card that the catalogue does
    not list, pass the provider's ids instead, as ``product_id`` and ``type_id``: each has 1 to 100
    printable ASCII characters without spaces. ``quantity`` is 1 to 2,000 cards. ``reference`` is
    the shop's own unique name for the order, in the same format; ``None`` generates a UUID. Never
    take a reference from a customer, who could get another customer's order.

    Amounts are in dinars, 0 or more with at most two decimals, and never floats. The customer pays
    ``sale_price`` for one card, or ``sale_amount`` for all; if both are given, they have to agree.
    The order's ``sale_amount`` is set in both cases.

    ``max_price`` is the most that one card may cost the shop. If a card costs more, the order waits
    until staff decide. By default, ``max_price`` is what the customer pays for one card.

    ``group`` is what the order belongs to in the shop, such as an invoice (at most 100 characters).
    Customers read it in place of the reference. ``metadata`` is a dict of JSON values for the
    shop's own use: at most 4,096 bytes and 8 levels.

    ``user`` is the account that owns the order, and sees its cards; ``None`` or an
    ``AnonymousUser`` for a guest. The customer's name has at most 200 characters. The phone number
    has digits, and at most 50 characters. Texts must not have control characters.

    With a ``recipient_email``, the order is a gift. Its cards are bought without delay, and go to
    that address at ``deliver_at``, or else as soon as they come. ``deliver_at`` is within a year,
    with a time zone unless ``USE_TZ`` is off. ``gift_message`` has at most 1,000 characters, and
    may have several lines. ``recipient_language`` is by default the customer's.

    Raises :exc:`~django.core.exceptions.ValidationError` for invalid values, and for a product that
    is not in the catalogue although this was read within two hours. Raises
    :exc:`~giftcards.exceptions.ReferenceConflict` for a reference that was used with other values,
    and :exc:`~giftcards.exceptions.ConfigurationError` if the app's tables are not in the database
    ``default``. Raises :exc:`TypeError` if the card is given in both ways, or in neither.
    """
    ids = ids_of(product_type, product_id, type_id)
    order = Order.objects.record(new_order(*ids, quantity, **details))
    wake_worker()
    return order


async def aplace_order(
    *,
    quantity: int,
    product_type: ProductType | None = None,
    product_id: str | None = None,
    type_id: str | None = None,
    **details: Unpack[OrderDetails],
) -> Order:
    """:func:`place_order` for async code.

    The order is committed when the call returns. To record it together with rows of your own, pass
    ``sync_to_async`` a function that uses ``transaction.atomic()``. If the call is cancelled, the
    order may have been recorded: repeat the call with the same ``reference``.
    """
    place = sync_to_async(place_order, thread_sensitive=True)
    return await place(
        quantity=quantity,
        product_type=product_type,
        product_id=product_id,
        type_id=type_id,
        **details,
    )


def check_soon(reference: str) -> bool:
    """Have an open order checked soon, before its next check is due.

    Call this function when a customer presses "Refresh", or when somebody says that the status has
    changed. The function makes no request: a worker checks the order in a moment, within the
    request budget and after any pause. An order gets at most one such check in five seconds. Its
    regular checks go on.

    Returns True if the order will be checked; if a check is under way, it will be checked once
    more. Returns False if the order does not exist, is final, or is not known to be at the provider
    (pending, on hold, being sent or unconfirmed). Returns False, too, if the order was checked, or
    this function was called for it, within the last five seconds.
    """
    wanted = Order.objects.filter(reference=reference)
    if not wanted.want_check(now=timezone.now(), interval=tuning.check_soon_every):
        return False
    wake_worker()
    return True


def change_customer(
    order: Order,
    *,
    email: str | None = None,
    name: str | None = None,
    phone: str | None = None,
    language: str | None = None,
    recipient_email: str | None = None,
    recipient_name: str | None = None,
    recipient_language: str | None = None,
    gift_message: str | None = None,
    deliver_at: datetime | None = None,
    by: str = "",
    reason: str = "",
) -> bool:
    """Correct the customer or the gift of an open or final ``order``; False if nothing changed.

    ``None`` leaves a detail as it is, and ``""`` removes it; other values are validated as in
    :func:`place_order`. A gift stays a gift, and no other order becomes one. ``by`` and ``reason``
    (one line, at most 200 characters) are kept with the old values. ``order`` is updated in place.
    Messages that are not sent yet go to the new address. Links in sent messages are withdrawn.

    If a receiver of :data:`~giftcards.signals.customer_changed` raises, the correction is rolled
    back. Raises :exc:`~django.core.exceptions.ValidationError` for invalid values, and
    :exc:`~giftcards.exceptions.CustomerConflict` if the order was corrected, or its customer or
    recipient erased, since ``order`` was read.
    """
    details = {
        "customer_email": email,
        "customer_name": name,
        "customer_phone": phone,
        "customer_language": language,
        "recipient_email": recipient_email,
        "recipient_name": recipient_name,
        "recipient_language": recipient_language,
        "gift_message": gift_message,
        "deliver_at": deliver_at,
    }
    names = [name for name, value in details.items() if value is not None]
    corrected = order.corrected({name: details[name] for name in names})
    given = {name: getattr(corrected, name) for name in names}
    with transaction.atomic():
        change = CustomerChange.objects.make(order, given, by=by, reason=reason)
        if change is not None:
            customer_changed.send(Order, order=corrected, change=change)
    assign(order, given)
    if change is None:
        return False
    logger.info("The customer of order %s was corrected.", order.reference)
    return True


def record_sale_amount(order: Order, amount: Decimal | int, *, by: str) -> bool:
    """Record the ``amount`` that the customer paid for all cards; False if it is recorded already.

    The order has to be final, and placed without ``sale_price`` and ``sale_amount``. The order's
    timeline names ``by``, who stated the amount. ``order`` is updated in place. A second call of
    :func:`place_order` without a sale amount still returns this order.

    Raises :exc:`~giftcards.exceptions.SaleError` if the order is open, if it has another sale
    amount, or if its missing cards were ordered again. Raises
    :exc:`~django.core.exceptions.ValidationError` for an amount below 0 or with more than two
    decimals, and for an empty name.
    """
    is_new = customer_refunds.record_sale_amount(order, amount, by=by)
    if is_new:
        logger.info("What the customer of order %s paid was recorded.", order.reference)
    return is_new
