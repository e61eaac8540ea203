"""The stored prices, which change together with the margins.

When a margin is saved, the prices that depend on it are stored in the same transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, ClassVar, Self

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import connections, models, router, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.models.fields import plain_line
from giftcards.models.leases import Lease
from giftcards.rules.prices import (
    MOST_FIXED,
    MOST_PERCENT,
    Margin,
    PriceSource,
    ShelfTerms,
    Terms,
    find_price,
)

#: The columns of types that determine the price, and the stored price with its source.
OF_PRICE = (
    "cost",
    "fixed_price",
    "accepted_loss",
    "margin_percent",
    "margin_fixed",
    "product__margin_percent",
    "product__margin_fixed",
    "product__category__margin_percent",
    "product__category__margin_fixed",
    "price",
    "price_source",
)
_WRITTEN = ("price", "price_source", "pricing_due_at", "priced_at", "id")


@contextmanager
def keeping_prices() -> Iterator[None]:
    """Open a transaction in which costs, margins and prices are locked.

    Other processes cannot change these values until the transaction ends.
    """
    Lease.objects.make(Lease.PRICES)
    with transaction.atomic():
        Lease.objects.lock(Lease.PRICES)
        yield


def reprice(kinds: models.QuerySet[Any], shelf: ShelfTerms) -> int:
    """Compute and store the prices of the product types in ``kinds``.

    Returns the number of prices that have changed. Call this function in :func:`keeping_prices`.
    """
    now, changed = timezone.now(), []
    for row in kinds.order_by().values_list(*OF_PRICE, "pricing_due_at", "id"):
        *facts, due_at, key = row
        price, source = facts[-2:]
        is_told = source == PriceSource.FUNCTION and due_at is not None
        found = find_price(terms_of(facts), shelf, function_price=price if is_told else None)
        if (found.price, found.source) != (price, source):
            due_at = due_at if found.source == source else None
            changed.append((found.price, found.source.value, due_at, now, key))
    _write(kinds.model, changed)
    return len(changed)


def terms_of(facts: Sequence[Any]) -> Terms:
    """Build a type's terms from the values of its :data:`OF_PRICE` columns."""
    margins = (Margin(*facts[first : first + 2]) for first in (3, 5, 7))
    return Terms(*facts[:3], *margins)


def _write(model: type[models.Model], rows: Collection[tuple[Any, ...]]) -> None:
    # One statement writes many rows, because a statement for each row takes several times as long.
    if not rows:
        return
    connection = connections[router.db_for_write(model)]
    quote, meta = connection.ops.quote_name, model._meta  # noqa: SLF001 (documented)
    fields: list[Any] = [meta.get_field(name) for name in _WRITTEN]
    *columns, key = (f"{quote(field.column)} = %s" for field in fields)
    statement = f"UPDATE {quote(meta.db_table)} SET {', '.join(columns)} WHERE {key}"  # noqa: S608
    values = [
        tuple(
            field.get_db_prep_save(value, connection)
            for field, value in zip(fields, row, strict=True)
        )
        for row in rows
    ]
    with connection.cursor() as cursor:
        cursor.executemany(statement, values)


def told(value: object) -> object:
    """Return ``value`` in a form that JSON can store."""
    return f"{value:.2f}" if isinstance(value, Decimal) else value


class ShelfRow(models.Model):
    """A row whose values determine what is sold and at which price.

    ``save(by=…)`` stores the new prices, and records each change to a value that the shop sets.
    ``by`` is the name of the person who made the change. If the row was read from the database,
    only the columns that have changed since then are written, so that changes by other processes
    are not overwritten.
    """

    #: The columns that the shop sets.
    SET_BY_SHOP: ClassVar[tuple[str, ...]]
    #: Other columns on which prices depend.
    DECISIVE: ClassVar[tuple[str, ...]] = ()
    #: The column of :class:`ShelfChange` that refers to a row of this model, or "" for the shop's
    #: row.
    NAMED: ClassVar[str] = ""

    class Meta:
        abstract = True

    def save(self, *args: Any, by: str = "", **kwargs: Any) -> None:
        if not (self._state.adding or args or kwargs.keys() & {"update_fields", "force_insert"}):
            kwargs["update_fields"] = self.unsaved().keys()
        names = kwargs.get("update_fields")
        if names is not None and not {*self.SET_BY_SHOP, *self.DECISIVE} & {*names}:
            super().save(*args, **kwargs)
        else:
            with keeping_prices():
                self._save_with_prices(*args, by=by, **kwargs)
        self.note_stored()

    @classmethod
    def from_db(cls, *args: Any, **kwargs: Any) -> Self:
        row = super().from_db(*args, **kwargs)
        row.note_stored()
        return row

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        super().refresh_from_db(*args, **kwargs)
        self.note_stored()

    def note_stored(self) -> None:
        self._stored = self._loaded()

    def unsaved(self) -> dict[str, Any]:
        """Return the values that have changed since the row was read or saved."""
        stored = self.__dict__.get("_stored", {})
        loaded = self._loaded().items()
        return {name: new for name, new in loaded if name not in stored or stored[name] != new}

    def _loaded(self) -> dict[str, Any]:
        columns = {field.attname for field in self._meta.concrete_fields if not field.primary_key}
        return {name: value for name, value in self.__dict__.items() if name in columns}

    def check_unchanged(self) -> None:
        """Raise ``ValidationError`` if another person has changed the same value."""
        stored = self._set_values()
        for name in self.unsaved().keys() & stored.keys():
            if stored[name] != self._stored[name]:
                text = gettext("Somebody else has changed this value to %(value)s in the meantime.")
                value = gettext("nothing") if stored[name] is None else stored[name]
                raise ValidationError({name: text % {"value": value}})

    def _save_with_prices(self, *args: Any, by: str, **kwargs: Any) -> None:
        before = self._set_values()
        super().save(*args, **kwargs)
        after, subject = self._set_values(), ({self.NAMED: self} if self.NAMED else {})
        ShelfChange.objects.bulk_create(
            ShelfChange(what=name, old=told(old), new=told(after[name]), by=by, **subject)
            for name, old in before.items()
            if old != after[name]
        )
        self.store_prices()

    def _set_values(self) -> dict[str, Any]:
        rows = self._meta.base_manager.filter(pk=self.pk)
        return rows.values(*self.SET_BY_SHOP).first() or {}

    def scope(self) -> Q:
        """Return the condition for the types that this row affects."""
        raise NotImplementedError

    def store_prices(self) -> None:
        """Store the prices of the types that this row affects."""
        raise NotImplementedError


class MarginRow(ShelfRow):
    """A row that can have a margin, in per cent of the cost or in dinars."""

    margin_percent = models.DecimalField(
        _("margin in per cent"),
        max_digits=6,
        decimal_places=2,
        null=True,
        blank=True,
        validators=[MinValueValidator(0), MaxValueValidator(MOST_PERCENT)],
    )
    margin_fixed = models.DecimalField(
        _("margin in dinars"),
        max_digits=9,
        decimal_places=2,
        null=True,
        blank=True,
        validators=[MinValueValidator(0), MaxValueValidator(MOST_FIXED)],
    )

    class Meta:
        abstract = True
        constraints: ClassVar[tuple[models.BaseConstraint, ...]] = (
            models.CheckConstraint(
                condition=(
                    Q(margin_percent=None, margin_fixed=None)
                    | Q(margin_percent=None, margin_fixed__gte=0, margin_fixed__lte=MOST_FIXED)
                    | Q(margin_fixed=None, margin_percent__gte=0, margin_percent__lte=MOST_PERCENT)
                ),
                name="%(app_label)s_%(class)s_margin",
                violation_error_message=_(
                    "Enter only one margin, either in per cent or in dinars."
                ),
            ),
        )

    @property
    def margin(self) -> Margin:
        return Margin(self.margin_percent, self.margin_fixed)


class ShelfChange(models.Model):
    """A change to a value that determines prices or what is sold.

    If the category, product and type are not set, the value is a setting of the whole shop. The
    ``what`` field contains the name of the changed column. Amounts in ``old`` and ``new`` are
    stored as strings.
    """

    category = models.ForeignKey(
        "giftcards.Category", on_delete=models.CASCADE, null=True, related_name="shelf_changes"
    )
    product = models.ForeignKey(
        "giftcards.Product", on_delete=models.CASCADE, null=True, related_name="shelf_changes"
    )
    type = models.ForeignKey(
        "giftcards.ProductType", on_delete=models.CASCADE, null=True, related_name="shelf_changes"
    )
    what = models.CharField(_("what"), max_length=20)
    old = models.JSONField(_("before"), null=True)
    new = models.JSONField(_("after"), null=True)
    at = models.DateTimeField(_("when"), default=timezone.now, db_index=True)
    # The user is stored by name, because users may be deleted. The name is "" if the shop's code
    # did not pass a name.
    by = models.CharField(_("by"), max_length=254, blank=True, validators=[plain_line])

    class Meta:
        verbose_name = _("shelf change")
        verbose_name_plural = _("shelf changes")
        ordering = ("pk",)
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.what}: {self.old} → {self.new}"
