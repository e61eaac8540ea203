"""Which order an entry of the ledger is about, and whether what was promised was credited.

An entry that names an order of ours belongs to it. Others are matched by amount and time, as
guesses, if there is only one way to do so. All of this may be done again at any time: what was left
open is tried again, and a guess gives way to an entry that names the order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import transaction

from giftcards.crypto import configured_key
from giftcards.ledger.pairing import Booking, Expected, Span, could_be, pair
from giftcards.models import ApiKey, LedgerEntry, Order, OrderQuerySet
from giftcards.models.batches import batches
from giftcards.models.ledger import CHARGE, CREDIT
from giftcards.refunds import refund_breakdown
from giftcards.statuses import ACCEPTED, Status

# What was booked so long before a period is tried again with it: orders settle later, and lost ones
# are found.
_LOOK_BACK = timedelta(days=3)
# How long after an order has settled its refund is missed.
GRACE = timedelta(minutes=15)
# How far the clocks of the provider and ours differ at most.
_SKEW = timedelta(minutes=5)
# A refund is booked when the order settles there, which is noticed later: after a night without a
# worker at the latest.
_UNNOTICED = timedelta(hours=12)
# How near to each other an entry and what is expected have to be, tried in turn.
_CHARGED_WITHIN = tuple(
    Span(near, near) for near in (timedelta(seconds=5), timedelta(seconds=30), _SKEW)
)
_CREDITED_WITHIN = (
    Span(timedelta(seconds=15), timedelta(seconds=5)),
    Span(timedelta(seconds=90), timedelta(seconds=30)),
    Span(_UNNOTICED, _SKEW),
)
_REFUNDING = (Status.PARTIALLY_FILLED, Status.REFUNDED)
# What of an order is read here.
_NEEDED = (
    "status",
    "environment",
    "quantity",
    "price_at_placing",
    "price_per_card",
    "fulfilled_quantity",
    "fulfilled_amount",
    "is_credited",
    "created_at",
    "sent_at",
    "settled_at",
)

_ZERO = Decimal(0)

# The first statement of each transaction here: a write, by which the caller keeps its lease.
Hold = Callable[[], None]


def match(start: datetime, end: datetime, *, hold: Hold, bereft: Iterable[int] = ()) -> None:
    """Find the orders of the entries from ``start`` to ``end``, and of older ones left open.

    Then judge, in ``Order.is_credited``, the orders that got an entry, the ``bereft``, which have
    lost one, and those that settled in that time; ``end`` is when the ledger was read.
    """
    matching = _Matching(start - _LOOK_BACK, end, hold, bereft)
    matching.by_name()
    matching.by_amount()
    matching.judge(start)


class _Matching:
    def __init__(self, start: datetime, end: datetime, hold: Hold, bereft: Iterable[int]) -> None:
        self._start, self._end = start, end
        self._hold = hold
        # The orders whose refunds have changed.
        self._touched = set(bereft)

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
        for kind, spans, expect in (
            (CHARGE, _CHARGED_WITHIN, self._expected_charges),
            (CREDIT, _CREDITED_WITHIN, self._expected_credits),
        ):
            bookings = self._unnamed(kind, self._start, self._end)
            pairs = pair(bookings, expect(bookings), spans)
            if not pairs:
                continue
            with transaction.atomic():
                self._hold()
                LedgerEntry.objects.assign(pairs, is_guess=True)
            if kind == CREDIT:
                self._touched |= set(pairs.values())

    def _unnamed(self, kind: str, start: datetime, end: datetime) -> list[Booking]:
        """The open entries of which nothing says that they are another order's."""
        entries = LedgerEntry.objects.without_order(kind, start, end)
        if LedgerEntry.objects.names_orders(start, end):
            entries = entries.filter(objid="")
        return [Booking(*row) for row in entries.values_list("pk", "amount", "time")]

    def _expected_charges(self, bookings: Collection[Booking]) -> list[Expected]:
        amounts = {booking.amount for booking in bookings}
        found: list[Expected] = []
        for start, end in _stretches(bookings, before=_SKEW, after=_SKEW):
            orders = Order.objects.sent_between(start, end).only(*_NEEDED)
            found += (one for one in map(_charge, orders) if one and one.amount in amounts)
        return _without_entry(found, CHARGE)

    def _expected_credits(self, bookings: Collection[Booking]) -> list[Expected]:
        amounts = {booking.amount for booking in bookings}
        found: list[Expected] = []
        for start, end in _stretches(bookings, before=_SKEW, after=_UNNOTICED):
            orders = _refunding(start, end).only(*_NEEDED)
            found += (one for one in map(_credit, orders) if one and one.amount in amounts)
        return _without_entry(found, CREDIT)

    # Whether what was promised was credited.

    def judge(self, start: datetime) -> None:
        settled = _refunding(start - GRACE, self._end - GRACE)
        keys = self._touched | set(settled.values_list("pk", flat=True))
        account = _environment()
        for batch in batches(sorted(keys)):
            orders = Order.objects.only(*_NEEDED).in_bulk(batch).values()
            # The ledger of one account says nothing of the orders that another one bought.
            self._judge([order for order in orders if order.environment in {"", account}])

    def _judge(self, orders: Sequence[Order]) -> None:
        credited = LedgerEntry.objects.credited([order.pk for order in orders])
        verdicts = {
            order.pk: _verdict(order, credited.get(order.pk), read_until=self._end)
            for order in orders
        }
        lacking = [order for order in orders if verdicts[order.pk] is False]
        for order in self._undecided(o for o in lacking if o.pk not in credited):
            verdicts[order.pk] = None
        changed: defaultdict[bool | None, list[int]] = defaultdict(list)
        for order in orders:
            if verdicts[order.pk] != order.is_credited:
                changed[verdicts[order.pk]].append(order.pk)
        with transaction.atomic():
            self._hold()
            for verdict, keys in changed.items():
                Order.objects.filter(pk__in=keys).update(is_credited=verdict)

    def _undecided(self, orders: Iterable[Order]) -> Iterator[Order]:
        """Those of ``orders`` whose refund may be one of several open entries."""
        expected = [(order, one) for order in orders if (one := _credit(order))]
        if not expected:
            return
        widest = _CREDITED_WITHIN[-1]
        start = min(one.at for _order, one in expected) - widest.before
        end = max(one.at for _order, one in expected) + widest.after
        open_entries: defaultdict[Decimal, list[Booking]] = defaultdict(list)
        for booking in self._unnamed(CREDIT, start, end):
            open_entries[booking.amount].append(booking)
        for order, one in expected:
            if any(could_be(booking, one, widest) for booking in open_entries[one.amount]):
                yield order


def _verdict(order: Order, credited: Decimal | None, *, read_until: datetime) -> bool | None:
    """Whether what was credited is what was promised; ``None`` if that is open or was nothing."""
    breakdown = refund_breakdown(order)
    promised = breakdown.refunded_amount if breakdown else None
    if promised is None or order.settled_at is None:
        return None
    if promised == (credited or _ZERO):
        return True if promised else None
    is_late = order.settled_at + GRACE <= read_until
    return False if is_late or (credited or _ZERO) > promised else None


def _environment() -> str:
    """That of the account whose ledger is read; "" if it is not known."""
    key = ApiKey.objects.filter(pk=configured_key()).first()
    return key.environment if key else ""


# What orders should have booked.


def _ordered(order: Order) -> Decimal | None:
    price = order.price_at_placing if order.price_per_card is None else order.price_per_card
    return None if price is None else order.quantity * price


def _charge(order: Order) -> Expected | None:
    ordered = _ordered(order)
    if not ordered or order.sent_at is None:
        return None
    is_certain = order.status in ACCEPTED
    return Expected(order.pk, -ordered, order.sent_at, order.sent_at - _SKEW, is_certain)


def _credit(order: Order) -> Expected | None:
    breakdown = refund_breakdown(order)
    promised = breakdown.refunded_amount if breakdown else None
    if not promised or order.settled_at is None:
        return None
    sent_at = order.sent_at or order.created_at
    return Expected(order.pk, promised, order.settled_at, sent_at - _SKEW)


def _within_price(
    named: Iterable[tuple[int, Order, Decimal]], charged: dict[int, Decimal]
) -> list[tuple[int, Order, Decimal]]:
    """Without the entries that charge an order for more than it costs, beyond the first."""
    kept = []
    for key, order, amount in named:
        total, ordered = charged.get(order.pk, _ZERO) + amount, _ordered(order)
        if order.pk in charged and ordered is not None and -total > ordered:
            continue
        charged[order.pk] = total
        kept.append((key, order, amount))
    return kept


def _refunding(start: datetime, end: datetime) -> OrderQuerySet:
    """Orders settled from ``start`` to ``end`` for which the provider promised a refund."""
    settled = Order.objects.filter(settled_at__range=(start, end), status__in=_REFUNDING)
    return settled.order_by("settled_at", "pk")


def _without_entry(expected: Iterable[Expected], kind: str) -> list[Expected]:
    by_key = {one.key: one for one in expected}
    for batch in batches(list(by_key)):
        entries = LedgerEntry.objects.filter(order__in=batch, type=kind).order_by()
        for key in entries.values_list("order_id", flat=True):
            by_key.pop(key, None)
    return list(by_key.values())


def _stretches(
    bookings: Iterable[Booking], *, before: timedelta, after: timedelta
) -> list[tuple[datetime, datetime]]:
    """The times that lie so near to a booking, as few stretches that do not overlap."""
    stretches: list[tuple[datetime, datetime]] = []
    for time in sorted(booking.time for booking in bookings):
        start, end = time - before, time + after
        if stretches and start <= stretches[-1][1]:
            start = stretches.pop()[0]
        stretches.append((start, end))
    return stretches
