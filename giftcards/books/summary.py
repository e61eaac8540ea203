"""The summary of the ledger: totals, balances and discrepancies.

Each entry is read once. Python adds up the amounts, because some databases add them as binary
fractions.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import groupby, starmap
from typing import Any, NamedTuple, Protocol

from django.db.models import Exists, F, OuterRef, Subquery

from giftcards.books.figures import Centimes
from giftcards.books.matching import GRACE, LedgerAccount, charge, refund_amount
from giftcards.books.models import CHARGE, CREDIT, PAYMENT, LedgerEntry, LedgerState
from giftcards.models import Order
from giftcards.models.order_queries import batches
from giftcards.rules.states import SETTLED
from giftcards.rules.times import begin_of, bounds, day_of, repeated_for, within

# To find the balance at a moment, at most this many entries before it and this many entries after
# it are read.
NEAR = 100

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Break:
    """A day on which the balance changed without entries.

    ``amount`` is the change.
    """

    day: date
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Balances:
    """The balances before and after a period, and the unexplained change.

    The ``gap`` is the unexplained change over the whole period. It is the sum of the ``breaks``,
    which are the changes on single days. Unknown balances are ``None``. In this case, ``gap`` is
    also ``None``, and there are no ``breaks``.
    """

    opening: Decimal | None
    closing: Decimal | None
    gap: Decimal | None = None
    breaks: tuple[Break, ...] = ()


class Entry(Protocol):
    """The attributes of a ledger entry that are needed to find balances."""

    @property
    def amount(self) -> Decimal: ...
    @property
    def balance_before(self) -> Decimal | None: ...
    @property
    def balance_after(self) -> Decimal | None: ...
    @property
    def time(self) -> datetime: ...


class DayEnds:
    """The balances at the end of each day of a period.

    For each day with entries, oldest first, call :meth:`add`. Then call :meth:`compare`.
    """

    def __init__(self, before: Sequence[Entry]) -> None:
        """Initialise the balances with the last entries before the period.

        ``before`` contains at most :data:`NEAR` entries, newest first.
        """
        self._last = deque(reversed(before), maxlen=NEAR)
        self._sums: dict[date, Decimal] = {}
        # The balances before the period, and at the end of each day with entries.
        self._balances: list[Decimal | None] = []
        # Maps the index of each unknown balance in ``_balances`` to the entries that follow it.
        self._following: dict[int, list[Entry]] = {}
        self._end()

    def add(self, day: date, entries: Sequence[Entry]) -> None:
        self._sums[day] = sum((entry.amount for entry in entries), _ZERO)
        self._follow(entries)
        self._last.extend(entries[-NEAR:])
        self._end()

    def _end(self) -> None:
        balance = _first_ends([*reversed(self._last)]).after
        if balance is None:
            self._following[len(self._balances)] = []
        self._balances.append(balance)

    def _follow(self, entries: Sequence[Entry]) -> None:
        for following in self._following.values():
            following += entries[: NEAR - len(following)]

    def compare(self, next_entries: Sequence[Entry]) -> Balances:
        """Compare the balances of the period with the totals of its entries.

        ``next_entries`` are the first entries after the period. Pass at most :data:`NEAR` entries.
        """
        self._follow(next_entries)
        balances = [*self._balances]
        for place, entries in self._following.items():
            balances[place] = _first_ends(entries).before
        # If the period has no entries, it may lie before the first entry of the ledger. Then later
        # entries do not show the opening balance.
        opening, closing = balances[0] if self._sums else self._balances[0], balances[-1]
        if opening is None or closing is None:
            return Balances(opening, closing)
        gap = closing - opening - sum(self._sums.values(), _ZERO)
        return Balances(opening, closing, gap, tuple(self._breaks(opening, balances[1:])))

    def _breaks(self, opening: Decimal, balances: Sequence[Decimal | None]) -> Iterator[Break]:
        expected = opening
        for (day, total), balance in zip(self._sums.items(), balances, strict=True):
            expected += total
            if balance is None:
                # An unexplained change on this day is assigned to the next day whose balance is
                # known.
                continue
            if balance != expected:
                yield Break(day, balance - expected)
            expected = balance


class _Ends(NamedTuple):
    before: Decimal | None
    after: Decimal | None


_UNKNOWN = _Ends(None, None)


def _first_ends(entries: Sequence[Entry]) -> _Ends:
    """Return the first result of :func:`_ends` that is not ``None``.

    The function passes the entries of one moment after the other to :func:`_ends`. If every result
    is ``None``, both balances are unknown.
    """
    moments = [list(same) for _key, same in groupby(entries, key=_moment_of)]
    if len(entries) == NEAR:
        # The last moment may have further entries that were not read.
        moments.pop()
    return next((ends for moment in moments if (ends := _ends(moment))), _UNKNOWN)


def _moment_of(entry: Entry) -> object:
    """Return a key that is shared by entries whose sequence is unknown.

    The key is the time of the entry. All entries in the hour that is repeated when clocks are set
    back share one key.
    """
    return (entry.time.year, "repeated") if repeated_for(entry.time) else entry.time


def _ends(moment: Sequence[Entry]) -> _Ends | None:
    """Return the balances before and after a group of simultaneous entries.

    The sequence of the entries is unknown. However, each balance between two entries follows one
    entry and precedes another. Therefore, only the first balance precedes more entries than it
    follows.

    If there is no such balance, the first and the last balance are equal, but their value is
    unknown. The result is then ``None``. If the first balance is ambiguous, entries are missing,
    and both balances in the result are ``None``.
    """
    if len(moment) == 1:
        return _ends_of(moment[0])
    befores, afters = (Counter(part) for part in zip(*map(_ends_of, moment), strict=True))
    if None in befores:
        return _UNKNOWN
    first, last = befores - afters, afters - befores
    if first.total() > 1:
        return _UNKNOWN
    return next(map(_Ends, first, last), None)


def _ends_of(entry: Entry) -> _Ends:
    before, after = entry.balance_before, entry.balance_after
    if before is None and after is not None:
        before = after - entry.amount
    if after is None and before is not None:
        after = before + entry.amount
    return _Ends(before, after)


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """An order without a matching entry, or an entry without a matching order.

    ``amount`` is the unmatched amount in dinars, which can be only a part of the order's or entry's
    amount. It is never negative.
    """

    # The primary key of the order or entry.
    key: int
    # The order's reference, or the provider's id of the entry.
    reference: str
    amount: Decimal
    time: datetime


#: The maximum number of discrepancies of each kind that are listed. The count includes all of them.
LISTED = 20


@dataclass(frozen=True, slots=True)
class Discrepancies:
    """The number and the total amount of discrepancies.

    ``first`` contains at most 20 discrepancies.
    """

    count: int = 0
    amount: Decimal = _ZERO
    first: tuple[Discrepancy, ...] = ()

    @property
    def references(self) -> tuple[str, ...]:
        return tuple(item.reference for item in self.first)

    def plus(self, items: Iterable[Discrepancy]) -> Discrepancies:
        """Return a copy to which more discrepancies have been added.

        The counts include all ``items``. The list of the first discrepancies is limited to 20.
        """
        count, amount, first = self.count, self.amount, list(self.first)
        for item in items:
            count += 1
            amount += item.amount
            if len(first) < LISTED:
                first.append(item)
        return Discrepancies(count, amount, tuple(first))


@dataclass(frozen=True, slots=True)
class Summary:
    """The summary of the ledger from ``start`` to ``end``.

    Both days are included, and are in the site's time zone. Amounts are exact, in dinars, and
    negative if money left the account.
    """

    start: date
    end: date
    entries: int
    # The number of entries that belong to an order, and how many of these orders are guesses.
    matched: int
    guessed: int
    # The total charges and refunds for gift cards, including entries without an order in this shop.
    orders: Decimal
    refunds: Decimal
    payments: Decimal
    top_ups: Decimal
    other_services: Decimal
    # Orders that settled in the period, but whose full refund is not in the ledger.
    promised_not_credited: Discrepancies
    # Refunds without an order in this shop, and the part of other refunds that exceeds the promised
    # amount.
    credited_not_promised: Discrepancies
    # Charges without an order in this shop, further charges for an order that exceed its price, and
    # the part of a single charge that exceeds the order's price.
    charged_unknown: Discrepancies
    # Orders that were sent in the period and accepted, but have no charge in the ledger.
    ordered_not_charged: Discrepancies
    opening_balance: Decimal | None
    closing_balance: Decimal | None
    # The unexplained changes of the balance, as in Balances.
    gap: Decimal | None
    breaks: tuple[Break, ...]

    @property
    def total(self) -> Decimal:
        known = self.orders + self.refunds + self.payments
        return known + self.top_ups + self.other_services

    @property
    def breaks_amount(self) -> Decimal:
        """The sum of the absolute amounts of all breaks."""
        return sum((abs(each.amount) for each in self.breaks), _ZERO)

    @property
    def names_candidates(self) -> bool:
        """True if a discrepancy might name the wrong order or entry.

        This is possible if the orders of some entries are guesses.
        """
        unfitting = (
            self.promised_not_credited,
            self.credited_not_promised,
            self.charged_unknown,
            self.ordered_not_charged,
        )
        return bool(self.guessed and any(found.count for found in unfitting))


def ledger_summary(start: date, end: date) -> Summary:
    """Return the summary of the ledger from ``start`` to ``end``.

    Both days are included. The summary counts only entries that the app has read. Raises
    :exc:`ValueError` if ``end`` is before ``start``.
    """
    if end < start:
        raise ValueError("The period ends before it starts.")
    tally = _Tally(_PRICED)
    found = _summed_up(start, end, tally)
    return replace(
        found,
        promised_not_credited=Discrepancies().plus(_promised_not_credited(start, end)),
        credited_not_promised=tally.unknown_credits.plus(_surpluses(start, end)),
        charged_unknown=tally.unknown_charges,
        ordered_not_charged=Discrepancies().plus(_ordered_not_charged(start, end)),
    )


def sums_and_balances(start: date, end: date) -> Summary:
    """Return the summary without the discrepancies.

    The function takes half as long as :func:`ledger_summary`.
    """
    return _summed_up(start, end, _Tally())


def _summed_up(start: date, end: date, tally: _Tally) -> Summary:
    told = _compared(start, end, tally)
    return Summary(
        start=start,
        end=end,
        entries=tally.entries,
        matched=tally.matched,
        guessed=tally.guessed,
        orders=tally.totals["orders"],
        refunds=tally.totals["refunds"],
        payments=tally.totals["payments"],
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
    """Return the unexplained change of the balance, in total and by day.

    The function does not read any orders.
    """
    told = _compared(start, end, _Tally())
    return told.gap, told.breaks


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
    # The price of the entry's order (centimes), if it was looked up.
    price: int | None = None

    def as_discrepancy(self, amount: Decimal) -> Discrepancy:
        return Discrepancy(self.pk, self.provider_id, abs(amount), self.time)


_TOLD = _Row._fields[:-1]
# The price of the entry's order (centimes). NULL if the order has not settled, because its price
# may still change.
_PRICED = {
    "price": Subquery(
        Order.objects.filter(pk=OuterRef("order"), status__in=SETTLED)
        .order_by()
        .values(total=F("quantity") * Centimes("price_per_card"))
    )
}


def _compared(start: date, end: date, tally: _Tally) -> Balances:
    first_moment, next_moment = bounds(start, end)
    entries = LedgerEntry.objects.order_by("time", "pk").values_list(*_TOLD)
    before, after = entries.filter(time__lt=first_moment), entries.filter(time__gte=next_moment)
    ends = DayEnds([*starmap(_Row, before.reverse()[:NEAR])])
    of_period = entries.filter(within("time", start, end)).annotate(**tally.looked_up)
    for day, rows in _by_day(starmap(_Row, of_period.iterator())):
        ends.add(day, rows)
        tally.add(rows)
    return ends.compare([*starmap(_Row, after[:NEAR])])


_DAY = timedelta(days=1)


def _by_day(rows: Iterable[_Row]) -> Iterator[tuple[date, list[_Row]]]:
    """Yield each day with its rows. ``rows`` must be sorted by time."""
    day, same = date.min, list[_Row]()
    next_day = None
    for row in rows:
        if next_day is None or row.time >= next_day:
            if same:
                yield day, same
            day, same = day_of(row.time), []
            # The day never goes back, even if the clock was set back past midnight.
            if row.time >= begin_of(day + _DAY):
                day += _DAY
            next_day = begin_of(day + _DAY)
        same.append(row)
    if same:
        yield day, same


# The field of a summary that adds up a type of entries; "other_services" adds up all other types.
_TOTALS = {
    CHARGE: "orders",
    CREDIT: "refunds",
    PAYMENT: "payments",
    **dict.fromkeys(("DEPOSIT", "RECEIVE", "POINT-EXCHANGE"), "top_ups"),
}


@dataclass(slots=True)
class _Tally:
    # The prices, as additional columns to read. Empty if the summary does not look for
    # discrepancies.
    looked_up: Mapping[str, Any] = field(default_factory=dict)
    entries: int = 0
    matched: int = 0
    guessed: int = 0
    totals: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    unknown_charges: Discrepancies = Discrepancies()
    unknown_credits: Discrepancies = Discrepancies()

    def add(self, rows: Sequence[_Row]) -> None:
        for row in rows:
            self.entries += 1
            self.matched += row.order_id is not None
            self.guessed += row.is_guess
            self.totals[_TOTALS.get(row.type, "other_services")] += row.amount
        if self.looked_up:
            unknown = self.unknown_charges.plus(_of_no_order(rows, CHARGE))
            self.unknown_charges = unknown.plus(_overcharges(rows))
            self.unknown_credits = self.unknown_credits.plus(_of_no_order(rows, CREDIT))


def _of_no_order(rows: Iterable[_Row], type_: str) -> Iterator[Discrepancy]:
    unknown = (row for row in rows if row.type == type_ and row.order_id is None)
    return (row.as_discrepancy(row.amount) for row in unknown)


def _promised_not_credited(start: date, end: date) -> Iterator[Discrepancy]:
    orders = Order.objects.not_credited().filter(within("finalized_at", start, end))
    for keys in batches(orders.order_by("finalized_at", "pk").values_list("pk", flat=True)):
        by_key = Order.objects.in_bulk(keys)
        credited = LedgerEntry.objects.sums(keys, CREDIT)
        for order in (by_key[key] for key in keys if key in by_key):
            lacks = (refund_amount(order) or _ZERO) - credited.get(order.pk, _ZERO)
            if lacks > 0 and order.finalized_at is not None:
                yield Discrepancy(order.pk, order.reference, lacks, order.finalized_at)


def _surpluses(start: date, end: date) -> Iterator[Discrepancy]:
    first_moment, next_moment = bounds(start, end)
    refunds = LedgerEntry.objects.filter(type=CREDIT)
    of_period = refunds.filter(within("time", start, end), order=OuterRef("pk"))
    differing = Order.objects.not_credited().order_by("created_at", "pk")
    for orders in batches(differing.filter(Exists(of_period))):
        entries = defaultdict[int | None, list[_Row]](list)
        told = refunds.filter(order__in=orders).order_by("time", "pk").values_list(*_TOLD)
        for row in starmap(_Row, told):
            entries[row.order_id].append(row)
        for order in orders:
            left = refund_amount(order) or _ZERO
            for row in entries[order.pk]:
                surplus = min(row.amount - max(left, _ZERO), row.amount)
                left -= row.amount
                if surplus > 0 and first_moment <= row.time < next_moment:
                    yield row.as_discrepancy(surplus)


def _overcharges(rows: Iterable[_Row]) -> Iterator[Discrepancy]:
    """Yield the charges that exceed the price of their order.

    A charge whose order is a guess is left out, because the app guesses an order only if its price
    fits the charge.
    """
    for row in rows:
        if row.type == CHARGE and row.price is not None and not row.is_guess:
            beyond = -row.amount - Decimal(row.price).scaleb(-2)
            if beyond > 0:
                yield row.as_discrepancy(beyond)


def _ordered_not_charged(start: date, end: date) -> Iterator[Discrepancy]:
    read_until = LedgerState.objects.known_until()
    first = LedgerEntry.objects.order_by("time", "pk").first()
    if read_until is None or first is None:
        return
    begin, following = bounds(max(start, day_of(first.time)), end)
    account = LedgerAccount()
    charges = LedgerEntry.objects.filter(order=OuterRef("pk"), type=CHARGE)
    sent = Order.objects.sent_between(begin, read_until - GRACE).filter(sent_at__lt=following)
    for order in sent.filter(~Exists(charges)).iterator():
        lacks = charge(order)
        if lacks and account.bought(order):
            yield Discrepancy(order.pk, order.reference, -lacks.amount, lacks.at)
