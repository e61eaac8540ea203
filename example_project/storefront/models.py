"""The shop's own side of an order: who bought what, and for how much."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q, QuerySet

from giftcards.models import Order

_PREFIX = "shop-"


class Purchase(models.Model):
    """A purchase that a customer has paid for: one line, which becomes one order."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="purchases"
    )
    # The key of the form that was sent, so that sending it twice buys once.
    key = models.UUIDField()
    # The provider's ids.
    product_id = models.CharField(max_length=100)
    type_id = models.CharField(max_length=100)
    quantity = models.PositiveIntegerField()
    # What the customer pays for all of it.
    amount = models.DecimalField(max_digits=12, decimal_places=2)
    email = models.EmailField()
    language = models.CharField(max_length=20)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("user", "key"), name="bought_once"),)

    def __str__(self) -> str:
        return self.reference

    @property
    def reference(self) -> str:
        return f"{_PREFIX}{self.pk}"

    @classmethod
    def of(cls, order: Order) -> Purchase | None:
        """The purchase that became ``order``; ``None`` if the shop has not sold it."""
        key = order.reference.removeprefix(_PREFIX)
        if key == order.reference or not key.isdecimal():
            return None
        return cls.objects.filter(pk=key).first()


def owned_orders(user: Any) -> QuerySet[Order]:
    """The orders of a customer, for ``GIFTCARDS_DELIVERY["OWNED_ORDERS"]``.

    Includes the orders by which staff ordered missing cards again.
    """
    references = [purchase.reference for purchase in Purchase.objects.filter(user=user)]
    return Order.objects.filter(Q(reference__in=references) | Q(repeats__reference__in=references))
