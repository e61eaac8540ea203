"""Holding cards for a customer who is about to pay.

The provider knows no holds: they only keep this shop from selling a card twice.
"""

from __future__ import annotations

import time
from datetime import timedelta

from django.core.exceptions import ValidationError
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from django.utils.translation import gettext

from giftcards.catalogue.offers import check_balance, check_stock
from giftcards.catalogue.quotes import Line
from giftcards.exceptions import ReferenceConflict
from giftcards.models import Hold, Lease, Order
from giftcards.models.holds import LONGEST

# SQLite hands its lock to the waiting in no order, and fails some: they try again for so long,
# after such pauses (seconds).
_PATIENCE = 20.0
_PAUSE = 0.05


def hold(
    *, reference: str, product_id: str, type_id: str, quantity: int, minutes: float = 20
) -> Hold:
    """Hold cards for ``minutes``, up to a day, until the order with this ``reference`` is placed.

    They count against the stock and the balance for others. A hold that exists gets this line and
    lasts anew. In a transaction, other holds wait for its end.

    Raises :exc:`~giftcards.exceptions.NotForSale` (``delisted``, ``out_of_stock`` or ``balance``)
    if the cards cannot be held; then a hold that exists stays. Raises
    :exc:`~giftcards.exceptions.ReferenceConflict` if the order exists, and
    :exc:`~django.core.exceptions.ValidationError` for values that an order cannot have.
    """
    line = Line(product_id, type_id, quantity, reference)
    Order(
        reference=reference, product_id=product_id, type_id=type_id, quantity=quantity
    ).check_values()
    length = timedelta(minutes=minutes)
    if not timedelta(0) < length <= LONGEST:
        raise ValidationError(gettext("Cards can be held for a day at most."))
    ends_at = time.monotonic() + _PATIENCE
    while True:
        try:
            return _hold(line, length)
        except OperationalError as error:
            is_in_vain = connection.in_atomic_block or "database is locked" not in str(error)
            if is_in_vain or time.monotonic() >= ends_at:
                raise
            time.sleep(_PAUSE)


def _hold(line: Line, length: timedelta) -> Hold:
    Lease.objects.make(Lease.HOLDS)
    with transaction.atomic():
        # One after the other, so that two do not take the last card, or the rest of the balance.
        Lease.objects.lock(Lease.HOLDS)
        if Order.objects.filter(reference=line.reference).exists():
            raise ReferenceConflict(gettext("The order with this reference has been placed."))
        known = line.known()
        check_stock(line, known)
        check_balance(line, known)
        values = {
            "product_id": line.product_id,
            "type_id": line.type_id,
            "quantity": line.quantity,
            "price": known.price,
            "until": timezone.now() + length,
        }
        return Hold.objects.update_or_create(reference=line.reference, defaults=values)[0]


def release(reference: str) -> None:
    """End the hold with this reference, if there is one: the customer does not pay."""
    Hold.objects.filter(reference=reference).delete()
