"""Bar charts as geometry: numbers in, positions in percent of a box out. No HTML, no words.

Positions are percentages because the box has no size of its own: the same drawing is as wide as a
phone, a desktop or a sheet of paper, and its letters stay as large as those of the page.

The axes run from left to right in every language. Algeria writes numbers, formulas and the axes of
diagrams that way in Arabic too, and so do the statements that people compare with a chart. Bars of
products have no axis: the style sheet lets them begin where a line of text begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from math import ceil

# The approximate number of intervals on an axis.
_MARKED = 4
# The share of its slot that a column fills, and its largest width in percent of the box.
_FILLED = Decimal("0.7")
_WIDEST = Decimal(12)
# The most columns with gaps between them: a screen has no room for more gaps.
_DENSE = 90
# The most labels that fit side by side below an axis.
_MOST_LABELS = 8

# A part of a stacked bar: the amounts at its start and at its end.
Extent = tuple[Decimal, Decimal]


@dataclass(frozen=True, slots=True)
class Box:
    """The position and size of a part of a bar, in percent, and the number of its series."""

    series: int
    x: str
    y: str
    width: str
    height: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A value on the axis, and its position in percent."""

    value: Decimal
    at: str


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns side by side, each of stacked parts; ``middles`` are their positions on the axis."""

    columns: tuple[tuple[Box, ...], ...]
    middles: tuple[str, ...]
    marks: tuple[Mark, ...]
    zero: str


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars below each other, each in a box of its own; all of them have one scale."""

    bars: tuple[tuple[Box, ...], ...]
    zero: str


def columns(rows: Sequence[Sequence[Decimal]]) -> Columns:
    """Draw a column for each of ``rows``, which all have one value for each series."""
    stacks = [_stack(row) for row in rows]
    marks = scale(*_range(stacks))
    place = Decimal(100) / max(len(rows), 1)
    width = min(place * (_FILLED if len(rows) <= _DENSE else 1), _WIDEST)

    def height_of(value: Decimal) -> Decimal:
        return _percent((marks[-1] - value) / (marks[-1] - marks[0]))

    def boxes(number: int, stack: Sequence[Extent]) -> Iterator[Box]:
        left = (number + Decimal("0.5")) * place - width / 2
        for series, (start, end) in enumerate(stack):
            if start != end:
                top, bottom = height_of(max(start, end)), height_of(min(start, end))
                yield Box(series, _text(left), _text(top), _text(width), _text(bottom - top))

    return Columns(
        columns=tuple(tuple(boxes(number, stack)) for number, stack in enumerate(stacks)),
        middles=tuple(_text((number + Decimal("0.5")) * place) for number in range(len(rows))),
        marks=tuple(Mark(value, _text(height_of(value))) for value in marks),
        zero=_text(height_of(Decimal(0))),
    )


def bars(rows: Sequence[Sequence[Decimal]]) -> Bars:
    """Draw a bar for each of ``rows``, which all have one value for each series."""
    stacks = [_stack(row) for row in rows]
    low, high = _range(stacks)
    spread = high - low or Decimal(1)

    def place_of(value: Decimal) -> Decimal:
        return _percent((value - low) / spread)

    def boxes(stack: Sequence[Extent]) -> Iterator[Box]:
        for series, (start, end) in enumerate(stack):
            if start != end:
                left, right = place_of(min(start, end)), place_of(max(start, end))
                yield Box(series, _text(left), "0%", _text(right - left), "100%")

    return Bars(tuple(tuple(boxes(stack)) for stack in stacks), zero=_text(place_of(Decimal(0))))


def scale(low: Decimal, high: Decimal) -> tuple[Decimal, ...]:
    """The values to mark on an axis: 0 and others, from ``low`` or less to ``high`` or more.

    They are multiples of a round whole number: neither a part of a card nor centimes are worth a
    line.
    """
    low, high = min(low, Decimal(0)), max(high, Decimal(0))
    step = max(_round_up((high - low) / _MARKED), Decimal(1))
    first = (low / step).to_integral_value(ROUND_FLOOR)
    last = max((high / step).to_integral_value(ROUND_CEILING), first + 1)
    return tuple(step * number for number in range(int(first), int(last) + 1))


def labelled(places: int) -> frozenset[int]:
    """The indexes, out of ``places``, that get a label: 0, and others at equal distances."""
    distance = max(ceil(places / _MOST_LABELS), 1)
    return frozenset(range(0, places, distance))


def _stack(values: Sequence[Decimal]) -> list[Extent]:
    """Stack the values: those above 0 upwards from 0, the others downwards."""
    ends = {True: Decimal(0), False: Decimal(0)}
    extents = []
    for value in values:
        start = ends[value > 0]
        ends[value > 0] = start + value
        extents.append((start, start + value))
    return extents


def _range(stacks: Sequence[Sequence[Extent]]) -> tuple[Decimal, Decimal]:
    ends = [Decimal(0), *(end for stack in stacks for _start, end in stack)]
    return min(ends), max(ends)


def _round_up(value: Decimal) -> Decimal:
    """Round a positive value up to 1, 2 or 5 times a power of ten; return others unchanged."""
    if value <= 0:
        return value
    unit = Decimal(1).scaleb(value.adjusted())
    return next(unit * digit for digit in (1, 2, 5, 10) if unit * digit >= value)


def _percent(share: Decimal) -> Decimal:
    """``share`` in percent, rounded before parts are subtracted: none then ends outside the box."""
    return (share * 100).quantize(Decimal("0.001"))


def _text(percent: Decimal) -> str:
    # Not localised: the number is part of a drawing.
    return f"{percent:.3f}%"
