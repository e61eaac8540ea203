"""Summary of the ledger for a period, with what does not fit the orders or the balances.

The ledger is read once, day by day, and added up here: a database may add decimals as binary
fractions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from django.db.models import Exists, OuterRef

from giftcards.books.balances import Break, compare_balances
from giftcards.books.expected import GRACE, LedgerAccount, charge, refund_amount
from giftcards.books.models import CHARGE, CREDIT, LedgerEntry, LedgerState
from giftcards.models import Order
from giftcards.models.order_queries import batches
from giftcards.models.times import bounds, day_of, within
from giftcards.statuses import SETTLED

# The most discrepancies of a kind that are listed; all are counted.
LISTED = 20
# The totals by type of entry; that of all other types is "other_services".
_TOTALS = {
    CHARGE: "orders",
    CREDIT: "refunds",
    **dict.fromkeys(("DEPOSIT", "RECEIVE", "POINT-EXCHANGE"), "top_ups"),
}

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """An order or an entry of the ledger that does not fit.

    ``amount`` is the part that does not fit, in dinars and never negative.
    """

    # The primary key.
    key: int
    # The reference of the order, or the provider's id of the entry.
    reference: str
    amount: Decimal
    time: datetime


@dataclass(frozen=True, slots=True)
class Discrepancies:
    """The number and sum of discrepancies; ``first`` lists at most 20, mostly oldest first."""

    count: int = 0
    amount: Decimal = _ZERO
    first: tuple[Discrepancy, ...] = ()

    @property
    def references(self) -> tuple[str, ...]:
        return tuple(item.reference for item in self.first)

    def plus(self, items: Iterable[Discrepancy]) -> Discrepancies:
        """Return these and ``items``, which may be any number."""
        count, amount, first = self.count, self.amount, list(self.first)
        for item in items:
            count += 1
            amount += item.amount
            if len(first) < LISTED:
                first.append(item)
        return Discrepancies(count, amount, tuple(first))


@dataclass(frozen=True, slots=True)
class Summary:
    """The ledger from ``start`` to ``end``, both days included, in the site's time zone.

    Amounts are in dinars, exact, and negative for what left the account.
    """

    start: date
    end: date
    entries: int
    # The entries that belong to an order, and those of them whose order is guessed.
    matched: int
    guessed: int
    # Charges and refunds for gift cards, also for orders that are not known here.
    orders: Decimal
    refunds: Decimal
    top_ups: Decimal
    other_services: Decimal
    # Orders settled in the period whose refund the ledger does not have in full.
    promised_not_credited: Discrepancies
    # Refunds of no order here, and what exceeds the refund of an order.
    credited_not_promised: Discrepancies
    # Charges of no order here, further charges of an order, and what exceeds the price of one.
    charged_unknown: Discrepancies
    # Orders sent in the period, and accepted, that the ledger has no charge for.
    ordered_not_charged: Discrepancies
    opening_balance: Decimal | None
    closing_balance: Decimal | None
    # See Balances.
    gap: Decimal | None
    breaks: tuple[Break, ...]

    @property
    def total(self) -> Decimal:
        """The sum of all entries."""
        return self.orders + self.refunds + self.top_ups + self.other_services

    @property
    def breaks_amount(self) -> Decimal:
        """The sum of the breaks without their signs."""
        return sum((abs(each.amount) for each in self.breaks), _ZERO)

    @property
    def names_candidates(self) -> bool:
        """True if others of the same amount may be meant than those that are listed."""
        unfitting = (
            self.promised_not_credited,
            self.credited_not_promised,
            self.charged_unknown,
            self.ordered_not_charged,
        )
        return bool(self.guessed and any(found.count for found in unfitting))


def summarise(start: date, end: date) -> Summary:
    """Sum up the ledger from ``start`` to ``end``, both included, as far as it was read.

    Raises :exc:`ValueError` if ``end`` is before ``start``.
    """
    if end < start:
        raise ValueError("The period ends before it starts.")
    tally = _Tally()
    found = _summed_up(start, end, tally, look=tally.look_for_discrepancies)
    return replace(
        found,
        promised_not_credited=Discrepancies().plus(_promised_not_credited(start, end)),
        credited_not_promised=tally.unknown_credits.plus(_surpluses(start, end)),
        charged_unknown=tally.unknown_charges,
        ordered_not_charged=Discrepancies().plus(_ordered_not_charged(start, end, tally.charged)),
    )


def sums_and_balances(start: date, end: date) -> Summary:
    """:func:`summarise` without looking for discrepancies, which takes half of the time."""
    return _summed_up(start, end, _Tally(), look=lambda _rows: None)


def _summed_up(
    start: date, end: date, tally: _Tally, *, look: Callable[[Collection[_Row]], None]
) -> Summary:
    sums: dict[date, Decimal] = {}
    for day, rows in _by_day(start, end):
        tally.add(rows)
        look(rows)
        sums[day] = _sum(rows)
    told = compare_balances(start, end, sums)
    return Summary(
        start=start,
        end=end,
        entries=tally.entries,
        matched=tally.matched,
        guessed=tally.guessed,
        orders=tally.totals["orders"],
        refunds=tally.totals["refunds"],
        top_ups=tally.totals["top_ups"],
        other_services=tally.totals["other_services"],
        promised_not_credited=Discrepancies(),
        credited_not_promised=Discrepancies(),
        charged_unknown=Discrepancies(),
        ordered_not_charged=Discrepancies(),
        opening_balance=told.opening,
        closing_balance=told.closing,
        gap=told.gap,
        breaks=told.breaks,
    )


def find_gap(start: date, end: date) -> tuple[Decimal | None, tuple[Break, ...]]:
    """The ``gap`` and the ``breaks`` of a :class:`Summary`, found without reading any order."""
    told = compare_balances(start, end, {day: _sum(rows) for day, rows in _by_day(start, end)})
    return told.gap, told.breaks


class _Row(NamedTuple):
    pk: int
    provider_id: str
    type: str
    amount: Decimal
    time: datetime
    order_id: int | None
    is_guess: bool

    def as_discrepancy(self, amount: Decimal) -> Discrepancy:
        return Discrepancy(self.pk, self.provider_id, abs(amount), self.time)


def _sum(rows: Iterable[_Row]) -> Decimal:
    return sum((row.amount for row in rows), _ZERO)


def _by_day(start: date, end: date) -> Iterator[tuple[date, list[_Row]]]:
    """The days of the period that have entries, each with its entries by time."""
    first = LedgerEntry.objects.order_by("time", "pk").first()
    last = LedgerEntry.objects.order_by("-time", "-pk").first()
    if first is None or last is None:
        return
    for day in _days(max(start, day_of(first.time)), min(end, day_of(last.time))):
        entries = LedgerEntry.objects.filter(within("time", day, day)).order_by("time", "pk")
        if rows := [_Row._make(row) for row in entries.values_list(*_Row._fields)]:
            yield day, rows


def _days(start: date, end: date) -> Iterator[date]:
    for number in range((end - start).days + 1):
        yield start + timedelta(days=number)


# Counting and adding up.


@dataclass(slots=True)
class _Tally:
    entries: int = 0
    matched: int = 0
    guessed: int = 0
    totals: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    # The primary keys of the orders with charges in the period.
    charged: set[int] = field(default_factory=set)
    unknown_charges: Discrepancies = Discrepancies()
    unknown_credits: Discrepancies = Discrepancies()

    def add(self, rows: Collection[_Row]) -> None:
        for row in rows:
            self.entries += 1
            self.matched += row.order_id is not None
            self.guessed += row.is_guess
            self.totals[_TOTALS.get(row.type, "other_services")] += row.amount
            if row.type == CHARGE and row.order_id is not None:
                self.charged.add(row.order_id)

    def look_for_discrepancies(self, rows: Collection[_Row]) -> None:
        unknown = self.unknown_charges.plus(_of_no_order(rows, CHARGE))
        self.unknown_charges = unknown.plus(_overcharges(rows))
        self.unknown_credits = self.unknown_credits.plus(_of_no_order(rows, CREDIT))


def _of_no_order(rows: Iterable[_Row], type_: str) -> Iterator[Discrepancy]:
    unknown = (row for row in rows if row.type == type_ and row.order_id is None)
    return (row.as_discrepancy(row.amount) for row in unknown)


# Refunds that are missing, and refunds that nobody promised.


def _promised_not_credited(start: date, end: date) -> Iterator[Discrepancy]:
    orders = Order.objects.not_credited().filter(within("settled_at", start, end))
    for keys in batches(orders.order_by("settled_at", "pk").values_list("pk", flat=True)):
        by_key = Order.objects.in_bulk(keys)
        credited = LedgerEntry.objects.sums(keys, CREDIT)
        for order in (by_key[key] for key in keys if key in by_key):
            lacks = (refund_amount(order) or _ZERO) - credited.get(order.pk, _ZERO)
            if lacks > 0 and order.settled_at is not None:
                yield Discrepancy(order.pk, order.reference, lacks, order.settled_at)


def _surpluses(start: date, end: date) -> Iterator[Discrepancy]:
    """The entries of the period that exceed the refund of their order."""
    first_moment, next_moment = bounds(start, end)
    refunds = LedgerEntry.objects.filter(type=CREDIT).order_by("time", "pk")
    of_period = refunds.filter(within("time", start, end), order=OuterRef("pk"))
    differing = Order.objects.not_credited().order_by("created_at", "pk")
    for order in differing.filter(Exists(of_period)):
        left = refund_amount(order) or _ZERO
        for row in map(_Row._make, refunds.filter(order=order).values_list(*_Row._fields)):
            surplus = min(row.amount - max(left, _ZERO), row.amount)
            left -= row.amount
            if surplus > 0 and first_moment <= row.time < next_moment:
                yield row.as_discrepancy(surplus)


def _overcharges(rows: Iterable[_Row]) -> Iterator[Discrepancy]:
    """The charges that exceed the price of their order.

    Guessed charges are skipped: their amount is the price.
    """
    charges = (row for row in rows if row.type == CHARGE and row.order_id and not row.is_guess)
    for part in batches(charges):
        prices = _prices([row.order_id for row in part if row.order_id])
        for row in part:
            beyond = -row.amount - prices.get(row.order_id, -row.amount)
            if beyond > 0:
                yield row.as_discrepancy(beyond)


def _prices(keys: Collection[int]) -> dict[int | None, Decimal]:
    """The prices of those of these orders that have settled, by primary key.

    Until an order settles, its price may still change.
    """
    # The query has no condition on the status: with one, a database may use another index.
    orders = Order.objects.filter(pk__in=keys).order_by()
    rows = orders.values_list("pk", "status", "quantity", "price_per_card")
    return {
        key: quantity * price
        for key, status, quantity, price in rows
        if status in SETTLED and price is not None
    }


# Orders that were never charged.


def _ordered_not_charged(start: date, end: date, charged: Collection[int]) -> Iterator[Discrepancy]:
    """The orders sent in the period that were never charged, as far as the ledger was read.

    ``charged`` are primary keys of orders that are known to be charged.
    """
    read_until = LedgerState.objects.known_until()
    first = LedgerEntry.objects.order_by("time", "pk").first()
    if read_until is None or first is None:
        return
    account = LedgerAccount()
    for day in _days(max(start, day_of(first.time)), min(end, day_of(read_until))):
        begin, following = bounds(day, day)
        sent = Order.objects.sent_between(begin, read_until - GRACE).filter(sent_at__lt=following)
        keys = [key for key in sent.values_list("pk", flat=True) if key not in charged]
        for order in _never_charged(keys):
            lacks = charge(order)
            if lacks and account.bought(order):
                yield Discrepancy(order.pk, order.reference, -lacks.amount, lacks.at)


def _never_charged(keys: Iterable[int]) -> Iterator[Order]:
    """Yield the orders without any charge, in the sequence of ``keys``."""
    for batch in batches(keys):
        charges = LedgerEntry.objects.filter(order__in=batch, type=CHARGE).order_by()
        charged = set(charges.values_list("order_id", flat=True))
        left = [key for key in batch if key not in charged]
        orders = Order.objects.in_bulk(left)
        yield from (orders[key] for key in left if key in orders)
