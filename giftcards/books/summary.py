"""Summary of the ledger for a period, with what does not fit the orders or the balances.

The ledger is read once, day by day, and added up here: a database may add decimals as binary
fractions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from giftcards.books.balances import Break, compare_balances
from giftcards.books.expected import (
    GRACE,
    NEEDED,
    LedgerAccount,
    charge,
    refund_amount,
)
from giftcards.books.models import CHARGE, CREDIT, LedgerEntry, LedgerState
from giftcards.models import Order
from giftcards.models.order_queries import batches
from giftcards.models.times import bounds, day_of, within
from giftcards.statuses import SETTLED

# The most discrepancies of a kind that are listed; all are counted.
LISTED = 20
# Number of charges that are kept before their prices are looked up together.
_MOST_WAITING = 1_000
# Types of payments into the account, by the shop itself or from another account.
_TOP_UPS = {"DEPOSIT", "RECEIVE", "POINT-EXCHANGE"}

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """An order or an entry of the ledger that does not fit.

    ``key`` is its primary key, and ``reference`` the reference of the order or the provider's id of
    the entry. ``amount`` is the part that does not fit, in dinars and never negative.
    """

    key: int
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


@dataclass(frozen=True, slots=True)
class Summary:
    """The ledger from ``start`` to ``end``, both days included, in the site's time zone.

    Amounts are in dinars, exact, and negative for what left the account.

    ``entries`` counts all entries, ``matched`` those that belong to an order, and ``guessed`` those
    among them whose order was found by amount and time. ``orders`` and ``refunds`` are the sums of
    charges and refunds for gift card orders, also for orders that are not known here; ``top_ups``
    is the sum of payments into the account, ``other_services`` that of all other entries.

    ``promised_not_credited`` are orders settled in the period whose refund the ledger does not have
    in full. ``credited_not_promised`` are refunds that belong to no order here, or exceed the
    refund of their order. ``charged_unknown`` are charges that belong to no order here, are further
    charges of an order, or exceed the price of their order. ``ordered_not_charged`` are orders sent
    in the period that the provider has accepted and the ledger has no charge for.

    Where entries name no order, the number of discrepancies of each amount is right, but others of
    the same amount may be meant than those that are listed.

    ``gap`` is the change of the balance minus the sum of the entries: 0 if the books close,
    ``None`` if a balance is not known. ``breaks`` are the days on which the balance has changed
    without an entry; they add up to the gap, and there are none if it is not known.
    """

    start: date
    end: date
    entries: int
    matched: int
    guessed: int
    orders: Decimal
    refunds: Decimal
    top_ups: Decimal
    other_services: Decimal
    promised_not_credited: Discrepancies
    credited_not_promised: Discrepancies
    charged_unknown: Discrepancies
    ordered_not_charged: Discrepancies
    opening_balance: Decimal | None
    closing_balance: Decimal | None
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

    Reads every entry of the period. Raises :exc:`ValueError` if ``end`` is before ``start``.
    """
    if end < start:
        raise ValueError("The period ends before it starts.")
    tally = _Tally()
    overcharges = _Overcharges(tally.unknown_charges)
    sums: dict[date, Decimal] = {}
    for day, rows in _by_day(start, end):
        tally.add(rows)
        overcharges.add(rows)
        sums[day] = _sum(rows)
    told = compare_balances(start, end, sums)
    overcharges.look_up()
    _add_surplus(tally.unknown_credits, tally, start, end)
    return Summary(
        start=start,
        end=end,
        entries=tally.entries,
        matched=tally.matched,
        guessed=tally.guessed,
        orders=tally.totals[CHARGE],
        refunds=tally.totals[CREDIT],
        top_ups=tally.totals["top-ups"],
        other_services=tally.totals["others"],
        promised_not_credited=_promised_not_credited(start, end),
        credited_not_promised=tally.unknown_credits.result(),
        charged_unknown=tally.unknown_charges.result(),
        ordered_not_charged=_ordered_not_charged(start, end, tally.charged),
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
class _Found:
    """Discrepancies while they are being collected."""

    count: int = 0
    amount: Decimal = _ZERO
    first: list[Discrepancy] = field(default_factory=list)

    def add(self, item: Discrepancy) -> None:
        self.count += 1
        self.amount += item.amount
        if len(self.first) < LISTED:
            self.first.append(item)

    def result(self) -> Discrepancies:
        return Discrepancies(self.count, self.amount, tuple(self.first))


@dataclass(slots=True)
class _Tally:
    entries: int = 0
    matched: int = 0
    guessed: int = 0
    # By kind: CHARGE, CREDIT, "top-ups" and "others".
    totals: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    unknown_charges: _Found = field(default_factory=_Found)
    unknown_credits: _Found = field(default_factory=_Found)
    # Primary keys of the orders with charges, and with credits, in the period.
    charged: set[int] = field(default_factory=set)
    credited: set[int] = field(default_factory=set)

    def add(self, rows: Iterable[_Row]) -> None:
        for row in rows:
            self._add(row)

    def _add(self, row: _Row) -> None:
        self.entries += 1
        self.matched += row.order_id is not None
        self.guessed += row.is_guess
        self.totals[_kind(row.type)] += row.amount
        if row.type == CHARGE and row.order_id is None:
            self.unknown_charges.add(row.as_discrepancy(row.amount))
        elif row.type == CREDIT and row.order_id is None:
            self.unknown_credits.add(row.as_discrepancy(row.amount))
        elif row.type == CREDIT and row.order_id is not None:
            self.credited.add(row.order_id)
        elif row.type == CHARGE and row.order_id is not None:
            self.charged.add(row.order_id)


def _kind(type_: str) -> str:
    if type_ in {CHARGE, CREDIT}:
        return type_
    return "top-ups" if type_ in _TOP_UPS else "others"


# Refunds that are missing, and refunds that nobody promised.


def _promised_not_credited(start: date, end: date) -> Discrepancies:
    orders = Order.objects.not_credited().filter(within("settled_at", start, end))
    found = _Found()
    for keys in batches(orders.order_by("settled_at", "pk").values_list("pk", flat=True)):
        by_key = Order.objects.in_bulk(keys)
        credited = LedgerEntry.objects.credited(keys)
        for order in (by_key[key] for key in keys if key in by_key):
            lacks = (refund_amount(order) or _ZERO) - credited.get(order.pk, _ZERO)
            if lacks > 0 and order.settled_at is not None:
                found.add(Discrepancy(order.pk, order.reference, lacks, order.settled_at))
    return found.result()


def _add_surplus(found: _Found, tally: _Tally, start: date, end: date) -> None:
    """Add the entries of the period that exceed the refund of their order."""
    first_moment, next_moment = bounds(start, end)
    for keys in batches(sorted(tally.credited)):
        for order in Order.objects.not_credited().filter(pk__in=keys).order_by():
            entries = LedgerEntry.objects.filter(order=order, type=CREDIT).order_by("time", "pk")
            left = refund_amount(order) or _ZERO
            for row in map(_Row._make, entries.values_list(*_Row._fields)):
                surplus = min(row.amount - max(left, _ZERO), row.amount)
                left -= row.amount
                if surplus > 0 and first_moment <= row.time < next_moment:
                    found.add(row.as_discrepancy(surplus))


class _Overcharges:
    """A search for charges that exceed the price of their order, in batches.

    Guessed charges are skipped: their amount is the price.
    """

    def __init__(self, found: _Found) -> None:
        self._found = found
        self._charges: list[_Row] = []

    def add(self, rows: Iterable[_Row]) -> None:
        self._charges += [
            row for row in rows if row.type == CHARGE and row.order_id and not row.is_guess
        ]
        if len(self._charges) >= _MOST_WAITING:
            self.look_up()

    def look_up(self) -> None:
        charges, self._charges = self._charges, []
        for part in batches(charges):
            prices = _prices([row.order_id for row in part if row.order_id])
            for row in part:
                beyond = -row.amount - prices.get(row.order_id, -row.amount)
                if beyond > 0:
                    self._found.add(row.as_discrepancy(beyond))


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


def _ordered_not_charged(start: date, end: date, charged: Collection[int]) -> Discrepancies:
    """The orders sent in the period that were never charged, as far as the ledger was read.

    ``charged`` are primary keys of orders that are known to be charged.
    """
    found = _Found()
    read_until = LedgerState.objects.known_until()
    first = LedgerEntry.objects.order_by("time", "pk").first()
    if read_until is None or first is None:
        return found.result()
    account = LedgerAccount()
    for day in _days(max(start, day_of(first.time)), min(end, day_of(read_until))):
        begin, following = bounds(day, day)
        sent = Order.objects.sent_between(begin, read_until - GRACE).filter(sent_at__lt=following)
        keys = [key for key in sent.values_list("pk", flat=True) if key not in charged]
        for order in _never_charged(keys):
            lacks = charge(order)
            if lacks and account.bought(order):
                found.add(Discrepancy(order.pk, order.reference, -lacks.amount, lacks.at))
    return found.result()


def _never_charged(keys: Iterable[int]) -> Iterator[Order]:
    """Yield the orders without any charge, in the sequence of ``keys``."""
    for batch in batches(keys):
        charges = LedgerEntry.objects.filter(order__in=batch, type=CHARGE).order_by()
        charged = set(charges.values_list("order_id", flat=True))
        left = [key for key in batch if key not in charged]
        orders = Order.objects.only(*NEEDED).in_bulk(left)
        yield from (orders[key] for key in left if key in orders)
