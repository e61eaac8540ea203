"""The charts of a report, with words that say the same.

Charts that tell the provider's prices are left out for people who may not see costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.books.admin import charts
from giftcards.books.admin.figures import row_text
from giftcards.books.reports import By, Figures, Report, Row, spans
from giftcards.display import count_text, currency, day_text, money_text

# The most bars of a chart of products; the table has the others.
_MOST_BARS = 8


class Series(NamedTuple):
    """The parts of one colour in a picture."""

    label: Any
    value: Callable[[Figures], Decimal]


class Picture(NamedTuple):
    """The kind of a chart: the series that are stacked for each row."""

    name: str
    title: Any
    series: Sequence[Series]
    is_money: bool = True
    is_cost: bool = False


class Legend(NamedTuple):
    number: int
    label: str
    total: str


class Drawn(NamedTuple):
    """A column or a bar of a chart; ``title`` says in words what it shows."""

    boxes: Sequence[charts.Box]
    title: str
    label: str
    amount: str = ""


class Label(NamedTuple):
    """A text at an axis; one that ``is_minor`` is left out where there is no room."""

    at: str
    text: str
    is_minor: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture with its texts. It has columns over time, or else bars of products."""

    name: str
    title: str
    summary: str
    legend: list[Legend]
    zero: str
    columns: Sequence[Drawn] = ()
    bars: Sequence[Drawn] = ()
    #: The lines and numbers of the axis of amounts, and the days below the columns.
    marks: Sequence[Label] = ()
    days: Sequence[Label] = ()
    #: How many products are in the table only.
    others: int = 0


def _amount(name: str) -> Callable[[Figures], Decimal]:
    return lambda figures: Decimal(getattr(figures, name))


PICTURES = (
    Picture(
        "cards",
        _("Cards"),
        (
            Series(_("Cards delivered"), _amount("cards_delivered")),
            Series(
                _("Cards that did not come"),
                lambda figures: Decimal(figures.cards_ordered - figures.cards_delivered),
            ),
        ),
        is_money=False,
    ),
    Picture(
        "customers",
        _("What customers paid"),
        (
            Series(_("Kept"), _amount("kept_amount")),
            Series(_("Paid back"), _amount("customer_refunded_amount")),
            Series(_("To be paid back"), _amount("customer_planned_amount")),
            Series(_("Still owed"), _amount("open_amount")),
        ),
    ),
    Picture(
        "provider",
        _("What was ordered from the provider"),
        (
            Series(_("Cost"), _amount("charged_amount")),
            Series(_("Credited back"), _amount("refunded_amount")),
        ),
        is_cost=True,
    ),
    Picture("margin", _("Margin"), (Series(_("Margin"), _amount("margin_amount")),), is_cost=True),
)


def pictures(report: Report, *, shows_costs: bool) -> Iterator[Chart]:
    """The charts of the report, without empty ones."""
    draw = _bars if report.by in {By.PRODUCT, By.TYPE} else _columns
    for picture in PICTURES:
        is_shown = shows_costs or not picture.is_cost
        if is_shown and any(any(_values(picture, row.figures)) for row in report.rows):
            yield draw(picture, report)


def _columns(picture: Picture, report: Report) -> Chart:
    """A chart over time, in which days, weeks or months without orders have a place too."""
    rows = {row.key: row for row in report.rows}
    nothing = Figures()
    keys = [key for key, _first, _last in spans(report.start, report.end, report.by)]
    found = [rows.get(key) or Row(key, "", nothing) for key in keys]
    drawn = charts.columns([_values(picture, row.figures) for row in found])
    labelled = sorted(charts.labelled(len(keys)))
    return Chart(
        **_texts(picture, report),
        zero=drawn.zero,
        columns=[
            Drawn(boxes, _in_words(picture, row, report), "")
            for boxes, row in zip(drawn.columns, found, strict=True)
            if boxes
        ],
        marks=[Label(mark.at, count_text(int(mark.value))) for mark in drawn.marks],
        days=[
            Label(drawn.middles[place], _short(keys[place], report), is_minor=bool(number % 2))
            for number, place in enumerate(labelled)
        ],
    )


def _bars(picture: Picture, report: Report) -> Chart:
    """A chart of the products or types with the largest amounts, largest first."""

    def size(row: Row) -> Decimal:
        return sum(map(abs, _values(picture, row.figures)), Decimal(0))

    ranked = sorted((row for row in report.rows if size(row)), key=size, reverse=True)
    shown = ranked[:_MOST_BARS]
    drawn = charts.bars([_values(picture, row.figures) for row in shown])
    return Chart(
        **_texts(picture, report),
        zero=drawn.zero,
        bars=[
            Drawn(
                boxes,
                _in_words(picture, row, report),
                row_text(row, report),
                _shown(picture, sum(_values(picture, row.figures), Decimal(0))),
            )
            for boxes, row in zip(drawn.bars, shown, strict=True)
        ],
        others=len(ranked) - len(shown),
    )


def _values(picture: Picture, figures: Figures) -> list[Decimal]:
    return [series.value(figures) for series in picture.series]


def _texts(picture: Picture, report: Report) -> dict[str, Any]:
    totals = [_shown(picture, total) for total in _values(picture, report.total)]
    title = str(picture.title)
    if picture.is_money:
        title = gettext("%(title)s, in %(currency)s") % {"title": title, "currency": currency()}
    legend = [
        Legend(number, str(series.label), total)
        for number, (series, total) in enumerate(zip(picture.series, totals, strict=True))
    ]
    parts = " · ".join(f"{each.label}: {each.total}" for each in legend)
    summary = gettext("All together: %(amounts)s. The table below has every figure.")
    return {
        "name": picture.name,
        "title": title,
        "summary": summary % {"amounts": parts},
        "legend": legend,
    }


def _in_words(picture: Picture, row: Row, report: Report) -> str:
    """The name and the amounts of a row in plain text, one a line."""
    amounts = (
        f"{series.label}: {_shown(picture, value)}"
        for series, value in zip(picture.series, _values(picture, row.figures), strict=True)
    )
    return "\n".join([row_text(row, report), *amounts])


def _shown(picture: Picture, amount: Decimal) -> str:
    return money_text(amount) if picture.is_money else count_text(int(amount))


def _short(key: date, report: Report) -> str:
    """The short name of a day, a week or a month."""
    if report.by is not By.MONTH:
        return day_text(key, "j N")
    return day_text(key, "N" if report.start.year == report.end.year else "m/Y")
