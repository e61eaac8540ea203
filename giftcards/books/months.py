"""Month closings, with the steps before them and their records.

The record of a closing contains the figures of the month. Some of these figures must not change
after the closing. Therefore a periodic task compares the record with the current figures each time
the ledger has been read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Any, NamedTuple

from django.db import IntegrityError, models, transaction
from django.db.models import Count, Q, Sum
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from giftcards.books.figures import FIGURES as OF_REPORTS
from giftcards.books.figures import Centimes, Figures, Side
from giftcards.books.matching import GRACE
from giftcards.books.models import (
    CHARGED_UNKNOWN,
    CREDITED_UNKNOWN,
    LedgerEntry,
    LedgerState,
    MonthClosing,
)
from giftcards.books.reports import By, first_day, last_day, sum_up
from giftcards.books.summary import Summary, ledger_summary, sums_and_balances
from giftcards.models.fields import tidied_lines
from giftcards.models.order_queries import NOT_CREDITED, OWING
from giftcards.rules.times import bounds, today, within

# A whole number or an amount; ``None`` if it is not known.
Value = int | Decimal | None


@dataclass(frozen=True, slots=True)
class _Facts:
    orders: Figures
    # The number of the month's orders that meet each condition. However, "reordered" is an amount:
    # the customers' money that was used for new orders for missing cards (centimes).
    further: Mapping[str, int]
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
    ORDERS = "orders", _("Orders and cards")
    PROVIDER = "provider", _("The provider")
    CUSTOMERS = "customers", _("The customers")
    LEDGER = "ledger", _("The provider's ledger")
    # The part "steps" needs no title, because the steps show its figures.
    STEPS = "steps", ""


class MonthFigure(NamedTuple):
    """A figure of a month.

    If ``is_fixed`` is True, the figure must not change after the closing. Other figures can change
    after the closing, for example if a customer is paid back or missing cards are ordered again.
    """

    name: str
    label: Any
    part: Part
    read: Callable[[_Facts], Value]
    is_fixed: bool
    #: True for an amount that is shown with a sign, such as a change of the balance.
    is_signed: bool = False


def _of_reports(side: Side, part: Part) -> Iterator[MonthFigure]:
    for name, figure in OF_REPORTS.items():
        if figure.side is side and figure.is_fixed_in_months is not None:
            read = attrgetter(f"orders.{name}")
            yield MonthFigure(name, figure.label, part, read, figure.is_fixed_in_months)


def _of_ledger(name: str, label: Any, path: str, *, is_signed: bool = False) -> MonthFigure:
    return MonthFigure(name, label, Part.LEDGER, attrgetter(f"ledger.{path}"), True, is_signed)


def _counted(name: str, label: Any, path: str = "") -> MonthFigure:
    def read(facts: _Facts) -> Value:
        counts = {**facts.further, **facts.unknown}
        return attrgetter(path)(facts) if path else counts[name]

    return MonthFigure(name, label, Part.STEPS, read, False)


FIGURES = (
    *_of_reports(Side.CARDS, Part.ORDERS),
    *_of_reports(Side.PROVIDER, Part.PROVIDER),
    # The sale amounts include the money that went to new orders for missing cards, even if the new
    # order belongs to another month.
    MonthFigure("sale_amount", _("Sale amounts"), Part.CUSTOMERS, attrgetter("sale_amount"), True),
    MonthFigure(
        "owed_at_first",
        _("Owed for cards that were not delivered"),
        Part.CUSTOMERS,
        attrgetter("owed_at_first"),
        True,
    ),
    MonthFigure(
        "reordered_amount",
        _("Of this, for cards that were ordered again"),
        Part.CUSTOMERS,
        attrgetter("reordered_amount"),
        False,
    ),
    *_of_reports(Side.CUSTOMERS, Part.CUSTOMERS),
    _of_ledger("entries", _("Entries"), "entries"),
    _of_ledger("opening_balance", _("Balance before"), "opening_balance"),
    _of_ledger("ledger_orders", _("Gift cards"), "orders", is_signed=True),
    _of_ledger("ledger_refunds", _("Gift cards credited back"), "refunds", is_signed=True),
    _of_ledger("ledger_payments", _("Payments by customers"), "payments", is_signed=True),
    _of_ledger("top_ups", _("Top-ups"), "top_ups", is_signed=True),
    _of_ledger("other_services", _("Other services"), "other_services", is_signed=True),
    _of_ledger("closing_balance", _("Balance after"), "closing_balance"),
    _of_ledger("gap", _("Changes without an entry"), "gap", is_signed=True),
    MonthFigure(
        "breaks",
        _("Balance changed without an entry"),
        Part.LEDGER,
        lambda facts: len(facts.ledger.breaks),
        True,
    ),
    _counted("charged_unknown", _("Charges without a matching order")),
    _counted("credited_unknown", _("Provider refunds without a matching order")),
    _counted("not_credited", _("Refunds that were not credited back as promised")),
    _counted(
        "charged_unfit",
        _("Charges for unknown orders, and charges that exceed the price"),
        "ledger.charged_unknown.count",
    ),
    _counted(
        "credited_unfit",
        _("Credited back but not promised"),
        "ledger.credited_not_promised.count",
    ),
    _counted("never_charged", _("Ordered but never charged"), "ledger.ordered_not_charged.count"),
    _counted("owing", _("Orders with money still owed to customers")),
)

# The steps use these conditions to count the month's orders and entries. Each step links to a list
# that is filtered by the same condition.
_OF_ORDERS: Mapping[str, Q] = {
    "not_credited": NOT_CREDITED,
    "owing": OWING,
}
_OF_ENTRIES: Mapping[str, Q] = {
    "charged_unknown": CHARGED_UNKNOWN,
    "credited_unknown": CREDITED_UNKNOWN,
}
_REORDERED = {"reordered": Sum(Centimes("reordered_amount"))}


def month_figures(month: date) -> dict[str, Value]:
    """Return a month's figures as a dict, with their names as keys.

    ``month`` is the first day of the month. The function reads every entry of the month and the
    orders of these entries.
    """
    last = last_day(month, By.MONTH)
    counts = {name: Count("pk", filter=wanted) for name, wanted in _OF_ORDERS.items()}
    orders, further = sum_up(month, last, **_REORDERED, **counts)
    unknown = {
        name: LedgerEntry.objects.filter(wanted, within("time", month, last)).count()
        for name, wanted in _OF_ENTRIES.items()
    }
    facts = _Facts(orders, further, unknown, ledger_summary(month, last))
    return {figure.name: figure.read(facts) for figure in FIGURES}


def fixed_figures(month: date) -> dict[str, Value]:
    """Return the figures of a month that must not change after the closing.

    The function takes half as long as :func:`month_figures`.
    """
    last = last_day(month, By.MONTH)
    orders, further = sum_up(month, last, **_REORDERED)
    facts = _Facts(orders, further, {}, sums_and_balances(month, last))
    return {figure.name: figure.read(facts) for figure in FIGURES if figure.is_fixed}


def as_stored(figures: Mapping[str, Value]) -> dict[str, Any]:
    """Return the figures in a form that can be stored as JSON.

    Amounts become strings with two decimals.
    """
    return {
        name: f"{value:.2f}" if isinstance(value, Decimal) else value
        for name, value in figures.items()
    }


def as_read(stored: Mapping[str, Any]) -> dict[str, Value]:
    """Convert the result of :func:`as_stored` back to figures.

    The result does not contain figures that were added to the app after the month was closed.
    """
    return {
        name: Decimal(value) if isinstance(value, str) else value for name, value in stored.items()
    }


class Difference(NamedTuple):
    """A fixed figure that has changed since the closing.

    The attributes ``then`` and ``now`` contain the value at the closing and the current value.
    ``None`` means that the value is unknown.
    """

    figure: MonthFigure
    then: Value
    now: Value


def differences(closing: MonthClosing, figures: Mapping[str, Value]) -> list[Difference]:
    """Return the fixed figures that have changed since ``closing``.

    ``figures`` contains the current values.
    """
    then = as_read(closing.figures)
    return [
        Difference(figure, then[figure.name], figures[figure.name])
        for figure in FIGURES
        if figure.is_fixed and figure.name in then
        if then[figure.name] != figures[figure.name]
    ]


class StepState(models.TextChoices):
    DONE = "done", _("Done")
    TO_DO = "todo", _("To do")
    NOTHING = "nothing", _("Nothing to do")


class Step(NamedTuple):
    """A step before the closing of a month, and whether it has been completed."""

    name: str
    state: StepState


# The figures that have to be 0 for the step "explained".
UNFIT = (
    "breaks",
    "not_credited",
    "charged_unfit",
    "credited_unfit",
    "never_charged",
)


@dataclass(frozen=True, slots=True)
class Month:
    """A month, identified by its first day, with its current figures."""

    first: date
    figures: Mapping[str, Value]
    read_until: datetime | None
    #: The closings of the month, newest first. The newest closing is the valid one.
    closings: tuple[MonthClosing, ...]
    #: The moment just before the figures were read.
    read_at: datetime

    @classmethod
    def now(cls, first: date) -> Month:
        """Return the month that begins on ``first`` with its current figures."""
        # The time is taken before the figures are read. If the ledger is read while the figures are
        # being calculated, that reading counts as newer, and the month is compared again.
        read_at, closings = timezone.now(), tuple(MonthClosing.objects.of(first))
        read_until = LedgerState.objects.known_until()
        return cls(first, month_figures(first), read_until, closings, read_at)

    @property
    def last(self) -> date:
        return last_day(self.first, By.MONTH)

    @property
    def is_over(self) -> bool:
        return self.last < today()

    @property
    def is_read(self) -> bool:
        """True if the ledger has been read past the end of the month.

        The ledger must have been read up to :data:`GRACE` after the end of the month.
        """
        _start, end = bounds(self.first, self.last)
        return self.read_until is not None and self.read_until >= end + GRACE

    @property
    def closing(self) -> MonthClosing | None:
        return self.closings[0] if self.closings else None

    @property
    def differences(self) -> list[Difference]:
        return differences(self.closing, self.figures) if self.closing else []

    @property
    def steps(self) -> tuple[Step, ...]:
        has_orders = bool(self.figures["orders"])
        has_owed = bool(self.figures["owed_at_first"])
        closes = self.figures["gap"] == 0 or not self.figures["entries"]
        is_explained = closes and not any(self.figures[name] for name in UNFIT)
        has_any = bool(self.figures["entries"] or has_orders)
        return (
            Step("read", _state(is_done=self.is_read)),
            Step("explained", _state(is_done=is_explained, is_needed=has_any)),
            Step("sales", _state(is_done=not self.figures["unpaid"], is_needed=has_orders)),
            Step("owed", _state(is_done=not self.figures["owing"], is_needed=has_owed)),
        )

    @property
    def open_steps(self) -> list[str]:
        return [step.name for step in self.steps if step.state is StepState.TO_DO]


def _state(*, is_done: bool, is_needed: bool = True) -> StepState:
    if not is_done:
        return StepState.TO_DO
    return StepState.DONE if is_needed else StepState.NOTHING


def last_finished_month() -> date:
    return (today().replace(day=1) - timedelta(days=1)).replace(day=1)


def close_month(month: Month, *, by: str, note: str = "") -> MonthClosing | None:
    """Close a month, and record its figures and the person who closed it.

    If somebody else has just closed the month, the function returns ``None`` without recording
    anything.

    Raises :exc:`ValueError` if the month is not over, or if a step is incomplete and ``note`` is
    empty. Raises :exc:`~django.core.exceptions.ValidationError` if ``by`` or ``note`` is invalid.
    """
    note = tidied_lines(note)
    if not month.is_over:
        raise ValueError("The month is not over.")
    if month.open_steps and not note:
        raise ValueError(
            "Some steps are not done. Give the reason for closing the month in a note."
        )
    number = month.closing.number + 1 if month.closing else 1
    closing = MonthClosing(
        month=month.first,
        number=number,
        figures=as_stored(month.figures),
        open_steps=month.open_steps,
        note=note,
        closed_by=by,
        checked_at=month.read_at,
    )
    closing.clean_fields(exclude={"open_steps"})
    try:
        with transaction.atomic():
            closing.save(force_insert=True)
    except IntegrityError:
        if MonthClosing.objects.filter(month=month.first, number=number).exists():
            return None
        raise
    return closing


# The number of latest closed months that are compared after each reading of the ledger.
CHECKED = 3


def check_closed_month(_should_continue: Callable[[], bool]) -> None:
    """Compare one closed month with its record if a comparison is due.

    Each of the last three closed months is compared once after each reading of the ledger.
    """
    now, read_until = timezone.now(), LedgerState.objects.known_until()
    if read_until is None:
        return
    for closing in MonthClosing.objects.valid()[:CHECKED]:
        # A ``checked_at`` in the future is from before the clock was set back.
        if not read_until <= closing.checked_at <= now:
            has_changed = bool(differences(closing, fixed_figures(closing.month)))
            row = MonthClosing.objects.filter(pk=closing.pk)
            row.update(checked_at=now, has_changed=has_changed)
            return


# Staff are reminded of charges without an order for this many months, including the current month.
_MONTHS_LEFT_OPEN = 3


def days_before_in_open_months(day: date, closed: date | None) -> tuple[date, date]:
    """Return the range of days in open months, ending before the given day.

    ``closed`` is the first day of the last closed month, or ``None``. All months before the last
    closed month also count as closed. The first day is at most two months before the month of
    ``day``, and the last day is the day before ``day``. If there are no such days, the first day in
    the result is later than the last.
    """
    months = [first_day(day, By.MONTH)]
    while len(months) < _MONTHS_LEFT_OPEN:
        months.append(first_day(months[-1] - timedelta(days=1), By.MONTH))
    first = months[-1]
    if closed is not None:
        first = max(first, last_day(closed, By.MONTH) + timedelta(days=1))
    return first, day - timedelta(days=1)
