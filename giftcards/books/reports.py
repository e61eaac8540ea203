"""Reports about the orders of a period.

A report shows the amounts that were ordered, delivered, charged, sold and owed. An order belongs to
the day on which it became final, in the site's time zone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import (
    BigIntegerField,
    Case,
    Count,
    F,
    Func,
    IntegerField,
    Max,
    QuerySet,
    Value,
    When,
)
from django.db.models.lookups import LessThan
from django.db.models.sql.compiler import SQLCompiler
from django.utils.translation import gettext_lazy as _

from giftcards.books.figures import SUMS, Figures, read_sums
from giftcards.models import Order
from giftcards.rules.states import SETTLED
from giftcards.rules.times import begin_of, day_of, within

__all__ = ["By", "Figures", "Report", "Row", "Settling", "report"]


class By(models.TextChoices):
    """The grouping of a report. Weeks follow ISO 8601 and begin on Monday."""

    DAY = "day", _("day")
    WEEK = "week", _("week")
    MONTH = "month", _("month")
    PRODUCT = "product", _("product")
    # A product together with a type.
    TYPE = "type", _("denomination")


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one day, week, month, product or product type.

    For a day, week or month, ``key`` is its first day, even if this day is before the start of the
    report. For a product or a product type, ``key`` contains the product id and the type id. In a
    report by product, the type id is "". ``label`` is the name of the product or product type, or
    the day, week or month in ISO 8601 format.
    """

    key: date | tuple[str, str]
    label: str
    figures: Figures


class Settling(NamedTuple):
    """The times in which 50 % and 95 % of the orders settled, in seconds.

    Half of the orders settled within ``p50`` seconds, and 95 % settled within ``p95`` seconds.
    """

    p50: int
    p95: int


@dataclass(frozen=True, slots=True)
class Report:
    """The figures from ``start`` to ``end``, both days included.

    Each item of ``rows`` has the attributes ``key``, ``label`` and ``figures``. Days, weeks and
    months without orders do not have a row. The ``giftcards_report --json`` command prints the
    figures under the same names. The ``settling`` object has the attributes ``p50`` and ``p95``, in
    seconds. If no order has settled, ``settling`` is ``None``.
    """

    start: date
    end: date
    by: By
    rows: tuple[Row, ...]
    total: Figures
    settling: Settling | None


def report(start: date, end: date, by: By = By.DAY, *, product_id: str = "") -> Report:
    """Return the figures for orders that became final between two dates.

    Both dates are included, and are in the time zone ``settings.TIME_ZONE``. The ``by`` argument is
    one of ``By.DAY``, ``By.WEEK``, ``By.MONTH``, ``By.PRODUCT`` and ``By.TYPE``. If a week or month
    extends beyond the period, its row contains only the orders of the days inside the period.
    Raises :exc:`ValueError` if ``end`` is before ``start``.
    """
    if end < start:
        raise ValueError("The end of a report must not be before its start.")
    orders = Order.objects.all()
    if product_id:
        orders = orders.filter(product_id=product_id)
    rows_of = _rows_of_products if by in {By.PRODUCT, By.TYPE} else _rows_of_days
    rows = tuple(rows_of(orders, start, end, by))
    total = sum((row.figures for row in rows), Figures())
    return Report(start, end, by, rows, total, _settling(orders, start, end))


def sum_up(start: date, end: date, **further: Any) -> tuple[Figures, Counter[str]]:
    """Return the total of a report, and the results of further aggregates.

    The total is the same as in :func:`report`. Pass further aggregates as keyword arguments. The
    function takes half as long as :func:`report`, because it leaves out :class:`Settling`.
    """
    row = settled_between(Order.objects.all(), start, end).aggregate(**SUMS, **further)
    return read_sums(row), Counter({name: int(row[name] or 0) for name in further})


def settled_between(orders: QuerySet[Order], start: date, end: date) -> QuerySet[Order]:
    """Return the orders that became final between two days, both included.

    The result is not sorted.
    """
    return orders.filter(within("finalized_at", start, end)).order_by()


def first_day(day: date, by: By) -> date:
    """Return the first day of the week or month that contains ``day``.

    For any other value of ``by``, the result is the given day.
    """
    match by:
        case By.WEEK:
            return day - timedelta(days=day.weekday())
        case By.MONTH:
            return day.replace(day=1)
    return day


def last_day(day: date, by: By) -> date:
    """Return the last day of the week or month that contains ``day``.

    For any other value of ``by``, the result is the given day.
    """
    # No day, week or month is longer than this.
    longest = {By.WEEK: 7, By.MONTH: 31}.get(by, 1)
    following = first_day(day, by) + timedelta(days=longest)
    return first_day(following, by) - timedelta(days=1)


def spans(start: date, end: date, by: By) -> Iterator[tuple[date, date, date]]:
    """Divide the period into days, weeks or months.

    Yields the key, the first day and the last day of each part. The first and the last day are
    inside the period. The key is the first day of the complete week or month, so it can be before
    the period.
    """
    while start <= end:
        last = min(last_day(start, by), end)
        yield first_day(start, by), start, last
        start = last + timedelta(days=1)


_KEY_FORMATS = {By.DAY: "%Y-%m-%d", By.WEEK: "%G-W%V", By.MONTH: "%Y-%m"}


def _rows_of_days(orders: QuerySet[Order], start: date, end: date, by: By) -> list[Row]:
    orders = settled_between(orders, start, end)
    found = _days_with_orders(orders)
    if found is None:
        return []
    parts = list(spans(*found, by))
    begins = [begin_of(first) for _key, first, _last in parts]
    groups = orders.values(part=_part_of("finalized_at", begins)).annotate(**SUMS)
    sums = {group["part"]: read_sums(group) for group in groups}
    return [
        Row(key, f"{key:{_KEY_FORMATS[by]}}", sums[number])
        for number, (key, _first, _last) in enumerate(parts)
        if number in sums
    ]


def _part_of(column: str, begins: Sequence[datetime], number: int = 0) -> Case | Value:
    """Return an expression for the index of the part that contains ``column``.

    A part is a day, a week or a month. The sequence ``begins`` contains the start time of each
    part. Indexes are counted from ``number``. The expression does not compute dates, because not
    all databases support the same time zones. The expression is a binary search, because a period
    can contain hundreds of days.
    """
    if len(begins) == 1:
        return Value(number)
    half = len(begins) // 2
    return Case(
        When(LessThan(F(column), begins[half]), then=_part_of(column, begins[:half], number)),
        default=_part_of(column, begins[half:], number + half),
        output_field=IntegerField(),
    )


def _rows_of_products(orders: QuerySet[Order], start: date, end: date, by: By) -> list[Row]:
    sums: defaultdict[tuple[str, str], Figures] = defaultdict(Figures)
    # For each product or type: the primary key of its newest order, and the product's and type's
    # names in that order.
    newest: defaultdict[tuple[str, str], tuple[int, str, str]] = defaultdict(lambda: (0, "", ""))
    columns = ("product_id", "type_id", "product_name", "type_name")
    groups = settled_between(orders, start, end).values(*columns)
    for group in groups.annotate(newest=Max("pk"), **SUMS):
        key = group["product_id"], group["type_id"] if by is By.TYPE else ""
        sums[key] += read_sums(group)
        names = group["newest"], group["product_name"], group["type_name"]
        newest[key] = max(newest[key], names)
    rows = [Row(key, _name(key, newest[key][1:]), figures) for key, figures in sums.items()]
    return sorted(rows, key=lambda row: (row.label.casefold(), row.key))


def _days_with_orders(orders: QuerySet[Order]) -> tuple[date, date] | None:
    moments = orders.values_list("finalized_at", flat=True)
    first = moments.order_by("finalized_at").first()
    last = moments.order_by("-finalized_at").first()
    if first is None or last is None:
        return None
    return day_of(first), day_of(last)


def _name(key: tuple[str, str], names: tuple[str, str]) -> str:
    return " · ".join(name or id_ for id_, name in zip(key, names, strict=True) if id_)


class _SecondsBetween(Func):
    """The first time column minus the second, in whole seconds."""

    arity = 2
    arg_joiner = " - "
    output_field = BigIntegerField()
    template = "FLOOR(EXTRACT(EPOCH FROM (%(expressions)s)))"

    def as_mysql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any
    ) -> Any:
        template = "-TIMESTAMPDIFF(SECOND, %(expressions)s)"
        return self.as_sql(compiler, connection, template=template, arg_joiner=", ", **context)

    def as_sqlite(
        self,
        compiler: SQLCompiler,
        connection: BaseDatabaseWrapper,  # noqa: ARG002 (Django's signature)
        **_context: Any,
    ) -> tuple[str, tuple[str | int, ...]]:
        later, earlier = (compiler.compile(column)[0] for column in self.get_source_expressions())
        # SQLite stores a moment as a text of 19 characters, plus a dot and the microseconds if
        # these are not 0. With microseconds, strftime() may round up to the next second.
        whole = " - ".join(
            f"CAST(strftime('%%s', SUBSTR({moment}, 1, 19)) AS INTEGER)"
            for moment in (later, earlier)
        )
        return f"({whole} - (SUBSTR({later}, 21) < SUBSTR({earlier}, 21)))", ()


def _settling(orders: QuerySet[Order], start: date, end: date) -> Settling | None:
    settled = settled_between(orders.filter(status__in=SETTLED), start, end)
    seconds = settled.values_list(_SecondsBetween("finalized_at", "created_at"))
    times: Counter[int] = Counter()
    for taken, count in seconds.annotate(Count("pk")):
        # The time taken is negative if the clock was set back.
        times[max(int(taken), 0)] += count
    if not times:
        return None
    return Settling(_percentile(times, 50), _percentile(times, 95))


def _percentile(times: Counter[int], percent: int) -> int:
    """Return the time in which the given percentage of the orders settled."""
    values = sorted(times)
    up_to = list(accumulate(times[value] for value in values))
    return values[bisect_left(up_to, up_to[-1] * percent / 100)]
