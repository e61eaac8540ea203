"""The geometry of the charts: shapes stay inside the box and are as long as their amounts."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giftcards.books.admin.reports import bar_boxes, column_boxes, labelled, middle, scale

AMOUNTS = st.decimals(0, 9_999_999, places=2)
ROWS = st.integers(1, 3).flatmap(
    lambda series: st.lists(
        st.lists(AMOUNTS, min_size=series, max_size=series), min_size=1, max_size=40
    )
)
# Positions are rounded to this value, in percent.
EXACT = Decimal("0.001")


def number(percent: str) -> Decimal:
    return Decimal(percent.removesuffix("%"))


def decimals(*values: int) -> list[Decimal]:
    return [Decimal(value) for value in values]


def is_inside(start: str, length: str) -> bool:
    return number(start) >= 0 and number(length) >= 0 and number(start) + number(length) <= 100


def top_of(rows: list[list[Decimal]]) -> int:
    return scale(max(sum(row, Decimal(0)) for row in rows))[-1]


@given(ROWS)
def test_columns_never_leave_the_box_and_never_meet(rows: list[list[Decimal]]) -> None:
    ends = [Decimal(0)]
    for column in column_boxes(rows, top_of(rows)):
        for box in column:
            assert is_inside(box.y, box.height)
            assert is_inside(box.x, box.width)
            assert number(box.x) >= ends[-1] - EXACT
        if column:
            ends.append(number(column[0].x) + number(column[0].width))
    assert all(0 < middle(place, len(rows)) < 100 for place in range(len(rows)))


@given(ROWS)
def test_the_height_of_a_part_is_its_share_and_each_stands_on_the_one_before(
    rows: list[list[Decimal]],
) -> None:
    top = top_of(rows)
    for column, row in zip(column_boxes(rows, top), rows, strict=True):
        assert [box.series for box in column] == [
            series for series, value in enumerate(row) if value
        ]
        line = Decimal(100)
        for box in column:
            assert abs(number(box.height) - row[box.series] / top * 100) <= EXACT
            assert number(box.y) + number(box.height) == line
            line = number(box.y)


@given(ROWS)
def test_bars_never_leave_the_box_and_have_one_scale(rows: list[list[Decimal]]) -> None:
    shares = set()
    for bar, row in zip(bar_boxes(rows), rows, strict=True):
        for box in bar:
            assert is_inside(box.x, box.width)
            assert (box.y, box.height) == ("0%", "100%")
            if row[box.series] > 100_000:
                shares.add(round(number(box.width) / row[box.series] * 1_000_000))
    assert not shares or max(shares) - min(shares) <= 1


@given(AMOUNTS)
def test_the_marks_of_a_scale_are_whole_even_and_enclose_the_amounts(highest: Decimal) -> None:
    marks = scale(highest)
    assert marks[0] == 0
    assert marks[-1] >= highest
    assert len({after - before for before, after in pairwise(marks)}) == 1
    assert 2 <= len(marks) <= 6


@pytest.mark.parametrize(
    ("highest", "marks"),
    [
        ("0", [0, 1]),
        ("0.01", [0, 1]),
        ("1", [0, 1]),
        ("3", [0, 1, 2, 3]),
        ("5", [0, 2, 4, 6]),
        ("980", [0, 500, 1000]),
        ("2450", [0, 1000, 2000, 3000]),
        ("1234567.5", [0, 500_000, 1_000_000, 1_500_000]),
    ],
)
def test_marks_are_round_numbers(highest: str, marks: list[int]) -> None:
    assert scale(Decimal(highest)) == marks


def test_an_amount_of_0_is_not_drawn() -> None:
    assert list(column_boxes([decimals(0, 0)], 1)) == [[]]
    assert list(bar_boxes([decimals(0)])) == [[]]


def test_a_single_column_stands_in_the_middle_and_is_no_wall() -> None:
    [[box]] = column_boxes([decimals(100)], 100)
    assert (number(box.x), number(box.width)) == (44, 12)


def test_the_guides_order_is_drawn_as_three_parts_and_two() -> None:
    [[delivered, missing]] = column_boxes([decimals(3, 2)], 6)
    assert (delivered.y, delivered.height) == ("50.000%", "50.000%")
    assert (missing.y, missing.height) == ("16.667%", "33.333%")


@pytest.mark.parametrize("places", [0, 1, 2, 8, 9, 28, 31, 366])
def test_at_most_eight_places_have_labels_evenly_from_the_first(places: int) -> None:
    found = list(labelled(places))
    assert len(found) <= 8
    assert found[:1] == [0][:places]
    assert len({after - before for before, after in pairwise(found)}) <= 1
