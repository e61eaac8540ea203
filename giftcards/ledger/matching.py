"""Which order an entry of the ledger is about, and whether what was promised was credited.

An entry that names an order of ours belongs to it. The others are paired with orders by amount and
time, as guesses: so many entries of an amount with so many orders. All of this may be done again at
any time: guesses give way to entries that name the order, and to better ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice
from statistics import median_low
from typing import NamedTuple, TypeVar

from django.db import transaction

from giftcards.engine.identity import FARTHEST_CLOCK
from giftcards.ledger.expected import (
    GRACE,
    NEEDED,
    SKEW,
    UNNOTICED,
    LedgerAccount,
    charge,
    credit,
    ledger_read_until,
    ordered_amount,
    refund_amount,
)
from giftcards.ledger.pairing import Booking, Expected, Span, learn_offset, pair
from giftcards.models import LedgerEntry, Order, OrderQuerySet
from giftcards.models.batches import batches
from giftcards.models.ledger import CHARGE, CREDIT
from giftcards.problems import Kind, Problem
from giftcards.statuses import Status

# What was booked so long before a period is tried again with it: orders settle later, and lost ones
# are found.
_LOOK_BACK = timedelta(days=3)
# What is so late is paired with what nothing else was booked for.
_LATE_CHARGE = timedelta(days=3)
_LATE_CREDIT = timedelta(days=30)
_REFUNDING = (Status.PARTIALLY_FILLED, Status.REFUNDED)
# From how many charges it is learnt how the provider's clock goes.
_LEARNT_FROM = 500
# Orders of so short a time between two stretches are read along with them.
_NOT_WORTH_A_QUERY = timedelta(hours=6)
# How many entries change their order in one transaction.
_AT_ONCE = 1_000

_ZERO = Decimal(0)

# The first statement of each transaction here: a write, by which the caller keeps its lease.
Hold = Callable[[], None]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Rule:
    """How entries of a type are paired with orders.

    ``expect`` says what an order should have booked, if anything, and ``among`` finds the orders
    that may have something booked about a stretch of time. ``spans`` say how near to each other the
    two have to be, tried in turn, and ``late`` where nothing else fits.
    """

    kind: str
    expect: Callable[[Order], Expected | None]
    among: Callable[[datetime, datetime], OrderQuerySet]
    spans: Sequence[Span]
    late: Span
    # Guesses so near to an entry that is left open are made anew with it.
    nearby: timedelta

    def spans_at(self, offset: timedelta) -> list[Span]:
        """The spans, the widest of them so that it allows what it would without an ``offset``."""
        *narrow, widest = self.spans
        ahead, behind = max(offset, timedelta(0)), max(-offset, timedelta(0))
        return [*narrow, Span(widest.before + ahead, widest.after + behind)]


def _sent(start: datetime, end: datetime) -> OrderQuerySet:
    return Order.objects.sent_between(start, end)


def _refunding(start: datetime, end: datetime) -> OrderQuerySet:
    """Orders settled from ``start`` to ``end`` for which the provider promised a refund."""
    settled = Order.objects.filter(settled_at__range=(start, end), status__in=_REFUNDING)
    return settled.order_by("settled_at", "pk")


_CHARGES = _Rule(
    CHARGE,
    charge,
    _sent,
    spans=tuple(Span(near, near) for near in (timedelta(seconds=5), timedelta(seconds=30), SKEW)),
    late=Span(SKEW, _LATE_CHARGE),
    nearby=timedelta(hours=1),
)
_CREDITS = _Rule(
    CREDIT,
    credit,
    _refunding,
    spans=(
        Span(timedelta(seconds=15), timedelta(seconds=5)),
        Span(timedelta(seconds=90), timedelta(seconds=30)),
        Span(UNNOTICED, SKEW),
    ),
    late=Span(UNNOTICED, _LATE_CREDIT),
    nearby=timedelta(days=1),
)


def match(
    start: datetime, end: datetime, *, hold: Hold, orders_losing_entries: Iterable[int] = ()
) -> None:
    """Find the orders of the entries from ``start`` to ``end``, and of older ones left open.

    Then judge, in ``Order.is_credited``, the orders that got or lost an entry, among them
    ``orders_losing_entries``, those that settled in that time, and those that lack their refund.
    The ledger was read until ``end``, or before until later.
    """
    matching = _Matching(start - _LOOK_BACK, end, hold, orders_losing_entries)
    matching.by_name()
    matching.by_amount()
    matching.judge(start)


class _Entry(NamedTuple):
    """An entry that does not say whose it is; ``order_id`` is that of a guess."""

    pk: int
    amount: Decimal
    time: datetime
    objid: str
    order_id: int | None


class _Matching:
    def __init__(
        self, start: datetime, end: datetime, hold: Hold, orders_losing_entries: Iterable[int]
    ) -> None:
        self._start, self._end = start, end
        self._hold = hold
        self._account = LedgerAccount()
        # The last days are read again and again.
        self._read_until = max(end, ledger_read_until() or end)
        # The orders whose refunds have changed.
        self._touched = set(orders_losing_entries)

    # Entries that name their order.

    def by_name(self) -> None:
        for kind in (CHARGE, CREDIT):
            open_entries = LedgerEntry.objects.without_order(kind, self._start, self._end)
            naming = open_entries.exclude(objid="").values_list("pk", "objid", "amount")
            for batch in batches(list(naming)):
                self._assign_named(kind, batch)

    def _assign_named(self, kind: str, entries: Sequence[tuple[int, str, Decimal]]) -> None:
        names = {objid for _key, objid, _amount in entries}
        owners = {name: order for order in Order.objects.owners(names) for name in order.names}
        named = [(key, owners[objid], amount) for key, objid, amount in entries if objid in owners]
        if not named:
            return
        orders = {order.pk for _key, order, _amount in named}
        with transaction.atomic():
            self._hold()
            LedgerEntry.objects.drop_guesses(orders, kind)
            if kind == CHARGE:
                named = _within_price(named, LedgerEntry.objects.charged(orders))
            pairs = {key: order.pk for key, order, _amount in named}
            LedgerEntry.objects.assign(pairs, is_guess=False)
        if kind == CREDIT:
            self._touched |= orders

    # Entries that do not.

    def by_amount(self) -> None:
        offset = None
        for rule in (_CHARGES, _CREDITS):
            if entries := self._unnamed(rule):
                offset = self._learn_offset() if offset is None else offset
                self._pair(rule, entries, offset)

    def _unnamed(self, rule: _Rule) -> list[_Entry]:
        """The open entries of which nothing says whose they are, and the guesses about them."""
        entries = LedgerEntry.objects.filter(type=rule.kind, time__range=(self._start, self._end))
        if LedgerEntry.objects.names_orders(self._start, self._end):
            # One that names another order is somebody else's.
            entries = entries.filter(objid="")
        rows = entries.order_by("time", "pk").values_list(*_Entry._fields)
        left = [_Entry(*row) for row in rows.filter(order=None)]
        amounts = {entry.amount for entry in left}
        guessed = (
            _Entry(*row)
            for start, end in _stretches(left, before=rule.nearby, after=rule.nearby)
            for row in rows.filter(is_guess__in=[True], time__range=(start, end))
        )
        return [*left, *(entry for entry in guessed if entry.amount in amounts)]

    def _learn_offset(self) -> timedelta:
        """By how much the provider's clock was ahead of ours, negative: behind.

        By the latest charges: those that name their order, or else any.
        """
        charges = LedgerEntry.objects.filter(type=CHARGE, time__range=(self._start, self._end))
        latest = charges.order_by("-time", "-pk")
        named = latest.filter(order__isnull=False, is_guess=False)
        times = dict(named.values_list("order_id", "time")[:_LEARNT_FROM])
        differences = [times[key] - sent_at for key, sent_at in _sent_at(times)]
        if credible := [each for each in differences if abs(each) <= FARTHEST_CLOCK]:
            return median_low(credible)
        rows = latest.values_list("pk", "amount", "time")[:_LEARNT_FROM]
        bookings = [Booking(*row) for row in rows]
        expected = self._expected(_CHARGES, bookings, Span(SKEW, SKEW))
        return learn_offset(bookings, expected, within=SKEW)

    def _pair(self, rule: _Rule, entries: Collection[_Entry], offset: timedelta) -> None:
        keys = {entry.pk for entry in entries}
        pairs: dict[int, int] = {}
        for spans, left in (
            (rule.spans_at(offset), entries),
            # What names anything may be somebody else's, and is looked for near by only.
            ([rule.late], [entry for entry in entries if not entry.objid]),
        ):
            # By our clock.
            bookings = [
                Booking(entry.pk, entry.amount, entry.time - offset)
                for entry in left
                if entry.pk not in pairs
            ]
            taken = set(pairs.values())
            expected = self._expected(rule, bookings, spans[-1])
            free = _without_entry(expected, rule.kind, but=keys)
            pairs |= pair(bookings, [one for one in free if one.key not in taken], spans)
        self._guess(rule.kind, {entry.pk: entry.order_id for entry in entries}, pairs)

    def _expected(self, rule: _Rule, bookings: Collection[Booking], span: Span) -> list[Expected]:
        """What orders should have booked that ``bookings`` may be."""
        amounts = {booking.amount for booking in bookings}
        expected = (
            rule.expect(order)
            for start, end in _stretches(bookings, before=span.after, after=span.before)
            for order in rule.among(start, end).only(*NEEDED)
            if self._account.bought(order)
        )
        return [one for one in expected if one and one.amount in amounts]

    def _guess(self, kind: str, before: Mapping[int, int | None], pairs: Mapping[int, int]) -> None:
        """Let the entries ``before``, with their orders, have those of ``pairs`` instead."""
        dropped = {key: order for key, order in before.items() if order and pairs.get(key) != order}
        new = {key: order for key, order in pairs.items() if before[key] != order}
        # First all of the former: at no moment has an order two.
        for keys in _parts(dropped):
            with transaction.atomic():
                self._hold()
                LedgerEntry.objects.unassign(keys)
        for part in _parts(new.items()):
            with transaction.atomic():
                self._hold()
                LedgerEntry.objects.assign(dict(part), is_guess=True)
        if kind == CREDIT:
            self._touched |= {*dropped.values(), *new.values()}

    # Whether what was promised was credited.

    def judge(self, start: datetime) -> None:
        settled = _refunding(start - GRACE, self._end - GRACE)
        lately = (self._read_until - _LATE_CREDIT, self._read_until - GRACE)
        lacking = Order.objects.not_credited().filter(settled_at__range=lately)
        keys = self._touched.union(
            settled.values_list("pk", flat=True), lacking.values_list("pk", flat=True)
        )
        for batch in batches(sorted(keys)):
            orders = Order.objects.only(*NEEDED).in_bulk(batch).values()
            self._judge([order for order in orders if self._account.bought(order)])

    def _judge(self, orders: Sequence[Order]) -> None:
        credited = LedgerEntry.objects.credited([order.pk for order in orders])
        changed: defaultdict[bool | None, list[int]] = defaultdict(list)
        troubles: list[tuple[Order, list[Problem]]] = []
        for order in orders:
            amount = credited.get(order.pk, _ZERO)
            verdict = _verdict(order, amount, read_until=self._read_until)
            if verdict != order.is_credited:
                changed[verdict].append(order.pk)
            trouble = [_difference(order, amount)] if verdict is False else []
            if trouble != order.problems_of(Kind.LEDGER):
                troubles.append((order, trouble))
        with transaction.atomic():
            self._hold()
            for verdict, keys in changed.items():
                Order.objects.filter(pk__in=keys).update(is_credited=verdict)
            for order, trouble in troubles:
                order.replace_problems(Kind.LEDGER, trouble)


def _sent_at(orders: Iterable[int]) -> Iterator[tuple[int, datetime]]:
    """When those of these orders were sent that were."""
    for batch in batches(orders):
        sent = Order.objects.filter(pk__in=batch, sent_at__isnull=False).order_by()
        yield from sent.values_list("pk", "sent_at")


def _verdict(order: Order, credited: Decimal, *, read_until: datetime) -> bool | None:
    """Whether what was credited is what was promised; ``None`` if that is open or was nothing."""
    promised = refund_amount(order)
    if promised is None or order.settled_at is None:
        return None
    if promised == credited:
        return True if promised else None
    is_late = order.settled_at + GRACE <= read_until
    return False if is_late or credited > promised else None


def _difference(order: Order, credited: Decimal) -> Problem:
    amounts = {"expected": f"{refund_amount(order):.2f}", "amount": f"{credited:.2f}"}
    return Problem("credit_differs", amounts)


def _within_price(
    named: Iterable[tuple[int, Order, Decimal]], charged: dict[int, Decimal]
) -> list[tuple[int, Order, Decimal]]:
    """Without the entries that charge an order for more than it costs, beyond the first."""
    kept = []
    for key, order, amount in named:
        total, ordered = charged.get(order.pk, _ZERO) + amount, ordered_amount(order)
        if order.pk in charged and ordered is not None and -total > ordered:
            continue
        charged[order.pk] = total
        kept.append((key, order, amount))
    return kept


def _without_entry(
    expected: Iterable[Expected], kind: str, *, but: Collection[int]
) -> list[Expected]:
    """Those of ``expected`` for which nothing was booked, ``but`` these entries."""
    by_key = {one.key: one for one in expected}
    for batch in batches(list(by_key)):
        entries = LedgerEntry.objects.filter(order__in=batch, type=kind).order_by()
        for key, order in entries.values_list("pk", "order_id"):
            if key not in but:
                by_key.pop(order, None)
    return list(by_key.values())


def _stretches(
    bookings: Iterable[Booking | _Entry], *, before: timedelta, after: timedelta
) -> list[tuple[datetime, datetime]]:
    """The times that lie so near to a booking, in few stretches, each for one query."""
    stretches: list[tuple[datetime, datetime]] = []
    for time in sorted(booking.time for booking in bookings):
        start, end = time - before, time + after
        if stretches and start <= stretches[-1][1] + _NOT_WORTH_A_QUERY:
            start = stretches.pop()[0]
        stretches.append((start, end))
    return stretches


def _parts(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while part := list(islice(iterator, _AT_ONCE)):
        yield part
