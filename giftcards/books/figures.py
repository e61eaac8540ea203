"""The declarations of all figures in reports.

A declaration consists of the name, label, side and SQL of a figure, and a function that computes
its value for one order. Reports, files, closed months, pages and JSON use these declarations. To
add a figure, add a field to :class:`Figures`. ``tests/books/test_figures.py`` compares the SQL with
the functions.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import ROUND_DOWN, Decimal
from operator import attrgetter
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BigIntegerField, Case, Count, F, Func, Q, Sum, When
from django.db.models.functions import Coalesce
from django.db.models.sql.compiler import SQLCompiler
from django.utils.translation import gettext_lazy as _

from giftcards.models import Order
from giftcards.models.order_queries import CONTRADICTORY, SALE_UNKNOWN
from giftcards.rules.money import customer_breakdown, refund_breakdown
from giftcards.rules.states import SETTLED, UNCHARGED, Status

_ZERO = Decimal("0.00")


class Side(enum.Flag):
    """The side of a report that a figure belongs to.

    The margin belongs to the provider's side and to the customers' side.
    """

    CARDS = 0
    PROVIDER = enum.auto()
    CUSTOMERS = enum.auto()
    MARGIN = PROVIDER | CUSTOMERS


class Line:
    """A final order with the amounts that a report counts.

    ``None`` means unknown. Each dinar that a customer paid is counted once. If missing cards were
    ordered again, the payment for these cards is counted only for the new order.
    """

    def __init__(self, order: Order) -> None:
        # A final order without a breakdown was rejected: the provider charged nothing for it.
        provider, customer = refund_breakdown(order), customer_breakdown(order)
        self.order = order
        self.is_settled = provider is not None
        self.is_contradictory = provider is not None and not provider.is_consistent
        self.ordered = provider.ordered_amount if provider else _ZERO
        self.charged = provider.charged_amount if provider else _ZERO
        self.refunded = provider.refunded_amount if provider else _ZERO
        self.paid: Decimal | None = None
        self.owed: Decimal | None = None
        self.open: Decimal | None = None
        if customer:
            self.paid = customer.paid_amount - (order.reordered_amount or 0)
            self.open = customer.open_amount
            self.owed = customer.paid_back_amount + self.open

    @property
    def kept(self) -> Decimal | None:
        return _less(self.paid, self.owed)

    @property
    def margin(self) -> Decimal | None:
        return _less(self.kept, self.charged)

    @property
    def lost_margin(self) -> Decimal | None:
        is_lost = self.is_settled and self.order.reordered_amount is None
        return _less(self.owed, self.refunded) if is_lost else None

    @property
    def is_unknown(self) -> bool:
        return None in (self.ordered, self.charged, self.refunded)


def _less(amount: Decimal | None, other: Decimal | None) -> Decimal | None:
    return None if amount is None or other is None else amount - other


class Centimes(Func):
    """An amount in whole centimes.

    Whole centimes are needed because SQLite calculates with binary fractions.
    """

    output_field = BigIntegerField()
    template = "(%(expressions)s * 100)"

    def as_sqlite(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any
    ) -> Any:
        template = "CAST(ROUND(%(expressions)s * 100) AS INTEGER)"
        return self.as_sql(compiler, connection, template=template, **context)


# The amounts of a final order in SQL, in centimes; NULL if unknown. One formula serves the refunded
# amount in every status, because constraints ensure that a refunded order has no cards, and a
# fulfilled order has all of them.
_SETTLED = Q(status__in=SETTLED)
_PRICE, _TOLD = Centimes("price_per_card"), Centimes("fulfilled_amount")
_CHARGED = Case(
    When(status=Status.REJECTED, then=0),
    When(status__in=UNCHARGED, then=Coalesce(_TOLD, 0)),
    default=_TOLD,
    output_field=BigIntegerField(),
)
_REFUNDED = (F("quantity") - F("fulfilled_quantity")) * _PRICE
_PAID = Centimes("sale_amount") - Coalesce(Centimes("reordered_amount"), 0)
_PAID_BACK, _OPEN = Centimes("paid_back_amount"), Centimes("open_amount")
_OWED = _PAID_BACK + _OPEN
_CHARGE_UNKNOWN = Q(fulfilled_amount=None) & ~Q(status__in=UNCHARGED)


@dataclass(frozen=True, eq=False, slots=True)
class Figure:
    """A figure of a report: its name and its calculation."""

    label: Any
    side: Side
    #: The sum over orders in SQL; amounts are in centimes, and unknown amounts are left out.
    sql: Any
    #: The value that one final order adds. The sum leaves out ``None``.
    of: Callable[[Line], int | Decimal | None]
    #: The heading in tables; "" leaves the figure out of tables, but not out of the key figures of
    #: the admin's page.
    short: str = ""
    is_in_files: bool = True
    #: The heading in files that list orders. "" means that the heading is ``label``. ``None`` means
    #: that such files do not contain the figure.
    of_order: Any = None
    #: True if a closed month keeps the figure, because it must not change any more; ``None`` if
    #: months do not have the figure.
    is_fixed_in_months: bool | None = None
    #: The filters that limit the list of orders to the orders that the figure counts.
    filters: Mapping[str, str] | None = None
    #: True to leave the figure out of the admin's page while it is 0.
    is_rare: bool = False
    #: True to mark the figure unless it is 0, because a person has to act.
    is_to_do: bool = False
    name: str = ""

    @property
    def tells_costs(self) -> bool:
        """True if the figure reveals what the provider charges."""
        return Side.PROVIDER in self.side


def _amount(label: Any, side: Side, sql: Any, path: str, **more: Any) -> Any:
    """Declare an amount.

    ``path`` is the dotted name of the :class:`Line` attribute with the amount.
    """
    figure = Figure(label, side, sql, attrgetter(path), **more)
    return field(default=_ZERO, metadata={"figure": figure})


def _count(label: Any, side: Side, sql: Any, of: Callable[[Line], int], **more: Any) -> Any:
    return field(default=0, metadata={"figure": Figure(label, side, sql, of, **more)})


@dataclass(frozen=True, slots=True)
class Figures:
    """The totals of final orders, with support for addition (``+``).

    Amounts are in dinars, with two decimals. Orders whose amount is unknown are not included: see
    :func:`~giftcards.refunds.refund_breakdown` and
    :func:`~giftcards.settlement.customer_breakdown`. If ``unknown`` and ``contradictory`` are 0,
    the ordered amount is the sum of the charged and the refunded amount.

    Each dinar that a customer paid is counted once. If missing cards were ordered again, the
    payment for these cards is counted only for the new order. Therefore ``paid_amount`` is the sum
    of ``kept_amount`` and ``owed_amount``, and ``owed_amount`` is the sum of
    ``customer_paid_back_amount`` and ``open_amount``.
    """

    # Reports show the figures in the sequence of these fields. In files, however, figures that
    # reveal costs come last.
    orders: int = _count(
        _("Orders"),
        Side.CARDS,
        Count("pk"),
        lambda _line: 1,
        short="orders",
        is_fixed_in_months=True,
        filters={},
    )
    # Rejected orders: nothing was bought, and the whole payment is owed.
    rejected: int = _count(
        _("Rejected orders"),
        Side.CARDS,
        Count("pk", filter=Q(status=Status.REJECTED)),
        lambda line: line.order.status == Status.REJECTED,
        is_fixed_in_months=True,
        filters={"status__exact": Status.REJECTED},
        is_rare=True,
    )
    cards_ordered: int = _count(
        _("Cards ordered"),
        Side.CARDS,
        Sum("quantity"),
        attrgetter("order.quantity"),
        short="cards",
        of_order="",
        is_fixed_in_months=True,
    )
    cards_delivered: int = _count(
        _("Cards delivered"),
        Side.CARDS,
        Sum("fulfilled_quantity"),
        attrgetter("order.fulfilled_quantity"),
        short="delivered",
        of_order="",
        is_fixed_in_months=True,
    )
    ordered_amount: Decimal = _amount(
        _("Ordered"),
        Side.PROVIDER,
        Sum(F("quantity") * _PRICE, filter=_SETTLED),
        "ordered",
        short="ordered",
        of_order="",
        is_fixed_in_months=True,
    )
    charged_amount: Decimal = _amount(
        _("Cost"),
        Side.PROVIDER,
        Sum(_CHARGED),
        "charged",
        short="charged",
        of_order="",
        is_fixed_in_months=True,
    )
    refunded_amount: Decimal = _amount(
        _("Credited back"),
        Side.PROVIDER,
        Sum(_REFUNDED, filter=_SETTLED),
        "refunded",
        short="refunded",
        of_order="",
        is_fixed_in_months=True,
    )
    # A refund counts in the period of its order, whenever it was paid.
    paid_amount: Decimal = _amount(
        _("Paid by customers"),
        Side.CUSTOMERS,
        Sum(_PAID),
        "paid",
        short="paid",
        of_order=_("paid by the customer"),
        is_fixed_in_months=False,
    )
    # The customers' payments for cards that were delivered.
    kept_amount: Decimal = _amount(
        _("Paid for delivered cards"),
        Side.CUSTOMERS,
        Sum(_PAID - _OWED),
        "kept",
        is_in_files=False,
    )
    owed_amount: Decimal = _amount(
        _("Owed to customers"),
        Side.CUSTOMERS,
        Sum(_OWED),
        "owed",
        short="owed",
        of_order=_("Owed to the customer"),
        is_fixed_in_months=False,
    )
    customer_paid_back_amount: Decimal = _amount(
        _("Paid back"),
        Side.CUSTOMERS,
        Sum(_PAID_BACK),
        "order.paid_back_amount",
        short="paid back",
        of_order="",
        is_fixed_in_months=False,
        filters={"refund": "paid"},
    )
    # The part of the owed amount that was not paid back yet.
    open_amount: Decimal = _amount(
        _("Still owed"),
        Side.CUSTOMERS,
        Sum(_OPEN),
        "open",
        short="still owed",
        of_order="",
        is_fixed_in_months=False,
        filters={"refund": "owed"},
        is_to_do=True,
    )
    # Orders without a record of what the customer paid.
    unpaid: int = _count(
        _("Orders without a sale amount"),
        Side.CUSTOMERS,
        Count("pk", filter=SALE_UNKNOWN),
        lambda line: line.paid is None,
        is_fixed_in_months=True,
        filters={"sale": "unknown"},
        is_rare=True,
    )
    # Kept minus charged, over the orders for which both amounts are known.
    margin_amount: Decimal = _amount(
        _("Margin"),
        Side.MARGIN,
        Sum(_PAID - _OWED - _CHARGED),
        "margin",
        short="margin",
        of_order="",
    )
    # The margin that was lost because cards were missing: owed minus refunded. Only settled orders
    # count for which both amounts are known and no cards were ordered again.
    lost_margin_amount: Decimal = _amount(
        _("Margin lost"),
        Side.MARGIN,
        Sum(_OWED - _REFUNDED, filter=_SETTLED & Q(reordered_amount=None)),
        "lost_margin",
    )
    # Settled orders with an unknown amount at the provider.
    unknown: int = _count(
        _("Orders with unknown amounts"),
        Side.PROVIDER,
        Count("pk", filter=_SETTLED & (Q(price_per_card=None) | _CHARGE_UNKNOWN)),
        attrgetter("is_unknown"),
        is_rare=True,
        is_to_do=True,
    )
    # Settled orders with figures from the provider that contradict each other.
    contradictory: int = _count(
        _("Orders with contradictory figures"),
        Side.PROVIDER,
        Count("pk", filter=CONTRADICTORY),
        attrgetter("is_contradictory"),
        filters={"figures": "contradictory"},
        is_rare=True,
        is_to_do=True,
    )

    def __add__(self, other: Figures) -> Figures:
        sums = {name: getattr(self, name) + getattr(other, name) for name in FIGURES}
        return Figures(**sums)

    @property
    def fill_rate(self) -> Decimal | None:
        """The proportion of ordered cards that were delivered, from 0 to 1.

        The proportion is rounded down to four decimals.
        """
        if not self.cards_ordered:
            return None
        share = Decimal(self.cards_delivered) / self.cards_ordered
        return share.quantize(Decimal("0.0001"), ROUND_DOWN)


#: The figures by name, in the sequence of reports.
FIGURES: Mapping[str, Figure] = {
    each.name: replace(each.metadata["figure"], name=each.name) for each in fields(Figures)
}

#: The aggregates over orders that :func:`read_sums` turns into :class:`Figures`. Their names differ
#: from the names of columns, because otherwise expressions would use the aggregate instead of the
#: column.
SUMS: Mapping[str, Any] = {f"sum_of_{name}": figure.sql for name, figure in FIGURES.items()}


def read_sums(row: Mapping[str, Any]) -> Figures:
    """Return the figures in ``row``.

    ``row`` contains the result of each aggregate in :data:`SUMS`.
    """
    # An empty sum is NULL, and amounts are in centimes.
    sums = {name: int(row[f"sum_of_{name}"] or 0) for name in FIGURES}
    values: dict[str, Any] = {
        name: Decimal(value).scaleb(-2) if name.endswith("_amount") else value
        for name, value in sums.items()
    }
    return Figures(**values)
