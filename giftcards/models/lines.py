"""Numbers and sums of orders and reservations.

The database computes the numbers and sums in one statement.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from django.db.models import Count, DecimalField, F, Min, QuerySet, Sum, Value
from django.db.models.expressions import Combinable

_NAMES = ("status", "product_id", "type_id", "cost", "is_on_hold", "is_charged")


class Kind(StrEnum):
    #: Open orders, grouped by all columns.
    OPEN = "open"
    #: Final orders, grouped by status.
    FINAL = "final"
    #: Settled orders, grouped by the cost of an order.
    SETTLED = "settled"
    #: Reservations, grouped by the cost of a card.
    RESERVATION = "reservation"


class Line(NamedTuple):
    """A group of orders or reservations that have the same values.

    The ``number`` field is the number of rows in the group, and the ``since`` field is the earliest
    of their times. The ``cards`` field is the total number of cards in these rows. The ``cost``
    field is the cost of one card, or ``None`` if the cost is unknown. For settled orders, ``cost``
    is the cost of a whole order. ``is_charged`` is True if the balance already includes the cost.
    """

    kind: str
    status: str
    product_id: str
    type_id: str
    cost: Decimal | None
    is_on_hold: bool
    is_charged: bool
    number: int
    cards: int
    since: datetime


def lines_of(
    kind: Kind,
    rows: QuerySet[Any],
    *,
    since: str,
    cards: Combinable | None = None,
    **columns: Combinable | None,
) -> QuerySet[Any, Any]:
    """Group ``rows`` into lines, and return a queryset for :func:`read_lines`.

    Rows with the same values of ``columns`` form one line. ``columns`` maps the fields of a line to
    expressions, or to ``None`` for the column with the same name. ``since`` is the name of the
    column whose earliest time is stored in the line. ``cards`` is an expression for the number of
    cards of a row. The default is 1.
    """
    empty: dict[str, Any] = {
        "cost": Value(None, DecimalField()),
        "is_on_hold": Value(value=False),
        "is_charged": Value(value=False),
    }
    given = {
        f"_{name}": (columns[name] or F(name)) if name in columns else empty.get(name, Value(""))
        for name in _NAMES
    }
    named = rows.order_by().annotate(_kind=Value(kind.value), **given)
    counted = {"_number": Count("pk"), "_cards": Sum(cards) if cards else Count("pk")}
    lines: QuerySet[Any, Any] = named.values_list("_kind", *given).annotate(
        **counted, _since=Min(since)
    )
    return lines


def read_lines(first: QuerySet[Any, Any], *others: QuerySet[Any, Any]) -> list[Line]:
    """Return the lines of several querysets, read with one SQL statement.

    Because there is only one statement, an order that is settled during the read is not counted
    twice. If a reservation becomes an order during the read, its cards are counted only once.
    """
    # Without order_by(), Django 6.1 would sort the union by the model's default ordering, but the
    # union does not contain that column.
    found = first.union(*others, all=True).order_by() if others else first
    return [Line(*row) for row in found]


def by_kind(lines: Iterable[Line]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {kind: [] for kind in Kind}
    for line in lines:
        found[line.kind].append(line)
    return found
