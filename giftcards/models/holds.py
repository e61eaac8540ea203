"""Cards that are held for customers while they pay."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Self

from django.db import models
from django.db.models import Exists, OuterRef
from django.utils import timezone

from giftcards.models.fields import MONEY, ExactCharField
from giftcards.models.orders import Order
from giftcards.models.times import ahead

#: The longest hold.
LONGEST = timedelta(days=1)
# Holds are deleted in batches of this size.
_BATCH = 500
_HAS_ORDER = Exists(Order.objects.filter(reference=OuterRef("reference")))


class HoldQuerySet(models.QuerySet["Hold"]):
    def current(self, now: datetime) -> Self:
        """The holds that are not over: by time, or because the order is there.

        A hold may be made while its order is being recorded. So the order itself is looked for.
        """
        return self.filter(ahead("until", now, longest=LONGEST)).exclude(_HAS_ORDER)

    def amount(self, now: datetime) -> Decimal:
        """The cost of the cards of the current holds, as far as their prices are known."""
        held = self.current(now).values_list("price", "quantity")
        # Added up here, because SQLite would compute with binary fractions.
        known = (price * quantity for price, quantity in held if price is not None)
        return sum(known, start=Decimal("0.00"))

    def forget(self) -> int:
        """Delete some of the holds that are over; return how many."""
        over = self.exclude(ahead("until", timezone.now(), longest=LONGEST))
        keys = list(over.order_by("until").values_list("pk", flat=True)[:_BATCH])
        return self.filter(pk__in=keys).delete()[0] if keys else 0


class Hold(models.Model):
    """Cards of one type that count as taken until ``until``, or until the order is placed.

    ``reference`` is the reference that the order will have. ``price`` is what a card cost when the
    hold began, in dinars (``None``: unknown).
    """

    reference: models.CharField[str, str] = ExactCharField(max_length=100, unique=True)
    product_id: models.CharField[str, str] = ExactCharField(max_length=100)
    type_id: models.CharField[str, str] = ExactCharField(max_length=100)
    quantity = models.PositiveIntegerField()
    price = models.DecimalField(null=True, **MONEY)
    until = models.DateTimeField(db_index=True)

    objects = HoldQuerySet.as_manager()

    class Meta:
        default_permissions = ()
        indexes = (
            models.Index(fields=("product_id", "type_id", "until"), name="giftcards_hold_type"),
        )

    def __str__(self) -> str:
        return self.reference
