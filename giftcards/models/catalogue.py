"""The provider's catalogue and its prices, as last read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, Self

from django.db import models, transaction
from django.db.models import F, OuterRef, Q, Subquery
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from giftcards.models.fields import MONEY, ExactCharField


class Names(NamedTuple):
    """The catalogue's names of a product and of one of its types; "" if unknown."""

    product: str = ""
    type: str = ""


class ProductQuerySet(models.QuerySet["Product"]):
    def keep(self, listed: Iterable[Mapping[str, Any]], *, at: datetime) -> None:
        """Store a catalogue, given as the columns of each product by name.

        Products that it does not list are no longer on sale. An empty text does not replace an
        older one.
        """
        with transaction.atomic():
            # Also the first statement: SQLite may fail a transaction that reads before it writes.
            self.update(is_enabled=False)
            new = []
            for columns in listed:
                product_id = columns["product_id"]
                told = {name: value for name, value in columns.items() if value != ""}
                if not self.filter(product_id=product_id).update(**told, listed_at=at):
                    new.append(Product(**columns, listed_at=at))
            self.bulk_create(new, ignore_conflicts=True)

    def keep_types(
        self, product_id: str, types: Iterable[Mapping[str, Any]], *, at: datetime
    ) -> None:
        """Store the types of a product as read, unless the catalogue has never listed the product.

        Types that are no longer sold keep their names.
        """
        with transaction.atomic():
            if not self.filter(product_id=product_id).update(types_read_at=at):
                return
            product = self.get(product_id=product_id)
            product.types.update(price=None, stock=0)
            new = []
            for columns in types:
                told = {name: value for name, value in columns.items() if value != ""}
                if not product.types.filter(type_id=columns["type_id"]).update(**told):
                    new.append(ProductType(product=product, **columns))
            ProductType.objects.bulk_create(new, ignore_conflicts=True)

    def on_sale(self) -> Self:
        return self.filter(is_enabled=True)

    def to_read(self) -> Self:
        """Products on sale whose types were not read since they were last listed; oldest first."""
        unread = Q(types_read_at=None) | Q(types_read_at__lt=F("listed_at"))
        return (
            self.on_sale().filter(unread).order_by(F("types_read_at").asc(nulls_first=True), "pk")
        )

    def names(self, product_id: str, type_id: str) -> Names:
        kinds = ProductType.objects.filter(product=OuterRef("pk"), type_id=type_id)
        named = self.filter(product_id=product_id).annotate(
            type_name=Subquery(kinds.order_by().values("name"))
        )
        found = named.order_by().values_list("name", "type_name")[:1]
        return Names(*((name or "") for name in found[0])) if found else Names()


class ProductTypeQuerySet(models.QuerySet["ProductType"]):
    def for_sale(self) -> Self:
        """Types of products on sale with a known price above 0, sorted by product."""
        sold = self.filter(product__is_enabled=True, price__gt=0).select_related("product")
        return sold.order_by("product__category", "product__name", "product", "price", "pk")


class Product(models.Model):
    """A product of the provider's catalogue, such as a shop's gift cards for one country."""

    product_id: models.CharField[str, str] = ExactCharField(
        _("product"), max_length=100, unique=True, editable=False
    )
    name = models.CharField(_("name"), max_length=200, blank=True, editable=False)
    category = models.CharField(_("category"), max_length=200, blank=True, editable=False)
    region = models.CharField(_("region"), max_length=100, blank=True, editable=False)
    # True if the provider sells it. Also False once the catalogue no longer lists it.
    is_enabled = models.BooleanField(_("on sale"), default=True, editable=False)
    # When the catalogue last listed it, and when its types were last read; NULL: never.
    listed_at = models.DateTimeField(_("last listed"), editable=False)
    types_read_at = models.DateTimeField(_("types last read"), null=True, editable=False)

    objects = ProductQuerySet.as_manager()

    class Meta:
        verbose_name = _("product")
        verbose_name_plural = _("products")
        ordering = ("category", "name", "pk")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.name or self.product_id


class ProductType(models.Model):
    """A type of a product: its denomination, what a card costs this account, and the stock."""

    product = models.ForeignKey(
        Product,
        verbose_name=_("product"),
        on_delete=models.CASCADE,
        related_name="types",
        # The unique constraint's index begins with it.
        db_index=False,
        editable=False,
    )
    type_id: models.CharField[str, str] = ExactCharField(_("type"), max_length=100, editable=False)
    name = models.CharField(_("name"), max_length=200, blank=True, editable=False)
    # NULL: unknown.
    price = models.DecimalField(_("price per card"), null=True, editable=False, **MONEY)
    stock = models.PositiveIntegerField(_("in stock"), null=True, editable=False)

    objects = ProductTypeQuerySet.as_manager()

    class Meta:
        verbose_name = _("type")
        verbose_name_plural = _("types")
        ordering = ("product", "price", "pk")
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(
                fields=("product", "type_id"), name="giftcards_type_of_product"
            ),
        )

    def __str__(self) -> str:
        return self.name or self.type_id


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
    """The latest prices of a product's types for the holder of an API key, for all processes.

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
