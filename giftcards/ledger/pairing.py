"""Which booking is which order's, by amount and time alone: pure, and sure or silent."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Booking:
    """An entry of the ledger; ``amount`` is signed."""

    key: int
    amount: Decimal
    time: datetime


@dataclass(frozen=True, slots=True)
class Expected:
    """What an order should have booked: ``amount``, about ``at``, and never before ``earliest``.

    ``is_certain``: whether it is known that it was booked. If not, it gets no booking, but it may
    keep another order from getting one.
    """

    key: int
    amount: Decimal
    at: datetime
    earliest: datetime
    is_certain: bool = True


@dataclass(frozen=True, slots=True)
class Span:
    """How far before and after the moment that is expected something may have been booked."""

    before: timedelta
    after: timedelta


def pair(
    bookings: Collection[Booking], expected: Collection[Expected], spans: Iterable[Span]
) -> dict[int, int]:
    """Return the orders of bookings, by key: those that fit each other and nothing else.

    The spans are tried in turn, the narrowest first, on what the ones before have left.
    """
    pairs: dict[int, int] = {}
    for span in spans:
        taken = set(pairs.values())
        pairs |= _unique_pairs(
            [booking for booking in bookings if booking.key not in pairs],
            [one for one in expected if one.key not in taken],
            span,
        )
    return pairs


def could_be(booking: Booking, one: Expected, span: Span) -> bool:
    """Whether the booking may be the one that is expected."""
    first, last = _reach(one, span)
    return booking.amount == one.amount and first <= booking.time <= last


def _reach(one: Expected, span: Span) -> tuple[datetime, datetime]:
    return max(one.at - span.before, one.earliest), one.at + span.after


def _unique_pairs(
    bookings: Iterable[Booking], expected: Iterable[Expected], span: Span
) -> dict[int, int]:
    booked: defaultdict[Decimal, list[Booking]] = defaultdict(list)
    for booking in sorted(bookings, key=lambda booking: booking.time):
        booked[booking.amount].append(booking)
    wanted: defaultdict[Decimal, list[Expected]] = defaultdict(list)
    for one in expected:
        wanted[one.amount].append(one)
    pairs: dict[int, int] = {}
    for amount, ones in wanted.items():
        pairs |= _unique_pairs_of(booked[amount], ones, span)
    return pairs


def _unique_pairs_of(
    bookings: Sequence[Booking], expected: Iterable[Expected], span: Span
) -> dict[int, int]:
    """The pairs of bookings and orders of one amount; ``bookings`` are sorted by time."""
    times = [booking.time for booking in bookings]
    # How many orders begin, less how many have ended, at each booking: summed up, how many fit it.
    steps = [0] * (len(times) + 1)
    candidates: dict[int, int] = {}
    for one in expected:
        first, last = _reach(one, span)
        begin, end = bisect_left(times, first), bisect_right(times, last)
        if begin >= end:
            continue
        steps[begin] += 1
        steps[end] -= 1
        if end - begin == 1 and one.is_certain:
            candidates[begin] = one.key
    fitting = list(accumulate(steps))
    return {
        bookings[position].key: order
        for position, order in candidates.items()
        if fitting[position] == 1
    }
