"""Search terms of orders, in a table of their own: any number for each, and one index for all."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import reduce
from operator import or_
from typing import Self

from django.db import models
from django.db.models import Q

from giftcards.models.fields import ExactCharField
from giftcards.search_terms import LONGEST, SEARCHED, TermKind, terms_of

_BATCH = 2_000
# A prefix with this character sorts above all texts that begin with the prefix.
LAST_CHARACTER = "\U0010ffff"


def starting_with(column: str, starts: Iterable[str]) -> Q:
    """The condition that a column begins with one of ``starts``.

    Ranges, because databases differ in when LIKE uses an index.
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
    """A word by which an order is found: see :mod:`giftcards.search_terms`.

    :class:`Order` writes its own terms, in the same transaction as the columns that they are of.
    """

    # The index below begins with it.
    order = models.ForeignKey(
        "giftcards.Order", on_delete=models.CASCADE, related_name="terms", db_index=False
    )
    # A TermKind.
    kind = models.PositiveSmallIntegerField()
    # Exact, because ranges of it are searched; see search_terms.plain for what counts as the same.
    term: models.CharField[str, str] = ExactCharField(max_length=LONGEST)

    objects = OrderTermQuerySet.as_manager()

    class Meta:
        default_permissions = ()
        # Whether an order has further words.
        indexes = (models.Index(fields=("order", "term"), name="giftcards_term_of_order"),)
        # Finds orders by a word, the newest ones first.
        constraints = (
            models.UniqueConstraint(fields=("term", "order", "kind"), name="giftcards_term"),
        )

    def __str__(self) -> str:
        return self.term
