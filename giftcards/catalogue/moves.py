"""The prices that the provider has changed lately, and what that did to the shop's margin."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db.models import Q, QuerySet

from giftcards.catalogue.pricing import shop_price
from giftcards.models import OfferChange, ProductType
from giftcards.models.times import begin_of, today


@dataclass(frozen=True, slots=True)
class PriceMove:
    """A type whose cost was ``old_cost``, with the shop's prices by rule, then and now.

    A price is ``None`` without a rule, and if the rule takes the card off the shelf.
    """

    kind: ProductType
    at: datetime
    old_cost: Decimal
    old_price: Decimal | None
    price: Decimal | None

    @property
    def cost(self) -> Decimal:
        assert self.kind.price is not None  # noqa: S101 (see price_moves)
        return self.kind.price

    @property
    def old_margin(self) -> Decimal | None:
        return None if self.old_price is None else self.old_price - self.old_cost

    @property
    def margin(self) -> Decimal | None:
        return None if self.price is None else self.price - self.cost

    @property
    def is_off_shelf(self) -> bool:
        """True if the move took the card off the shelf."""
        return self.old_price is not None and self.price is None


def since_yesterday() -> Q:
    """The condition of changes of prices since the begin of yesterday, on the site's clocks."""
    return Q(what=OfferChange.What.PRICE, at__gte=begin_of(today() - timedelta(days=1)))


def price_moves(changes: QuerySet[OfferChange]) -> Iterator[PriceMove]:
    """Yield a move for each type that ``changes`` of prices are about, in their order.

    A type that costs again what it did, or is not sold any more, has not moved.
    """
    first: dict[int, OfferChange] = {}
    last: dict[int, OfferChange] = {}
    for change in changes.order_by("pk").select_related("type__product"):
        first.setdefault(change.type_id, change)
        last[change.type_id] = change
    for key, change in last.items():
        kind, old = change.type, first[key].old_value
        if kind.price and isinstance(old, Decimal) and kind.price != old:
            before = copy(kind)
            before.price = old
            yield PriceMove(kind, change.at, old, shop_price(before), shop_price(kind))
