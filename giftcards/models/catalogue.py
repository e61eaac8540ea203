"""Models for the catalogue, for the shop's margins and for offer changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, Self

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, OuterRef, Q, Subquery
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.conf import conf
from giftcards.models.fields import MONEY, ExactCharField, plain_line
from giftcards.models.history import OutboxEntry, OutboxQuerySet
from giftcards.models.pricing import MarginRow, keeping_prices, reprice, told
from giftcards.rules.prices import MOST_FIXED, MOST_ROUNDING, PriceSource, ShelfTerms, Terms
from giftcards.rules.times import SLACK, is_ahead, is_recent, past
from giftcards.text.brands import words_of_product
from giftcards.text.spelling import folded

# A product or type counts as removed if it has been missing from the provider's answers for this
# long.
_GONE_AFTER = timedelta(hours=1)
# A catalogue that was read within this time is assumed to contain all products, because the worker
# reads the catalogue every hour.
_FRESH = timedelta(hours=2)
# The longest delay of an answer. Because of such delays, answers may arrive in the wrong order.
_LATE = timedelta(minutes=5)
# The time for which changes of offers are kept, and the maximum number that is deleted in one call.
_CHANGES_KEPT = timedelta(days=30)
_BATCH = 500
# The largest stock buffer, and the longest title of a category.
_MOST_BUFFER = 100_000
_LONGEST_TITLE = 200
# The maximum number of words in a search. SQLite fails if conditions are nested too deeply.
_MOST_WORDS = 8


def _is_sold_here(*levels: str) -> Q:
    """Return a condition for products or types that the shop sells.

    ``levels`` are the lookup prefixes of the rows that can set ``is_sold``, such as ``product__``.
    The most specific prefix comes first. The first value of ``is_sold`` that is not NULL applies.
    """
    condition = Q()
    inherited: dict[str, None] = {}
    for level in levels:
        condition |= Q(**inherited, **{f"{level}is_sold": True})
        inherited[f"{level}is_sold"] = None
    return condition


# The condition for the types that the shop sells.
_SOLD = _is_sold_here("", "product__", "product__category__")


def is_called(text: str, *columns: str) -> Q:
    """Return a condition for the rows that contain each word of ``text``.

    Each word must be in one of ``columns``. The names of brands in ``text`` can also be written in
    Arabic letters. If ``text`` does not contain any words, the condition is never true.
    """
    words = words_of_product(text)[:_MOST_WORDS]
    condition = Q() if words else Q(pk__in=[])
    for spellings in words:
        found = [(f"{column}__icontains", word) for column in columns for word in spellings]
        condition &= Q(*found, _connector=Q.OR)
    return condition


class Names(NamedTuple):
    """The names of a product and of one of its types, as in the catalogue.

    Each name may be "".
    """

    product: str = ""
    type: str = ""


class Recorded(NamedTuple):
    """The data from the catalogue that is stored with an order.

    ``accepted_loss`` is the largest loss per card, in dinars, that the owner accepts.
    """

    product_name: str = ""
    type_name: str = ""
    accepted_loss: Decimal = Decimal(0)


def _with_categories(
    products: Iterable[Mapping[str, Any]], known: Mapping[str, Product]
) -> Iterator[dict[str, Any]]:
    """Yield the columns of products, with category rows instead of titles.

    If the catalogue does not state the category of a known product, the product keeps its current
    category.
    """
    products = list(products)
    categories = Category.objects.named(columns.get("category", "") for columns in products)
    for columns in products:
        category = categories[columns.get("category", "")]
        before = known.get(columns["product_id"])
        if before is not None and not category.title:
            category = before.category
        yield {**columns, "category": category}


def ids_of(
    product_type: ProductType | None, product_id: str | None, type_id: str | None
) -> tuple[str, str]:
    """Return the provider's product id and type id of a card.

    The caller passes either ``product_type`` or the two ids. Raises ``TypeError`` if the caller
    passes a product type together with an id, or if an argument is missing.
    """
    if product_type is None:
        if product_id is None or type_id is None:
            raise TypeError("Pass the card as product_type, or as product_id and type_id.")
        return product_id, type_id
    if product_id is not None or type_id is not None:
        raise TypeError("Pass either product_type, or product_id and type_id, but not both.")
    if not isinstance(product_type, ProductType):
        raise TypeError(f"product_type must be a ProductType, not {type(product_type).__name__}.")
    return product_type.product.product_id, product_type.type_id


class ProductQuerySet(models.QuerySet["Product"]):
    def keep(
        self, products: Iterable[Mapping[str, Any]], *, at: datetime, is_whole: bool = True
    ) -> None:
        """Store a catalogue that was requested at ``at``.

        Each item of ``products`` contains the columns of a product. The ``category`` column
        contains a title. A product stops being on sale when it is missing from two complete
        catalogues that were requested at least an hour apart. ``is_whole`` is False for an
        incomplete catalogue. An empty string does not replace an earlier value. If a later
        catalogue is already stored, the method does nothing.
        """
        # If another process is changing the catalogue or prices, this one waits.
        with keeping_prices():
            known = {each.product_id: each for each in self.select_related("category")}
            told = {columns["product_id"]: columns for columns in _with_categories(products, known)}
            new = [
                Product(**columns, listed_at=at)
                for product_id, columns in told.items()
                if product_id not in known
            ]
            self.bulk_create(new, ignore_conflicts=True)
            changed, unknown = [], []
            for product in known.values():
                if is_ahead(product.listed_at, at, max_distance=_LATE):
                    continue
                if not is_whole and product.product_id not in told:
                    unknown.append(product.pk)
                    continue
                before = copy(product)
                product.hear(told.get(product.product_id), at=at)
                if any(getattr(before, name) != getattr(product, name) for name in _LISTED):
                    changed.append((before, product))
            self.bulk_update([after for _before, after in changed], _LISTED, batch_size=_BATCH)
            listed_before = past("listed_at", at, max_distance=_LATE)
            heard = self.filter(listed_before, missing_since=None).exclude(pk__in=unknown)
            heard.update(listed_at=at)
            _follow_changes_of_products(changed, at=at)

    def keep_types(
        self, product_id: str, types: Iterable[Mapping[str, Any]], *, at: datetime
    ) -> None:
        """Store the types of a product, which were requested at the given time.

        Each item of ``types`` contains the columns of a type. A type is no longer for sale if it is
        missing from two answers that were requested at least an hour apart. The method does nothing
        if the catalogue has never listed the product, or if a later answer is already stored.
        """
        told = {columns["type_id"]: columns for columns in types}
        older = past("types_read_at", at, max_distance=_LATE)
        with keeping_prices():
            if not self.filter(older, product_id=product_id).update(types_read_at=at, asked_at=at):
                return
            product = self.select_related("category").get(product_id=product_id)
            kinds = list(product.types.all())
            changes: list[OfferChange] = []
            for kind in kinds:
                kind.product = product
                before = kind.offer
                kind.hear(told.pop(kind.type_id, None), at=at)
                changes += changes_between(kind, before, at=at)
            ProductType.objects.bulk_update(kinds, _TOLD, batch_size=_BATCH)
            for columns in told.values():
                kind = ProductType(product=product, **columns, read_at=at)
                kind.save_base(force_insert=True)
                changes += changes_between(kind, None, at=at)
            OfferChange.objects.bulk_create(changes)
            product.store_prices()

    def last_listed_at(self) -> datetime | None:
        at: datetime | None = self.aggregate(last=models.Max("listed_at"))["last"]
        return at

    def on_sale(self) -> Self:
        """Return products that both the shop and the provider sell.

        A product is included if the shop sells the product itself or one of its types.
        """
        sold = ProductType.objects.filter(is_sold=True).order_by().values("product")
        return self.filter(_is_sold_here("", "category__") | Q(pk__in=sold), is_enabled=True)

    def hidden(self) -> Self:
        """Return the products of the provider that the shop does not sell."""
        return self.filter(is_enabled=True).exclude(pk__in=self.on_sale().order_by().values("pk"))

    def to_read(self) -> Self:
        """Return products on sale whose types must be read again.

        These are the products whose types have not been read since the catalogue last listed them.
        """
        unread = Q(types_read_at=None) | Q(types_read_at__lt=F("listed_at"))
        return (
            self.on_sale().filter(unread).order_by(F("types_read_at").asc(nulls_first=True), "pk")
        )

    def to_ask(self, now: datetime) -> Self:
        """Return products on sale whose types must be requested.

        These are the products whose types have not been requested since the catalogue last listed
        them.
        """
        unasked = Q(asked_at=None) | Q(asked_at__lt=F("listed_at")) | Q(asked_at__gt=now + SLACK)
        return self.on_sale().filter(unasked).order_by(F("asked_at").asc(nulls_first=True), "pk")

    def claim_reading(self, *, max_duration: float) -> datetime | None:
        """Claim the request for the types of this product.

        Returns the claim, or ``None`` if another process has claimed the request. The claim lasts
        until the types are read, but at most ``max_duration`` seconds. If the catalogue has never
        listed the product, there is no row to claim, and every process receives a claim.
        """
        now = timezone.now()
        free = self.exclude(self._is_being_read(max_duration))
        return now if free.update(asked_at=now) or not self.exists() else None

    def unclaim_reading(self, claim: datetime) -> None:
        """Release a claim for which no request was sent."""
        self.filter(asked_at=claim).update(asked_at=F("types_read_at"))

    def being_read(self, *, max_duration: float) -> Self:
        """Return products whose types are being requested.

        See :meth:`claim_reading`.
        """
        return self.filter(self._is_being_read(max_duration))

    @staticmethod
    def _is_being_read(max_duration: float) -> Q:
        since = timezone.now() - timedelta(seconds=max_duration)
        is_unanswered = Q(types_read_at=None) | Q(types_read_at__lt=F("asked_at"))
        return is_unanswered & Q(asked_at__gt=since, asked_at__lte=timezone.now() + SLACK)

    def is_unknown(self, product_id: str) -> bool:
        """Return True if the catalogue has never listed this product.

        The catalogue must have been read within the last two hours. Otherwise, the result is False.
        """
        # A single query counts over the whole table, because a catalogue has only some hundreds of
        # products.
        is_it = models.Q(product_id=product_id)
        found = self.aggregate(last=models.Max("listed_at"), known=models.Count("pk", filter=is_it))
        return not found["known"] and is_recent(found["last"], timezone.now(), period=_FRESH)

    def names(self, product_id: str, type_id: str) -> Names:
        return Names(*self.recorded(product_id, type_id)[:2])

    def recorded(self, product_id: str, type_id: str) -> Recorded:
        """Return the catalogue data to store with a new order, in one query."""
        kinds = ProductType.objects.filter(product=OuterRef("pk"), type_id=type_id).order_by()
        told = self.filter(product_id=product_id).annotate(
            type_name=Subquery(kinds.values("name")),
            accepted_loss=Subquery(kinds.values("accepted_loss")),
        )
        columns = ("own_name", "name", "type_name", "accepted_loss")
        for own, name, of_type, loss in told.order_by().values_list(*columns)[:1]:
            return Recorded(own or name, of_type or "", loss or Decimal(0))
        return Recorded()


_FOR_TESTS = ("TEST_", "SIM_")


class ProductTypeQuerySet(models.QuerySet["ProductType"]):
    def for_sale(self) -> Self:
        """Return the types that the shop can sell, sorted by product.

        The shop can sell a type if the type is sold here, belongs to a product on sale, and has a
        known cost above 0.
        """
        sold = self.filter(_SOLD, product__is_enabled=True, cost__gt=0)
        sold = sold.select_related("product__category")
        by_product = ("product__category__title", "product__name", "product_id")
        return sold.order_by(*by_product, "cost", "pk")

    def store_prices(self) -> int:
        """Compute and store the prices, and return how many have changed.

        Call this method in ``keeping_prices()``.
        """
        return reprice(self, Shelf.objects.current().terms)


class ShelfQuerySet(models.QuerySet["Shelf"]):
    def current(self) -> Shelf:
        return self.filter(pk=1).first() or Shelf(pk=1)


class Shelf(MarginRow):
    """The settings of the whole shop, stored in a single row.

    The margin applies to all types that inherit it. If the shop has no margin, a type without any
    other pricing rule has no price in this app. Prices from margins are rounded up to a multiple of
    ``round_to`` dinars, or to whole centimes if ``round_to`` is 0. A card is not for sale if the
    shop would earn less than ``least_margin`` dinars from it. ``stock_buffer`` is the number of
    cards of each type that the shop holds back from sale.
    """

    SET_BY_SHOP = ("margin_percent", "margin_fixed", "round_to", "least_margin", "stock_buffer")

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    round_to = models.IntegerField(
        _("round up to a multiple of"),
        default=0,
        validators=[MinValueValidator(0), MaxValueValidator(MOST_ROUNDING)],
    )
    least_margin = models.DecimalField(
        _("minimum margin"),
        max_digits=9,
        decimal_places=2,
        default=0,
        validators=[MinValueValidator(0), MaxValueValidator(MOST_FIXED)],
    )
    stock_buffer = models.IntegerField(
        _("stock buffer"),
        default=0,
        validators=[MinValueValidator(0), MaxValueValidator(_MOST_BUFFER)],
    )

    objects = ShelfQuerySet.as_manager()

    class Meta(MarginRow.Meta):
        verbose_name = _("shop")
        verbose_name_plural = _("shop")
        # This permission also applies to the categories, products and types.
        default_permissions = ("change",)
        constraints = (
            *MarginRow.Meta.constraints,
            models.CheckConstraint(condition=Q(pk=1), name="giftcards_shelf_one_row"),
            models.CheckConstraint(
                condition=Q(
                    round_to__gte=0,
                    round_to__lte=MOST_ROUNDING,
                    least_margin__gte=0,
                    stock_buffer__gte=0,
                ),
                name="giftcards_shelf_values",
            ),
        )

    def __str__(self) -> str:
        return gettext("shop")

    @property
    def terms(self) -> ShelfTerms:
        has_function = conf.pricing is not None
        return ShelfTerms(self.margin, self.round_to, self.least_margin, has_function)

    def scope(self) -> Q:
        return ~Q(pk=None)

    def store_prices(self) -> None:
        ProductType.objects.store_prices()


class SoldRow(MarginRow):
    """The abstract base class of rows with an ``is_sold`` column.

    If ``is_sold`` or ``own_name`` changes, ``save()`` also records the changes to offers (see
    :class:`OfferChange`).
    """

    class Meta(MarginRow.Meta):
        abstract = True

    def store_prices(self) -> None:
        ProductType.objects.filter(self.scope()).store_prices()

    def _save_with_prices(self, *args: Any, **kwargs: Any) -> None:
        changed = set() if self._state.adding else self.unsaved().keys() & {"is_sold", "own_name"}
        before = self._offers() if changed else []
        super()._save_with_prices(*args, **kwargs)
        if not changed:
            return
        after, now = {kind.pk: kind for kind in self._offers()}, timezone.now()
        OfferChange.objects.bulk_create(
            [
                change
                for kind in before
                for change in changes_between(after[kind.pk], kind.offer, at=now)
            ],
            batch_size=_BATCH,
        )
        if "is_sold" in changed:
            # Products that are sold again are read soon.
            Product.objects.filter(pk__in=self.products_of_row()).update(asked_at=None)

    def products_of_row(self) -> Iterable[int]:
        """Return the primary keys of the products that this row affects."""
        raise NotImplementedError

    def _offers(self) -> list[ProductType]:
        kinds = ProductType.objects.filter(self.scope())
        return list(kinds.select_related("product__category"))


class CategoryQuerySet(models.QuerySet["Category"]):
    def named(self, titles: Iterable[str]) -> dict[str, Category]:
        """Return the category for each title.

        Missing categories are created with ``is_sold`` set to True.
        """
        keys = {title: _key_of(title) for title in titles}
        known = {category.key: category for category in self.filter(key__in=keys.values())}
        for title, key in keys.items():
            if key not in known:
                known[key] = self.create(key=key, title=title)
        return {title: known[key] for title, key in keys.items()}


def _key_of(title: str) -> str:
    return folded(title)[:_LONGEST_TITLE]


class Category(SoldRow):
    """A category of the provider's products.

    Titles that differ only in case belong to the same category. Products without a category belong
    to the category with the title "". Products and their types inherit the margin and ``is_sold``.
    """

    SET_BY_SHOP = ("is_sold", "margin_percent", "margin_fixed")
    NAMED = "category"

    title = models.CharField(_("title"), max_length=_LONGEST_TITLE, blank=True, editable=False)
    # The title for comparisons.
    key: models.CharField[str, str] = ExactCharField(
        max_length=_LONGEST_TITLE, unique=True, blank=True, editable=False
    )
    is_sold = models.BooleanField(_("sold here"), default=True)

    objects = CategoryQuerySet.as_manager()

    class Meta(SoldRow.Meta):
        verbose_name = _("category")
        verbose_name_plural = _("categories")
        ordering = ("title", "pk")
        default_permissions = ()

    def __str__(self) -> str:
        return self.title or gettext("Without a category")

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self._state.adding:
            self.key = _key_of(self.title)
        super().save(*args, **kwargs)

    def scope(self) -> Q:
        return Q(product__category=self)

    def products_of_row(self) -> Iterable[int]:
        return list(self.products.order_by().values_list("pk", flat=True))


class Product(SoldRow):
    """A product in the provider's catalogue.

    A product is, for example, the gift cards of one brand for one country. If ``is_sold`` or the
    margin is ``None``, the product inherits the value from the category. ``own_name`` is the shop's
    name for the product. If ``own_name`` is "", the provider's name is used.
    """

    SET_BY_SHOP = ("is_sold", "margin_percent", "margin_fixed", "own_name")
    DECISIVE = ("category", "category_id")
    NAMED = "product"

    product_id: models.CharField[str, str] = ExactCharField(
        _("product"), max_length=100, unique=True, editable=False
    )
    name = models.CharField(_("name"), max_length=200, blank=True, editable=False)
    category = models.ForeignKey(
        Category,
        verbose_name=_("category"),
        on_delete=models.PROTECT,
        related_name="products",
        editable=False,
    )
    is_sold = models.BooleanField(_("sold here"), null=True, blank=True)
    region = models.CharField(_("region"), max_length=100, blank=True, editable=False)
    own_name = models.CharField(_("own name"), max_length=200, blank=True, validators=[plain_line])
    # False if the provider does not sell the product, or if the catalogue no longer lists it.
    is_enabled = models.BooleanField(_("sold by the provider"), default=True, editable=False)
    # The time of the last catalogue that lists the product.
    listed_at = models.DateTimeField(_("last listed"), editable=False, db_index=True)
    # The time of the first catalogue that no longer listed the product. NULL if the last catalogue
    # lists it.
    missing_since = models.DateTimeField(null=True, editable=False)
    # The time of the last request for the product's types. NULL if they were never requested.
    asked_at = models.DateTimeField(null=True, editable=False)
    # The time of the last successful request for the types. NULL if they were never read.
    types_read_at = models.DateTimeField(_("types last read"), null=True, editable=False)

    #: True if any type is among the offers. Only the admin sets this attribute.
    is_on_shelf: bool

    objects = ProductQuerySet.as_manager()

    class Meta(SoldRow.Meta):
        verbose_name = _("product")
        verbose_name_plural = _("products")
        ordering = ("category__title", "name", "pk")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.title or self.product_id

    @property
    def title(self) -> str:
        """The shop's name for the product, or else the provider's name."""
        return self.own_name or self.name

    @property
    def is_sold_here(self) -> bool:
        return self.category.is_sold if self.is_sold is None else self.is_sold

    def scope(self) -> Q:
        return Q(product=self)

    def products_of_row(self) -> Iterable[int]:
        return (self.pk,)

    def hear(self, columns: Mapping[str, Any] | None, *, at: datetime) -> None:
        """Update the product from a catalogue that was requested at ``at``.

        ``columns`` is ``None`` if the catalogue does not contain the product.
        """
        if columns is not None:
            _take(self, columns)
            self.missing_since = None
        elif self.missing_since is None:
            self.missing_since = at
        elif at - self.missing_since >= _GONE_AFTER:
            self.is_enabled = False


class Offer(NamedTuple):
    """The name, cost and stock in the offer of a product type.

    ``cost`` is ``None`` if the type is not for sale.
    """

    name: str
    cost: Decimal | None
    stock: int | None


class ProductType(SoldRow):
    """A product type: a denomination of a product, with its cost and stock.

    ``price`` is the amount that a customer pays for a card. The first of these rules that is set
    determines the price: ``fixed_price``, the margin of the type, the margin of the product, the
    margin of the category, the function ``PRICING``, and the margin of the shop. ``price`` is
    ``None`` if none of these rules is set, if the cost is unknown, or if the price would be too low
    (see :func:`giftcards.rules.prices.find_price`). If ``is_sold`` or the margin is ``None``, the
    type inherits the value from the product.

    ``accepted_loss`` is the amount in dinars by which the price of a card can be below its cost.
    The owner has confirmed this loss. An accepted loss only applies to fixed prices and to prices
    from ``PRICING``.
    """

    SET_BY_SHOP = ("is_sold", "margin_percent", "margin_fixed", "fixed_price", "accepted_loss")
    DECISIVE = ("cost", "product", "product_id", "price", "price_source")
    NAMED = "type"

    product = models.ForeignKey(
        Product,
        verbose_name=_("product"),
        on_delete=models.CASCADE,
        related_name="types",
        # The unique constraint's index begins with this column, so the field needs no other index.
        db_index=False,
        editable=False,
    )
    type_id: models.CharField[str, str] = ExactCharField(_("type"), max_length=100, editable=False)
    name = models.CharField(_("name"), max_length=200, blank=True, editable=False)
    # The cost and the stock are NULL if they are unknown.
    cost = models.DecimalField(_("cost per card"), null=True, editable=False, **MONEY)
    stock = models.PositiveIntegerField(_("in stock"), null=True, editable=False)
    # The time of the provider's last answer that contains the type. NULL if the time is unknown.
    read_at = models.DateTimeField(_("last read"), null=True, editable=False)
    # The time of the first answer that no longer contained the type. NULL if the last answer
    # contains it.
    missing_since = models.DateTimeField(null=True, editable=False)
    is_sold = models.BooleanField(_("sold here"), null=True, blank=True)
    fixed_price = models.DecimalField(
        _("fixed price"),
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal("0.01"))],
        **MONEY,
    )
    accepted_loss = models.DecimalField(
        _("accepted loss"), default=0, validators=[MinValueValidator(0)], **MONEY
    )
    # The computed price and the rule that decided; see ``rules/prices.py``.
    price = models.DecimalField(_("price"), null=True, editable=False, **MONEY)
    price_source = models.CharField(
        _("source of the price"),
        max_length=10,
        choices=PriceSource,
        default=PriceSource.OWN,
        blank=True,
        editable=False,
    )
    # The time when the function PRICING is to be called next. NULL if it was not called at this
    # cost.
    pricing_due_at = models.DateTimeField(null=True, editable=False)
    # The time when the price last changed. NULL if there has never been a price.
    priced_at = models.DateTimeField(null=True, editable=False)

    #: The stock that can still be sold. Only :func:`giftcards.catalogue.offers` sets this
    #: attribute.
    available: int | None
    #: True if the type is among the offers. Only the admin sets this attribute.
    is_on_shelf: bool

    objects = ProductTypeQuerySet.as_manager()

    class Meta(SoldRow.Meta):
        verbose_name = _("type")
        verbose_name_plural = _("types")
        ordering = ("product", "cost", "pk")
        default_permissions = ("view",)
        constraints = (
            *SoldRow.Meta.constraints,
            models.CheckConstraint(
                condition=Q(fixed_price=None) | Q(fixed_price__gt=0),
                name="giftcards_type_fixed_price",
            ),
            models.CheckConstraint(
                condition=Q(accepted_loss__gte=0), name="giftcards_type_accepted_loss"
            ),
            models.UniqueConstraint(
                fields=("product", "type_id"), name="giftcards_type_of_product"
            ),
        )
        indexes = (models.Index(fields=("read_at",), name="giftcards_type_read"),)

    def __str__(self) -> str:
        return f"{self.product} – {self.title}"

    @property
    def title(self) -> str:
        """The name of the type without the name of the product."""
        return self.name or self.type_id

    @property
    def is_for_tests(self) -> bool:
        """True if the type exists only for tests.

        Both the provider and the simulator have test types.
        """
        return self.type_id.startswith(_FOR_TESTS)

    @property
    def is_sold_here(self) -> bool:
        return self.product.is_sold_here if self.is_sold is None else self.is_sold

    @property
    def terms(self) -> Terms:
        product = self.product
        return Terms(
            cost=self.cost,
            fixed_price=self.fixed_price,
            accepted_loss=self.accepted_loss,
            of_type=self.margin,
            of_product=product.margin,
            of_category=product.category.margin,
        )

    @property
    def told_price(self) -> Decimal | None:
        """The price that ``PRICING`` returned for the current cost, or ``None``."""
        is_told = self.price_source == PriceSource.FUNCTION and self.pricing_due_at is not None
        return self.price if is_told else None

    @property
    def offer(self) -> Offer:
        is_for_sale = self.product.is_enabled and self.is_sold_here and self.cost
        return Offer(str(self), self.cost if is_for_sale else None, self.stock)

    def hear(self, columns: Mapping[str, Any] | None, *, at: datetime) -> None:
        """Update the type from an answer that was requested at ``at``.

        ``columns`` is ``None`` if the answer does not contain the type.
        """
        cost = self.cost
        if columns is not None:
            _take(self, columns)
            self.read_at, self.missing_since = at, None
        elif self.missing_since is None:
            self.missing_since = at
        elif at - self.missing_since >= _GONE_AFTER:
            self.cost, self.stock = None, 0
        if self.cost != cost:
            self.pricing_due_at = None

    def scope(self) -> Q:
        return Q(pk=self.pk)

    def products_of_row(self) -> Iterable[int]:
        return (self.product_id,)

    def _save_with_prices(self, *args: Any, **kwargs: Any) -> None:
        if self._state.adding or "cost" in self.unsaved():
            # NULL makes the worker call the function ``PRICING`` again.
            self.pricing_due_at = None
            names = kwargs.get("update_fields")
            if names is not None:
                kwargs["update_fields"] = {*names, "pricing_due_at"}
        super()._save_with_prices(*args, **kwargs)
        super().refresh_from_db(fields=["price", "price_source", "pricing_due_at", "priced_at"])


# The columns that a catalogue may change, and the columns that an answer about types may change.
_LISTED = ("name", "category", "region", "is_enabled", "missing_since")
_TOLD = ("name", "cost", "stock", "read_at", "missing_since", "pricing_due_at")


def _take(row: models.Model, columns: Mapping[str, Any]) -> None:
    """Set the attributes of ``row`` to the values in ``columns``.

    An empty string does not replace an older value.
    """
    for name, value in columns.items():
        if value != "":
            setattr(row, name, value)


class OfferChangeQuerySet(OutboxQuerySet["OfferChange"]):
    def forget(self) -> int:
        """Delete some old changes, and return how many were deleted.

        Changes are deleted if they were announced and are older than 30 days.
        """
        old = self.filter(at__lt=timezone.now() - _CHANGES_KEPT, announced_at__isnull=False)
        keys = list(old.order_by("at", "pk").values_list("pk", flat=True)[:_BATCH])
        return self.filter(pk__in=keys).delete()[0] if keys else 0


class OfferChange(OutboxEntry):
    """A change to the offer of a product type.

    The change was noticed at the time ``at``. ``old_value`` and ``new_value`` depend on ``what``:

    * ``STOCK``: numbers of cards in stock, or ``None`` if unknown
    * ``NAME``: names of product and type
    * other values: costs of a card in dinars, or ``None`` if not for sale

    While a type is not for sale, its changes are not recorded.
    """

    class What(models.TextChoices):
        NEW = "new", _("new")
        GONE = "gone", _("no longer for sale")
        BACK = "back", _("for sale again")
        PRICE = "price", _("price")
        STOCK = "stock", _("stock")
        NAME = "name", _("name")

    type = models.ForeignKey(
        ProductType, verbose_name=_("type"), on_delete=models.CASCADE, related_name="changes"
    )
    what = models.CharField(_("what"), max_length=10, choices=What)
    # If the change is about a price, both values are strings with decimals.
    old = models.JSONField(null=True)
    new = models.JSONField(null=True)
    # What a customer paid for a card before the change. NULL if there was no price.
    price = models.DecimalField(null=True, **MONEY)

    objects = OfferChangeQuerySet.as_manager()

    class Meta:
        verbose_name = _("change of an offer")
        verbose_name_plural = _("changes of offers")
        ordering = ("pk",)
        default_permissions = ()
        indexes = (
            models.Index(
                fields=("announced_at", "announce_at", "id"), name="giftcards_offer_outbox"
            ),
            models.Index(fields=("at",), name="giftcards_offer_change_at"),
        )

    def __str__(self) -> str:
        return f"{self.what}: {self.old} → {self.new}"

    @property
    def old_value(self) -> Decimal | int | str | None:
        return self._value(self.old)

    @property
    def new_value(self) -> Decimal | int | str | None:
        return self._value(self.new)

    def _value(self, stored: Any) -> Decimal | int | str | None:
        is_price = self.what not in {self.What.STOCK, self.What.NAME}
        value: Decimal | int | str | None = stored
        return Decimal(stored) if is_price and stored is not None else value


def changes_between(
    kind: ProductType, before: Offer | None, *, at: datetime
) -> Iterator[OfferChange]:
    """Yield the changes between the offer ``before`` and the current offer.

    ``before`` is ``None`` if the earlier offer is unknown.
    """
    what, old = OfferChange.What, before or Offer("", None, None)
    new = kind.offer
    found: dict[OfferChange.What, tuple[object, object]] = {}
    if old.cost is None or new.cost is None:
        if new.cost is not None:
            found[what.NEW if before is None else what.BACK] = (None, new.cost)
        elif old.cost is not None:
            found[what.GONE] = (old.cost, None)
    else:
        compared = {what.PRICE: 1, what.STOCK: 2, what.NAME: 0}
        found = {
            each: (old[column], new[column])
            for each, column in compared.items()
            if old[column] != new[column]
        }
    for each, values in found.items():
        before_it, after_it = map(told, values)
        yield OfferChange(
            type=kind, what=each, at=at, old=before_it, new=after_it, price=kind.price
        )


def _follow_changes_of_products(
    changed: Sequence[tuple[Product, Product]], *, at: datetime
) -> None:
    pairs = {after.pk: (before, after) for before, after in changed}
    found: list[OfferChange] = []
    for kind in ProductType.objects.filter(product__in=pairs).iterator():
        kind.product, after = pairs[kind.product_id]
        offer = kind.offer
        kind.product = after
        found += changes_between(kind, offer, at=at)
    OfferChange.objects.bulk_create(found, batch_size=_BATCH)
    moved = [after.pk for before, after in changed if before.category != after.category]
    ProductType.objects.filter(product__in=moved).store_prices()


class ProductPricesQuerySet(models.QuerySet["ProductPrices"]):
    def told(self, product_id: str, *, key: str, max_age: timedelta) -> ProductPrices | None:
        """Return prices that are at most ``max_age`` old, or ``None``.

        The prices must have been requested with this API key. If the time of the prices is in the
        future, the clock was set back after they were stored. Such prices are not returned.
        """
        now = timezone.now()
        recent = self.filter(asked_at__gt=now - max_age, asked_at__lte=now)
        return recent.filter(pk=product_id, key=key).first()

    def keep(
        self, product_id: str, prices: Mapping[str, Decimal], *, key: str, asked_at: datetime
    ) -> None:
        by_type = {type_id: str(price) for type_id, price in prices.items()}
        values = {"by_type": by_type, "key": key, "asked_at": asked_at}
        # The update comes first, because SQLite may fail a transaction that reads before it writes.
        if not self.filter(pk=product_id).update(**values):
            row = ProductPrices(product_id=product_id, **values)
            self.bulk_create([row], ignore_conflicts=True)


class ProductPrices(models.Model):
    """The latest prices of a product's types for one API key.

    All processes share the prices. ``key`` is the fingerprint of the API key. ``by_type`` maps type
    ids to prices. The prices are stored as strings.
    """

    product_id: models.CharField[str, str] = ExactCharField(primary_key=True, max_length=100)
    key = models.CharField(max_length=64)
    by_type = models.JSONField(default=dict)
    asked_at = models.DateTimeField()

    objects = ProductPricesQuerySet.as_manager()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.product_id

    @property
    def prices(self) -> dict[str, Decimal]:
        return {type_id: Decimal(price) for type_id, price in self.by_type.items()}
