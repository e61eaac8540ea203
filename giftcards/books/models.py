"""The stored entries of the provider's ledger, and the closed months.

The ledger contains the transactions of your account at the provider.
"""

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

# Types of entries about orders of gift cards.
CHARGE = "ORDER"
CREDIT = "REFUND-ORDER"

PAYMENT = answers.PAYMENT

# Charges and refunds for gift cards without a matching order in this shop.
CHARGED_UNKNOWN = Q(order=None, type=CHARGE)
CREDITED_UNKNOWN = Q(order=None, type=CREDIT)

# The columns with values from the provider. If an identifying column changes, the entry may belong
# to another order than before.
_IDENTIFYING = ("type", "amount", "objid")
_TOLD = (*_IDENTIFYING, "balance_before", "balance_after", "time")


@dataclass(frozen=True, slots=True)
class Kept:
    """The result of storing entries.

    The result consists of the new entries, the changed entries, and the orders that lost an entry.
    """

    new: Sequence[LedgerEntry]
    changed: Sequence[LedgerEntry]
    # The primary keys of the orders that lost an entry because the entry changed.
    orders_losing_entries: Collection[int]


class LedgerEntryQuerySet(models.QuerySet["LedgerEntry"]):
    def keep(self, entries: Sequence[LedgerEntry]) -> Kept:
        """Insert or update at most 100 entries.

        Each entry must have a different ``provider_id``. If the type, the amount or the ``objid``
        of an entry changes, the entry is detached from its order. The ``is_credited`` field of the
        order is then set to ``None``, which means unknown.
        """
        told = {entry.provider_id: entry for entry in entries}
        known = {entry.provider_id: entry for entry in self.filter(provider_id__in=told)}
        new = [entry for name, entry in told.items() if name not in known]
        # A process that lost the lease may have inserted the same entries in the meantime.
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
        """Return the entries that do not belong to an order, oldest first.

        The result is limited to one type of entry and to the period from ``start`` to ``end``.
        """
        return self.filter(order=None, type=type_, time__range=(start, end)).order_by("time", "pk")

    def names_orders(self, start: datetime, end: datetime) -> bool:
        """True if an entry of the period names an order of this shop.

        If the result is True, an entry that names an unknown order belongs to another shop that
        uses the same account.
        """
        named = self.filter(order__isnull=False, is_guess=False, time__range=(start, end))
        # The entries are sorted by time, newest first, so that PostgreSQL reads the index on the
        # time from its end.
        return any(
            named.filter(type=type_).order_by("-time", "-pk").first() for type_ in (CHARGE, CREDIT)
        )

    def sums(self, orders: Iterable[int], type_: str) -> dict[int, Decimal]:
        """Add up the entries of one type for each order.

        ``orders`` contains at most 100 primary keys.
        """
        # Python adds the amounts, because SQLite would add binary fractions.
        sums: defaultdict[int, Decimal] = defaultdict(Decimal)
        found = self.filter(order__in=orders, type=type_).order_by()
        for order, amount in found.values_list("order_id", "amount"):
            sums[order] += amount
        return sums

    def assign(self, orders: dict[int, int], *, is_guess: bool) -> None:
        """Assign at most 100 entries to orders.

        ``orders`` maps primary keys of entries to primary keys of orders. Entries that already
        belong to an order do not change.
        """
        entries = [
            LedgerEntry(pk=key, order_id=order, is_guess=is_guess) for key, order in orders.items()
        ]
        self.filter(order=None).bulk_update(entries, ["order", "is_guess"])

    def drop_guesses(self) -> None:
        """Detach entries whose orders are only guesses."""
        self.filter(is_guess=True).update(order=None, is_guess=False)


class LedgerEntry(models.Model):
    """A transaction in the provider's ledger that changed the balance.

    Staff cannot edit entries.
    """

    # The provider's `_id`, or an id made from the entry's content.
    provider_id: models.CharField[str, str] = ExactCharField(
        _("entry"), max_length=100, unique=True, editable=False
    )
    # The type in the provider's words: ORDER, REFUND-ORDER, DEPOSIT, PAYMENT or another.
    type: models.CharField[str, str] = ExactCharField(_("kind"), max_length=40, editable=False)
    # The amount is negative for money that left the account; the sign follows from the type.
    amount = models.DecimalField(_("amount"), max_digits=14, decimal_places=2, editable=False)
    # The balances before and after the entry. NULL if the provider did not name them.
    balance_before = models.DecimalField(
        _("balance before"), max_digits=14, decimal_places=2, null=True, editable=False
    )
    balance_after = models.DecimalField(
        _("balance after"), max_digits=14, decimal_places=2, null=True, editable=False
    )
    time = models.DateTimeField(_("when"), editable=False)
    # The provider's id of the object that the entry is about, for example an order. "" if the
    # provider did not name one.
    objid: models.CharField[str, str] = ExactCharField(
        _("about"), max_length=100, blank=True, editable=False
    )
    order = models.ForeignKey(
        Order,
        verbose_name=_("order"),
        on_delete=models.PROTECT,
        null=True,
        related_name="ledger_entries",
        # ``order`` needs no index of its own, because an index below begins with this column.
        db_index=False,
        editable=False,
    )
    # True if the order was found by amount and time, because the entry names no order.
    is_guess = models.BooleanField(_("matched by amount and time"), default=False, editable=False)
    # The time when the entry was first read. It is much later than `time` if the provider listed
    # the entry late.
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
            # The index on ``order`` also finds the entries without an order. There are few of them
            # if only this shop uses the account.
            models.Index(fields=("order", "type", "time"), name="giftcards_ledger_order"),
            models.Index(fields=("objid",), name="giftcards_ledger_objid"),
            models.Index(fields=("is_guess", "-time", "-id"), name="giftcards_ledger_guess"),
        )

    def __str__(self) -> str:
        return self.provider_id

    def take_over(self, other: LedgerEntry) -> bool:
        """Copy the provider's values from a later version of this entry.

        If the type, the amount or the ``objid`` changes, the entry is detached from its order.
        Returns True if a value has changed.
        """
        changed = [name for name in _TOLD if getattr(self, name) != getattr(other, name)]
        for name in changed:
            setattr(self, name, getattr(other, name))
        if set(changed) & set(_IDENTIFYING):
            self.order, self.is_guess = None, False
        return bool(changed)


class LedgerStateQuerySet(models.QuerySet["LedgerState"]):
    def current(self) -> LedgerState:
        return self.get_or_create(pk=1)[0]

    def note(self, **values: Any) -> None:
        """Store ``values`` in the single row, which must exist."""
        self.filter(pk=1).update(**values)

    def known_until(self) -> datetime | None:
        """Return the time up to which the ledger has been read, or ``None``.

        The result is never in the future, even if the clock has been set back.
        """
        known = self.values_list("read_until", flat=True).first()
        return min(known, timezone.now()) if known else None


class LedgerState(models.Model):
    """A single row with the progress and the results of reading the ledger."""

    # The time up to which the ledger was read. NULL if it was never read. Days are read again to
    # find late entries.
    read_until = models.DateTimeField(null=True)
    # The position from which an unfinished reading continues: see giftcards.books.reading.Position.
    place = models.JSONField(default=dict)
    # The time of the next automatic reading. NULL if none is planned.
    due_at = models.DateTimeField(null=True)
    # The number of automatic readings that have failed in a row.
    failures = models.PositiveIntegerField(default=0)
    # Results of the last reading: the change of the balance that the entries do not explain, and
    # the number of days with an unexplained change. ``gap`` is NULL if a balance is unknown.
    gap = models.DecimalField(max_digits=14, decimal_places=2, null=True)
    breaks = models.PositiveIntegerField(null=True)

    objects = LedgerStateQuerySet.as_manager()

    class Meta:
        # This row does not need permissions, because staff see its contents only as conditions.
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.read_until)


class MonthClosingQuerySet(models.QuerySet["MonthClosing"]):
    def of(self, month: date) -> Self:
        """Return the closings of a month, newest first.

        The newest closing is the valid one. ``month`` is the first day of the month.
        """
        return self.filter(month=month).order_by("-number")

    def valid(self) -> Self:
        """Return the valid closing of each closed month, newest month first."""
        later = MonthClosing.objects.filter(month=OuterRef("month"), number__gt=OuterRef("number"))
        return self.exclude(Exists(later)).order_by("-month")

    def changed(self) -> Self:
        """Return the valid closings whose figures differed in the last comparison."""
        return self.valid().filter(has_changed=True)

    def last_month(self) -> date | None:
        """Return the first day of the last closed month.

        The result is ``None`` if no month is closed.
        """
        last: date | None = self.aggregate(last=Max("month"))["last"]
        return last


class MonthClosing(models.Model):
    """A record of a closed month.

    The record contains the figures of the month and the name of the person who closed it. The
    figures in a record never change, and records are never deleted. If a month is closed again, a
    new record is created.
    """

    # The first day of the month.
    month = models.DateField(editable=False)
    # The number of this closing. The closings of each month are numbered from 1.
    number = models.PositiveIntegerField(editable=False)
    # The figures by name, as in giftcards.books.months. Whole numbers stay numbers, amounts are
    # texts with two decimals, and null means unknown.
    figures: models.JSONField[Mapping[str, Any], Mapping[str, Any]] = models.JSONField(
        default=dict, editable=False
    )
    # The names of the steps that were still to do when the month was closed.
    open_steps = models.JSONField(default=list, editable=False)
    note = PlainTextField(_("reason"), max_length=2000, blank=True)
    # The user name of the person who closed the month. It is not a foreign key, because the name
    # must remain after the user is deleted.
    closed_by = models.CharField(max_length=254, editable=False)
    closed_at = models.DateTimeField(default=timezone.now, editable=False)
    # The time when the record was last compared with the month's figures. ``has_changed`` is True
    # if any fixed figure differed.
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
