"""Reports on the orders of a period: what was ordered, delivered, charged, sold and owed.

An order counts for the day on which it became final, in the site's time zone.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
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
    Q,
    QuerySet,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce
from django.db.models.lookups import LessThan
from django.db.models.sql.compiler import SQLCompiler
from django.utils.translation import gettext_lazy as _

from giftcards.models import Order
from giftcards.models.order_queries import CONTRADICTORY, SALE_UNKNOWN
from giftcards.rules.states import SETTLED, UNCHARGED, Status
from giftcards.rules.times import begin_of, day_of, within

_ZERO = Decimal("0.00")


class By(models.TextChoices):
    """The grouping of a report; weeks are those of ISO 8601, from Monday to Sunday."""

    DAY = "day", _("day")
    WEEK = "week", _("week")
    MONTH = "month", _("month")
    PRODUCT = "product", _("product")
    # A product together with a type.
    TYPE = "type", _("denomination")


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums over final orders; they can be added with ``+``.

    Amounts are in dinars, with two decimals. Orders whose amount is unknown are
    left out of the sum: see :func:`~giftcards.refunds.refund_breakdown` and
    :func:`~giftcards.settlement.customer_breakdown`. If ``unknown`` and ``contradictory`` are 0,
    ordered = charged + refunded.

    The customers' side counts each dinar once: if missing cards were ordered again, the payment for
    them counts for the new order only. So paid = kept + owed, and owed = customer_paid_back + open.
    """

    orders: int = 0
    # Rejected orders: nothing was bought, and the whole payment is owed.
    rejected: int = 0
    cards_ordered: int = 0
    cards_delivered: int = 0
    # The amounts of the provider.
    ordered_amount: Decimal = _ZERO
    charged_amount: Decimal = _ZERO
    refunded_amount: Decimal = _ZERO
    # The amounts of the customers. A refund counts in the period of its order, whenever it was
    # paid.
    paid_amount: Decimal = _ZERO
    owed_amount: Decimal = _ZERO
    customer_paid_back_amount: Decimal = _ZERO
    # Kept minus charged, over the orders for which both amounts are known.
    margin_amount: Decimal = _ZERO
    # The margin lost by missing cards: owed minus refunded, over the settled orders for which both
    # amounts are known, and no cards were ordered again.
    lost_margin_amount: Decimal = _ZERO
    # Settled orders with an unknown amount at the provider.
    unknown: int = 0
    # Settled orders with figures from the provider that contradict each other.
    contradictory: int = 0
    # Orders for which nobody has said what the customer paid.
    unpaid: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(getattr(self, name) + getattr(other, name) for name in _NAMES))

    @property
    def kept_amount(self) -> Decimal:
        """The customers' payments for cards that were delivered."""
        return self.paid_amount - self.owed_amount

    @property
    def open_amount(self) -> Decimal:
        """The part of the owed amount that was not paid back yet."""
        return self.owed_amount - self.customer_paid_back_amount

    @property
    def fill_rate(self) -> Decimal | None:
        """The share of the cards that were delivered: 0 to 1, rounded down to four decimals."""
        if not self.cards_ordered:
            return None
        share = Decimal(self.cards_delivered) / self.cards_ordered
        return share.quantize(Decimal("0.0001"), ROUND_DOWN)


_NAMES = tuple(field.name for field in fields(Figures))


class Side(enum.Flag):
    """The side of a report to which a figure belongs; the margin belongs to both sides."""

    CARDS = 0
    PROVIDER = enum.auto()
    CUSTOMERS = enum.auto()
    MARGIN = PROVIDER | CUSTOMERS


class Column(NamedTuple):
    """A figure of a report, with its name for people.

    ``name`` is an attribute of :class:`Figures`. ``short`` is the heading in tables; "" leaves the
    figure out of tables, but not out of the key figures of the admin's page.
    """

    name: str
    label: Any
    side: Side
    short: str = ""
    is_in_files: bool = True

    @property
    def tells_costs(self) -> bool:
        """True if the figure shows what the provider charges."""
        return Side.PROVIDER in self.side


# The sequence of the columns in all reports. But in files, columns that show costs come last.
COLUMNS = (
    Column("orders", _("orders"), Side.CARDS, "orders"),
    Column("rejected", _("Rejected orders"), Side.CARDS),
    Column("cards_ordered", _("Cards ordered"), Side.CARDS, "cards"),
    Column("cards_delivered", _("Cards delivered"), Side.CARDS, "delivered"),
    Column("ordered_amount", _("Ordered"), Side.PROVIDER, "ordered"),
    Column("charged_amount", _("Cost"), Side.PROVIDER, "charged"),
    Column("refunded_amount", _("Credited back"), Side.PROVIDER, "refunded"),
    Column("paid_amount", _("Paid by customers"), Side.CUSTOMERS, "paid"),
    Column("kept_amount", _("Kept, for what was delivered"), Side.CUSTOMERS, is_in_files=False),
    Column("owed_amount", _("Owed to customers"), Side.CUSTOMERS, "owed"),
    Column("customer_paid_back_amount", _("Paid back"), Side.CUSTOMERS, "paid back"),
    Column("open_amount", _("Still owed"), Side.CUSTOMERS, "still owed"),
    Column("unpaid", _("Orders without a sale amount"), Side.CUSTOMERS),
    Column("margin_amount", _("Margin"), Side.MARGIN, "margin"),
    Column("lost_margin_amount", _("Margin lost"), Side.MARGIN),
    Column("unknown", _("Orders with unknown amounts"), Side.PROVIDER),
    Column("contradictory", _("Orders with contradictory figures"), Side.PROVIDER),
)


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of a day, a week, a month, a product or a type.

    For a day, week or month, ``key`` is its first day, even if that day is before the report's
    start. Otherwise, ``key`` has the ids of product and type; a report by product has "" as the
    type's id. ``label`` is for people.
    """

    key: date | tuple[str, str]
    label: str
    figures: Figures


class Settling(NamedTuple):
    """Times in seconds: half of the orders settled within ``p50``, 95 % within ``p95``."""

    p50: int
    p95: int


@dataclass(frozen=True, slots=True)
class Report:
    """The figures from ``start`` to ``end``, both included.

    Each of ``rows`` has ``key``, ``label`` and ``figures``. A day, week or month without orders has
    no row. ``giftcards_report --json`` prints the figures under the same names. ``settling`` has
    ``p50`` and ``p95`` in seconds; it is ``None`` if no order has settled.
    """

    start: date
    end: date
    by: By
    rows: tuple[Row, ...]
    total: Figures
    settling: Settling | None


def report(start: date, end: date, by: By = By.DAY, *, product_id: str = "") -> Report:
    """Return the figures of the orders that became final from ``start`` to ``end``.

    Both days are included, in ``settings.TIME_ZONE``. ``By`` has ``DAY``, ``WEEK``, ``MONTH``,
    ``PRODUCT`` and ``TYPE``. A week or month that extends beyond the period has only the orders of
    the days inside it. Raises :exc:`ValueError` if ``end`` is before ``start``.
    """
    if end < start:
        raise ValueError("A report ends on the day it starts, or later.")
    orders = Order.objects.all()
    if product_id:
        orders = orders.filter(product_id=product_id)
    rows_of = _rows_of_products if by in {By.PRODUCT, By.TYPE} else _rows_of_days
    rows = tuple(rows_of(orders, start, end, by))
    total = sum((row.figures for row in rows), Figures())
    return Report(start, end, by, rows, total, _settling(orders, start, end))


def sum_up(start: date, end: date, **further: Any) -> tuple[Figures, Counter[str]]:
    """Return the total of :func:`report` for a period, and the sums of further aggregates.

    ``further`` maps names to aggregates. This takes half the time of :func:`report`, because it
    leaves out :class:`Settling`.
    """
    row = settled_between(Order.objects.all(), start, end).aggregate(**_sums(), **further)
    return _figures(row), Counter({name: int(row[name] or 0) for name in further})


def settled_between(orders: QuerySet[Order], start: date, end: date) -> QuerySet[Order]:
    """Return the ``orders`` that became final from ``start`` to ``end``, unsorted."""
    return orders.filter(within("finalized_at", start, end)).order_by()


def first_day(day: date, by: By) -> date:
    """Return the first day of the week or month that contains ``day``.

    If ``by`` is neither ``WEEK`` nor ``MONTH``, the result is ``day`` itself.
    """
    match by:
        case By.WEEK:
            return day - timedelta(days=day.weekday())
        case By.MONTH:
            return day.replace(day=1)
    return day


def last_day(day: date, by: By) -> date:
    """Return the last day of the week or month that contains ``day``.

    If ``by`` is neither ``WEEK`` nor ``MONTH``, the result is ``day`` itself.
    """
    # No day, week or month is longer than this.
    longest = {By.WEEK: 7, By.MONTH: 31}.get(by, 1)
    following = first_day(day, by) + timedelta(days=longest)
    return first_day(following, by) - timedelta(days=1)


def spans(start: date, end: date, by: By) -> Iterator[tuple[date, date, date]]:
    """Divide the period into days, weeks or months; yield the key and the two ends of each.

    The key is the first day of the whole week or month. The ends lie inside the period.
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
    groups = orders.values(part=_part_of("finalized_at", begins)).annotate(**_sums())
    sums = {group["part"]: _figures(group) for group in groups}
    return [
        Row(key, f"{key:{_KEY_FORMATS[by]}}", sums[number])
        for number, (key, _first, _last) in enumerate(parts)
        if number in sums
    ]


def _part_of(column: str, begins: Sequence[datetime], number: int = 0) -> Case | Value:
    """Return an expression for the index of the day, week or month in which ``column`` lies.

    ``begins`` has the first moments of the days, weeks or months; ``number`` is the index of the
    first. The database computes no dates, because databases differ in the time zones that they
    know. The search is binary, because a period may have hundreds of days.
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
    # The primary key of the newest order of each product or type, and the names in that order.
    newest: defaultdict[tuple[str, str], tuple[int, str, str]] = defaultdict(lambda: (0, "", ""))
    columns = ("product_id", "type_id", "product_name", "type_name")
    groups = settled_between(orders, start, end).values(*columns)
    for group in groups.annotate(newest=Max("pk"), **_sums()):
        key = group["product_id"], group["type_id"] if by is By.TYPE else ""
        sums[key] += _figures(group)
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


class Centimes(Func):
    """An amount in whole centimes, because SQLite computes with binary fractions."""

    output_field = BigIntegerField()
    template = "(%(expressions)s * 100)"

    def as_sqlite(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any
    ) -> Any:
        template = "CAST(ROUND(%(expressions)s * 100) AS INTEGER)"
        return self.as_sql(compiler, connection, template=template, **context)


def _sums() -> dict[str, Any]:
    """Return the aggregates for :class:`Figures`; amounts are in centimes, or NULL if unknown.

    One formula serves the refunded amount in every status, because constraints ensure that a
    refunded order has no cards, and a fulfilled order has all of them.
    """
    settled = Q(status__in=SETTLED)
    price, told = Centimes("price_per_card"), Centimes("fulfilled_amount")
    charged = Case(
        When(status=Status.REJECTED, then=0),
        When(status__in=UNCHARGED, then=Coalesce(told, 0)),
        default=told,
        output_field=BigIntegerField(),
    )
    missing = F("quantity") - F("fulfilled_quantity")
    paid_once = Centimes("sale_amount") - Coalesce(Centimes("reordered_amount"), 0)
    paid_back = Centimes("paid_back_amount")
    owed = paid_back + Centimes("open_amount")
    is_charge_unknown = Q(fulfilled_amount=None) & ~Q(status__in=UNCHARGED)
    return {
        "orders": Count("pk"),
        "rejected": Count("pk", filter=Q(status=Status.REJECTED)),
        "cards_ordered": Sum("quantity"),
        "cards_delivered": Sum("fulfilled_quantity"),
        "ordered_amount": Sum(F("quantity") * price, filter=settled),
        "charged_amount": Sum(charged),
        "refunded_amount": Sum(missing * price, filter=settled),
        "paid_amount": Sum(paid_once),
        "owed_amount": Sum(owed),
        "customer_paid_back_amount": Sum(paid_back),
        "margin_amount": Sum(paid_once - owed - charged),
        "lost_margin_amount": Sum(
            owed - missing * price, filter=settled & Q(reordered_amount=None)
        ),
        "unknown": Count("pk", filter=settled & (Q(price_per_card=None) | is_charge_unknown)),
        "contradictory": Count("pk", filter=CONTRADICTORY),
        "unpaid": Count("pk", filter=SALE_UNKNOWN),
    }


def _figures(row: Mapping[str, Any]) -> Figures:
    # An empty sum is NULL, and amounts are in centimes.
    sums = {name: int(row[name] or 0) for name in _NAMES}
    values: dict[str, Any] = {
        name: Decimal(value).scaleb(-2) if name.endswith("_amount") else value
        for name, value in sums.items()
    }
    return Figures(**values)


class _SecondsBetween(Func):
    """The whole seconds between two columns; the first column has the later moment."""

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
    """Return the smallest value that at least ``percent`` percent of the values do not exceed."""
    values = sorted(times)
    up_to = list(accumulate(times[value] for value in values))
    return values[bisect_left(up_to, up_to[-1] * percent / 100)]
