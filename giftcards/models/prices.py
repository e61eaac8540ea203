"""The latest prices from the provider, shared by all processes, for orders with a ceiling."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import models
from django.utils import timezone

from giftcards.models.fields import ExactCharField


class ProductPricesQuerySet(models.QuerySet["ProductPrices"]):
    def told(self, product_id: str, *, key: str, max_age: timedelta) -> ProductPrices | None:
        """The prices of a product that this API key got within ``max_age``; ``None`` without any.

        A time in the future is too old: the clock was set back since.
        """
        now = timezone.now()
        recent = self.filter(asked_at__gt=now - max_age, asked_at__lte=now)
        return recent.filter(pk=product_id, key=key).first()

    def keep(
        self, product_id: str, prices: Mapping[str, Decimal], *, key: str, asked_at: datetime
    ) -> None:
        """Replace the prices of a product."""
        by_type = {type_id: str(price) for type_id, price in prices.items()}
        values = {"by_type": by_type, "key": key, "asked_at": asked_at}
        # An update first: SQLite may fail a transaction that reads before it writes.
        if not self.filter(pk=product_id).update(**values):
            row = ProductPrices(product_id=product_id, **values)
            self.bulk_create([row], ignore_conflicts=True)


class ProductPrices(models.Model):
    """The prices of the types of a product for the holder of an API key.

    ``key`` is the key's fingerprint, ``by_type`` maps type ids to prices as texts.
    """

    product_id: models.CharField[str, str] = ExactCharField(primary_key=True, max_length=100)
    key = models.CharField(max_length=64)
    by_type = models.JSONField(default=dict)
    # When the question was sent.
    asked_at = models.DateTimeField()

    objects = ProductPricesQuerySet.as_manager()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.product_id

    @property
    def prices(self) -> dict[str, Decimal]:
        return {type_id: Decimal(price) for type_id, price in self.by_type.items()}
