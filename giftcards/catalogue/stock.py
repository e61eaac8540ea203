"""The cards of each type that are left: the stock as last read, less what this shop has taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from datetime import datetime, timedelta
from typing import Any, Self

from django.db.models import Case, F, IntegerField, QuerySet, Subquery, Value, When
from django.db.models.expressions import Col
from django.db.models.functions import Coalesce, Greatest
from django.db.models.sql.constants import LOUTER

from giftcards.conf import conf
from giftcards.models import Hold, Order, ProductType

# What was told counts as too old after a day, or four periods of CATALOGUE_EVERY if they are
# longer; where the catalogue is read by hand, after a week.
_OLD = timedelta(days=1)
_OLD_PERIODS = 4
_OLD_BY_HAND = timedelta(days=7)
_TAKEN = "giftcards_taken"
# Written out, because a type has no key in common with the orders and holds of its line.
_TYPES = ["giftcards_product", "giftcards_producttype"]
_OF_LINE = (
    "giftcards_product.product_id = {table}.product_id"
    " AND giftcards_producttype.product_id = giftcards_product.id"
    " AND giftcards_producttype.type_id = {table}.type_id"
)
# The provider had not accepted the order when it told the stock.
_UNTOLD = (
    "(giftcards_order.accepted_at IS NULL"
    " OR giftcards_order.accepted_at > giftcards_producttype.read_at)"
)


def oldest() -> timedelta:
    """The age at which what the provider told of a type is too old to sell by."""
    every = timedelta(minutes=conf.catalogue_every)
    return max(_OLD, _OLD_PERIODS * every) if every else _OLD_BY_HAND


def with_available(
    kinds: QuerySet[ProductType], *, now: datetime, reference: str = ""
) -> QuerySet[ProductType]:
    """``kinds`` with the number of cards that are ``available``: 0 or more, NULL if unknown.

    Taken from the stock are the cards of orders that the provider had not accepted when it told
    the stock: all of an open order, and what was delivered of one that has settled since. So are
    the cards on hold, but not those of the hold with this ``reference``.
    """
    kinds = kinds.all()
    left = Greatest(F("stock") - _Taken.join_to(kinds, now, reference), 0)
    # In SQLite and MariaDB, the greatest of NULL and 0 is NULL, but in PostgreSQL, it is 0.
    known = Case(When(stock=None, then=Value(None)), default=left, output_field=IntegerField())
    return kinds.annotate(available=known)  # type: ignore[no-redef]


class _Taken:
    """Cards taken of the stock, added up once by line, and joined to types like a table.

    A subquery for each type depends on statistics: where they are from a time with nothing open,
    PostgreSQL reads all open orders for each type. Django has no such join, but says what it wants
    of one.
    """

    join_type = LOUTER
    nullable = True
    filtered_relation = None
    table_name = table_alias = _TAKEN

    @classmethod
    def join_to(cls, kinds: QuerySet[ProductType], now: datetime, reference: str) -> Coalesce:
        """Join it to the query of ``kinds``; return the cards taken of each."""
        query: Any = kinds.query
        alias = query.join(cls(query.get_initial_alias(), now, reference), reuse=set())
        # The column is named like that from which it is taken.
        stock = ProductType._meta.get_field("stock")  # noqa: SLF001 (documented)
        return Coalesce(Col(alias, stock), 0, output_field=IntegerField())

    def __init__(self, parent_alias: str, now: datetime, reference: str) -> None:
        self.parent_alias = parent_alias
        first, *others = _rows_taken(now, reference)
        # Without the order of the model, which Django 6.1 keeps.
        self.rows = first.union(*others, all=True).order_by()

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        rows, params = self.rows.query.get_compiler(connection=connection).as_sql()
        totals = f"SELECT kind, SUM(stock) AS stock FROM ({rows}) subquery GROUP BY kind"  # noqa: S608
        # Django 6.1 has a shorter name for it.
        quote = getattr(compiler, "quote_name", None) or compiler.quote_name_unless_alias
        taken, kinds = map(quote, (self.table_alias, self.parent_alias))
        return f"{self.join_type} ({totals}) {taken} ON ({taken}.kind = {kinds}.id)", tuple(params)

    def relabeled_clone(self, aliases: Mapping[str, str]) -> Self:
        clone = copy(self)
        clone.table_alias = aliases.get(self.table_alias, self.table_alias)
        clone.parent_alias = aliases.get(self.parent_alias, self.parent_alias)
        return clone


def _rows_taken(now: datetime, reference: str) -> Iterator[QuerySet[Any]]:
    """Yield what is taken, in rows of a type's key as ``kind`` and a number as ``stock``."""
    # What is older is not sold, so that nothing counts that has settled before.
    begin = now - oldest()
    kinds = ProductType.objects.filter(read_at__gt=begin).order_by("read_at")
    first = Subquery(kinds.values("read_at")[:1])
    untold = Order.objects.extra(where=[_UNTOLD])  # noqa: S610 (a constant)
    settled = untold.filter(settled_at__gt=begin).filter(settled_at__gt=first)
    held = Hold.objects.current(now).exclude(reference=reference)
    for rows, column in (
        (untold.filter(settled_at=None), "quantity"),
        (settled, "fulfilled_quantity"),
        (held, "quantity"),
    ):
        of_line = _OF_LINE.format(table=rows.model._meta.db_table)  # noqa: SLF001 (documented)
        joined = rows.order_by().extra(  # noqa: S610 (constants)
            select={"kind": "giftcards_producttype.id"}, tables=_TYPES, where=[of_line]
        )
        yield joined.values("kind").annotate(stock=F(column))
