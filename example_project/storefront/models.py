"""The shop's own side of an order: who bought what, and for how much."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any, Self

from django.conf import settings
from django.db import models
from django.utils import timezone

from giftcards.models import Order, ProductType

#: The columns for a gift, named like the fields of an order.
OF_GIFT = ("recipient_email", "recipient_name", "customer_name", "gift_message", "deliver_at")
_PREFIX = "shop-"


class PurchaseQuerySet(models.QuerySet["Purchase"]):
    def reserved(self) -> Self:
        """Purchases whose cards are reserved until the customer pays."""
        return self.filter(reserved_until__gt=timezone.now())

    def unpaid(self) -> Self:
        return self.filter(paid_at=None)

    def left_alone(self) -> Self:
        """Purchases left unpaid for a day; they contain an address, and have no order."""
        return self.unpaid().filter(reserved_until__lt=timezone.now() - timedelta(days=1))

    def paid(self) -> Self:
        """Paid purchases, each of which has an order."""
        return self.filter(paid_at__isnull=False)


class Purchase(models.Model):
    """One line that a customer buys; after the payment, it becomes one order.

    Purchases that are neither paid nor reserved were cancelled or abandoned. They are not shown,
    and are deleted after a day.
    """

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="purchases"
    )
    # The key of the form that was sent, so that sending it twice buys once.
    key = models.UUIDField()
    product_type = models.ForeignKey(
        ProductType, on_delete=models.PROTECT, related_name="purchases"
    )
    quantity = models.PositiveIntegerField()
    # The customer's price for the whole purchase.
    amount = models.DecimalField(max_digits=12, decimal_places=2)
    email = models.EmailField()
    language = models.CharField(max_length=20)
    # The details of a gift. After the payment, only the order contains them.
    recipient_email = models.EmailField(blank=True)
    recipient_name = models.CharField(max_length=200, blank=True)
    customer_name = models.CharField(max_length=200, blank=True)
    gift_message = models.TextField(blank=True)
    deliver_at = models.DateTimeField(null=True)
    # If this is in the past, the cards are no longer reserved. NULL: the purchase is paid.
    reserved_until = models.DateTimeField(null=True)
    # NULL: the purchase is not paid.
    paid_at = models.DateTimeField(null=True)

    objects = PurchaseQuerySet.as_manager()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("user", "key"), name="bought_once"),)

    def __str__(self) -> str:
        return self.reference

    @property
    def reference(self) -> str:
        return f"{_PREFIX}{self.pk}"

    @property
    def line(self) -> dict[str, Any]:
        """The cards, as arguments of ``check_offer``, ``reserve`` and ``place_order``."""
        return {"product_type": self.product_type, "quantity": self.quantity}

    @property
    def gift(self) -> dict[str, Any]:
        """The details of a gift that the customer entered, named like the fields of an order."""
        return {name: value for name in OF_GIFT if (value := getattr(self, name))}

    @property
    def recipient(self) -> str:
        """The recipient's name, or else the address; "" if the purchase is not a gift."""
        return self.recipient_email and (self.recipient_name or self.recipient_email)

    @property
    def seconds_left(self) -> int:
        """The seconds for which the cards are still reserved; 0 if they are not."""
        if self.reserved_until is None:
            return 0
        return max(0, math.ceil((self.reserved_until - timezone.now()).total_seconds()))

    @classmethod
    def of(cls, order: Order) -> Purchase | None:
        """Return the purchase that became ``order``, or ``None`` if the shop has not sold it."""
        key = order.reference.removeprefix(_PREFIX)
        if key == order.reference or not key.isdecimal():
            return None
        return cls.objects.filter(pk=key).first()
