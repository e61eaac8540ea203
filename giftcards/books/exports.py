"""Export reports and orders for spreadsheets, as CSV or xlsx.

The files never contain the codes or serial numbers of cards.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import chain
from operator import attrgetter
from typing import IO, Any, NamedTuple

from django.db.models import Q, QuerySet
from django.utils.functional import Promise
from django.utils.text import capfirst
from django.utils.translation import get_language_bidi
from django.utils.translation import gettext_lazy as _

from giftcards.books.figures import FIGURES, Line, Side
from giftcards.books.reports import By, Report, settled_between
from giftcards.catalogue.descriptions import Description, of_products
from giftcards.engine.tuning import tuning
from giftcards.models import Order, Product
from giftcards.models.provider import Environment
from giftcards.rules.states import Status
from giftcards.rules.times import local

# A cell of a table. Amounts are decimals, and datetimes are naive, in the site's time zone.
# ``None`` means unknown or absent.
Cell = str | int | Decimal | date | datetime | None
Cells = Sequence[Cell]

# The number of characters in a piece of a file.
_WRITTEN_AT_ONCE = 64 * 1024

# Spreadsheets may treat a text as a formula if it begins with one of these signs, even after spaces
# or invisible characters. Some versions also accept the full-width and small forms of the signs. If
# a spreadsheet uses a semicolon (as in French) or a tab as the separator, it starts a new cell
# after each of these characters, even inside a text. It then ignores our quotes in the middle of
# the cell, so a line break also starts a new cell.
_UNSEEN = r"\s\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
_SIGNS = r"=+\-@\u2212\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b"
_FORMULA = re.compile(rf"""(?:\A|(?<=[;\t\r\n]))(?=[{_UNSEEN}"]*[{_SIGNS}])|\A(?=[\t\r\n])""")
# Characters that the XML of an xlsx file must not contain.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class _Column(NamedTuple):
    heading: str | Promise
    # A function that returns the cell for a row of a report, or for an order (a _Line).
    value: Callable[[Any], Cell]


def _rows(columns: Sequence[_Column], sources: Iterable[Any]) -> Iterator[Cells]:
    headings = [capfirst(str(column.heading)) for column in columns]
    return chain([headings], ([column.value(source) for column in columns] for source in sources))


def report_rows(report: Report, *, shows_costs: bool = True) -> Iterator[Cells]:
    """Return the headings, followed by the rows of ``report`` without a total.

    If ``shows_costs`` is False, the columns with the provider's charges are left out. The headings
    are in the language that is active when the function is called.
    """
    columns = [
        *_KEYS[report.by],
        *(
            _Column(figure.label, attrgetter(f"figures.{figure.name}"))
            for figure in sorted(FIGURES.values(), key=attrgetter("tells_costs"))
            if figure.is_in_files and (shows_costs or not figure.tells_costs)
        ),
    ]
    return _rows(columns, report.rows)


_FIRST_DAY = _Column(_("First day"), attrgetter("key"))
_PRODUCT = (
    _Column(_("Name"), attrgetter("label")),
    _Column(_("product"), lambda row: row.key[0]),
)
_KEYS: Mapping[By, Sequence[_Column]] = {
    By.DAY: (_Column(By.DAY.label, attrgetter("key")),),
    By.WEEK: (_Column(By.WEEK.label, attrgetter("label")), _FIRST_DAY),
    By.MONTH: (_Column(By.MONTH.label, attrgetter("label")), _FIRST_DAY),
    By.PRODUCT: _PRODUCT,
    By.TYPE: (*_PRODUCT, _Column(_("type"), lambda row: row.key[1])),
}


def order_rows(
    start: date,
    end: date,
    *,
    product_id: str = "",
    shows_costs: bool = True,
    shows_contacts: bool = False,
) -> Iterator[Cells]:
    """Return the headings, followed by one row for each order of a period.

    An order belongs to the period if it became final between ``start`` and ``end``. The column
    totals equal the figures of :func:`~giftcards.books.reports.report` for the same period. If
    ``shows_contacts`` is True, the rows contain the customers' addresses and phone numbers. For
    ``shows_costs`` and the language of the headings, see :func:`report_rows`.
    """
    columns = [
        *_order_columns(),
        *(_ORDER_COSTS if shows_costs else ()),
        *(_CONTACTS if shows_contacts else ()),
    ]
    orders = Order.objects.all()
    if product_id:
        orders = orders.filter(product_id=product_id)
    return _rows(columns, map(Line, _each(settled_between(orders, start, end))))


# The columns of orders that the file reads. Others are not loaded, because they may be long.
_READ = (
    "reference",
    "group",
    "provider_order_id",
    "environment",
    "created_at",
    "finalized_at",
    "status",
    "product_id",
    "product_name",
    "type_id",
    "type_name",
    "quantity",
    "fulfilled_quantity",
    "price_per_card",
    "fulfilled_amount",
    "sale_price",
    "sale_amount",
    "reordered_amount",
    "paid_back_amount",
    "customer_name",
    "customer_email",
    "customer_phone",
    "repeats__reference",
)


def _each(orders: QuerySet[Order]) -> Iterator[Order]:
    # The orders are sorted by the columns of the index; ``due_at`` of a final order is always NULL.
    rows = orders.order_by("finalized_at", "status", "due_at", "pk")
    rows = rows.select_related("repeats").only(*_READ)
    batch = list(rows[: tuning.file_batch])
    yield from batch
    while len(batch) == tuning.file_batch:
        last = batch[-1]
        after = (
            Q(finalized_at__gt=last.finalized_at)
            | Q(status__gt=last.status)
            | Q(status=last.status, pk__gt=last.pk)
        )
        batch = list(rows.filter(after, finalized_at__gte=last.finalized_at)[: tuning.file_batch])
        yield from batch


def _of_orders(*sides: Side) -> Iterator[_Column]:
    """Yield the columns of an order file for one or more sides of a report.

    Each cell contains the value that one order adds to a figure.
    """
    for figure in FIGURES.values():
        if figure.side in sides and figure.of_order is not None:
            yield _Column(figure.of_order or figure.label, figure.of)


def _order_columns() -> list[_Column]:
    # The labels are translated now, because another language may be active when the rows are read.
    labels = {str(choice): str(choice.label) for choice in (*Status, *Environment)}
    products = of_products(Product.objects.all())

    def told(line: Line) -> Description:
        return products.get(line.order.product_id, Description())

    return [
        _Column(_("reference"), attrgetter("order.reference")),
        _Column(_("group"), attrgetter("order.group")),
        _Column(_("provider's order ID"), attrgetter("order.provider_order_id")),
        _Column(_("Environment"), lambda line: labels.get(line.order.environment, "")),
        _Column(_("created"), lambda line: local(line.order.created_at)),
        _Column(_("settled"), lambda line: local(line.order.finalized_at)),
        _Column(_("status"), lambda line: labels[line.order.status]),
        _Column(
            _("Replaces missing cards of"),
            lambda line: line.order.repeats.reference if line.order.repeats else "",
        ),
        _Column(_("product"), attrgetter("order.product_id")),
        _Column(_("product's name"), attrgetter("order.product_name")),
        _Column(_("region"), lambda line: told(line).region),
        _Column(_("redemption instructions"), lambda line: told(line).instructions),
        _Column(_("type"), attrgetter("order.type_id")),
        _Column(_("type's name"), attrgetter("order.type_name")),
        *_of_orders(Side.CARDS),
        _Column(_("customer"), attrgetter("order.customer_name")),
        *_of_orders(Side.CUSTOMERS),
    ]


_ORDER_COSTS = (
    _Column(_("price per card"), attrgetter("order.price_per_card")),
    *_of_orders(Side.PROVIDER, Side.MARGIN),
)
_CONTACTS = (
    _Column(_("customer e-mail"), attrgetter("order.customer_email")),
    _Column(_("customer phone"), attrgetter("order.customer_phone")),
)


def as_csv(rows: Iterable[Cells]) -> Iterator[bytes]:
    """Yield ``rows`` as chunks of a UTF-8 CSV file (RFC 4180).

    The file begins with a byte order mark, so that spreadsheets recognise UTF-8. If a spreadsheet
    would treat part of a cell as a formula, the function writes an apostrophe before that part.
    Such a part can also begin after a semicolon or a tab, because some spreadsheets begin a new
    cell there.
    """
    written = io.StringIO(newline="")
    written.write("\ufeff")
    writer = csv.writer(written, lineterminator="\r\n")
    for row in rows:
        writer.writerow(map(_as_text, row))
        if written.tell() >= _WRITTEN_AT_ONCE:
            yield written.getvalue().encode()
            written.seek(0)
            written.truncate()
    yield written.getvalue().encode()


def _as_text(cell: Cell) -> str:
    match cell:
        case None:
            return ""
        case str():
            return _harmless(cell)
        case Decimal():
            return f"{cell:.2f}"
        case datetime():
            return f"{cell:%Y-%m-%d %H:%M:%S}"
    return str(cell)


def _harmless(text: str) -> str:
    return _FORMULA.sub("'", text.replace("\0", ""))


def can_write_xlsx() -> bool:
    """True if openpyxl is installed: ``pip install django-giftcards[xlsx]``."""
    return importlib.util.find_spec("openpyxl") is not None


def write_xlsx(rows: Iterable[Cells], file: IO[bytes]) -> None:
    """Write ``rows`` to an xlsx file. The first row contains the headings.

    Amounts are written as numbers, and days and times as dates. Strings are never written as
    formulas. Raises :exc:`ImportError` if openpyxl is not installed.
    """
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    unread = iter(rows)
    headings = next(unread, ())
    sheet = _new_sheet(book, headings)
    for number, row in enumerate(unread, 1):
        if number % tuning.sheet_rows == 0:
            sheet = _new_sheet(book, headings)
        sheet.append([_as_cell(sheet, cell) for cell in row])
    book.save(file)


def _new_sheet(book: Any, headings: Cells) -> Any:
    from openpyxl.utils import get_column_letter

    sheet = book.create_sheet()
    sheet.sheet_view.rightToLeft = get_language_bidi()
    sheet.freeze_panes = "A2"
    for number in range(1, len(headings) + 1):
        # Spreadsheets show a date that does not fit as ####.
        sheet.column_dimensions[get_column_letter(number)].width = 20
    sheet.append([_as_cell(sheet, cell) for cell in headings])
    return sheet


def _as_cell(sheet: Any, value: Cell) -> Any:
    from openpyxl.cell import WriteOnlyCell

    if isinstance(value, str):
        cell = WriteOnlyCell(sheet, _CONTROLS.sub("", value))
        # Without this type, a text that begins with "=" would become a formula.
        cell.data_type = "s"
        return cell
    if isinstance(value, Decimal):
        cell = WriteOnlyCell(sheet, value)
        cell.number_format = "#,##0.00"
        return cell
    return value
