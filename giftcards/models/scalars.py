"""Read single values, such as numbers of rows, from several tables.

One statement reads all values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import Aggregate, Count, QuerySet, Subquery, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Coalesce

from giftcards.models.provider import ProviderState


def number_of(rows: QuerySet[Any]) -> Combinable:
    return Coalesce(value_of(rows, Count("*")), 0)


def value_of(rows: QuerySet[Any], aggregate: Aggregate) -> Combinable:
    together = rows.order_by().annotate(_all=Value(1)).values("_all")
    return Subquery(together.annotate(_value=aggregate).values("_value"))


def read_at_once(*groups: Mapping[Any, Combinable]) -> list[dict[Any, Any]]:
    """Return the values of all expressions, as a dict for each group.

    One statement reads all values.
    """
    # A query needs a table, so the values are read together with the only row of this table.
    row = ProviderState.objects.filter(pk=1)
    found = read_beside(row, *groups)
    if not found:
        ProviderState.objects.current()
        found = read_beside(row, *groups)
    return found


def read_beside(row: QuerySet[Any], *groups: Mapping[Any, Combinable]) -> list[dict[Any, Any]]:
    """Read the values of all expressions with the query for a single row.

    The result is the same as for :func:`read_at_once`. If the queryset ``row`` is empty, the result
    is an empty list.
    """
    values = row.values_list(*(scalar for group in groups for scalar in group.values())).first()
    if values is None:
        return []
    rest = iter(values)
    return [{key: next(rest) for key in group} for group in groups]
