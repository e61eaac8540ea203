"""The figures of a month: sums over its orders, and over the provider's ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from operator import attrgetter
from typing import Any, NamedTuple

from django.db import models
from django.db.models import Count, Q, Sum
from django.utils.translation import gettext_lazy as _

from giftcards.books.models import CHARGED_UNKNOWN, CREDITED_UNKNOWN, LedgerEntry
from giftcards.books.reports import COLUMNS, By, Centimes, Figures, last_day, sum_up
from giftcards.books.summary import Summary, summarise, sums_and_balances
from giftcards.models.order_queries import NOT_CREDITED, OWING, PLANNED
from giftcards.models.times import within

# Whole numbers, and amounts; ``None`` is what is not known.
Value = int | Decimal | None


@dataclass(frozen=True, slots=True)
class _Facts:
    """The sums of a month: of its orders, by the report, and of the provider's ledger."""

    orders: Figures
    # The number of its orders for each condition, and the customers' money that went along to
    # orders for missing cards, in centimes.
    further: Mapping[str, int]
    # The number of its entries for each condition.
    unknown: Mapping[str, int]
    ledger: Summary

    @property
    def reordered_amount(self) -> Decimal:
        return Decimal(self.further["reordered"]).scaleb(-2)

    @property
    def sale_amount(self) -> Decimal:
        return self.orders.paid_amount + self.reordered_amount

    @property
    def owed_at_first(self) -> Decimal:
        return self.orders.owed_amount + self.reordered_amount


class Part(models.TextChoices):
    """The parts of the figures of a month."""

    ORDERS = "orders", _("Orders and cards")
    PROVIDER = "provider", _("The provider")
    CUSTOMERS = "customers", _("The customers")
    LEDGER = "ledger", _("The provider's ledger")
    # What the steps count; they say it themselves.
    STEPS = "steps", ""


class MonthFigure(NamedTuple):
    """A figure of a month.

    One that ``is_fixed`` must not change once the month is closed. The others change as customers
    are paid back, cards are ordered again, and entries come: that is the business of a later month.
    """

    name: str
    label: Any
    part: Part
    read: Callable[[_Facts], Value]
    is_fixed: bool
    #: True for an amount that tells its direction, as a change of the balance does.
    is_signed: bool = False


_LABELS = {column.name: column.label for column in COLUMNS}


def _of_report(name: str, part: Part, *, is_fixed: bool) -> MonthFigure:
    return MonthFigure(name, _LABELS[name], part, attrgetter(f"orders.{name}"), is_fixed)


def _of_ledger(name: str, label: Any, path: str, *, is_signed: bool = False) -> MonthFigure:
    return MonthFigure(name, label, Part.LEDGER, attrgetter(f"ledger.{path}"), True, is_signed)


def _counted(name: str, label: Any, path: str = "") -> MonthFigure:
    def read(facts: _Facts) -> Value:
        counts = {**facts.further, **facts.unknown}
        return attrgetter(path)(facts) if path else counts[name]

    return MonthFigure(name, label, Part.STEPS, read, False)


FIGURES = (
    *(
        _of_report(name, Part.ORDERS, is_fixed=True)
        for name in ("orders", "rejected", "cards_ordered", "cards_delivered")
    ),
    *(
        _of_report(name, Part.PROVIDER, is_fixed=True)
        for name in ("ordered_amount", "charged_amount", "refunded_amount")
    ),
    # Before anything went along to orders for missing cards, which happens in later months.
    MonthFigure("sale_amount", _("Sale amounts"), Part.CUSTOMERS, attrgetter("sale_amount"), True),
    MonthFigure(
        "owed_at_first",
        _("Owed for cards that did not come"),
        Part.CUSTOMERS,
        attrgetter("owed_at_first"),
        True,
    ),
    MonthFigure(
        "reordered_amount",
        _("Of this, cards ordered again"),
        Part.CUSTOMERS,
        attrgetter("reordered_amount"),
        False,
    ),
    *(
        _of_report(name, Part.CUSTOMERS, is_fixed=False)
        for name in (
            "paid_amount",
            "owed_amount",
            "customer_refunded_amount",
            "customer_planned_amount",
            "open_amount",
        )
    ),
    _of_report("unpaid", Part.CUSTOMERS, is_fixed=True),
    _of_ledger("entries", _("Entries"), "entries"),
    _of_ledger("opening_balance", _("Balance before"), "opening_balance"),
    _of_ledger("ledger_orders", _("Gift cards"), "orders", is_signed=True),
    _of_ledger("ledger_refunds", _("Gift cards, credited back"), "refunds", is_signed=True),
    _of_ledger("top_ups", _("Top-ups"), "top_ups", is_signed=True),
    _of_ledger("other_services", _("Other services"), "other_services", is_signed=True),
    _of_ledger("closing_balance", _("Balance after"), "closing_balance"),
    _of_ledger("gap", _("Without an entry"), "gap", is_signed=True),
    MonthFigure(
        "breaks",
        _("Balance changed, no entry"),
        Part.LEDGER,
        lambda facts: len(facts.ledger.breaks),
        True,
    ),
    _counted("charged_unknown", _("Charges of no order here")),
    _counted("credited_unknown", _("Refunds of no order here")),
    _counted("not_credited", _("Refunds that were not credited back as promised")),
    _counted(
        "charged_unfit",
        _("Charged for an unknown order, or beyond the price"),
        "ledger.charged_unknown.count",
    ),
    _counted(
        "credited_unfit",
        _("Credited back and not promised"),
        "ledger.credited_not_promised.count",
    ),
    _counted("never_charged", _("Ordered and never charged"), "ledger.ordered_not_charged.count"),
    _counted("planned", _("Orders with refunds to be paid")),
    _counted("owing", _("Orders with money still owed")),
)

# The conditions that the steps count by, which are those of the filters that they lead to. Of
# orders, those that became final in the month; and of entries, those of the month.
_OF_ORDERS: Mapping[str, Q] = {
    "not_credited": NOT_CREDITED,
    "planned": PLANNED,
    "owing": OWING,
}
_OF_ENTRIES: Mapping[str, Q] = {
    "charged_unknown": CHARGED_UNKNOWN,
    "credited_unknown": CREDITED_UNKNOWN,
}
_REORDERED = {"reordered": Sum(Centimes("reordered_amount"))}


def month_figures(month: date) -> dict[str, Value]:
    """The figures of the month that begins on the day ``month``, by name.

    Reads every entry of the month and the orders of these, and sums up the orders of the month in
    the database.
    """
    last = last_day(month, By.MONTH)
    counts = {name: Count("pk", filter=wanted) for name, wanted in _OF_ORDERS.items()}
    orders, further = sum_up(month, last, **_REORDERED, **counts)
    unknown = {
        name: LedgerEntry.objects.filter(wanted, within("time", month, last)).count()
        for name, wanted in _OF_ENTRIES.items()
    }
    facts = _Facts(orders, further, unknown, summarise(month, last))
    return {figure.name: figure.read(facts) for figure in FIGURES}


def fixed_figures(month: date) -> dict[str, Value]:
    """Those of :func:`month_figures` that must not change; they are found in half the time."""
    last = last_day(month, By.MONTH)
    orders, further = sum_up(month, last, **_REORDERED)
    facts = _Facts(orders, further, {}, sums_and_balances(month, last))
    return {figure.name: figure.read(facts) for figure in FIGURES if figure.is_fixed}


def as_stored(figures: Mapping[str, Value]) -> dict[str, Any]:
    """The figures as JSON has them: amounts are texts with two decimals."""
    return {
        name: f"{value:.2f}" if isinstance(value, Decimal) else value
        for name, value in figures.items()
    }


def as_read(stored: Mapping[str, Any]) -> dict[str, Value]:
    """The figures of :func:`as_stored`; those that an older version did not know are missing."""
    return {
        name: Decimal(value) if isinstance(value, str) else value for name, value in stored.items()
    }
