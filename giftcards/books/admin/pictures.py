"""The picture of a report: what customers paid, as a bar chart, with words that say the same.

Positions are percentages because the picture has no size of its own: its letters stay as large as
those of the page. Time and amounts run from left to right in every language, as Algeria writes
them in Arabic too. Bars of products have no axis: they begin where a line of text begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from math import ceil
from operator import attrgetter
from typing import Any, NamedTuple

from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.books.admin.periods import row_text
from giftcards.books.reports import COLUMNS, By, Figures, Report, Row, spans
from giftcards.display import count_text, currency, day_text, money_text

# The most bars of products; the table has the others.
_MOST_BARS = 8
# The approximate number of intervals on an axis.
_MARKED = 4
# The share of its slot that a column fills, and its largest width in percent of the box.
_FILLED = Decimal("0.7")
_WIDEST = Decimal(12)
# The most columns with gaps between them: a screen has no room for more gaps.
_DENSE = 90
# The most labels that fit side by side below an axis.
_MOST_LABELS = 8


class Series(NamedTuple):
    """The parts of one colour in a picture. No value is below 0."""

    label: Any
    value: Callable[[Figures], Decimal]


class Box(NamedTuple):
    """The position and size of a part of a bar, in percent, and the number of its series."""

    series: int
    x: str
    y: str
    width: str
    height: str


class Drawn(NamedTuple):
    """A column or a bar of a chart; ``title`` says in words what it shows."""

    boxes: Sequence[Box]
    title: str
    label: str = ""
    amount: str = ""


class Label(NamedTuple):
    """A text at an axis; one that ``is_minor`` is left out where there is no room."""

    at: str
    text: str
    is_minor: bool = False


_LABELS = {column.name: column.label for column in COLUMNS}
# What customers paid has four parts, which are stacked.
SERIES = (
    Series(_("Kept"), attrgetter("kept_amount")),
    *(
        Series(_LABELS[name], attrgetter(name))
        for name in ("customer_refunded_amount", "customer_planned_amount", "open_amount")
    ),
)


def picture(report: Report) -> dict[str, Any] | None:
    """The chart of the report as template context; ``None`` if there is nothing to draw."""
    if not any(_values(report.total)):
        return None
    draw = _bars if report.by in {By.PRODUCT, By.TYPE} else _columns
    return {**_texts(report), **draw(report)}


def _columns(report: Report) -> dict[str, Any]:
    """Columns over time; days, weeks or months without orders have a place too."""
    rows = {row.key: row for row in report.rows}
    keys = [key for key, _first, _last in spans(report.start, report.end, report.by)]
    found = [rows.get(key) or Row(key, "", Figures()) for key in keys]
    values = [_values(row.figures) for row in found]
    marks = scale(max(map(_total, values)))
    return {
        "columns": [
            Drawn(boxes, _in_words(row, report))
            for boxes, row in zip(column_boxes(values, marks[-1]), found, strict=True)
            if boxes
        ],
        "marks": [
            Label(_text(100 - _percent(mark, marks[-1])), count_text(mark)) for mark in marks
        ],
        "days": [
            Label(_text(middle(place, len(keys))), _short(keys[place], report), bool(number % 2))
            for number, place in enumerate(labelled(len(keys)))
        ],
    }


def _bars(report: Report) -> dict[str, Any]:
    """Bars of the products or types with the largest amounts; ``others`` counts the rest."""
    sized = [(_total(_values(row.figures)), row) for row in report.rows]
    ranked = sorted((one for one in sized if one[0]), key=lambda one: one[0], reverse=True)
    shown = ranked[:_MOST_BARS]
    values = [_values(row.figures) for _size, row in shown]
    bars = [
        Drawn(boxes, _in_words(row, report), row_text(row, report), money_text(size))
        for boxes, (size, row) in zip(bar_boxes(values), shown, strict=True)
    ]
    return {"bars": bars, "others": len(ranked) - len(shown)}


# Words.


def _values(figures: Figures) -> list[Decimal]:
    return [series.value(figures) for series in SERIES]


def _texts(report: Report) -> dict[str, Any]:
    title = gettext("%(title)s, in %(currency)s")
    summary = gettext("All together: %(amounts)s. The table below has every figure.")
    return {
        "title": title % {"title": gettext("What customers paid"), "currency": currency()},
        "summary": summary % {"amounts": " · ".join(_amounts(report.total))},
        "legend": [str(series.label) for series in SERIES],
    }


def _in_words(row: Row, report: Report) -> str:
    """The name and the amounts of a row in plain text, one a line."""
    return "\n".join([row_text(row, report), *_amounts(row.figures)])


def _amounts(figures: Figures) -> Iterator[str]:
    for series, value in zip(SERIES, _values(figures), strict=True):
        parts = {"label": series.label, "value": money_text(value)}
        yield gettext("%(label)s: %(value)s") % parts


def _short(key: date, report: Report) -> str:
    if report.by is not By.MONTH:
        return day_text(key, "j N")
    return day_text(key, "N" if report.start.year == report.end.year else "m/Y")


# Geometry: numbers in, positions in percent of a box out.


def column_boxes(rows: Sequence[Sequence[Decimal]], top: int) -> Iterator[list[Box]]:
    """Draw a column of stacked parts for each of ``rows``, side by side; ``top`` fills the box."""
    slot = Decimal(100) / len(rows)
    width = min(slot * (_FILLED if len(rows) <= _DENSE else 1), _WIDEST)
    for number, row in enumerate(rows):
        left = middle(number, len(rows)) - width / 2
        yield [
            Box(series, _text(left), _text(100 - end), _text(width), _text(end - start))
            for series, start, end in _parts(row, top)
        ]


def bar_boxes(rows: Sequence[Sequence[Decimal]]) -> Iterator[list[Box]]:
    """Draw a bar for each of ``rows``, each in a box of its own; the largest fills its box."""
    largest = max(map(_total, rows))
    for row in rows:
        yield [
            Box(series, _text(start), "0%", _text(end - start), "100%")
            for series, start, end in _parts(row, largest)
        ]


def _total(row: Sequence[Decimal]) -> Decimal:
    return sum(row, Decimal(0))


def _parts(row: Sequence[Decimal], whole: Decimal | int) -> Iterator[tuple[int, Decimal, Decimal]]:
    """Yield the number of each value above 0, and where its part begins and ends in percent."""
    end = Decimal(0)
    for series, value in enumerate(row):
        start, end = end, end + value
        if value:
            yield series, _percent(start, whole), _percent(end, whole)


def middle(number: int, places: int) -> Decimal:
    """The position in percent of the middle of the place with this index."""
    return (number + Decimal("0.5")) * 100 / places


def scale(highest: Decimal) -> list[int]:
    """The values to mark on an axis: multiples of a round number, from 0 to ``highest`` or more.

    They are whole: neither a part of a card nor centimes are worth a line.
    """
    least = max(highest / _MARKED, Decimal(1))
    unit = Decimal(1).scaleb(least.adjusted())
    step = int(next(unit * digit for digit in (1, 2, 5, 10) if unit * digit >= least))
    return [step * number for number in range(max(ceil(highest / step), 1) + 1)]


def labelled(places: int) -> range:
    """The indexes, out of ``places``, that get a label: 0, and others at equal distances."""
    return range(0, places, max(ceil(places / _MOST_LABELS), 1))


def _percent(value: Decimal | int, whole: Decimal | int) -> Decimal:
    """The share in percent, rounded before parts are subtracted: none then ends outside the box."""
    return (Decimal(value) / whole * 100).quantize(Decimal("0.001"))


def _text(percent: Decimal) -> str:
    # Not localised: the number is part of a drawing.
    return f"{percent:.3f}%"
