"""The key figures of a report and its table, as a template needs them.

Figures that tell the provider's prices are left out for people who may not see costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.utils.html import format_html
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from giftcards.books.admin.balance import orders_of_unknown_price
from giftcards.books.admin.periods import Question
from giftcards.books.forecast import OpenMoney
from giftcards.books.reports import COLUMNS, By, Column, Figures, Report, Row, Side, last_day
from giftcards.display import count_text, day_text, isolated, money, share_text
from giftcards.models.times import bounds
from giftcards.statuses import Status

_MINUTE, _HOUR = 60, 3_600

_LABELS = {column.name: column.label for column in COLUMNS} | {
    # These have another name on the page than in files.
    "orders": _("Orders"),
    "rejected": _("Rejected orders"),
}
# The filters of the list that find the orders of a figure.
_FILTERS: Mapping[str, Mapping[str, str]] = {
    "orders": {},
    "rejected": {"status__exact": Status.REJECTED},
    "contradictory": {"figures": "contradictory"},
    "customer_refunded_amount": {"refund": "paid"},
    "customer_planned_amount": {"refund": "planned"},
    "open_amount": {"refund": "owed"},
}
# The key figures that are left out while they are 0, and those that are wrong unless they are 0.
_RARE = {"rejected", "unpaid", "unknown", "contradictory"}
_WRONG = {"open_amount", "unknown", "contradictory"}


class ReportFact(NamedTuple):
    """A key figure. ``value`` is HTML; ``address`` leads to the orders that it counts, or is ""."""

    label: Any
    value: str
    address: str = ""
    is_wrong: bool = False


class ReportLine(NamedTuple):
    """A row of the table. ``label`` is its name; ``cells`` pairs each column's name with HTML."""

    label: str
    address: str
    cells: list[tuple[Any, str]]


def _list_address(order_list: str, question: Question, **filters: str) -> str:
    """The address of the list of the question's orders, limited further by ``filters``.

    These are the orders of its product, if it names one, that became final in its period.
    """
    product = {"product_id": question.product_id} if question.product_id else {}
    start, end = bounds(question.start, question.end)
    period = {"settled_at__gte": str(start), "settled_at__lt": str(end)}
    return f"{order_list}?{urlencode({**filters, **product, **period})}"


# Key figures.


def groups(
    report: Report, question: Question, *, order_list: str, open_orders: OpenMoney | None
) -> Iterator[tuple[str, list[ReportFact]]]:
    """Yield the key figures in groups with titles.

    ``open_orders`` is ``None`` for a person who may not see costs.
    """
    facts = partial(_facts, report.total, question, order_list)
    yield gettext("Orders and cards"), [*facts(Side.CARDS), *_shares(report)]
    if open_orders is not None:
        yield gettext("The provider"), [*facts(Side.PROVIDER), *_open(open_orders)]
    yield gettext("The customers"), [*facts(Side.CUSTOMERS)]
    if open_orders is not None:
        yield gettext("Margin"), [*facts(Side.MARGIN)]


def _facts(total: Figures, question: Question, order_list: str, side: Side) -> Iterator[ReportFact]:
    for column in COLUMNS:
        value = getattr(total, column.name)
        if column.side != side or (column.name in _RARE and not value):
            continue
        # The list of all orders is linked to even if it is empty.
        filters = _FILTERS.get(column.name) if value or column.name == "orders" else None
        address = "" if filters is None else _list_address(order_list, question, **filters)
        is_wrong = column.name in _WRONG and value > 0
        yield ReportFact(_LABELS[column.name], _shown(column, total), address, is_wrong)


def _shares(report: Report) -> Iterator[ReportFact]:
    rate = report.total.fill_rate
    if rate is not None:
        yield ReportFact(gettext("Share of the cards that came"), share_text(rate))
    if report.settling:
        half, most = report.settling
        yield ReportFact(gettext("Half of the orders were settled within"), duration_text(half))
        yield ReportFact(gettext("95 of 100 were settled within"), duration_text(most))


def _open(found: OpenMoney) -> Iterator[ReportFact]:
    if not (found.total or found.unknown):
        return
    shown = money(found.total or None)
    if found.total and found.unknown:
        shown = format_html("{} {}", shown, orders_of_unknown_price(found.unknown))
    yield ReportFact(gettext("In open orders, at present"), shown)


def duration_text(seconds: int) -> str:
    """A duration in two units at most: 45 s, 3 min 5 s, 26 h 10 min."""
    hours, rest = divmod(seconds, _HOUR)
    minutes, rest = divmod(rest, _MINUTE)
    parts = [
        (hours, gettext("%(count)s h")),
        (minutes, gettext("%(count)s min")),
        (0 if hours else rest, gettext("%(count)s s")),
    ]
    shown = [text % {"count": count_text(number)} for number, text in parts if number]
    return isolated(" ".join(shown) or gettext("%(count)s s") % {"count": count_text(0)})


# The table.


def lines(
    report: Report, question: Question, *, order_list: str, shows_costs: bool
) -> Iterator[ReportLine]:
    for row in report.rows:
        about = _question_of(row, question)
        address = _list_address(order_list, about) if about else ""
        yield ReportLine(
            row_text(row, report), address, cells(row.figures, shows_costs=shows_costs)
        )


def cells(figures: Figures, *, shows_costs: bool) -> list[tuple[Any, str]]:
    """The headings of the table, each with its cell for ``figures``."""
    return [
        (_LABELS[column.name], _cell(column, figures))
        for column in COLUMNS
        # What was ordered is the sum of the cost and what was credited back.
        if column.short and column.name != "ordered_amount"
        if shows_costs or not column.tells_costs
    ]


def row_text(row: Row, report: Report) -> str:
    """The name of the row in plain text: its product or its dates."""
    if isinstance(row.key, tuple):
        return isolated(row.label)
    if report.by is By.MONTH:
        return day_text(row.key, "F Y")
    days = sorted({row.key, last_day(row.key, report.by)})
    # The page's title has the year, unless there are several.
    years = {day.year for day in (report.start, report.end, *days)}
    return " – ".join(day_text(day, "j N" if len(years) == 1 else "j N Y") for day in days)


def _question_of(row: Row, question: Question) -> Question | None:
    """The question that finds the row's orders; ``None`` if no filter of the list can do that."""
    if isinstance(row.key, tuple):
        product_id, type_id = row.key
        if type_id:
            return None
        return Question(question.start, question.end, product_id=product_id)
    start = max(row.key, question.start)
    end = min(last_day(row.key, question.by), question.end)
    return Question(start, end, product_id=question.product_id)


def _cell(column: Column, figures: Figures) -> str:
    """The figure as HTML, after a warning mark if it leaves out orders.

    The mark stands before the amount, so that the digits of a column stay aligned.
    """
    shown, why = _shown(column, figures), _left_out(column, figures)
    if not why:
        return shown
    mark = '<span class="giftcards-mark" role="img" aria-label="{}" title="{}">⚠</span> {}'
    return format_html(mark, why, why, shown)


def _shown(column: Column, figures: Figures) -> str:
    """The figure as HTML; "unknown" if none of the orders has the sale amount that it needs."""
    value = getattr(figures, column.name)
    if isinstance(value, int):
        return count_text(value)
    needs_sale = Side.CUSTOMERS in column.side
    return money(None if needs_sale and 0 < figures.orders == figures.unpaid else value)


def _left_out(column: Column, figures: Figures) -> str:
    """A sentence on the orders that the figure leaves out; "" if there are none."""
    if column.tells_costs and figures.unknown:
        number = figures.unknown
        text = ngettext(
            "Without %(count)s order of which an amount is not known.",
            "Without %(count)s orders of which an amount is not known.",
            number,
        )
    elif Side.CUSTOMERS in column.side and 0 < figures.unpaid < figures.orders:
        number = figures.unpaid
        text = ngettext(
            "Without %(count)s order that has no sale amount.",
            "Without %(count)s orders that have no sale amount.",
            number,
        )
    else:
        return ""
    return text % {"count": count_text(number)}
