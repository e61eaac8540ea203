"""The page "Report": what was ordered, paid and owed in a period, with pictures and downloads."""

from __future__ import annotations

from tempfile import TemporaryFile
from typing import Any

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
from django.utils.text import capfirst
from django.utils.translation import gettext

from giftcards.admin.actions import Page
from giftcards.admin.pages import OrderPages
from giftcards.books.admin import figures, pictures
from giftcards.books.admin.periods import Download, DownloadForm, Question, ReportForm, links
from giftcards.books.exports import as_csv, order_rows, report_rows, write_xlsx
from giftcards.books.forecast import money_in_open_orders
from giftcards.books.reports import report
from giftcards.models import Order


def report_view(pages: OrderPages, request: HttpRequest) -> HttpResponse:
    if not pages.has_report_permission(request):
        raise PermissionDenied
    return _report_page(pages, request, ReportForm(request.GET), DownloadForm())


def download_view(pages: OrderPages, request: HttpRequest) -> HttpResponseBase:
    """Send a file; only by POST, because each download leaves a trace."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    if not (
        pages.has_report_permission(request) and request.user.has_perm("giftcards.export_order")
    ):
        raise PermissionDenied
    form, download_form = ReportForm(request.POST), DownloadForm(request.POST)
    if not (form.is_valid() and download_form.is_valid()):
        return _report_page(pages, request, form, download_form, status=400)
    question, download = form.question, download_form.download
    # Before the file: nothing leaves the shop without a trace.
    _leave_trace(request, question, download)
    return _file(question, download, shows_costs=pages.may_see_costs(request))


def _report_page(
    pages: OrderPages,
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
    }
    if question:
        title = gettext("Report: %(period)s") % {"period": question.text}
        context |= _shown(pages, request, question)
        context["downloads"] = (
            downloads if request.user.has_perm("giftcards.export_order") else None
        )
    return pages.render_page(
        request,
        "report",
        template="admin/giftcards_books/report.html",
        title=title,
        status=status,
        **context,
    )


def _shown(pages: OrderPages, request: HttpRequest, question: Question) -> dict[str, Any]:
    """The report as template context, without what this person may not see."""
    shows_costs = pages.may_see_costs(request)
    found = report(question.start, question.end, question.by, product_id=question.product_id)
    open_orders = money_in_open_orders() if shows_costs else None
    orders = pages.address("changelist")
    return {
        "report": found,
        "groups": figures.groups(found, question, order_list=orders, open_orders=open_orders),
        "charts": list(pictures.pictures(found, shows_costs=shows_costs)),
        "rows_are": capfirst(question.by.label),
        "lines": figures.lines(found, question, order_list=orders, shows_costs=shows_costs),
        "total": figures.cells(found.total, shows_costs=shows_costs),
        "parameters": question.parameters,
    }


def _file(question: Question, download: Download, *, shows_costs: bool) -> HttpResponseBase:
    if download.is_of_orders:
        rows = order_rows(
            question.start,
            question.end,
            product_id=question.product_id,
            shows_costs=shows_costs,
            shows_contacts=download.has_contacts,
        )
    else:
        found = report(question.start, question.end, question.by, product_id=question.product_id)
        rows = report_rows(found, shows_costs=shows_costs)
    what = "orders" if download.is_of_orders else "report"
    name = f"giftcards-{what}-{question.start}-{question.end}"
    if download.csv is None:
        # Closed by the response.
        file = TemporaryFile()  # noqa: SIM115
        write_xlsx(rows, file)
        file.seek(0)
        return FileResponse(file, as_attachment=True, filename=f"{name}.xlsx")
    form = {"separator": download.csv.separator, "decimal_mark": download.csv.decimal_mark}
    pieces = as_csv(rows, **form, has_bom=download.has_bom)
    return StreamingHttpResponse(
        pieces,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )


def _leave_trace(request: HttpRequest, question: Question, download: Download) -> None:
    what = "the orders" if download.is_of_orders else f"the report by {question.by}"
    parts = [
        f"Exported {what} from {question.start} to {question.end}",
        f" of product {question.product_id}" if question.product_id else "",
        f" as {'CSV' if download.csv else 'xlsx'}",
        ", with addresses and phone numbers" if download.has_contacts else "",
    ]
    person: Any = request.user.pk
    LogEntry.objects.create(
        user_id=person,
        content_type=ContentType.objects.get_for_model(Order),
        object_repr="Report",
        action_flag=CHANGE,
        change_message=f"{''.join(parts)}.",
    )


PAGES = (
    Page("order_report", "report/", report_view),
    Page("order_report_download", "report/download/", download_view),
)
