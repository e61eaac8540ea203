"""What the ledger says of a period, and what of it does not fit the orders or itself.

The ledger is read once, day by day, and added up here: a database may add decimals as binary
fractions, and no query tells whether the balances follow from each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import NamedTuple

from giftcards.models import LedgerEntry, Order
from giftcards.models.ledger import CHARGE, CREDIT
from giftcards.models.moments import begin_of, day_of
from giftcards.refunds import refund_breakdown

# How many of a kind are listed; all are counted.
_LISTED = 20
# Keys in one query; with more than 200, MariaDB may read the whole table.
_AT_ONCE = 100
# What the shop itself, or another account, put into the account.
_TOP_UPS = {"DEPOSIT", "RECEIVE", "POINT-EXCHANGE"}

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """An order or an entry of the ledger that does not fit.

    ``key`` is its primary key, ``reference`` the reference of the order or the provider's id of the
    entry, and ``amount``, in dinars and never negative, how much does not fit.
    """

    key: int
    reference: str
    amount: Decimal
    time: datetime


@dataclass(frozen=True, slots=True)
class Discrepancies:
    """How many there are and what they add up to; ``first`` lists at most 20, oldest first."""

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

    ``entries`` is a number; so is ``matched``, of entries that belong to an order, and
    ``guessed``, of those among them whose order was found by amount and time. ``orders`` and
    ``refunds`` are what was booked for gift card orders and came back from them, also for orders
    that are not known here; ``top_ups`` and ``other_services`` are all the rest.

    ``promised_not_credited`` are orders settled in the period whose refund the ledger does not have
    in full. ``credited_not_promised`` are refunds of no order here, and what exceeds the refund of
    an order. ``charged_unknown`` are charges of no order here, and further charges of an order.

    ``gap`` is what the balance has changed by beyond the sum of the entries: 0 if the books close,
    ``None`` if a balance is not known. ``breaks`` are entries before which the balance has changed
    without an entry; none are found if the provider does not tell all balances.
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
    opening_balance: Decimal | None
    closing_balance: Decimal | None
    gap: Decimal | None
    breaks: Discrepancies

    @property
    def total(self) -> Decimal:
        """The sum of all entries."""
        return self.orders + self.refunds + self.top_ups + self.other_services


def summarise(start: date, end: date) -> Summary:
    """Add up the ledger, as far as it was read, from ``start`` to ``end``, both included.

    Reads every entry of the period. Raises :exc:`ValueError` if it ends before it starts.
    """
    if end < start:
        raise ValueError("The period ends before it starts.")
    tally = _Tally()
    balances = _Balances(_balance_before(begin_of(start)))
    for row in _rows(start, end):
        tally.add(row)
        balances.add(row)
    opening, closing = balances.ends()
    if closing is None:
        closing = _balance_from(begin_of(end + timedelta(days=1)))
    gap = None
    if opening is not None and closing is not None:
        gap = closing - opening - sum(tally.totals.values())
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
        opening_balance=opening,
        closing_balance=closing,
        gap=gap,
        breaks=balances.breaks(),
    )


class _Row(NamedTuple):
    pk: int
    provider_id: str
    type: str
    amount: Decimal
    balance_before: Decimal | None
    balance_after: Decimal | None
    time: datetime
    order_id: int | None
    is_guess: bool

    def as_discrepancy(self, amount: Decimal) -> Discrepancy:
        return Discrepancy(self.pk, self.provider_id, abs(amount), self.time)


def _rows(start: date, end: date) -> Iterator[_Row]:
    """The entries of the period, by time."""
    first = LedgerEntry.objects.order_by("time", "pk").first()
    last = LedgerEntry.objects.order_by("-time", "-pk").first()
    if first is None or last is None:
        return
    start, end = max(start, day_of(first.time)), min(end, day_of(last.time))
    for number in range((end - start).days + 1):
        day = start + timedelta(days=number)
        yield from _rows_between(begin_of(day), begin_of(day + timedelta(days=1)))


def _rows_between(start: datetime, end: datetime) -> Iterator[_Row]:
    entries = LedgerEntry.objects.filter(time__gte=start, time__lt=end).order_by("time", "pk")
    return map(_Row._make, entries.values_list(*_Row._fields))


# Counting and adding up.


@dataclass(slots=True)
class _Found:
    """Discrepancies while they are being found, oldest first."""

    count: int = 0
    amount: Decimal = _ZERO
    first: list[Discrepancy] = field(default_factory=list)

    def add(self, item: Discrepancy) -> None:
        self.count += 1
        self.amount += item.amount
        if len(self.first) < _LISTED:
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
    # The orders that credits of the period belong to.
    credited: set[int] = field(default_factory=set)

    def add(self, row: _Row) -> None:
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


def _kind(type_: str) -> str:
    if type_ in {CHARGE, CREDIT}:
        return type_
    return "top-ups" if type_ in _TOP_UPS else "others"


# Refunds that lack, and that nobody promised.


def _promised_not_credited(start: date, end: date) -> Discrepancies:
    orders = Order.objects.not_credited().filter(
        settled_at__gte=begin_of(start), settled_at__lt=begin_of(end + timedelta(days=1))
    )
    found = _Found()
    for keys in _batches(orders.order_by("settled_at", "pk").values_list("pk", flat=True)):
        by_key = Order.objects.in_bulk(keys)
        credited = LedgerEntry.objects.credited(keys)
        for order in (by_key[key] for key in keys if key in by_key):
            lacks = _promised(order) - credited.get(order.pk, _ZERO)
            if lacks > 0 and order.settled_at is not None:
                found.add(Discrepancy(order.pk, order.reference, lacks, order.settled_at))
    return found.result()


def _add_surplus(found: _Found, tally: _Tally, start: date, end: date) -> None:
    """Add the entries of the period that exceed the refund of their order."""
    first, last = begin_of(start), begin_of(end + timedelta(days=1))
    for keys in _batches(sorted(tally.credited)):
        for order in Order.objects.not_credited().filter(pk__in=keys).order_by():
            entries = LedgerEntry.objects.filter(order=order, type=CREDIT).order_by("time", "pk")
            left = _promised(order)
            for row in map(_Row._make, entries.values_list(*_Row._fields)):
                surplus = min(row.amount - max(left, _ZERO), row.amount)
                left -= row.amount
                if surplus > 0 and first <= row.time < last:
                    found.add(row.as_discrepancy(surplus))


def _promised(order: Order) -> Decimal:
    breakdown = refund_breakdown(order)
    return (breakdown and breakdown.refunded_amount) or _ZERO


def _batches(keys: Iterable[int]) -> Iterator[list[int]]:
    iterator = iter(keys)
    while batch := list(islice(iterator, _AT_ONCE)):
        yield batch


# The chain of balances.

# Entries that follow each other may have been given times in another order, but not farther apart.
_DISORDER = timedelta(minutes=1)


class _End(NamedTuple):
    """A balance at which the chain ends, and the row that left it; ``None``: a row before all."""

    balance: Decimal
    row: _Row | None


class _Balances:
    """Joins the entries to chains, each of which begins with the balance the one before left.

    The time alone does not order them: several may have the same. So whatever two entries meet in
    a balance are joined. If nothing lacks, a single chain is left, whose ends are the opening and
    the closing balance.
    """

    def __init__(self, opening: Decimal | None = None) -> None:
        self._seed = opening
        # The entries that begin a chain, and those that end one, by the balance there.
        self._starts: defaultdict[Decimal, list[_Row]] = defaultdict(list)
        self._ends: defaultdict[Decimal, list[_End]] = defaultdict(list)
        if opening is not None:
            self._ends[opening].append(_End(opening, None))
        self._first: _Row | None = None
        # When the first and the last entry without any balance were booked.
        self._untold: list[datetime] = []

    def add(self, row: _Row) -> None:
        before, after = _both_balances(row)
        if before is None or after is None:
            self._untold = [*self._untold[:1], row.time]
            return
        self._first = self._first or row
        if self._ends[before]:
            self._ends[before].pop()
        else:
            self._starts[before].append(row)
        follower = next(iter(self._starts[after]), None)
        if follower is not None and row.time - follower.time <= _DISORDER:
            self._starts[after].remove(follower)
        else:
            self._ends[after].append(_End(after, row))

    def ends(self) -> tuple[Decimal | None, Decimal | None]:
        """The opening and the closing balance; ``None`` if one is not known."""
        opening = self._opening()
        last = self._last()
        if last is None:
            # Without entries, or back where it began.
            is_told = self._first is not None or not self._untold
            return opening, opening if is_told else None
        booked_at = last.row and last.row.time
        is_last = not self._untold or (booked_at is not None and booked_at > self._untold[-1])
        return opening, last.balance if is_last else None

    def _opening(self) -> Decimal | None:
        if self._seed is not None:
            return self._seed
        first = min(self._begins(), key=_time_of, default=self._first)
        if first is None or (self._untold and self._untold[0] <= first.time):
            return None
        return _both_balances(first)[0]

    def _begins(self) -> list[_Row]:
        return [row for rows in self._starts.values() for row in rows]

    def _all_ends(self) -> list[_End]:
        """The ends of all chains, oldest first."""
        ends = [end for same in self._ends.values() for end in same]
        before_all = [end for end in ends if end.row is None]
        others = [end for end in ends if end.row is not None]
        return before_all + sorted(others, key=lambda end: _time_of(end.row))

    def _last(self) -> _End | None:
        return next(reversed(self._all_ends()), None)

    def breaks(self) -> Discrepancies:
        """The entries before which the balance has changed without one; none if any is untold."""
        begins = sorted(self._begins(), key=_time_of)
        found = _Found()
        if not self._untold:
            # The first chain begins with the period, unless the balance before it is known.
            later = begins if self._seed is not None else begins[1:]
            for row, end in zip(later, self._all_ends(), strict=False):
                found.add(row.as_discrepancy((_both_balances(row)[0] or _ZERO) - end.balance))
        return found.result()


def _time_of(row: _Row | None) -> datetime:
    assert row is not None  # noqa: S101
    return row.time


def _both_balances(row: _Row) -> tuple[Decimal | None, Decimal | None]:
    """The balances before and after the entry; ``None`` if neither was told."""
    before, after = row.balance_before, row.balance_after
    if before is None and after is not None:
        before = after - row.amount
    if after is None and before is not None:
        after = before + row.amount
    return before, after


def _balance_before(moment: datetime) -> Decimal | None:
    """The balance that the last entry before ``moment`` left, if it was read and told."""
    last = LedgerEntry.objects.filter(time__lt=moment).order_by("-time", "-pk").first()
    return None if last is None else _ends_of(last.time - _DISORDER, moment)[1]


def _balance_from(moment: datetime) -> Decimal | None:
    """The balance before the first entry from ``moment`` on, if it was read and told."""
    first = LedgerEntry.objects.filter(time__gte=moment).order_by("time", "pk").first()
    return None if first is None else _ends_of(moment, first.time + _DISORDER)[0]


def _ends_of(start: datetime, end: datetime) -> tuple[Decimal | None, Decimal | None]:
    balances = _Balances()
    for row in _rows_between(start, end):
        balances.add(row)
    return balances.ends()
