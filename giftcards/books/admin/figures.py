"""The key figures of a report and its table, as a template needs them.

Figures that tell the provider's prices are left out for people who may not see costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.utils.html import format_html
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from giftcards.books.admin.balance import orders_of_unknown_price
from giftcards.books.admin.periods import Question
from giftcards.books.forecast import OpenMoney
from giftcards.books.reports import By, Figures, Report, Row, last_day
from giftcards.display import count_text, day_text, isolated, money, share_text
from giftcards.models.times import bounds

_MINUTE, _HOUR = 60, 3_600


class ReportFact(NamedTuple):
    """A key figure. ``value`` is HTML; ``address`` leads to the orders that it counts, or is ""."""

    label: str
    value: str
    address: str = ""
    is_wrong: bool = False


class ReportGroup(NamedTuple):
    title: str
    facts: list[ReportFact]


class Column(NamedTuple):
    """A column of the table; ``cell`` returns HTML."""

    label: Any
    cell: Callable[[Figures], str]
    is_cost: bool = False


class ReportLine(NamedTuple):
    """A row of the table. ``label`` is its name; ``cells`` pairs each column's name with HTML."""

    label: str
    address: str
    cells: list[tuple[str, str]]


def list_address(order_list: str, question: Question, **filters: str) -> str:
    """The address of the list of the question's orders, limited further by ``filters``.

    These are the orders of its product, if it names one, that became final in its period.
    """
    product = {"product_id": question.product_id} if question.product_id else {}
    start, end = bounds(question.start, question.end)
    period = {
        "settled_at__gte": str(start),
        "settled_at__lt": str(end),
    }
    return f"{order_list}?{urlencode({**filters, **product, **period})}"


# Key figures.


def groups(
    report: Report, question: Question, *, order_list: str, open_orders: OpenMoney | None
) -> Iterator[ReportGroup]:
    """The key figures. ``open_orders`` is ``None`` for a person who may not see costs."""
    total = report.total

    def orders(**filters: str) -> str:
        return list_address(order_list, question, **filters)

    yield ReportGroup(gettext("Orders and cards"), list(_order_facts(report, orders)))
    if open_orders is not None:
        yield ReportGroup(
            gettext("The provider"), list(_provider_facts(total, open_orders, orders))
        )
    yield ReportGroup(gettext("The customers"), list(_customer_facts(total, orders)))
    if open_orders is not None:
        margin = ReportFact(gettext("Margin"), _of_paid(total, total.margin_amount))
        lost = ReportFact(gettext("Margin lost"), _of_paid(total, total.lost_margin_amount))
        yield ReportGroup(gettext("Margin"), [margin, lost])


def _order_facts(report: Report, orders: Callable[..., str]) -> Iterator[ReportFact]:
    total = report.total
    yield ReportFact(gettext("Orders"), count_text(total.orders), orders())
    if total.rejected:
        address = orders(status__exact="REJECTED")
        yield ReportFact(gettext("Rejected orders"), count_text(total.rejected), address)
    yield ReportFact(gettext("Cards ordered"), count_text(total.cards_ordered))
    yield ReportFact(gettext("Cards delivered"), count_text(total.cards_delivered))
    if total.fill_rate is not None:
        yield ReportFact(gettext("Share of the cards that came"), share_text(total.fill_rate))
    if report.settling:
        half, most = report.settling
        yield ReportFact(gettext("Half of the orders were settled within"), duration_text(half))
        yield ReportFact(gettext("95 of 100 were settled within"), duration_text(most))


def _provider_facts(
    total: Figures, open_orders: OpenMoney, orders: Callable[..., str]
) -> Iterator[ReportFact]:
    yield ReportFact(gettext("Ordered"), money(total.ordered_amount))
    yield ReportFact(gettext("Cost"), money(total.charged_amount))
    yield ReportFact(gettext("Credited back"), money(total.refunded_amount))
    if total.unknown:
        yield ReportFact(
            gettext("Orders with unknown amounts"),
            count_text(total.unknown),
            is_wrong=True,
        )
    if total.contradictory:
        yield ReportFact(
            gettext("Orders with contradictory figures"),
            count_text(total.contradictory),
            orders(figures="contradictory"),
            is_wrong=True,
        )
    if open_orders.total or open_orders.unknown:
        yield ReportFact(gettext("In open orders, at present"), _open_text(open_orders))


def _open_text(found: OpenMoney) -> str:
    amount = money(found.total or None)
    if not (found.total and found.unknown):
        return amount
    return format_html("{} {}", amount, orders_of_unknown_price(found.unknown))


def _customer_facts(total: Figures, orders: Callable[..., str]) -> Iterator[ReportFact]:
    for label, amount in (
        (gettext("Paid by customers"), total.paid_amount),
        (gettext("Kept, for what was delivered"), total.kept_amount),
        (gettext("Owed to customers"), total.owed_amount),
    ):
        yield ReportFact(label, _of_paid(total, amount))
    for label, amount, refund in (
        (gettext("Paid back"), total.customer_refunded_amount, "paid"),
        (gettext("To be paid back"), total.customer_planned_amount, "planned"),
        (gettext("Still owed"), total.open_amount, "owed"),
    ):
        address = orders(refund=refund) if amount else ""
        is_wrong = refund == "owed" and amount > 0
        yield ReportFact(label, _of_paid(total, amount), address, is_wrong)
    if total.unpaid:
        yield ReportFact(gettext("Orders without a sale amount"), count_text(total.unpaid))


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


def _count_cell(name: str) -> Callable[[Figures], str]:
    return lambda figures: count_text(getattr(figures, name))


def _cost_cell(name: str) -> Callable[[Figures], str]:
    return lambda figures: _marked(money(getattr(figures, name)), _left_out(figures.unknown))


def _paid_cell(name: str) -> Callable[[Figures], str]:
    return lambda figures: _marked(
        _of_paid(figures, getattr(figures, name)), _without_amount(figures)
    )


def _margin_cell(figures: Figures) -> str:
    amount = _of_paid(figures, figures.margin_amount)
    return _marked(amount, _left_out(figures.unknown) or _without_amount(figures))


COLUMNS = (
    Column(_("Orders"), _count_cell("orders")),
    Column(_("Cards ordered"), _count_cell("cards_ordered")),
    Column(_("Cards delivered"), _count_cell("cards_delivered")),
    Column(_("Cost"), _cost_cell("charged_amount"), is_cost=True),
    Column(_("Credited back"), _cost_cell("refunded_amount"), is_cost=True),
    Column(_("Paid by customers"), _paid_cell("paid_amount")),
    Column(_("Owed to customers"), _paid_cell("owed_amount")),
    Column(_("Paid back"), _paid_cell("customer_refunded_amount")),
    Column(_("To be paid back"), _paid_cell("customer_planned_amount")),
    Column(_("Still owed"), _paid_cell("open_amount")),
    Column(_("Margin"), _margin_cell, is_cost=True),
)


def columns(*, shows_costs: bool) -> list[Column]:
    return [column for column in COLUMNS if shows_costs or not column.is_cost]


def lines(
    report: Report, question: Question, *, order_list: str, shows_costs: bool
) -> Iterator[ReportLine]:
    for row in report.rows:
        about = _question_of(row, question)
        address = list_address(order_list, about) if about else ""
        yield ReportLine(
            row_text(row, report), address, cells(row.figures, shows_costs=shows_costs)
        )


def cells(figures: Figures, *, shows_costs: bool) -> list[tuple[str, str]]:
    return [
        (str(column.label), column.cell(figures)) for column in columns(shows_costs=shows_costs)
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


def _of_paid(figures: Figures, amount: Decimal) -> str:
    """An amount of the customers' side; "unknown" if none of the orders has a sale amount."""
    return money(None if figures.orders and figures.orders == figures.unpaid else amount)


def _left_out(unknown: int) -> str:
    if not unknown:
        return ""
    text = ngettext(
        "Without %(count)s order of which an amount is not known.",
        "Without %(count)s orders of which an amount is not known.",
        unknown,
    )
    return text % {"count": count_text(unknown)}


def _without_amount(figures: Figures) -> str:
    if not 0 < figures.unpaid < figures.orders:
        return ""
    text = ngettext(
        "Without %(count)s order that has no sale amount.",
        "Without %(count)s orders that have no sale amount.",
        figures.unpaid,
    )
    return text % {"count": count_text(figures.unpaid)}


def _marked(amount: str, why: str) -> str:
    """``amount`` as HTML, after a warning mark that says ``why``; no mark if that is "".

    The mark stands before the amount, so that the digits of a column stay aligned.
    """
    if not why:
        return amount
    mark = '<span class="giftcards-mark" role="img" aria-label="{}" title="{}">⚠</span> {}'
    return format_html(mark, why, why, amount)
