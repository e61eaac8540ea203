"""Matching by amount and time: whole sets are compared, so only surplus items stay unmatched."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giftcards.books.pairing import Expected, Span, Transaction, learn_offset, pair

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
NARROW = Span(timedelta(seconds=5), timedelta(seconds=5))
WIDE = Span(timedelta(minutes=5), timedelta(minutes=5))
SPANS = [NARROW, WIDE]
PRICE = Decimal(-980)
OTHER = Decimal(-490)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def transaction(key: int, seconds: float, amount: Decimal = PRICE) -> Transaction:
    return Transaction(key, amount, after(seconds))


def expected(key: int, seconds: float, amount: Decimal = PRICE) -> Expected:
    return Expected(key, amount, after(seconds), after(seconds - 300))


@pytest.mark.parametrize(
    ("listed", "ordered", "pairs"),
    [
        pytest.param([200], [0], {0: 0}, id="one of each"),
        pytest.param([-301], [0], {}, id="too early"),
        pytest.param([-300], [0], {0: 0}, id="as early as can be"),
        pytest.param([300], [0], {0: 0}, id="as late as can be"),
        pytest.param([301], [0], {}, id="too late"),
        pytest.param([300, 300], [0, 600], {0: 0, 1: 1}, id="where two windows touch"),
        pytest.param([0, 0.5], [0, 0.5], {0: 0, 1: 1}, id="as many as orders"),
        pytest.param([0], [0, 0.5], {0: 0}, id="one too few"),
        pytest.param([0, 0.5], [0], {0: 0}, id="one too many"),
        pytest.param([-100, 1, 200], [0], {1: 0}, id="what is near before what is far"),
        pytest.param([1, 61, 200], [0, 60, 121], {0: 0, 1: 1, 2: 2}, id="near ones first"),
        pytest.param([288, 580], [0, 290], {0: 0, 1: 1}, id="far ones rather than fewer"),
    ],
)
def test_as_many_as_can_be_are_paired(
    listed: list[float], ordered: list[float], pairs: dict[int, int]
) -> None:
    transactions = [transaction(*one) for one in enumerate(listed)]
    orders = [expected(*one) for one in enumerate(ordered)]
    assert pair(transactions, orders, SPANS) == pairs


def test_another_amount_is_not_paired() -> None:
    assert pair([transaction(1, 0, OTHER)], [expected(7, 0)], SPANS) == {}


@pytest.mark.parametrize("keys", [(1, 2), (2, 1)])
def test_of_two_transactions_at_once_the_first_key_is_paired_in_whatever_order_they_come(
    keys: tuple[int, int],
) -> None:
    assert pair([transaction(key, 0) for key in keys], [expected(7, 0)], SPANS) == {1: 7}


def test_nothing_is_booked_before_the_order_was_sent() -> None:
    order = Expected(7, PRICE, after(3600), after(3590))
    span = Span(timedelta(hours=12), timedelta(minutes=5))
    assert pair([transaction(1, 0)], [order], [span]) == {}
    assert pair([transaction(1, 3591)], [order], [span]) == {1: 7}


def most_pairs(transactions: list[Transaction], orders: list[Expected], span: Span) -> int:
    """Return the largest possible number of pairs (Kuhn's algorithm)."""

    def fits(one: Transaction, order: Expected) -> bool:
        first = max(order.at - span.before, order.earliest)
        return one.amount == order.amount and first <= one.time <= order.at + span.after

    taken: dict[int, Transaction] = {}

    def place(one: Transaction, tried: set[int]) -> bool:
        for order in orders:
            if order.key not in tried and fits(one, order):
                tried.add(order.key)
                if order.key not in taken or place(taken[order.key], tried):
                    taken[order.key] = one
                    return True
        return False

    return sum(place(one, set()) for one in transactions)


AMOUNTS = st.sampled_from([PRICE, OTHER])
POINTS = st.lists(st.tuples(st.integers(0, 900), AMOUNTS), max_size=14)


@given(POINTS, POINTS)
def test_no_way_to_pair_them_leaves_less_open(
    listed: list[tuple[int, Decimal]], sent: list[tuple[int, Decimal]]
) -> None:
    transactions = [transaction(key, *one) for key, one in enumerate(listed)]
    orders = [expected(key, *one) for key, one in enumerate(sent, start=100)]
    pairs = pair(transactions, orders, SPANS)
    assert len(set(pairs.values())) == len(pairs) == most_pairs(transactions, orders, WIDE)
    by_key = {one.key: one for one in orders}
    for one in transactions:
        if one.key in pairs:
            assert len(pair([one], [by_key[pairs[one.key]]], [WIDE])) == 1


# Honest orders: the time of sending, the cost, and the time that the provider took.
SENT = st.lists(st.tuples(st.floats(0, 7200), AMOUNTS), min_size=1, max_size=30)
LAGS = st.lists(st.floats(0, 20), min_size=30, max_size=30)
AHEAD = st.integers(-270, 270)


def learnt(transactions: list[Transaction], orders: list[Expected]) -> timedelta:
    return learn_offset(transactions, orders, tolerance=timedelta(minutes=5))


def by_our_clock(transactions: list[Transaction], offset: timedelta) -> list[Transaction]:
    return [Transaction(one.key, one.amount, one.time - offset) for one in transactions]


def spans_at(offset: timedelta) -> list[Span]:
    nothing = timedelta(0)
    return [NARROW, Span(WIDE.before + max(offset, nothing), WIDE.after + max(-offset, nothing))]


def honest(
    sent: list[tuple[float, Decimal]], lags: list[float], ahead: int
) -> tuple[list[Transaction], list[Expected]]:
    orders = [
        Expected(key, amount, after(seconds), after(seconds - 600))
        for key, (seconds, amount) in enumerate(sent)
    ]
    transactions = [
        transaction(key, seconds + lag + ahead, amount)
        for key, ((seconds, amount), lag) in enumerate(zip(sent, lags, strict=False))
    ]
    return transactions, orders


@given(SENT, LAGS, AHEAD, st.sets(st.integers(0, 29)), st.lists(AMOUNTS, max_size=5))
def test_honest_orders_leave_nothing_open_and_what_lacks_or_is_foreign_is_counted_exactly(
    sent: list[tuple[float, Decimal]],
    lags: list[float],
    ahead: int,
    lacking: set[int],
    foreign: list[Decimal],
) -> None:
    transactions, orders = honest(sent, lags, ahead)

    def count(transactions: list[Transaction]) -> int:
        offset = learnt(transactions, orders)
        return len(pair(by_our_clock(transactions, offset), orders, spans_at(offset)))

    assert count(transactions) == len(orders)
    left = [one for one in transactions if one.key not in lacking]
    assert count(left) == len(left)
    others = [transaction(1_000 + number, 60 * number, each) for number, each in enumerate(foreign)]
    assert count(transactions + others) == len(orders)


@given(LAGS, AHEAD, st.integers(0, 10_000).map(random.Random))
def test_the_offset_of_the_provider_clock_is_learnt_from_entries_that_nothing_tells_apart(
    lags: list[float], ahead: int, chance: random.Random
) -> None:
    # Equal orders, twelve seconds apart on average. The provider takes at most three seconds for
    # each.
    times = sorted(chance.uniform(0, 360) for _order in range(30))
    sent = [(seconds, PRICE) for seconds in times]
    transactions, orders = honest(sent, [lag / 7 for lag in lags], ahead)
    found = learnt(transactions, orders).total_seconds()
    assert ahead - 2 <= found <= ahead + 5


@pytest.mark.parametrize(
    ("differences", "offset"),
    [
        ([], 0),
        ([301], 0),
        ([90], 90),
        ([90, 91, 92], 91),
        # These differences are within two seconds.
        ([-10, 90, 92], 90),
        ([-10, 90, 93], -10),
        # In a tie, the value nearest to 0 is used.
        ([-20, 50], -20),
        ([-50, 20], 20),
    ],
)
def test_the_clocks_differ_by_what_most_pairs_differ_by_or_not_at_all_without_a_pair(
    differences: list[float], offset: float
) -> None:
    amounts = [Decimal(-100 - number) for number in range(len(differences))]
    orders = [expected(key, 0, amount) for key, amount in enumerate(amounts)]
    transactions = [
        transaction(key, differences[key], amount) for key, amount in enumerate(amounts)
    ]
    assert learnt(transactions, orders) == timedelta(seconds=offset)


@pytest.mark.parametrize(
    "apart", [pytest.param(36, id="overlapping windows"), pytest.param(900, id="separate windows")]
)
def test_pairing_takes_about_twice_as_many_steps_for_twice_as_many(apart: int) -> None:
    def steps(count: int) -> int:
        """Return the number of executed lines of Python."""
        orders = [expected(number, apart * number) for number in range(count)]
        transactions = [transaction(number, apart * number + 90) for number in range(count)]
        lines = 0

        def trace(_frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
            nonlocal lines
            lines += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            pairs = pair(transactions, orders, SPANS)
        finally:
            sys.settrace(before)
        assert len(pairs) == count
        return lines

    assert steps(1_000) < 5 * steps(250)
