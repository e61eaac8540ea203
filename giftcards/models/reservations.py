"""Cards reserved for customers while they pay."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Self

from django.db import models
from django.db.models import Exists, F, OuterRef
from django.utils import timezone
from django.utils.crypto import salted_hmac

from giftcards.models.catalogue import ProductType
from giftcards.models.fields import MONEY, ExactCharField
from giftcards.models.lines import Kind, lines_of
from giftcards.models.orders import Order
from giftcards.rules.times import ahead, is_ahead

#: The longest duration of a new reservation. A reservation can be extended to MOST_TIMES its first
#: duration.
LONGEST = timedelta(days=1)
MOST_TIMES = 3
# A reservation is deleted this long after its end. Until then, a new reservation with the same
# reference counts as an extension.
_REST = timedelta(hours=1)
_BATCH = 500
_HAS_ORDER = Exists(Order.objects.filter(reference=OuterRef("reference")))


class ReservationQuerySet(models.QuerySet["Reservation"]):
    def current(self, now: datetime) -> Self:
        """Return the reservations that are valid now.

        A reservation is valid if it has not expired and no order with its reference has been
        recorded. The query has to check for such an order, because a reservation can be made while
        its order is being recorded.
        """
        return self.filter(ahead("until", now, max_distance=LONGEST)).exclude(_HAS_ORDER)

    def lines(self, now: datetime) -> models.QuerySet[Any, Any]:
        current, cards = self.current(now), F("quantity")
        return lines_of(Kind.RESERVATION, current, since="until", cards=cards, cost=None)

    def of_customer(self, customer: str) -> Self:
        return self.filter(customer=_hash(customer))

    def of_network(self, network: str) -> Self:
        return self.filter(network=_hash(network))

    def price_of(self, reference: str, kind: ProductType) -> Decimal | None:
        """Return the price at which cards of the type are reserved, or ``None``."""
        line = {"product_id": kind.product.product_id, "type_id": kind.type_id}
        until = ahead("until", timezone.now(), max_distance=LONGEST)
        kept = self.filter(until, reference=reference, **line)
        return kept.values_list("price", flat=True).first()

    def forget(self) -> int:
        """Delete a batch of reservations that ended at least an hour ago.

        Returns the number of deleted reservations.
        """
        over = self.exclude(ahead("until", timezone.now() - _REST, max_distance=LONGEST + _REST))
        keys = list(over.order_by("until").values_list("pk", flat=True)[:_BATCH])
        return self.filter(pk__in=keys).delete()[0] if keys else 0


class Reservation(models.Model):
    """Cards of one type that are reserved for a customer.

    The reservation ends at the time ``until``, or when its order is recorded. Until then, other
    customers cannot buy the cards. ``reference`` is the reference that the order will have.
    ``cost`` is the cost of a card in dinars when the reservation was made, or ``None`` if it is
    unknown. ``price`` is the amount that the customer pays for a card during the reservation, or
    ``None`` if the shop sets its prices elsewhere. ``left`` is the total time by which the
    reservation can still be extended.
    """

    reference: models.CharField[str, str] = ExactCharField(max_length=100, unique=True)
    product_id: models.CharField[str, str] = ExactCharField(max_length=100)
    type_id: models.CharField[str, str] = ExactCharField(max_length=100)
    quantity = models.PositiveIntegerField()
    cost = models.DecimalField(null=True, **MONEY)
    price = models.DecimalField(null=True, **MONEY)
    until = models.DateTimeField(db_index=True)
    left = models.DurationField()
    # A keyed hash of the shop's name for the customer, or "" if the shop did not pass a name.
    customer = models.CharField(max_length=64, blank=True)
    # A keyed hash of the network if the customer is a guest, or else "".
    network = models.CharField(max_length=64, blank=True)

    objects = ReservationQuerySet.as_manager()

    class Meta:
        default_permissions = ()
        indexes = (
            models.Index(fields=("product_id", "type_id", "until"), name="giftcards_reserved_type"),
            models.Index(fields=("customer", "until"), name="giftcards_reserved_customer"),
            models.Index(fields=("network", "until"), name="giftcards_reserved_network"),
        )

    def __str__(self) -> str:
        return self.reference

    def keep(self, length: timedelta, *, customer: str, network: str) -> bool:
        """Extend the reservation so that it ends ``length`` from now.

        The reservation cannot be extended by more than ``left``. Returns False if the reservation
        has ended and cannot be extended any further.
        """
        now = timezone.now()
        self.customer = _hash(customer) if customer else ""
        self.network = _hash(network) if network else ""
        if self._state.adding or not is_ahead(
            self.until, now - _REST, max_distance=LONGEST + _REST
        ):
            self.until, self.left = now, MOST_TIMES * length
        begin = max(self.until, now)
        more = min(now + length - begin, self.left)
        self.until, self.left = begin + more, self.left - more
        return self.until > now


def _hash(name: str) -> str:
    """Return a keyed hash of ``name``, which can be a name or an IP address."""
    return salted_hmac("giftcards.reservation", name, algorithm="sha256").hexdigest()
