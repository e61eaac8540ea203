"""Match ledger entries with orders.

If an entry names an order, the entry belongs to this order. Other entries are paired by amount and
time with the charges and refunds that are expected for orders. Each of these pairs is a guess. A
guess is discarded if another entry names the order, or if there is a better guess. Matching can be
repeated at any time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from statistics import median_low
from typing import NamedTuple

from django.db import transaction

from giftcards.books.models import CHARGE, CREDIT, LedgerEntry, LedgerState
from giftcards.books.pairing import Expected, Span, Transaction, learn_offset, pair
from giftcards.models import ApiKey, Order, OrderQuerySet
from giftcards.models.order_queries import batches
from giftcards.models.provider import configured_key
from giftcards.rules.identity import FARTHEST_CLOCK
from giftcards.rules.money import refund_breakdown
from giftcards.rules.problems import Problem
from giftcards.rules.states import ACCEPTED, CREDITED, Kind

#: The longest time from the sending or settling of an order to its entry in the ledger. After this
#: time, an absent entry counts as missing.
GRACE = timedelta(minutes=15)
#: The provider lists a refund when it settles the order. The shop may notice the settlement up to
#: this much later, because its workers may have been stopped overnight.
UNNOTICED = timedelta(hours=12)
# The assumed maximum difference between the clocks of provider and shop, until it is learnt.
SKEW = timedelta(minutes=5)
# A transaction may appear to be up to this much earlier than the time when its order was sent,
# because the offset that was learnt for the provider's clock may be wrong by ``SKEW``.
_EARLIER = 2 * SKEW


class LedgerAccount:
    """The account whose ledger is read.

    Orders that were bought with other accounts do not have entries in this account's ledger.
    """

    def __init__(self) -> None:
        key = ApiKey.objects.filter(pk=configured_key())
        self._environments = {"", *key.values_list("environment", flat=True)}

    def bought(self, order: Order) -> bool:
        """Return True if this account might have bought ``order``.

        The method compares the environment of the order with the environment of the account. If the
        environment of the order is unknown, the result is True.
        """
        return order.environment in self._environments


def ordered_amount(order: Order) -> Decimal | None:
    """Return the total price of the order, or ``None`` if it is unknown."""
    price = order.price_at_placing if order.price_per_card is None else order.price_per_card
    return None if price is None else order.quantity * price


def refund_amount(order: Order) -> Decimal | None:
    """Return the amount that the provider promised to refund for ``order``.

    The amount can be 0. The result is ``None`` if the order has not settled, or if the amount is
    not known.
    """
    breakdown = refund_breakdown(order)
    return breakdown.refunded_amount if breakdown else None


def charge(order: Order) -> Expected | None:
    """Return the expected charge for an accepted order, or ``None``."""
    amount = ordered_amount(order)
    if not amount or order.sent_at is None or order.status not in ACCEPTED:
        return None
    return Expected(order.pk, -amount, order.sent_at, order.sent_at - _EARLIER)


def credit(order: Order) -> Expected | None:
    """Return the expected refund for a settled order, or ``None``."""
    amount = refund_amount(order)
    if not amount or order.finalized_at is None:
        return None
    sent_at = order.sent_at or order.created_at
    return Expected(order.pk, amount, order.finalized_at, sent_at - _EARLIER)


@dataclass(frozen=True, slots=True)
class _Rule:
    kind: str
    expect: Callable[[Order], Expected | None]
    # A function that returns the orders that should have a transaction between two moments.
    among: Callable[[datetime, datetime], OrderQuerySet]
    # The tolerances, which are tried one after another. ``late`` is then tried for the remaining
    # transactions.
    spans: Sequence[Span]
    late: Span
    # If an entry has no order, entries with a guessed order are matched again if their times differ
    # from the entry's time by at most this much.
    nearby: timedelta

    def spans_at(self, offset: timedelta) -> list[Span]:
        """Return the tolerances for times that have been corrected by ``offset``.

        The widest tolerance is extended by the offset, so that it also covers entries whose times
        did not need the correction.
        """
        *narrow, widest = self.spans
        ahead, behind = max(offset, timedelta(0)), max(-offset, timedelta(0))
        return [*narrow, Span(widest.before + ahead, widest.after + behind)]


def _refunding(start: datetime, end: datetime) -> OrderQuerySet:
    settled = Order.objects.filter(finalized_at__range=(start, end), status__in=CREDITED)
    return settled.order_by("finalized_at", "pk")


# The longest delay of a late transaction.
_LATE_CHARGE = timedelta(days=3)
_LATE_CREDIT = timedelta(days=30)
_CHARGES = _Rule(
    CHARGE,
    charge,
    Order.objects.sent_between,
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


# A function that renews the caller's lease with a write to the database. Each transaction of this
# module calls it first.
Hold = Callable[[], None]


def match(
    start: datetime, end: datetime, *, hold: Hold, orders_losing_entries: Iterable[int] = ()
) -> None:
    """Find orders for the ledger entries from ``start`` to ``end``.

    Entries from the 3 days before ``start`` are matched again if they do not have an order. The
    ledger must have been read at least until ``end``.

    After matching the entries, the function updates ``Order.is_credited`` and the ledger problems
    of these orders:

    * orders that a refund entry was added to or removed from, and ``orders_losing_entries``
    * orders that settled in the period
    * orders whose refund is missing
    """
    matching = _Matching(start - _LOOK_BACK, end, hold, orders_losing_entries)
    matching.by_name()
    matching.by_amount()
    matching.judge(start)


class _Entry(NamedTuple):
    """An entry that does not name a known order.

    ``order_id`` is the order that was guessed for the entry, or ``None``.
    """

    pk: int
    amount: Decimal
    time: datetime
    objid: str
    order_id: int | None


# Entries without an order are matched again for this long, because their order may settle or be
# found later.
_LOOK_BACK = timedelta(days=3)
# The number of charges from which the offset of the provider's clock is learnt.
_LEARNT_FROM = 500

_ZERO = Decimal(0)


class _Matching:
    def __init__(
        self, start: datetime, end: datetime, hold: Hold, orders_losing_entries: Iterable[int]
    ) -> None:
        self._start, self._end = start, end
        self._hold = hold
        self._account = LedgerAccount()
        # The time up to which the ledger was read. It is later than ``end`` if days are read again.
        self._read_until = max(end, LedgerState.objects.known_until() or end)
        # The orders whose refund entries have changed.
        self._touched = set(orders_losing_entries)

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
            LedgerEntry.objects.filter(order__in=orders, type=kind).drop_guesses()
            if kind == CHARGE:
                named = _within_price(named, LedgerEntry.objects.sums(orders, CHARGE))
            pairs = {key: order.pk for key, order, _amount in named}
            LedgerEntry.objects.assign(pairs, is_guess=False)
        if kind == CREDIT:
            self._touched |= orders

    def by_amount(self) -> None:
        offset = None
        for rule in (_CHARGES, _CREDITS):
            if entries := self._unnamed(rule):
                offset = self._learn_offset() if offset is None else offset
                self._pair(rule, entries, offset)

    def _unnamed(self, rule: _Rule) -> list[_Entry]:
        """Return the entries that can be paired with orders.

        The result contains the entries without an order. Entries whose order is a guess are also
        included if they have the same amount and nearly the same time as an entry without an order.
        """
        entries = LedgerEntry.objects.filter(type=rule.kind, time__range=(self._start, self._end))
        if LedgerEntry.objects.names_orders(self._start, self._end):
            # An entry that names an unknown order belongs to another shop of the account.
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
        """Return the offset of the provider's clock from the shop's clock.

        The offset is positive if the provider's clock was ahead.

        The offset is computed from the latest charges that name their order. If there are no such
        charges, the offset is estimated from the amounts and times of the latest charges.
        """
        charges = LedgerEntry.objects.filter(type=CHARGE, time__range=(self._start, self._end))
        latest = charges.order_by("-time", "-pk")
        named = latest.filter(order__isnull=False, is_guess=False)
        times = dict(named.values_list("order_id", "time")[:_LEARNT_FROM])
        differences = [times[key] - sent_at for key, sent_at in _sent_at(times)]
        if credible := [each for each in differences if abs(each) <= FARTHEST_CLOCK]:
            return median_low(credible)
        rows = latest.values_list("pk", "amount", "time")[:_LEARNT_FROM]
        transactions = [Transaction(*row) for row in rows]
        expected = self._expected(_CHARGES, transactions, Span(SKEW, SKEW))
        return learn_offset(transactions, expected, tolerance=SKEW)

    def _pair(self, rule: _Rule, entries: Collection[_Entry], offset: timedelta) -> None:
        keys = {entry.pk for entry in entries}
        pairs: dict[int, int] = {}
        for spans, left in (
            (rule.spans_at(offset), entries),
            # An entry with an ``objid`` may be about an order of another shop.
            ([rule.late], [entry for entry in entries if not entry.objid]),
        ):
            # The times are corrected to the shop's clock.
            transactions = [
                Transaction(entry.pk, entry.amount, entry.time - offset)
                for entry in left
                if entry.pk not in pairs
            ]
            taken = set(pairs.values())
            expected = self._expected(rule, transactions, spans[-1])
            free = _without_entry(expected, rule.kind, excluded=keys)
            pairs |= pair(transactions, [one for one in free if one.key not in taken], spans)
        self._guess(rule.kind, {entry.pk: entry.order_id for entry in entries}, pairs)

    def _expected(
        self, rule: _Rule, transactions: Collection[Transaction], span: Span
    ) -> list[Expected]:
        """Return the ``Expected`` items that ``transactions`` might belong to.

        Each item has the amount of one of the transactions. Its time is close to that of the same
        or another transaction.
        """
        amounts = {one.amount for one in transactions}
        expected = (
            rule.expect(order)
            for start, end in _stretches(transactions, before=span.after, after=span.before)
            for order in rule.among(start, end)
            if self._account.bought(order)
        )
        return [one for one in expected if one and one.amount in amounts]

    def _guess(self, kind: str, before: Mapping[int, int | None], pairs: Mapping[int, int]) -> None:
        """Store ``pairs`` as guesses, and drop guesses that no longer apply.

        ``before`` maps each entry to the order that was previously guessed for it, or to ``None``.
        """
        dropped = {key: order for key, order in before.items() if order and pairs.get(key) != order}
        new = {key: order for key, order in pairs.items() if before[key] != order}
        # Outdated guesses are dropped before new guesses are stored, so that an order never has two
        # guessed entries.
        for keys in batches(dropped):
            with transaction.atomic():
                self._hold()
                LedgerEntry.objects.filter(pk__in=keys).drop_guesses()
        for part in batches(new.items()):
            with transaction.atomic():
                self._hold()
                LedgerEntry.objects.assign(dict(part), is_guess=True)
        if kind == CREDIT:
            self._touched |= {*dropped.values(), *new.values()}

    def judge(self, start: datetime) -> None:
        settled = _refunding(start - GRACE, self._end - GRACE)
        lately = (self._read_until - _LATE_CREDIT, self._read_until - GRACE)
        lacking = Order.objects.not_credited().filter(finalized_at__range=lately)
        keys = self._touched.union(
            settled.values_list("pk", flat=True), lacking.values_list("pk", flat=True)
        )
        for batch in batches(sorted(keys)):
            orders = Order.objects.in_bulk(batch).values()
            self._judge([order for order in orders if self._account.bought(order)])

    def _judge(self, orders: Sequence[Order]) -> None:
        credited = LedgerEntry.objects.sums([order.pk for order in orders], CREDIT)
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
    for batch in batches(orders):
        found = Order.objects.filter(pk__in=batch).order_by().values_list("pk", "sent_at")
        yield from ((key, sent_at) for key, sent_at in found if sent_at is not None)


def _verdict(order: Order, credited: Decimal, *, read_until: datetime) -> bool | None:
    """Return whether the credited amount equals the promised refund.

    The result is ``None`` if the credit might still arrive, if the refund is unknown, or if both
    amounts are 0.
    """
    promised = refund_amount(order)
    if promised is None or order.finalized_at is None:
        return None
    if promised == credited:
        return True if promised else None
    is_late = order.finalized_at + GRACE <= read_until
    return False if is_late or credited > promised else None


def _difference(order: Order, credited: Decimal) -> Problem:
    amounts = {"expected": f"{refund_amount(order):.2f}", "amount": f"{credited:.2f}"}
    return Problem("credit_differs", amounts)


def _within_price(
    entries: Iterable[tuple[int, Order, Decimal]], charged: dict[int, Decimal]
) -> list[tuple[int, Order, Decimal]]:
    """Return entries, except further charges that exceed the order's price.

    The first charge of an order is always kept. A further charge is kept if the total does not
    exceed the price, or if the price is unknown. ``charged`` maps the primary key of each order to
    the total of its charges so far, and the function updates it.
    """
    kept = []
    for key, order, amount in entries:
        total, ordered = charged.get(order.pk, _ZERO) + amount, ordered_amount(order)
        if order.pk in charged and ordered is not None and -total > ordered:
            continue
        charged[order.pk] = total
        kept.append((key, order, amount))
    return kept


def _without_entry(
    expected: Iterable[Expected], kind: str, *, excluded: Collection[int]
) -> list[Expected]:
    """Return the expected items whose order has no entry of this type.

    Entries whose primary key is in ``excluded`` are ignored.
    """
    by_key = {one.key: one for one in expected}
    for batch in batches(list(by_key)):
        entries = LedgerEntry.objects.filter(order__in=batch, type=kind).order_by()
        for key, order in entries.values_list("pk", "order_id"):
            if key not in excluded:
                by_key.pop(order, None)
    return list(by_key.values())


# Two periods are read in one query if the gap between them is not longer than this.
_NOT_WORTH_A_QUERY = timedelta(hours=6)


def _stretches(
    transactions: Iterable[Transaction | _Entry], *, before: timedelta, after: timedelta
) -> list[tuple[datetime, datetime]]:
    stretches: list[tuple[datetime, datetime]] = []
    for time in sorted(one.time for one in transactions):
        start, end = time - before, time + after
        if stretches and start <= stretches[-1][1] + _NOT_WORTH_A_QUERY:
            start = stretches.pop()[0]
        stretches.append((start, end))
    return stretches
