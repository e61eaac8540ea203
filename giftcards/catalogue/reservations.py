"""Reservations of cards for customers who are about to pay.

The provider does not know about reservations. A reservation prevents your shop from selling the
same card twice, but the provider can still sell the card to somebody else.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import NamedTuple

from django.core.exceptions import ValidationError
from django.db import OperationalError, connection, transaction
from django.db.models import Count, Sum
from django.utils import timezone
from django.utils.translation import gettext

from giftcards.catalogue.offers import Line, Quote, check_balance, check_stock, refusal
from giftcards.catalogue.visitors import Guest
from giftcards.engine.database import waiting_at_most
from giftcards.engine.tuning import tuning
from giftcards.exceptions import ReferenceConflict
from giftcards.models import Lease, Order, ProductType, Reservation, new_order
from giftcards.models.catalogue import Names, ids_of
from giftcards.models.reservations import LONGEST, MOST_TIMES, ReservationQuerySet

# SQLite may report that the database is locked, even to a transaction that waits for the lock. The
# reservation is then tried again after _PAUSE seconds.
_PAUSE = 0.05


def reserve(
    *,
    reference: str,
    quantity: int,
    product_type: ProductType | None = None,
    product_id: str | None = None,
    type_id: str | None = None,
    minutes: float = 20,
    customer: str | Guest = "",
) -> Reservation:
    """Reserve cards for a customer until the order is placed.

    Pass the card as ``product_type``, or as ``product_id`` and ``type_id``. To use the reservation,
    place the order with the same ``reference``.

    The reservation lasts for the given number of ``minutes``, which must not exceed one day. Until
    it ends, other customers cannot buy the reserved cards, and the cost of these cards is
    subtracted from the available balance. The reservation also keeps the current price of the card.
    If you pass the same reference to ``quote`` or ``check_offer``, the function uses this price.

    If the reference already has a reservation, the new cards replace the old ones, and the
    reservation lasts for the given number of ``minutes`` from now. Such calls
    can extend a reservation up to three times its original duration. An hour after the reservation
    has ended, you can reserve cards with this reference as if for the first time.

    ``customer`` identifies the account or the guest who wants the cards. Pass the result of
    ``customer_of(request)``. One customer can reserve at most 100 cards at a time, in at most 20
    reservations. All guests on the same network together can reserve 20 times as many cards, in 20
    times as many reservations.

    If you call this function inside a transaction, other callers wait until the transaction ends.

    The function raises

    - :exc:`~giftcards.exceptions.NotForSale` if the cards cannot be reserved. The code of the error
      is ``delisted``, ``out_of_stock``, ``balance``, ``too_many_reserved``, ``network_busy``,
      ``reserved_too_long``, or ``busy`` if SQLite was locked for two seconds. An existing
      reservation does not change.
    - :exc:`~giftcards.exceptions.ReferenceConflict` if an order with this reference exists.
    - :exc:`~django.core.exceptions.ValidationError` if a value is invalid for an order.
    """
    line = Line(*ids_of(product_type, product_id, type_id), quantity, reference)
    new_order(line.product_id, line.type_id, quantity, reference=reference).check_values()
    length = timedelta(minutes=minutes)
    if not timedelta(0) < length <= LONGEST:
        raise ValidationError(gettext("Cards can be reserved for at most one day."))
    ends_at = time.monotonic() + tuning.reservation_patience
    while True:
        try:
            with waiting_at_most(ends_at - time.monotonic()):
                return _reserve(line, length, customer)
        except OperationalError as error:
            if "database is locked" not in str(error):
                raise
            if connection.in_atomic_block or time.monotonic() >= ends_at:
                text = gettext("The database was locked for too long.")
                raise refusal("busy", Quote(names=Names()), text) from None
            time.sleep(_PAUSE)


def _reserve(line: Line, length: timedelta, customer: str | Guest) -> Reservation:
    named, network = customer if isinstance(customer, Guest) else (customer, "")
    Lease.objects.make(Lease.RESERVATIONS)
    with transaction.atomic():
        # The lock keeps two reservations from taking the last card, or the rest of the balance.
        Lease.objects.lock(Lease.RESERVATIONS)
        if Order.objects.filter(reference=line.reference).exists():
            raise ReferenceConflict(
                gettext("An order with this reference has already been placed.")
            )
        known = line.known()
        check_stock(line, known)
        check_balance(line, known)
        _check_customer(line, known, named)
        _check_network(line, known, network)
        kept = Reservation.objects.filter(reference=line.reference).first()
        kept = kept or Reservation(reference=line.reference)
        kept.product_id, kept.type_id, kept.quantity = line.product_id, line.type_id, line.quantity
        kept.cost, kept.price = known.cost, known.price
        if not kept.keep(length, customer=named, network=network):
            text = gettext(
                "The reservation has already been extended to %(times)s times its original length."
            )
            raise refusal("reserved_too_long", known, text % {"times": MOST_TIMES})
        kept.save()
        return kept


def _check_customer(line: Line, known: Quote, customer: str) -> None:
    wanted = _with(line, Reservation.objects.of_customer(customer)) if customer else None
    if wanted and wanted.exceeds(1):
        text = gettext(
            "Including these cards, one customer would have reserved %(cards)s cards in"
            " %(reservations)s reservations."
        )
        raise refusal("too_many_reserved", known, text % wanted._asdict())


def _check_network(line: Line, known: Quote, network: str) -> None:
    wanted = _with(line, Reservation.objects.of_network(network)) if network else None
    if wanted and wanted.exceeds(tuning.customers_of_network):
        text = gettext(
            "Including these cards, guests on the same network would have reserved %(cards)s cards"
            " in %(reservations)s reservations."
        )
        raise refusal("network_busy", known, text % wanted._asdict())


class _Wanted(NamedTuple):
    cards: int
    reservations: int

    def exceeds(self, times: int) -> bool:
        """True if a total exceeds a multiple of the limit for one customer."""
        return (
            self.cards > times * tuning.cards_of_customer
            or self.reservations > times * tuning.reservations_of_customer
        )


def _with(line: Line, reserved: ReservationQuerySet) -> _Wanted:
    """Return the totals of all current reservations, including the new one."""
    others = reserved.current(timezone.now()).exclude(reference=line.reference)
    has = others.aggregate(reservations=Count("pk"), cards=Sum("quantity"))
    return _Wanted((has["cards"] or 0) + line.quantity, has["reservations"] + 1)


def release(reference: str) -> None:
    """End the reservation with this reference, if there is one."""
    Reservation.objects.filter(reference=reference).delete()
