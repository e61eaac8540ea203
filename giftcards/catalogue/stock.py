"""The cards of each type that are left: the stock as last read, less what this shop has taken."""

from __future__ import annotations

from datetime import datetime

from django.db.models import (
    Case,
    Expression,
    F,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce, Greatest

from giftcards.models import Hold, Order, ProductType
from giftcards.statuses import Status


def with_available(
    kinds: QuerySet[ProductType], *, now: datetime, reference: str = ""
) -> QuerySet[ProductType]:
    """``kinds`` with the number of cards that are ``available``: 0 or more, NULL if unknown.

    Taken from the stock are the cards of open orders, what was delivered of orders that have
    settled since the stock was read, and the cards on hold, but not those of the hold with this
    ``reference``. A delayed order that the provider had accepted before it told the stock does not
    count: its cards may be missing from the stock for days.
    """
    line = {"product_id": OuterRef("product__product_id"), "type_id": OuterRef("type_id")}
    orders = Order.objects.filter(**line)
    was_told = Q(status=Status.DELAYED, accepted_at__lte=OuterRef("read_at"))
    holds = Hold.objects.current(now).filter(**line).exclude(reference=reference)
    taken = (
        _total(orders.filter(settled_at=None).exclude(was_told), "quantity")
        + _total(orders.filter(settled_at__gt=OuterRef("read_at")), "fulfilled_quantity")
        + _total(holds, "quantity")
    )
    left = Greatest(F("stock") - taken, 0, output_field=IntegerField())
    # In SQLite and MariaDB, the greatest of NULL and 0 is NULL, but in PostgreSQL, it is 0.
    known = Case(When(stock=None, then=Value(None)), default=left, output_field=IntegerField())
    return kinds.annotate(available=known)  # type: ignore[no-redef]


def _total(rows: QuerySet[Order] | QuerySet[Hold], column: str) -> Expression:
    totals = rows.order_by().values("type_id").annotate(total=Sum(column)).values("total")
    return Coalesce(Subquery(totals), 0, output_field=IntegerField())
