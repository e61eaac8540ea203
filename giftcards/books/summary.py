"""Summary of the ledger for a period, with what does not fit the orders or the balances.

The ledger is read once, day by day, and added up here: a database may add decimals as binary
fractions, and no query tells whether the balances form a chain.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import chain as chained
from itertools import groupby
from typing import NamedTuple

from giftcards.books.expected import (
    GRACE,
    NEEDED,
    LedgerAccount,
    charge,
    refund_amount,
)
from giftcards.books.models import CHARGE, CREDIT, LedgerEntry, LedgerState
from giftcards.models import Order
from giftcards.models.batches import batches
from giftcards.models.times import bounds, day_of, repeated_for, within
from giftcards.statuses import SETTLED

# The most discrepancies of a kind that are listed; all are counted.
_LISTED = 20
# Number of moments before a period in which the opening balance is looked for.
_LOOK_BACK = 10
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
    ``None`` if a balance is not known. ``breaks`` are entries before which the balance has changed
    without an entry; there are none if the provider does not tell all balances.
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
    breaks: Discrepancies

    @property
    def total(self) -> Decimal:
        """The sum of all entries."""
        return self.orders + self.refunds + self.top_ups + self.other_services

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
    first_moment, next_moment = bounds(start, end)
    tally = _Tally()
    overcharges = _Overcharges(tally.unknown_charges)
    balances = _Balances(_balance_before(first_moment))
    for _moment, same in groupby(_rows(start, end), key=_moment_of):
        rows = list(same)
        tally.add(rows)
        overcharges.add(rows)
        balances.add(rows)
    overcharges.look_up()
    closing = balances.closing_before(next_moment)
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
        opening_balance=balances.opening,
        closing_balance=closing,
        gap=balances.gap(closing, sum(tally.totals.values(), _ZERO)),
        breaks=balances.breaks,
    )


def find_gap(start: date, end: date) -> tuple[Decimal | None, Discrepancies]:
    """The ``gap`` and the ``breaks`` of a :class:`Summary`, found without reading any order."""
    first_moment, next_moment = bounds(start, end)
    balances, total = _Balances(_balance_before(first_moment)), _ZERO
    for _time, same in groupby(_rows(start, end), key=_moment_of):
        rows = list(same)
        balances.add(rows)
        total += sum((row.amount for row in rows), _ZERO)
    return balances.gap(balances.closing_before(next_moment), total), balances.breaks


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


def _moment_of(row: _Row) -> object:
    """The key that groups entries whose times do not tell which came first.

    It is the time or, for all of an hour that the clock shows twice, one common key.
    """
    return (row.time.year, "repeated") if repeated_for(row.time) else row.time


def _rows(start: date, end: date) -> Iterator[_Row]:
    """The entries of the period, by time."""
    first = LedgerEntry.objects.order_by("time", "pk").first()
    last = LedgerEntry.objects.order_by("-time", "-pk").first()
    if first is None or last is None:
        return
    for day in _days(max(start, day_of(first.time)), min(end, day_of(last.time))):
        entries = LedgerEntry.objects.filter(within("time", day, day))
        yield from map(_Row._make, entries.order_by("time", "pk").values_list(*_Row._fields))


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


# The chain of balances.


class _Link(NamedTuple):
    """An entry with the balances before and after it."""

    before: Decimal
    after: Decimal
    row: _Row


class _Balances:
    """The chain of balances through entries that are added in the order of their times.

    ``opening`` is the balance before the first entry, if it is known. The chain is broken where an
    entry begins with another balance than the entry before has left.
    """

    def __init__(self, opening: Decimal | None = None) -> None:
        self.opening = self._last = opening
        self._breaks = _Found()
        # Whether any entry had no balances, and whether any of the last moment had none.
        self._has_untold = self._ends_untold = False
        # The balances at which the entries so far may begin and end, as long as they form a circle.
        self._turning: frozenset[Decimal] = frozenset()

    def add(self, rows: Iterable[_Row]) -> None:
        """Add the entries of one moment; nothing tells which of them came first."""
        links, untold = _links(rows)
        self._ends_untold = bool(untold)
        self._has_untold = self._has_untold or bool(untold)
        if links:
            self._turn(links)
        for link in _in_chain(links, self._last):
            if self._last is None:
                self.opening = None if self._has_untold else link.before
            elif link.before != self._last:
                self._breaks.add(link.row.as_discrepancy(link.before - self._last))
            self._last = link.after

    def _turn(self, links: list[_Link]) -> None:
        """If all entries so far form a circle, let it begin and end where these can go on."""
        befores = frozenset(link.before for link in links)
        start = _surplus_of(links)
        if self._last is None:
            self._turning = befores if start is None else frozenset()
        elif self._turning:
            shared = self._turning & (befores if start is None else {start})
            if shared:
                self._last = min(shared)
                self.opening = None if self.opening is None else self._last
            self._turning = shared if start is None else frozenset()

    @property
    def is_turning(self) -> bool:
        return bool(self._turning)

    @property
    def closing(self) -> Decimal | None:
        """The balance after the last entry; ``None`` if it is not known."""
        return None if self._ends_untold else self._last

    def closing_before(self, moment: datetime) -> Decimal | None:
        """The balance after the last entry or, if unknown, before the first from ``moment`` on."""
        return _balance_from(moment) if self.closing is None else self.closing

    def gap(self, closing: Decimal | None, total: Decimal) -> Decimal | None:
        """The change of the balance minus the ``total`` of the entries; ``None`` if unknown."""
        if self.opening is None or closing is None:
            return None
        return closing - self.opening - total

    @property
    def breaks(self) -> Discrepancies:
        """The entries at which the chain is broken; none if any came without balances."""
        return Discrepancies() if self._has_untold else self._breaks.result()


def _links(rows: Iterable[_Row]) -> tuple[list[_Link], list[_Row]]:
    """The entries with their balances, and the entries without any."""
    links, untold = [], []
    for row in rows:
        before, after = row.balance_before, row.balance_after
        if before is not None:
            links.append(_Link(before, before + row.amount if after is None else after, row))
        elif after is not None:
            links.append(_Link(after - row.amount, after, row))
        else:
            untold.append(row)
    return links, untold


def _in_chain(links: list[_Link], balance: Decimal | None) -> list[_Link]:
    """Order the entries of one moment so that each begins where the one before ends, if possible.

    ``balance`` is the balance before the moment, if it is known.
    """
    if len(links) < 2:
        return links
    # The entries by the balance with which they begin, last first.
    left: defaultdict[Decimal, list[_Link]] = defaultdict(list)
    for link in reversed(links):
        left[link.before].append(link)
    chain: list[_Link] = []
    while len(chain) < len(links):
        if balance is None or not left[balance]:
            balance = _beginning_of(list(chained.from_iterable(left.values())))
        chain += _trail(left, balance)
        balance = chain[-1].after
    return chain


def _beginning_of(links: Sequence[_Link]) -> Decimal:
    start = _surplus_of(links)
    return links[0].before if start is None else start


def _surplus_of(links: Iterable[_Link]) -> Decimal | None:
    """The balance with which a chain of these entries begins; ``None`` if they form a circle.

    More entries begin with this balance than end with it.
    """
    surplus: Counter[Decimal] = Counter()
    for link in links:
        surplus[link.before] += 1
        surplus[link.after] -= 1
    return next((balance for balance, count in surplus.items() if count > 0), None)


def _trail(left: defaultdict[Decimal, list[_Link]], balance: Decimal) -> list[_Link]:
    """Remove from ``left`` the longest chain from ``balance`` on (Hierholzer's algorithm)."""
    ways: list[_Link] = []
    trail: list[_Link] = []
    while True:
        if left[balance]:
            ways.append(left[balance].pop())
            balance = ways[-1].after
        elif ways:
            trail.append(ways.pop())
            balance = trail[-1].before
        else:
            return trail[::-1]


def _balance_before(moment: datetime) -> Decimal | None:
    """The balance after the last entry before ``moment``; ``None`` if it is not known."""
    moments: list[list[_Row]] = []
    while len(moments) < _LOOK_BACK and (rows := _last_rows_before(moment)):
        moments.append(rows)
        moment = rows[0].time
        if _surplus_of(_links(rows)[0]) is not None:
            # No circle, so its last balance is known.
            break
    balances = _Balances()
    for rows in reversed(moments):
        balances.add(rows)
    # A circle may begin and end anywhere on it.
    return None if balances.is_turning else balances.closing


def _last_rows_before(moment: datetime) -> list[_Row]:
    """All entries of the last moment before ``moment`` that has entries."""
    last = LedgerEntry.objects.filter(time__lt=moment).order_by("-time", "-pk").first()
    return _rows_at(last.time) if last else []


def _balance_from(moment: datetime) -> Decimal | None:
    """The balance before the first entry from ``moment`` on; ``None`` if it is not known."""
    first = LedgerEntry.objects.filter(time__gte=moment).order_by("time", "pk").first()
    balances = _Balances()
    balances.add(_rows_at(first.time) if first else [])
    return balances.opening


def _rows_at(moment: datetime) -> list[_Row]:
    around = repeated_for(moment)
    entries = LedgerEntry.objects.filter(time__range=(moment - around, moment + around))
    rows = map(_Row._make, entries.order_by("time", "pk").values_list(*_Row._fields))
    return [row for row in rows if row.time == moment or repeated_for(row.time)]
