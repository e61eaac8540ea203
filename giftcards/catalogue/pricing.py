"""The shop's price of a card, by the rule in ``PRICING``."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from copy import copy
from decimal import ROUND_HALF_UP, Decimal
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
from giftcards.keys.secrecy import place_of
from giftcards.models import ProductType
from giftcards.models.fields import MONEY

logger = logging.getLogger(__name__)

N = TypeVar("N", int, Any)

# The arithmetic is in whole units, which are hundredths of a per cent of a centime, because SQLite
# has no decimal numbers.
_CENTIME = 10_000
_DINAR = 100 * _CENTIME
_CENT = Decimal("0.01")
# The largest cost that is priced, in dinars: a bound for the numbers of the database; and the
# highest price that a function may return.
_DEAREST = 10**8
_HIGHEST = 10**11
#: The seconds that a function may take for one type.
SLOW = 3.0


def shop_price(kind: ProductType) -> Decimal | None:
    """The shop's price of one card of the type, in dinars, at its present cost.

    ``None`` if there is no rule, if the cost is unknown, or if the card is off the shelf: it would
    earn too little.
    """
    rule, cost = conf.pricing, kind.price
    if rule is None or not cost or cost > _DEAREST:
        return None
    if isinstance(rule, str):
        price = _told(rule, kind)
        return price if price is not None and price >= cost else None
    price = Decimal(_units(int(cost * 100), rule)) / _DINAR
    return price.quantize(_CENT) if price - cost >= rule.least_margin else None


def _told(path: str, kind: ProductType) -> Decimal | None:
    """The price that the shop's function tells; ``None``, and a line in the log, if it fails."""
    began_at = time.monotonic()
    answer: Any = None
    try:
        # A copy: the caller relies on the type as it was read.
        answer = import_string(path)(copy(kind))
    except Exception as error:  # noqa: BLE001 (the shop's code raises anything)
        # Not the error's text, which may hold anything.
        failure = f"failed: {type(error).__name__} at {place_of(error)}"
    else:
        failure = _complaint(answer, seconds=time.monotonic() - began_at)
    if failure:
        logger.error("PRICING %s (%s/%s)", failure, kind.product.product_id, kind.type_id)
    return None if failure or answer is None else Decimal(answer).quantize(_CENT, ROUND_HALF_UP)


def _complaint(answer: object, *, seconds: float) -> str:
    """What is wrong with the answer of a function that took so long; "" if nothing is."""
    if seconds > SLOW:
        return f"took longer than {SLOW:.0f} seconds"
    if answer is None:
        return ""
    if isinstance(answer, bool) or not isinstance(answer, int | Decimal):
        return f"returned no price, but {type(answer).__name__}"
    price = Decimal(answer)
    is_price = price.is_finite() and price <= _HIGHEST
    return "" if is_price else f"returned no price, but {price:.0E}"


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
