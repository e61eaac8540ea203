"""Functions to buy cards and manage orders."""

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
    """Record an order, which a worker sends after the commit.

    The function makes no request. When the caller's transaction commits, a worker sends the order
    to the provider. If the transaction is rolled back, the order is not recorded. The function is
    idempotent: a second call with the same ``reference`` and the same values returns the existing
    order, even if the customer was corrected with :func:`change_customer` in the meantime.

    These arguments describe the cards:

    - ``product_type`` is the card to buy, as a row in the catalogue.
    - ``product_id`` and ``type_id`` are the provider's ids. Pass these ids instead of
      ``product_type`` if the catalogue does not contain the card. Each id has 1 to 100 printable
      ASCII characters without spaces.
    - ``quantity`` is the number of cards, from 1 to 2,000.
    - ``reference`` is your shop's unique name for the order, in the same format as the ids. If
      ``reference`` is ``None``, the app generates a UUID. Never take the reference from a customer,
      because the customer could pass the reference of somebody else and receive that order.

    Amounts are in dinars. Each amount must be 0 or more, with at most two decimals. Floats are not
    allowed.

    - ``sale_price`` is the amount that the customer pays for one card.
    - ``sale_amount`` is the amount that the customer pays for all cards. If you pass both
      ``sale_price`` and ``sale_amount``, they must agree. If you pass only ``sale_price``, the app
      calculates the order's ``sale_amount``.
    - ``max_price`` is the price limit, which is the highest cost per card that your shop accepts.
      If a card costs more, the order is put on hold until staff decide. By default, the limit is
      the amount that the customer pays for one card, plus the loss that your shop accepts for the
      product type.

    These arguments describe the customer, or are for your shop's own use:

    - ``user`` is the account that owns the order and can see its cards. For a guest, pass ``None``
      or an ``AnonymousUser``.
    - ``customer_email``, ``customer_name``, ``customer_phone`` and ``customer_language`` describe
      the customer. A name can be up to 200 characters long. A phone number contains digits and
      can be up to 50 characters long.
    - ``group`` identifies orders that belong together in your shop, for example by an invoice
      number. A group can be up to 100 characters long. Customers see the group instead of the
      reference.
    - ``metadata`` is a dict of JSON values for your own use. The JSON text can be up to 4,096 bytes
      long and up to 8 levels deep.

    Strings must not contain control characters. If you pass ``recipient_email``, the order is a
    gift. These arguments describe the gift:

    - ``recipient_email``, ``recipient_name`` and ``recipient_language`` describe the person who
      receives the cards. By default, the recipient's language is that of the customer.
    - ``gift_message`` can be up to 1,000 characters long. It can contain several lines.
    - ``deliver_at`` is the time at which the recipient receives the cards, at most a year from now.
      The cards are bought immediately in any case. If ``deliver_at`` is not passed, the recipient
      receives the cards as soon as they arrive. The time must have a time zone unless ``USE_TZ`` is
      off.

    The function raises

    - :exc:`~django.core.exceptions.ValidationError` if a value is invalid, or if the product is not
      in the catalogue and the catalogue was read within the last two hours;
    - :exc:`~giftcards.exceptions.ReferenceConflict` if the reference was used with other values;
    - :exc:`~giftcards.exceptions.ConfigurationError` if the app's tables are not in the database
      ``default``;
    - :exc:`TypeError` if you pass both ``product_type`` and the ids, or neither.
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
    """Place an order from async code.

    The function takes the same arguments as :func:`place_order`. When the call returns, the order
    has already been committed. To record the order together with rows of your own, write a function
    that uses ``transaction.atomic()``, and call it with ``sync_to_async``.

    If the call is cancelled, the order might have been recorded anyway. To avoid recording the
    order twice, repeat the call with the same ``reference``.
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
    """Ask a worker to check an open order before its next check is due.

    Call this function when a customer presses "Refresh", or when you learn that the status has
    changed. The function makes no request. A worker checks the order as soon as the request quota
    and any pause of requests allow it. This function causes at most one check per order in five
    seconds. The regular checks of the order continue.

    Returns True if the order will be checked. If a check is in progress, the order will be checked
    again afterwards. Returns False in these cases:

    - The order does not exist, or is final.
    - The order is pending, on hold, being sent or unconfirmed, so the provider might not have it.
    - The order was checked, or this function was called for the order, within the last five
      seconds.
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
    """Correct the customer details or the gift details of an order.

    The order can be open or final. Pass ``None`` to leave a detail unchanged, or ``""`` to remove
    it. All other values are validated in the same way as by :func:`place_order`. An order cannot
    become a gift or stop being one. The app stores the old values together with the ``by`` and
    ``reason`` arguments. Both arguments must be a single line of at most 200 characters. The
    ``order`` object is updated in place.

    Messages that have not been sent yet go to the new address. Links in messages that were already
    sent stop working.

    Returns True if a detail has changed. Raises :exc:`~django.core.exceptions.ValidationError` if a
    value is invalid. Raises :exc:`~giftcards.exceptions.CustomerConflict` if somebody has
    corrected the order or erased its customer since ``order`` was read. If a receiver of
    :data:`~giftcards.signals.customer_changed` raises an error, the correction is rolled back.
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
    """Record the amount that the customer paid for all cards.

    Use this function for a final order that was placed without ``sale_price`` and ``sale_amount``.
    The timeline of the order names the person given in the ``by`` argument. ``order`` is updated in
    place. A repeated call of :func:`place_order` without a sale amount still returns this order.

    Returns True if the amount was recorded, and False if the same amount was recorded before.
    Raises :exc:`~giftcards.exceptions.SaleError` if the order is open, if a different sale amount
    was recorded before, or if its missing cards were reordered. Raises
    :exc:`~django.core.exceptions.ValidationError` if ``by`` is empty, or if the amount is below 0
    or has more than two decimals.
    """
    is_new = customer_refunds.record_sale_amount(order, amount, by=by)
    if is_new:
        logger.info("The amount that the customer paid for order %s was recorded.", order.reference)
    return is_new
