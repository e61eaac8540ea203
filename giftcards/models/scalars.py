"""Scalars of several tables, such as numbers of rows, read by one statement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.models import Count, QuerySet, Subquery, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Coalesce

from giftcards.models.provider import ProviderState


def number_of(rows: QuerySet[Any]) -> Combinable:
    """The number of ``rows`` as an expression."""
    together = rows.order_by().annotate(_all=Value(1)).values("_all")
    return Coalesce(Subquery(together.annotate(_number=Count("*")).values("_number")), 0)


def read_at_once(scalars: Iterable[Combinable]) -> list[Any]:
    """The values of ``scalars``, read by one statement."""
    # Django's statements have a table: this one has one row.
    row = ProviderState.objects.filter(pk=1).values_list(*scalars)
    values = row.first()
    if values is None:
        ProviderState.objects.current()
        values = row.get()
    return list(values)
