"""The shop's price of a card, by the rule in ``PRICING``."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, TypeVar

from django.db.models import (
    BigIntegerField,
    DecimalField,
    Expression,
    ExpressionWrapper,
    QuerySet,
    Value,
)
from django.db.models.functions import Cast, Least, Round
from django.db.models.query import ModelIterable
from django.utils.module_loading import import_string

from giftcards.conf import Margin, conf
from giftcards.models import ProductType
from giftcards.models.fields import MONEY

N = TypeVar("N", int, Any)

# The arithmetic is in whole units, which are hundredths of a per cent of a centime, because SQLite
# has no decimal numbers.
_CENTIME = 10_000
_DINAR = 100 * _CENTIME
# The largest cost that is priced, in dinars: a bound for the numbers of the database.
_DEAREST = 10**8


def shop_price(kind: ProductType) -> Decimal | None:
    """The shop's price of one card of the type, in dinars, at its present cost.

    ``None`` if there is no rule, if the cost is unknown, or if the card is off the shelf: it would
    earn too little.
    """
    rule, cost = conf.pricing, kind.price
    if rule is None or not cost or cost > _DEAREST:
        return None
    if isinstance(rule, str):
        price = import_string(rule)(kind)
        return Decimal(price) if price is not None and price >= cost else None
    price = Decimal(_units(int(cost * 100), rule)) / _DINAR
    return price.quantize(Decimal("0.01")) if price - cost >= rule.least_margin else None


def _units(centimes: N, margin: Margin) -> N:
    """The price of a card that costs so many ``centimes``: a number, or an expression of one."""
    exact = centimes * int(_CENTIME + margin.margin_percent * 100)
    exact = exact + int(margin.margin_fixed * _DINAR)
    step = margin.round_to * _DINAR or _CENTIME
    return exact + (step - exact % step) % step


def priced(kinds: QuerySet[ProductType]) -> QuerySet[ProductType]:
    """``kinds`` on the shelf, each with its :func:`shop_price`; all of them without a rule.

    If the rule is a function, the others are left out only when the rows are read, so that
    ``count()`` counts them.
    """
    match conf.pricing:
        case None:
            unknown = Value(None, output_field=DecimalField(**MONEY))
            return kinds.annotate(shop_price=unknown)  # type: ignore[no-redef]
        case Margin() as margin:
            return _priced_by_margin(kinds, margin)
        case _:
            priced = kinds.all()
            priced._iterable_class = _PricedByFunction  # noqa: SLF001 (there is no other way)
            return priced


def _priced_by_margin(kinds: QuerySet[ProductType], margin: Margin) -> QuerySet[ProductType]:
    cost: Expression = Least("price", _DEAREST, output_field=DecimalField(**MONEY))
    centimes = Cast(Round(cost * 100), BigIntegerField())
    price = ExpressionWrapper(
        Cast(_units(centimes, margin), BigIntegerField()) * Value(Decimal(1) / _DINAR),
        output_field=DecimalField(**MONEY),
    )
    least = int(margin.least_margin * _DINAR)
    earned = ExpressionWrapper(
        _units(centimes, margin) - centimes * _CENTIME, output_field=BigIntegerField()
    )
    on_shelf = kinds.filter(price__lte=_DEAREST).alias(earned=earned).filter(earned__gte=least)
    return on_shelf.annotate(shop_price=price)  # type: ignore[no-redef]


class _PricedByFunction(ModelIterable):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[ProductType]:
        for kind in super().__iter__():
            kind.shop_price = shop_price(kind)
            if kind.shop_price is not None:
                yield kind
