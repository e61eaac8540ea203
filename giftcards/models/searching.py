"""The search for orders that contain given words.

The search is fast with a million orders, even if the words are common.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import reduce
from itertools import product
from operator import or_
from typing import NamedTuple, Self, TypeVar

from django.db import models
from django.db.models import Exists, Max, OuterRef, Q

from giftcards.models.fields import ExactCharField
from giftcards.text.search_terms import (
    LONGEST,
    OF_SAME_CUSTOMER,
    SEARCHED,
    Reading,
    TermKind,
    Word,
    readings,
    terms_of,
)

# The type variable represents Order, because an import of this model would be circular here.
Row = TypeVar("Row", bound=models.Model)
_BATCH = 2_000
# If even the rarest word of a search is in more orders than this, only this many of the newest
# orders are searched.
_MOST_READ = 20_000
# A prefix followed by this character sorts after all strings that begin with the prefix.
LAST_CHARACTER = "\U0010ffff"


def starting_with(column: str, starts: Iterable[str]) -> Q:
    """Return a condition for rows whose column has one of these prefixes.

    The condition uses ranges, because some databases do not use an index for LIKE.
    """
    parts = (Q((f"{column}__range", (start, start + LAST_CHARACTER))) for start in starts)
    return reduce(or_, parts)


class OrderTermQuerySet(models.QuerySet["OrderTerm"]):
    def of_kinds(self, kinds: Collection[TermKind]) -> Self:
        return self.all() if len(kinds) == len(TermKind) else self.filter(kind__in=sorted(kinds))

    def add_for(self, orders: Iterable[models.Model]) -> None:
        """Insert the terms that the rows of ``orders`` do not have yet."""
        self.bulk_create(
            (
                OrderTerm(order_id=order.pk, kind=kind, term=term)
                for order in orders
                for kind, term in sorted(
                    terms_of({each: getattr(order, each) for each in SEARCHED})
                )
            ),
            batch_size=_BATCH,
            ignore_conflicts=True,
        )


class OrderTerm(models.Model):
    """A word by which an order can be found.

    See :mod:`giftcards.text.search_terms`.

    When :class:`Order` writes a column that the search covers, it writes the terms in the same
    transaction.
    """

    # The index below begins with this column.
    order = models.ForeignKey(
        "giftcards.Order", on_delete=models.CASCADE, related_name="terms", db_index=False
    )
    # The kind of the term, a value of TermKind.
    kind = models.PositiveSmallIntegerField()
    # Terms are compared exactly, so that searches can use ranges. ``search_terms.plain`` first
    # removes differences in spelling that do not matter.
    term: models.CharField[str, str] = ExactCharField(max_length=LONGEST)

    objects = OrderTermQuerySet.as_manager()

    class Meta:
        default_permissions = ()
        # This index is used to look up whether an order with the rarest word of a search also has
        # the other words.
        indexes = (models.Index(fields=("order", "term"), name="giftcards_term_of_order"),)
        # The constraint's index finds the newest orders with a word.
        constraints = (
            models.UniqueConstraint(fields=("term", "order", "kind"), name="giftcards_term"),
        )

    def __str__(self) -> str:
        return self.term


class Found(NamedTuple):
    #: The primary keys of the orders, newest first.
    keys: list[int]
    #: True if the orders contain the words as typed. False if at least one word was found only as
    #: the beginning of a longer word.
    is_whole: bool
    has_more: bool


class OrderSearch(models.QuerySet[Row]):
    def search(
        self, text: str, *, limit: int, kinds: Collection[TermKind] = frozenset(TermKind)
    ) -> Found:
        """Search for the words of ``text``, and return the newest orders.

        The result contains at most ``limit`` orders. If no order has all these words, the method
        searches for orders with words that begin with these words. Only terms whose kind is in
        ``kinds`` are searched. If ``kinds`` contains all kinds, an order is also found if the
        provider's id or reference begins with ``text``.
        """
        named = [] if len(kinds) < len(TermKind) else self._named_by_provider(text, limit)
        terms = OrderTerm.objects.of_kinds(kinds)
        has_more = False
        for ways, is_whole in product(readings(text), (True, False)):
            found = {key for key, has_whole in named if has_whole or not is_whole}
            for way in ways:
                keys, is_common = self._with_all(terms, way, is_whole=is_whole, limit=limit + 1)
                found.update(keys)
                has_more |= is_common
            if found:
                newest = sorted(found, reverse=True)
                return Found(newest[:limit], is_whole, has_more or len(newest) > limit)
        return Found([], False, has_more)

    def _named_by_provider(self, text: str, limit: int) -> list[tuple[int, bool]]:
        """Find orders by the beginning of the provider's id or reference.

        The id or the reference has to begin with ``text``. For each order, the result contains the
        primary key, and True if the id or the reference equals ``text``.
        """
        if not text.isascii():
            return []
        # Two ids of the provider may differ only in case, so the search keeps the case of ``text``.
        # The search also tries lower and upper case.
        names = sorted({text, text.lower(), text.upper()})
        named: list[tuple[int, bool]] = []
        for column in ("provider_order_id", "provider_reference"):
            found = self.filter(starting_with(column, names)).order_by()
            rows = found.values_list("pk", column)[:limit]
            named += [(key, name in names) for key, name in rows]
        return named

    def _with_all(
        self, terms: OrderTermQuerySet, reading: Reading, *, is_whole: bool, limit: int
    ) -> tuple[list[int], bool]:
        """Return the primary keys of orders that contain all given words.

        The words are those in ``reading``. The result contains at most ``limit`` keys, and begins
        with the newest order. The second return value is True if the words are so common that only
        the newest orders were searched.
        """
        words = [_condition(word, is_whole=is_whole) for word in reading]
        # The database reads the orders with the rarest word, and looks up the other words for each
        # order.
        counts = [terms.filter(word).order_by()[: _MOST_READ + 1].count() for word in words]
        (fewest, first), *rest = sorted((count, place) for place, count in enumerate(counts))
        if not fewest:
            return [], False
        is_common = fewest > _MOST_READ
        if is_common and not is_whole:
            return self._newest_with(terms, words, limit), True
        found = terms.filter(words[first])
        if is_common:
            # For a whole word, the index yields the newest orders first. For the beginning of a
            # word, it yields them unsorted.
            newest = found.order_by("-order_id").values_list("order_id", flat=True)
            found = found.filter(order_id__gte=newest[_MOST_READ])
        for _count, place in rest:
            found = found.filter(Exists(terms.filter(words[place], order=OuterRef("order"))))
        keys = found.order_by("-order_id").values_list("order_id", flat=True).distinct()
        return list(keys[:limit]), is_common

    def _newest_with(self, terms: OrderTermQuerySet, words: list[Q], limit: int) -> list[int]:
        newest = self.aggregate(newest=Max("pk"))["newest"] or 0
        orders = self.filter(pk__gt=newest - _MOST_READ)
        for word in words:
            orders = orders.filter(Exists(terms.filter(word, order=OuterRef("pk"))))
        return list(orders.order_by("-pk").values_list("pk", flat=True)[:limit])

    def keys_of_customer(
        self,
        order: models.Model,
        *,
        limit: int,
        before: int | None = None,
        after: int | None = None,
    ) -> list[int]:
        """Return the primary keys of other orders by the customer of ``order``.

        The result contains up to ``limit`` keys. Two orders have the same customer if the
        customer's e-mail address is the same, or if they share a phone number of the customer.
        Differences in the spelling of an address or a number do not matter. The recipient of a gift
        does not count as a customer.

        The newest orders come first. If ``before`` is passed, only orders with a smaller primary
        key are returned. If ``after`` is passed, only orders with a larger primary key are
        returned, and the oldest orders come first.
        """
        limits = {"order_id__lt": before, "order_id__gt": after}
        within = {name: key for name, key in limits.items() if key is not None}
        sign = "-" if after is None else ""
        keys: set[int] = set()
        for kind, term in terms_of({name: getattr(order, name) for name in SEARCHED}):
            if kind in OF_SAME_CUSTOMER:
                rows = OrderTerm.objects.filter(kind=kind, term=term, **within)
                found = rows.order_by(f"{sign}order_id").values_list("order_id", flat=True)
                # One additional key is read, because the key of the order itself may be among them.
                keys.update(found[: limit + 1])
        keys.discard(order.pk)
        return sorted(keys, reverse=after is None)[:limit]


def _condition(word: Word, *, is_whole: bool) -> Q:
    if not is_whole:
        return starting_with("term", sorted(word.starts))
    # A single term is compared with "=", because the index then yields its orders in sequence.
    return Q(term__in=sorted(word.whole)) if len(word.whole) > 1 else Q(term=min(word.whole))
