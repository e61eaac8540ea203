"""Pairing by amount and time: only what fits one way is paired."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from giftcards.ledger.pairing import Booking, Expected, Span, could_be, pair

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
NARROW = Span(timedelta(seconds=5), timedelta(seconds=5))
WIDE = Span(timedelta(minutes=5), timedelta(minutes=5))
PRICE = Decimal(-980)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def booking(key: int, seconds: float, amount: Decimal = PRICE) -> Booking:
    return Booking(key, amount, after(seconds))


def expected(key: int, seconds: float, amount: Decimal = PRICE, **values: bool) -> Expected:
    return Expected(key, amount, after(seconds), after(seconds - 300), **values)


def test_a_booking_and_an_order_that_fit_nothing_else_are_paired() -> None:
    assert pair([booking(1, 200)], [expected(7, 0)], [NARROW, WIDE]) == {1: 7}


def test_another_amount_or_another_time_is_not_paired() -> None:
    bookings = [booking(1, 0, Decimal(-490)), booking(2, 301)]
    assert pair(bookings, [expected(7, 0)], [NARROW, WIDE]) == {}


def test_two_of_the_same_amount_in_the_same_second_stay_open() -> None:
    bookings = [booking(1, 0), booking(2, 0.5)]
    orders = [expected(7, 0), expected(8, 0.5)]
    assert pair(bookings, orders, [NARROW, WIDE]) == {}
    assert pair(bookings[:1], orders, [NARROW, WIDE]) == {}
    assert pair(bookings, orders[:1], [NARROW, WIDE]) == {}


def test_what_is_near_is_paired_before_what_is_far() -> None:
    bookings = [booking(1, 1), booking(2, 61), booking(3, 200)]
    orders = [expected(7, 0), expected(8, 60), expected(9, 121)]
    assert pair(bookings, orders, [NARROW, WIDE]) == {1: 7, 2: 8, 3: 9}


def test_an_order_that_may_not_have_been_bought_gets_none_and_keeps_others_from_theirs() -> None:
    lost = expected(8, 1, is_certain=False)
    assert pair([booking(1, 0)], [lost], [WIDE]) == {}
    assert pair([booking(1, 0)], [lost, expected(7, 0)], [WIDE]) == {}


def test_nothing_is_booked_before_the_order_was_sent() -> None:
    order = Expected(7, PRICE, after(3600), after(3590))
    span = Span(timedelta(hours=12), timedelta(minutes=5))
    assert pair([booking(1, 0)], [order], [span]) == {}
    assert pair([booking(1, 3591)], [order], [span]) == {1: 7}


AMOUNTS = st.sampled_from([PRICE, Decimal(-490)])
POINTS = st.lists(st.tuples(st.integers(0, 600), AMOUNTS), max_size=12)


@given(POINTS, POINTS)
def test_a_pair_fits_and_at_its_span_neither_fits_anything_else_that_is_left(
    booked: list[tuple[int, Decimal]], sent: list[tuple[int, Decimal]]
) -> None:
    bookings = [booking(key, *one) for key, one in enumerate(booked)]
    orders = [expected(key, *one) for key, one in enumerate(sent, start=100)]
    left = bookings, orders
    expected_pairs: dict[int, int] = {}
    for span in (NARROW, WIDE):
        fits = [(b.key, o.key) for b in left[0] for o in left[1] if could_be(b, o, span)]
        expected_pairs |= {
            b: o for b, o in fits if [one for one in fits if one[0] == b or one[1] == o] == [(b, o)]
        }
        left = (
            [b for b in bookings if b.key not in expected_pairs],
            [o for o in orders if o.key not in expected_pairs.values()],
        )
    assert pair(bookings, orders, [NARROW, WIDE]) == expected_pairs
