"""The provider's ledger of this account, as far as it was read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Self

from django.db import models
from django.db.models import Exists, Max, OuterRef, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from giftcards.models.fields import ExactCharField, PlainTextField
from giftcards.models.orders import Order
from giftcards.provider import answers

# The types of the entries that are about orders of gift cards.
CHARGE = "ORDER"
CREDIT = "REFUND-ORDER"

# The type of the entries that are about payments by customers.
PAYMENT = answers.PAYMENT

# The conditions on charges and refunds for gift cards that belong to no order here.
CHARGED_UNKNOWN = Q(order=None, type=CHARGE)
CREDITED_UNKNOWN = Q(order=None, type=CREDIT)

# _TOLD has the columns with values from the provider. If a column in _IDENTIFYING changes, the
# entry may belong to another order than before.
_IDENTIFYING = ("type", "amount", "objid")
_TOLD = (*_IDENTIFYING, "balance_before", "balance_after", "time")


@dataclass(frozen=True, slots=True)
class Kept:
    """The new entries, and the known entries that have changed, with their new values."""

    new: Sequence[LedgerEntry]
    changed: Sequence[LedgerEntry]
    # The primary keys of orders.
    orders_losing_entries: Collection[int]


class LedgerEntryQuerySet(models.QuerySet["LedgerEntry"]):
    def keep(self, entries: Sequence[LedgerEntry]) -> Kept:
        """Upsert at most 100 entries by ``provider_id``, which must be different for each entry.

        If the type, the amount or the ``objid`` of an entry changes, the entry loses its order. It
        is then unknown whether that order was credited.
        """
        told = {entry.provider_id: entry for entry in entries}
        known = {entry.provider_id: entry for entry in self.filter(provider_id__in=told)}
        new = [entry for name, entry in told.items() if name not in known]
        # A process that has lost the lease may have inserted the same entries meanwhile.
        self.bulk_create(new, ignore_conflicts=True)
        changed: list[LedgerEntry] = []
        orders_losing_entries: set[int] = set()
        for name, stored in known.items():
            owner = stored.order_id
            if stored.take_over(told[name]):
                stored.save(update_fields=[*_TOLD, "order", "is_guess"])
                changed.append(stored)
                if owner is not None and stored.order_id is None:
                    orders_losing_entries.add(owner)
        Order.objects.filter(pk__in=orders_losing_entries).update(is_credited=None)
        return Kept(new, changed, orders_losing_entries)

    def without_order(self, type_: str, start: datetime, end: datetime) -> Self:
        """The entries of a type from ``start`` to ``end`` that belong to no order, oldest first."""
        return self.filter(order=None, type=type_, time__range=(start, end)).order_by("time", "pk")

    def names_orders(self, start: datetime, end: datetime) -> bool:
        """True if any entry from ``start`` to ``end`` names an order of this shop.

        In that case, an entry that names an unknown order belongs to another shop of the account.
        """
        named = self.filter(order__isnull=False, is_guess=False, time__range=(start, end))
        # The entries are sorted by time, so that PostgreSQL uses the index of times, and does not
        # begin at the oldest entry.
        return any(
            named.filter(type=type_).order_by("-time", "-pk").first() for type_ in (CHARGE, CREDIT)
        )

    def sums(self, orders: Iterable[int], type_: str) -> dict[int, Decimal]:
        """The sum of the entries of a type for each of these orders; at most 100 primary keys."""
        # The amounts are added up in Python, because SQLite would add binary fractions.
        sums: defaultdict[int, Decimal] = defaultdict(Decimal)
        found = self.filter(order__in=orders, type=type_).order_by()
        for order, amount in found.values_list("order_id", "amount"):
            sums[order] += amount
        return sums

    def assign(self, orders: dict[int, int], *, is_guess: bool) -> None:
        """Assign entries to orders, unless an entry has an order already; at most 100 entries.

        ``orders`` maps primary keys of entries to primary keys of orders.
        """
        entries = [
            LedgerEntry(pk=key, order_id=order, is_guess=is_guess) for key, order in orders.items()
        ]
        self.filter(order=None).bulk_update(entries, ["order", "is_guess"])

    def drop_guesses(self) -> None:
        """Detach the entries whose order is a guess; other entries keep their order."""
        self.filter(is_guess=True).update(order=None, is_guess=False)


class LedgerEntry(models.Model):
    """A change of the balance that the provider has booked; nobody edits an entry here."""

    # The provider's `_id`. An entry without `_id` gets an id that is made from its content.
    provider_id: models.CharField[str, str] = ExactCharField(
        _("entry"), max_length=100, unique=True, editable=False
    )
    # The type in the provider's words: ORDER, REFUND-ORDER, DEPOSIT, PAYMENT or another.
    type: models.CharField[str, str] = ExactCharField(_("kind"), max_length=40, editable=False)
    # Negative for money that left the account; the sign follows from the type of the entry.
    amount = models.DecimalField(_("amount"), max_digits=14, decimal_places=2, editable=False)
    # NULL if the provider did not name the balances.
    balance_before = models.DecimalField(
        _("balance before"), max_digits=14, decimal_places=2, null=True, editable=False
    )
    balance_after = models.DecimalField(
        _("balance after"), max_digits=14, decimal_places=2, null=True, editable=False
    )
    time = models.DateTimeField(_("when"), editable=False)
    # The provider's id of what the entry is about; "" if the provider named none.
    objid: models.CharField[str, str] = ExactCharField(
        _("about"), max_length=100, blank=True, editable=False
    )
    order = models.ForeignKey(
        Order,
        verbose_name=_("order"),
        on_delete=models.PROTECT,
        null=True,
        related_name="ledger_entries",
        # An index below begins with this column.
        db_index=False,
        editable=False,
    )
    # True if the order was found by amount and time, because the entry names no order.
    is_guess = models.BooleanField(_("matched by amount and time"), default=False, editable=False)
    # The time when the entry was first read. If the provider booked the entry late, this is long
    # after `time`.
    read_at = models.DateTimeField(_("first read"), default=timezone.now, editable=False)

    objects = LedgerEntryQuerySet.as_manager()

    class Meta:
        verbose_name = _("ledger entry")
        verbose_name_plural = _("ledger entries")
        ordering = ("-time", "-pk")
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=("-time", "-id"), name="giftcards_ledger_newest"),
            models.Index(fields=("type", "-time", "-id"), name="giftcards_ledger_type"),
            # This index finds the entries without an order. There are few such entries if only this
            # shop uses the account.
            models.Index(fields=("order", "type", "time"), name="giftcards_ledger_order"),
            models.Index(fields=("objid",), name="giftcards_ledger_objid"),
            models.Index(fields=("is_guess", "-time", "-id"), name="giftcards_ledger_guess"),
        )

    def __str__(self) -> str:
        return self.provider_id

    def take_over(self, other: LedgerEntry) -> bool:
        """Take over the values of ``other``, a newer reading; return False if no value differs."""
        changed = [name for name in _TOLD if getattr(self, name) != getattr(other, name)]
        for name in changed:
            setattr(self, name, getattr(other, name))
        if set(changed) & set(_IDENTIFYING):
            self.order, self.is_guess = None, False
        return bool(changed)


class LedgerStateQuerySet(models.QuerySet["LedgerState"]):
    def current(self) -> LedgerState:
        """The single row, created on first use."""
        return self.get_or_create(pk=1)[0]

    def note(self, **values: Any) -> None:
        """Store ``values`` in the table's only row. The row has to exist already."""
        self.filter(pk=1).update(**values)

    def known_until(self) -> datetime | None:
        """The end of the part of the ledger that was read; ``None`` if nothing was read.

        The end is never in the future, even if the clock was set back since the reading.
        """
        known = self.values_list("read_until", flat=True).first()
        return min(known, timezone.now()) if known else None


class LedgerState(models.Model):
    """The progress and the last result of reading the ledger, in one row with the primary key 1."""

    # The time up to which the ledger was read. Late entries are found by reading days again.
    read_until = models.DateTimeField(null=True)
    # The position at which an unfinished reading goes on: see giftcards.books.reading.Position.
    place = models.JSONField(default=dict)
    # The time of the next automatic reading; NULL until a reading is planned.
    due_at = models.DateTimeField(null=True)
    # The number of consecutive failures of the automatic reading.
    failures = models.PositiveIntegerField(default=0)
    # What the last reading found about the last days: the change of the balance that no entry
    # explains (NULL if unknown), and the number of days with such a change.
    gap = models.DecimalField(max_digits=14, decimal_places=2, null=True)
    breaks = models.PositiveIntegerField(null=True)

    objects = LedgerStateQuerySet.as_manager()

    class Meta:
        # There are no permissions, because staff see this row only as conditions.
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.read_until)


class MonthClosingQuerySet(models.QuerySet["MonthClosing"]):
    def of(self, month: date) -> Self:
        """The closings of the month with the first day ``month``, the valid closing first."""
        return self.filter(month=month).order_by("-number")

    def valid(self) -> Self:
        """The valid closing of each closed month, latest month first.

        There are at most twelve in a year.
        """
        later = MonthClosing.objects.filter(month=OuterRef("month"), number__gt=OuterRef("number"))
        return self.exclude(Exists(later)).order_by("-month")

    def changed(self) -> Self:
        """The valid closings whose figures differed when they were last compared."""
        return self.valid().filter(has_changed=True)

    def last_month(self) -> date | None:
        """The first day of the last closed month; ``None`` if no month is closed."""
        last: date | None = self.aggregate(last=Max("month"))["last"]
        return last


class MonthClosing(models.Model):
    """The record that a person has closed a month, with its figures at that moment.

    Nobody changes or deletes a record. Closing a month again makes a new record.
    """

    # The first day of the month.
    month = models.DateField(editable=False)
    # The number of this closing among the closings of its month, from 1.
    number = models.PositiveIntegerField(editable=False)
    # The figures, keyed by name, as in giftcards.books.months: whole numbers, amounts as texts with
    # two decimals, and null for unknown values.
    figures: models.JSONField[Mapping[str, Any], Mapping[str, Any]] = models.JSONField(
        default=dict, editable=False
    )
    # The names of the steps that were still to do.
    open_steps = models.JSONField(default=list, editable=False)
    note = PlainTextField(_("reason"), max_length=2000, blank=True)
    # The user name of the person, because users may be deleted.
    closed_by = models.CharField(max_length=254, editable=False)
    closed_at = models.DateTimeField(default=timezone.now, editable=False)
    # The time when the record was last compared with the month's figures. ``has_changed`` is True
    # if any figure differed then.
    checked_at = models.DateTimeField(default=timezone.now, editable=False)
    has_changed = models.BooleanField(default=False, editable=False)

    objects = MonthClosingQuerySet.as_manager()

    class Meta:
        verbose_name = _("closed month")
        verbose_name_plural = _("closed months")
        default_permissions = ()
        permissions = (("close_month", "Can close months"),)
        constraints = (
            models.UniqueConstraint(
                fields=("month", "number"), name="giftcards_books_closing_number"
            ),
        )

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"
