"""Pair transactions with orders by amount and time.

Transactions with equal amounts cannot be distinguished. Therefore each pair is a guess, and the
functions make as many pairs as possible. The functions use neither the database nor the network.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from heapq import heappop, heappush
from operator import attrgetter
from typing import NamedTuple, TypeVar

# The usual variation of the time that the provider takes to list an order.
_JITTER = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Transaction:
    """An entry in the ledger. ``amount`` is signed."""

    key: int
    amount: Decimal
    time: datetime


@dataclass(frozen=True, slots=True)
class Expected:
    """An order that should have a transaction near an expected time.

    The time of the transaction is never before ``earliest``.
    """

    key: int
    amount: Decimal
    at: datetime
    earliest: datetime


@dataclass(frozen=True, slots=True)
class Span:
    """The tolerance for the time of a transaction.

    The attributes ``before`` and ``after`` say how much earlier or later than expected a
    transaction can be.
    """

    before: timedelta
    after: timedelta


class _Window(NamedTuple):
    first: datetime
    last: datetime
    order: int


T = TypeVar("T", Transaction, Expected)


def pair(
    transactions: Collection[Transaction], expected: Collection[Expected], spans: Sequence[Span]
) -> dict[int, int]:
    """Return pairs of transactions and orders.

    The result maps transaction keys to order keys. ``spans`` is sorted from narrowest to widest.
    The function tries narrow spans first, to pair transactions with orders at nearly the same time.
    If the widest span by itself would give more pairs, the function uses only the widest span.
    """
    pairs: dict[int, int] = {}
    for listed, ones in _sets(transactions, expected, spans[-1]):
        pairs |= _pair_set(listed, ones, spans)
    return pairs


def _sets(
    transactions: Iterable[Transaction], expected: Iterable[Expected], span: Span
) -> Iterator[tuple[list[Transaction], list[Expected]]]:
    """Yield sets of transactions and orders that can be paired separately."""
    listed = _by_amount(sorted(transactions, key=attrgetter("time", "key")))
    for amount, ones in _by_amount(expected).items():
        for part in _overlapping(ones, span):
            windows = [_window(one, span) for one in part]
            first = min(window.first for window in windows)
            last = max(window.last for window in windows)
            yield _between(listed[amount], first, last, time=attrgetter("time")), part


def _between(
    items: list[T], first: datetime, last: datetime, *, time: Callable[[T], datetime]
) -> list[T]:
    return items[bisect_left(items, first, key=time) : bisect_right(items, last, key=time)]


def _by_amount(items: Iterable[T]) -> defaultdict[Decimal, list[T]]:
    groups: defaultdict[Decimal, list[T]] = defaultdict(list)
    for item in items:
        groups[item.amount].append(item)
    return groups


def _overlapping(expected: Iterable[Expected], span: Span) -> list[list[Expected]]:
    groups: list[list[Expected]] = []
    end: datetime | None = None
    for one in sorted(expected, key=lambda one: (_window(one, span).first, one.key)):
        window = _window(one, span)
        if end is None or window.first > end:
            groups.append([])
            end = window.last
        groups[-1].append(one)
        end = max(end, window.last)
    return groups


def _pair_set(
    transactions: Collection[Transaction], expected: Collection[Expected], spans: Sequence[Span]
) -> dict[int, int]:
    near: dict[int, int] = {}
    for span in spans:
        taken = set(near.values())
        near |= _most_pairs(
            [transaction for transaction in transactions if transaction.key not in near],
            [one for one in expected if one.key not in taken],
            span,
        )
    most = _most_pairs(transactions, expected, spans[-1])
    return near if len(near) == len(most) else most


def _most_pairs(
    transactions: Iterable[Transaction], expected: Iterable[Expected], span: Span
) -> dict[int, int]:
    """Return as many pairs as possible.

    ``transactions`` must be sorted by time. A transaction fits an order if the time of the
    transaction is inside the order's window. A transaction that fits several orders is paired with
    the order whose window ends first.
    """
    coming = sorted((_window(one, span) for one in expected), reverse=True)
    begun: list[tuple[datetime, int]] = []
    pairs: dict[int, int] = {}
    for transaction in transactions:
        while coming and coming[-1].first <= transaction.time:
            window = coming.pop()
            heappush(begun, (window.last, window.order))
        while begun and begun[0][0] < transaction.time:
            heappop(begun)
        if begun:
            pairs[transaction.key] = heappop(begun)[1]
    return pairs


def _window(one: Expected, span: Span) -> _Window:
    return _Window(max(one.at - span.before, one.earliest), one.at + span.after, one.key)


def learn_offset(
    transactions: Iterable[Transaction], expected: Iterable[Expected], *, tolerance: timedelta
) -> timedelta:
    """Return the offset between the clocks of the transactions and the orders.

    The offset is positive if the transactions' clock is ahead. The offset is the most frequent time
    difference between transactions and orders of equal amounts. This method works because the
    difference is nearly the same for all correct pairs, and arbitrary for wrong pairs. Pairs whose
    times differ by more than ``tolerance`` do not count. If there are no pairs, the offset is 0.
    """
    at = attrgetter("at")
    wanted = _by_amount(sorted(expected, key=at))
    differences = sorted(
        transaction.time - one.at
        for transaction in transactions
        for one in _between(
            wanted[transaction.amount],
            transaction.time - tolerance,
            transaction.time + tolerance,
            time=at,
        )
    )
    return _densest(differences)


def _densest(differences: Sequence[timedelta]) -> timedelta:
    """Return the middle of the densest cluster of the sorted ``differences``.

    If several clusters are equally dense, the cluster nearest to 0 is used.
    """
    best, most = timedelta(0), 0
    for position, least in enumerate(differences):
        end = bisect_right(differences, least + _JITTER)
        middle = differences[(position + end - 1) // 2]
        if (end - position, -abs(middle)) > (most, -abs(best)):
            best, most = middle, end - position
    return best
