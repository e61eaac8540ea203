"""The geometry of the charts: what is drawn stays in its box, and is as long as its amount."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giftcards.books.admin.charts import Box, bars, columns, labelled, scale

AMOUNTS = st.decimals(-9_999_999, 9_999_999, places=2)
ROWS = st.integers(1, 3).flatmap(
    lambda series: st.lists(
        st.lists(AMOUNTS, min_size=series, max_size=series), min_size=1, max_size=40
    )
)
# Places are rounded to this, in percent.
EXACT = Decimal("0.001")


def number(percent: str) -> Decimal:
    return Decimal(percent.removesuffix("%"))


def decimals(*values: int | str) -> list[Decimal]:
    return [Decimal(value) for value in values]


def is_inside(start: str, length: str) -> bool:
    return number(start) >= 0 and number(length) >= 0 and number(start) + number(length) <= 100


@given(ROWS)
def test_columns_never_leave_the_box_and_never_meet(rows: list[list[Decimal]]) -> None:
    drawn = columns(rows)

    ends = [Decimal(0)]
    for column in drawn.columns:
        for box in column:
            assert is_inside(box.y, box.height)
            assert is_inside(box.x, box.width)
            assert number(box.x) >= ends[-1] - EXACT
        if column:
            ends.append(number(column[0].x) + number(column[0].width))
    assert all(0 < number(middle) < 100 for middle in drawn.middles)


@given(ROWS)
def test_the_height_of_a_part_is_its_share_of_the_scale(rows: list[list[Decimal]]) -> None:
    drawn = columns(rows)

    spread = drawn.marks[-1].value - drawn.marks[0].value
    for column, row in zip(drawn.columns, rows, strict=True):
        assert [box.series for box in column] == [
            series for series, value in enumerate(row) if value
        ]
        for box in column:
            share = abs(row[box.series]) / spread * 100
            assert abs(number(box.height) - share) <= EXACT


@given(ROWS)
def test_what_is_above_zero_stands_on_the_line_and_what_is_below_hangs_from_it(
    rows: list[list[Decimal]],
) -> None:
    drawn = columns(rows)

    zero = number(drawn.zero)
    for column, row in zip(drawn.columns, rows, strict=True):
        for box in column:
            top, bottom = number(box.y), number(box.y) + number(box.height)
            assert bottom <= zero if row[box.series] > 0 else top >= zero
        above = [box for box in column if row[box.series] > 0]
        below = [box for box in column if row[box.series] < 0]
        assert are_stacked([number(box.y) + number(box.height) for box in above], zero, above)
        assert are_stacked([number(box.y) for box in below], zero, below)


def are_stacked(starts: list[Decimal], zero: Decimal, boxes: Sequence[Box]) -> bool:
    """Whether each of the parts begins where the one before it ends."""
    ends = [
        number(box.y) if start > number(box.y) else number(box.y) + number(box.height)
        for start, box in zip(starts, boxes, strict=True)
    ]
    return all(start == end for start, end in zip(starts, [zero, *ends], strict=False))


@given(ROWS)
def test_bars_never_leave_the_box_and_have_one_scale(rows: list[list[Decimal]]) -> None:
    drawn = bars(rows)

    shares = set()
    for bar, row in zip(drawn.bars, rows, strict=True):
        for box in bar:
            assert is_inside(box.x, box.width)
            assert (box.y, box.height) == ("0%", "100%")
            if abs(row[box.series]) > 100_000:
                shares.add(round(number(box.width) / abs(row[box.series]) * 1_000_000))
    assert 0 <= number(drawn.zero) <= 100
    assert not shares or max(shares) - min(shares) <= 1


@given(AMOUNTS, AMOUNTS)
def test_the_marks_of_a_scale_are_whole_even_and_enclose_the_amounts(
    one: Decimal, other: Decimal
) -> None:
    low, high = sorted((one, other))

    marks = scale(low, high)

    assert marks[0] <= min(low, Decimal(0))
    assert marks[-1] >= max(high, Decimal(0))
    assert Decimal(0) in marks
    assert all(mark == mark.to_integral_value() for mark in marks)
    assert len({after - before for before, after in pairwise(marks)}) == 1
    assert 2 <= len(marks) <= 7


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        ("0", "0", (0, 1)),
        ("0", "0.01", (0, 1)),
        ("0", "1", (0, 1)),
        ("0", "3", (0, 1, 2, 3)),
        ("0", "5", (0, 2, 4, 6)),
        ("0", "980", (0, 500, 1000)),
        ("0", "2450", (0, 1000, 2000, 3000)),
        ("0", "1234567.5", (0, 500_000, 1_000_000, 1_500_000)),
        ("-120", "0", (-150, -100, -50, 0)),
        ("-120", "1000", (-500, 0, 500, 1000)),
    ],
)
def test_marks_are_round_numbers(low: str, high: str, marks: tuple[int, ...]) -> None:
    assert scale(Decimal(low), Decimal(high)) == marks


def test_an_amount_of_0_is_not_drawn() -> None:
    assert columns([decimals(0, 0)]).columns == ((),)
    assert bars([decimals(0)]).bars == ((),)


def test_no_rows_are_an_empty_box() -> None:
    assert columns([]).columns == ()
    assert columns([]).zero == "100.000%"
    assert bars([]).bars == ()


def test_a_single_column_stands_in_the_middle_and_is_no_wall() -> None:
    [[box]] = columns([decimals(100)]).columns

    assert (number(box.x), number(box.width)) == (44, 12)


def test_the_guides_order_is_drawn_as_three_parts_and_two() -> None:
    [[delivered, missing]] = columns([decimals(3, 2)]).columns

    # Of six, which is the highest mark.
    assert (delivered.y, delivered.height) == ("50.000%", "50.000%")
    assert (missing.y, missing.height) == ("16.667%", "33.333%")


@pytest.mark.parametrize("places", [0, 1, 2, 8, 9, 28, 31, 366])
def test_at_most_eight_places_have_labels_evenly_from_the_first(places: int) -> None:
    found = sorted(labelled(places))

    assert len(found) <= 8
    assert found[:1] == [0][:places]
    assert len({after - before for before, after in pairwise(found)}) <= 1
