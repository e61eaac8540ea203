"""The "Report" page, which shows the orders and payments of a period.

The page also shows the debts of the period, a chart, and a form for downloads. Users who are not
allowed to see costs do not see figures that reveal the provider's prices.

Positions in the chart are percentages, so that the chart can have any size. Time and amounts run
from left to right even in Arabic, because this is the convention in Algeria.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import partial
from math import ceil
from operator import attrgetter
from tempfile import TemporaryFile
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotAllowed,
    StreamingHttpResponse,
)
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.actions import Page, Pages
from giftcards.books.admin.periods import (
    DownloadForm,
    Question,
    ReportForm,
    links,
    row_text,
)
from giftcards.books.conditions import OpenMoney, money_in_open_orders
from giftcards.books.exports import as_csv, order_rows, report_rows, write_xlsx
from giftcards.books.figures import FIGURES, Figure, Figures, Side
from giftcards.books.reports import (
    By,
    Report,
    Row,
    last_day,
    report,
    spans,
)
from giftcards.models import Order
from giftcards.rules.times import bounds
from giftcards.text.display import (
    bare_money,
    count_text,
    currency,
    day_text,
    exact_duration_text,
    filled,
    is_whole,
    money,
    money_text,
    period_text,
    share_text,
)


def report_view(pages: Pages, request: HttpRequest) -> HttpResponse:
    if not pages.has_report_permission(request):
        raise PermissionDenied
    return _report_page(pages, request, ReportForm(request.GET), DownloadForm())


def download_view(pages: Pages, request: HttpRequest) -> HttpResponseBase:
    """Return the report or the orders of the report as a file.

    Only POST requests are allowed, because each download is recorded. If a form is invalid, the
    function returns the report page instead of a file.
    """
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    if not (
        pages.has_report_permission(request) and request.user.has_perm("giftcards.export_order")
    ):
        raise PermissionDenied
    form, download_form = ReportForm(request.POST), DownloadForm(request.POST)
    if not (form.is_valid() and download_form.is_valid()):
        return _report_page(pages, request, form, download_form, status=400)
    question, given = form.question, download_form.cleaned_data
    # The log entry is written first, so that every download is recorded.
    _leave_trace(request, question, given)
    return _file(question, given, shows_costs=pages.may_see_costs(request))


def _report_page(
    pages: Pages,
    request: HttpRequest,
    form: ReportForm,
    downloads: DownloadForm,
    *,
    status: int = 200,
) -> HttpResponse:
    question = form.question if form.is_valid() else None
    title = gettext("Report")
    context: dict[str, Any] = {
        "form": form,
        "errors": form.errors or downloads.errors,
        "links": links(question),
        "close_month": pages.url_of("close_month") if pages.may_see_costs(request) else "",
    }
    if question:
        title = gettext("Report: %(period)s") % {
            "period": period_text(question.start, question.end)
        }
        context |= _shown(pages, request, question)
        context["downloads"] = (
            downloads if request.user.has_perm("giftcards.export_order") else None
        )
    return pages.render_page(
        request, "admin/giftcards_books/report.html", title=title, status=status, **context
    )


def _shown(pages: Pages, request: HttpRequest, question: Question) -> dict[str, Any]:
    shows_costs = pages.may_see_costs(request)
    found = report(question.start, question.end, question.by, product_id=question.product_id)
    open_orders = money_in_open_orders() if shows_costs else None
    orders = pages.url_of("changelist")
    columns = _table_columns(found, shows_costs=shows_costs)
    return {
        "report": found,
        "groups": _groups(found, question, order_list=orders, open_orders=open_orders),
        "chart": chart(found),
        "rows_are": capfirst(question.by.label),
        "table_is": gettext("%(title)s, in %(currency)s")
        % {"title": gettext("All figures"), "currency": currency()},
        "lines": _lines(found, question, columns, order_list=orders),
        "total": _cells(found.total, columns),
        "has_unknown": any(
            _is_unknown(column, row.figures) for row in found.rows for column in columns
        ),
        "has_left_out": any(
            _left_out(column, figures)
            for figures in (found.total, *(row.figures for row in found.rows))
            for column in columns
        ),
        "parameters": question.parameters,
    }


def _file(question: Question, given: Mapping[str, Any], *, shows_costs: bool) -> HttpResponseBase:
    period = (question.start, question.end)
    if given["what"] == "orders":
        rows = order_rows(
            *period,
            product_id=question.product_id,
            shows_costs=shows_costs,
            shows_contacts=given["has_contacts"],
        )
    else:
        found = report(*period, question.by, product_id=question.product_id)
        rows = report_rows(found, shows_costs=shows_costs)
    name = f"giftcards-{given['what']}-{question.start}-{question.end}"
    if given["format"] == "xlsx":
        # The response closes the file.
        file = TemporaryFile()  # noqa: SIM115
        write_xlsx(rows, file)
        file.seek(0)
        return FileResponse(file, as_attachment=True, filename=f"{name}.xlsx")
    return StreamingHttpResponse(
        as_csv(rows),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )


def _leave_trace(request: HttpRequest, question: Question, given: Mapping[str, Any]) -> None:
    what = "the orders" if given["what"] == "orders" else f"the report by {question.by}"
    parts = [
        f"Exported {what} from {question.start} to {question.end}",
        f" of product {question.product_id}" if question.product_id else "",
        " as CSV" if given["format"] == "csv" else " as xlsx",
        ", with addresses and phone numbers" if given["has_contacts"] else "",
    ]
    person: Any = request.user.pk
    LogEntry.objects.create(
        user_id=person,
        content_type=ContentType.objects.get_for_model(Order),
        object_repr="Report",
        action_flag=CHANGE,
        change_message=f"{''.join(parts)}.",
    )


class ReportFact(NamedTuple):
    """A key figure.

    ``value`` is HTML, and ``url`` is the URL of the orders behind the value, or "".
    """

    label: Any
    value: str
    url: str = ""
    is_wrong: bool = False


def list_url(order_list: str, question: Question, **filters: str) -> str:
    """Return the URL of the filtered order list.

    The list is filtered by the period and the product in the ``Question``, and by all ``filters``.
    """
    product = {"product_id": question.product_id} if question.product_id else {}
    start, end = bounds(question.start, question.end)
    period = {"finalized_at__gte": str(start), "finalized_at__lt": str(end)}
    return f"{order_list}?{urlencode({**filters, **product, **period})}"


def _groups(
    report: Report, question: Question, *, order_list: str, open_orders: OpenMoney | None
) -> Iterator[tuple[str, list[ReportFact]]]:
    """Yield a title and key figures for each group.

    If ``open_orders`` is ``None``, the groups that show costs are left out.
    """
    facts = partial(_facts, report.total, question, order_list)
    yield gettext("Orders and cards"), [*facts(Side.CARDS), *_shares(report)]
    if open_orders is not None:
        yield gettext("The provider"), [*facts(Side.PROVIDER), *_open(open_orders)]
    yield gettext("The customers"), [*facts(Side.CUSTOMERS)]
    if open_orders is not None:
        yield gettext("Margin"), [*facts(Side.MARGIN)]


def _facts(total: Figures, question: Question, order_list: str, side: Side) -> Iterator[ReportFact]:
    for name, figure in FIGURES.items():
        value = getattr(total, name)
        if figure.side != side or (figure.is_rare and not value):
            continue
        # The number of orders has a link even if it is 0.
        filters = figure.filters if value or name == "orders" else None
        url = "" if filters is None else list_url(order_list, question, **filters)
        yield ReportFact(figure.label, _figure(figure, total), url, figure.is_to_do and value > 0)


def _shares(report: Report) -> Iterator[ReportFact]:
    rate = report.total.fill_rate
    if rate is not None:
        yield ReportFact(gettext("Share of cards delivered"), share_text(rate))
    if report.settling:
        half, most = report.settling
        yield ReportFact(
            gettext("Half of the orders were settled within"), exact_duration_text(half)
        )
        yield ReportFact(gettext("95 of 100 orders were settled within"), exact_duration_text(most))


def _open(found: OpenMoney) -> Iterator[ReportFact]:
    if not (found.total or found.unknown):
        return
    shown = money(found.total or None)
    if found.total and found.unknown:
        shown = format_html("{} {}", shown, orders_of_unknown_price(found.unknown))
    yield ReportFact(gettext("Current cost of open orders"), shown)


def orders_of_unknown_price(count: int) -> SafeString:
    """Return HTML such as "and 2 orders with an unknown price".

    The HTML continues a text that ends with an amount.
    """
    text = ngettext(
        "and %(count)s order with an unknown price",
        "and %(count)s orders with an unknown price",
        count,
    )
    return filled(text, count=count_text(count))


def _table_columns(report: Report, *, shows_costs: bool) -> dict[Figure, bool]:
    """Return the columns of the table, and whether each needs decimals."""
    sums = [report.total, *(row.figures for row in report.rows)]
    return {
        column: not all(is_whole(Decimal(getattr(figures, column.name))) for figures in sums)
        for column in FIGURES.values()
        # The column "ordered" is left out, because it is the sum of "charged" and "credited back".
        if column.short and column.name != "ordered_amount"
        if shows_costs or not column.tells_costs
    }


def _lines(
    report: Report, question: Question, columns: Mapping[Figure, bool], *, order_list: str
) -> Iterator[tuple[str, str, list[tuple[Any, str]]]]:
    for row in report.rows:
        about = _question_of(row, question)
        url = list_url(order_list, about) if about else ""
        yield row_text(row, report), url, _cells(row.figures, columns)


def _cells(figures: Figures, columns: Mapping[Figure, bool]) -> list[tuple[Any, str]]:
    return [
        (column.label, _cell(column, figures, has_decimals=has_decimals))
        for column, has_decimals in columns.items()
    ]


def _question_of(row: Row, question: Question) -> Question | None:
    """Return a ``Question`` that selects the orders of a row in the report.

    The result is ``None`` if the filters of the order list cannot select these orders.
    """
    if isinstance(row.key, tuple):
        product_id, type_id = row.key
        if type_id:
            return None
        return Question(question.start, question.end, product_id=product_id)
    start = max(row.key, question.start)
    end = min(last_day(row.key, question.by), question.end)
    return Question(start, end, product_id=question.product_id)


def _cell(column: Figure, figures: Figures, *, has_decimals: bool) -> str:
    """Return a figure as HTML, without the currency.

    If the figure leaves out orders, a warning sign comes before the figure.
    """
    value = getattr(figures, column.name)
    if isinstance(value, Decimal):
        known = None if _is_unknown(column, figures) else value
        shown = bare_money(known, has_decimals=has_decimals)
    else:
        shown = count_text(value)
    why = _left_out(column, figures)
    if not why:
        return shown
    # The warning sign comes first, so that the digits of a column stay aligned.
    mark = '<span class="giftcards-mark" role="img" aria-label="{}" title="{}">⚠</span> {}'
    return format_html(mark, why, why, shown)


def _figure(column: Figure, figures: Figures) -> str:
    value = getattr(figures, column.name)
    if isinstance(value, int):
        return count_text(value)
    return money(None if _is_unknown(column, figures) else value)


def _is_unknown(column: Figure, figures: Figures) -> bool:
    """Return True if the figure is unknown because sale amounts are missing.

    This is the case if the figure depends on sale amounts, and no order has a known sale amount.
    """
    is_amount = isinstance(getattr(figures, column.name), Decimal)
    return is_amount and Side.CUSTOMERS in column.side and 0 < figures.orders == figures.unpaid


def _left_out(column: Figure, figures: Figures) -> str:
    if column.tells_costs and figures.unknown:
        number = figures.unknown
        text = ngettext(
            "%(count)s order with an unknown amount is not included.",
            "%(count)s orders with an unknown amount are not included.",
            number,
        )
    elif Side.CUSTOMERS in column.side and 0 < figures.unpaid < figures.orders:
        number = figures.unpaid
        text = ngettext(
            "%(count)s order without a sale amount is not included.",
            "%(count)s orders without a sale amount are not included.",
            number,
        )
    else:
        return ""
    return text % {"count": count_text(number)}


class Series(NamedTuple):
    """The values that a chart shows in one colour.

    ``value`` is a function that computes a value from figures.
    """

    label: Any
    value: Callable[[Figures], Decimal]


class Box(NamedTuple):
    """A part of a column or of a bar in a chart.

    The position and the size are percentages. ``series`` is the index of the series that the part
    belongs to.
    """

    series: int
    x: str
    y: str
    width: str
    height: str


class Drawn(NamedTuple):
    """A column or a bar of a chart.

    ``title`` contains the name and the values of the column or bar as text.
    """

    boxes: Sequence[Box]
    title: str
    label: str = ""
    amount: str = ""


class Label(NamedTuple):
    """An axis label.

    If ``is_minor`` is True, the label is hidden on narrow screens.
    """

    at: str
    text: str
    is_minor: bool = False


# The three parts of what customers paid, stacked in a column of the chart.
SERIES = (
    Series(_("Kept"), attrgetter("kept_amount")),
    *(
        Series(FIGURES[name].label, attrgetter(name))
        for name in ("customer_paid_back_amount", "open_amount")
    ),
)


def chart(report: Report) -> dict[str, Any] | None:
    """Return the context for ``chart.html``.

    The result is ``None`` if the report does not contain any payments.
    """
    if not any(_values(report.total)):
        return None
    draw = _bars if report.by in {By.PRODUCT, By.TYPE} else _columns
    return {**_texts(report), **draw(report)}


def _columns(report: Report) -> dict[str, Any]:
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


# The maximum number of bars in the chart. The table shows all rows of the report.
_MOST_BARS = 8


def _bars(report: Report) -> dict[str, Any]:
    """Return a chart of the best-selling products or types.

    ``others`` is the number of products or types that were sold but are not in the chart.
    """
    sized = [(_total(_values(row.figures)), row) for row in report.rows]
    ranked = sorted((one for one in sized if one[0]), key=lambda one: one[0], reverse=True)
    shown = ranked[:_MOST_BARS]
    values = [_values(row.figures) for _size, row in shown]
    bars = [
        Drawn(boxes, _in_words(row, report), row_text(row, report), money_text(size))
        for boxes, (size, row) in zip(bar_boxes(values), shown, strict=True)
    ]
    return {"bars": bars, "others": len(ranked) - len(shown)}


def _values(figures: Figures) -> list[Decimal]:
    return [series.value(figures) for series in SERIES]


def _texts(report: Report) -> dict[str, Any]:
    title = gettext("%(title)s, in %(currency)s")
    summary = gettext("Total: %(amounts)s.")
    return {
        "title": title % {"title": gettext("What customers paid"), "currency": currency()},
        "summary": summary % {"amounts": " · ".join(_amounts(report.total))},
        "legend": [str(series.label) for series in SERIES],
    }


def _in_words(row: Row, report: Report) -> str:
    return "\n".join([row_text(row, report), *_amounts(row.figures)])


def _amounts(figures: Figures) -> Iterator[str]:
    for series, value in zip(SERIES, _values(figures), strict=True):
        parts = {"label": series.label, "value": money_text(value)}
        yield gettext("%(label)s: %(value)s") % parts


def _short(key: date, report: Report) -> str:
    if report.by is not By.MONTH:
        return day_text(key, "j N")
    return day_text(key, "N" if report.start.year == report.end.year else "m/Y")


# A column of the chart fills this share of its slot, and at most _WIDEST percent of the chart.
_FILLED = Decimal("0.7")
_WIDEST = Decimal(12)
# A chart with more columns than this has no gaps between them.
_DENSE = 90


def column_boxes(rows: Sequence[Sequence[Decimal]], top: int) -> Iterator[list[Box]]:
    """Yield a column of stacked parts for each row of values.

    The value ``top`` corresponds to the full height of the chart.
    """
    slot = Decimal(100) / len(rows)
    width = min(slot * (_FILLED if len(rows) <= _DENSE else 1), _WIDEST)
    for number, row in enumerate(rows):
        left = middle(number, len(rows)) - width / 2
        yield [
            Box(series, _text(left), _text(100 - end), _text(width), _text(end - start))
            for series, start, end in _parts(row, top)
        ]


def bar_boxes(rows: Sequence[Sequence[Decimal]]) -> Iterator[list[Box]]:
    """Yield a bar for each row of values.

    The bar with the largest total has the full width.
    """
    largest = max(map(_total, rows))
    for row in rows:
        yield [
            Box(series, _text(start), "0%", _text(end - start), "100%")
            for series, start, end in _parts(row, largest)
        ]


def _total(row: Sequence[Decimal]) -> Decimal:
    return sum(row, Decimal(0))


def _parts(row: Sequence[Decimal], total: Decimal | int) -> Iterator[tuple[int, Decimal, Decimal]]:
    """Yield the index, the start and the end of each value above 0.

    The start and the end are percentages of ``total``.
    """
    end = Decimal(0)
    for series, value in enumerate(row):
        start, end = end, end + value
        if value:
            yield series, _percent(start, total), _percent(end, total)


def middle(number: int, places: int) -> Decimal:
    """Return the centre of a column, in percent of the chart's width.

    ``number`` is the index of the column, and ``places`` is the number of columns.
    """
    return (number + Decimal("0.5")) * 100 / places


_MARKED = 4


def scale(highest: Decimal) -> list[int]:
    """Return the tick values of an axis for values up to ``highest``.

    The tick values are multiples of a round number and begin with 0. The last tick value can be
    higher than ``highest``. The tick values are whole numbers, because a fraction of a dinar is too
    small for a tick.
    """
    least = max(highest / _MARKED, Decimal(1))
    unit = Decimal(1).scaleb(least.adjusted())
    step = int(next(unit * digit for digit in (1, 2, 5, 10) if unit * digit >= least))
    return [step * number for number in range(max(ceil(highest / step), 1) + 1)]


# The most labels that fit side by side below an axis.
_MOST_LABELS = 8


def labelled(places: int) -> range:
    """Return the indexes of the columns that have a label.

    The indexes are evenly spaced and begin with 0.
    """
    return range(0, places, max(ceil(places / _MOST_LABELS), 1))


def _percent(value: Decimal | int, total: Decimal | int) -> Decimal:
    """Return ``value`` as a percentage of ``total``, with three decimals.

    The size of a part of a bar is the difference between two rounded percentages. Therefore the
    sizes never add up to more than 100 %.
    """
    return (Decimal(value) / total * 100).quantize(Decimal("0.001"))


def _text(percent: Decimal) -> str:
    # Numbers of a drawing must not be localised.
    return f"{percent:.3f}%"


PAGES = (
    Page("order_report", "report/", report_view, help_topic="reports"),
    Page("order_report_download", "report/download/", download_view, help_topic="reports"),
)
