"""The shop's prices by the rule ``PRICING``, and the changes that a new cost brings."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import takewhile
from typing import Any, TypeVar

from django.db.models import (
    BigIntegerField,
    DecimalField,
    Expression,
    ExpressionWrapper,
    F,
    Q,
    QuerySet,
    Value,
)
from django.db.models.functions import Cast, Least, Round
from django.utils import timezone
from django.utils.module_loading import import_string

from giftcards.conf import Margin, conf
from giftcards.engine.tuning import tuning
from giftcards.keys.secrecy import place_of
from giftcards.models import OfferChange, ProductType
from giftcards.models.fields import MONEY
from giftcards.rules.times import ahead, begin_of, today

logger = logging.getLogger(__name__)

N = TypeVar("N", int, Any)

# Arithmetic is in whole units, because SQLite has no decimal numbers. A unit is 1/10,000 of a
# centime, so that hundredths of a per cent stay whole numbers.
_CENTIME = 10_000
_DINAR = 100 * _CENTIME
_CENT = Decimal("0.01")
# The largest cost that gets a price (dinars): the limit keeps the database's numbers small.
_DEAREST = 10**8
# A price of the shop's function that is farther from 0 is a mistake (dinars).
_HIGHEST = 10**11
# The shop's price function is called again after this time, because its result may depend on more
# than the cost.
_AGAIN = timedelta(minutes=1)
_AGAIN_AFTER_FAILURE = timedelta(minutes=15)
# The number of types that are priced before their prices are stored.
_BATCH = 200


def price_of(product_type: ProductType) -> Decimal | None:
    """Return what a customer pays for one card of the type at its present cost, in dinars.

    The price is ``None`` if ``PRICING`` is not set, if the cost is unknown, or if the card is off
    the shelf. A card is off the shelf if, for example, it would earn too little, or the shop's
    function has failed.

    Do not call this in a transaction: it may call the shop's function.
    """
    rule, cost = conf.pricing, product_type.cost
    if rule is None or not cost or cost > _DEAREST:
        return None
    if isinstance(rule, str):
        return _ask_function(rule, product_type)[0]
    found = Decimal(_units(int(cost * 100), rule)) / _DINAR
    return found.quantize(_CENT) if found - cost >= rule.least_margin else None


def price_on_shelf(kind: ProductType) -> Decimal | None:
    """Return the shop's price of the type without a call of the shop's function.

    If ``PRICING`` is a function, the result is the price that :func:`keep_prices` stored for the
    present cost, or ``None``.
    """
    rule = conf.pricing
    if kind.product.is_skipped:
        return None
    if not isinstance(rule, str):
        return price_of(kind)
    is_current = kind.priced_by == rule and kind.priced_cost == kind.cost
    return kind.function_price if is_current else None


def keep_prices(may_go_on: Callable[[], bool] = lambda: True) -> None:
    """Price types by the shop's function, and store the prices; workers call this once a minute.

    Types with a new cost come first. Other types follow, because the function's result may depend
    on more than the cost. Does nothing if ``PRICING`` is not a function.
    """
    rule = conf.pricing
    if not isinstance(rule, str):
        return
    keys = list(_due(rule))
    while keys and may_go_on():
        batch, keys = keys[:_BATCH], keys[_BATCH:]
        kinds = ProductType.objects.select_related("product").in_bulk(batch)
        in_turn = (kinds[key] for key in batch if key in kinds)
        asked = takewhile(lambda _kind: may_go_on(), in_turn)
        _store(rule, [(kind, *_ask_function(rule, kind)) for kind in asked])


def _due(rule: str) -> Iterator[int]:
    kinds = ProductType.objects.for_sale().filter(cost__lte=_DEAREST)
    is_asked = Q(priced_by=rule, priced_cost=F("cost"))
    is_early = ahead("pricing_due_at", timezone.now(), longest=_AGAIN_AFTER_FAILURE)
    others = kinds.filter(is_asked).exclude(is_early).order_by("pricing_due_at", "pk")
    for due in (kinds.exclude(is_asked).order_by("pk"), others):
        yield from due.values_list("pk", flat=True)


def _store(rule: str, asked: Collection[tuple[ProductType, Decimal | None, bool]]) -> None:
    now = timezone.now()
    for kind, found, is_usable in asked:
        kind.pricing_due_at = now + (_AGAIN if is_usable else _AGAIN_AFTER_FAILURE)
        stored = (kind.priced_by, kind.priced_cost, kind.function_price)
        if stored != (rule, kind.cost, found):
            kind.priced_at = now
            kind.priced_by, kind.priced_cost, kind.function_price = rule, kind.cost, found
    ProductType.objects.bulk_update(
        [kind for kind, *_ in asked],
        ["pricing_due_at", "priced_at", "priced_by", "priced_cost", "function_price"],
    )


def _ask_function(path: str, kind: ProductType) -> tuple[Decimal | None, bool]:
    """Return the function's price, or ``None``, and whether the answer is usable."""
    began_at = time.monotonic()
    answer: Any = None
    try:
        # The function gets a copy, so that it cannot change the caller's type.
        answer = import_string(path)(copy(kind))
    except Exception as error:  # noqa: BLE001 (the shop's code raises anything)
        # The error's text may hold a secret.
        failure = f"failed: {type(error).__name__} at {place_of(error)}"
    else:
        failure = _find_fault(answer, seconds=time.monotonic() - began_at)
    if failure:
        logger.error("PRICING %s (%s/%s)", failure, kind.product.product_id, kind.type_id)
        return None, False
    found = None if answer is None else Decimal(answer).quantize(_CENT, ROUND_HALF_UP)
    is_loss = found is not None and kind.cost is not None and found < kind.cost
    return (None if is_loss else found), True


def _find_fault(answer: object, *, seconds: float) -> str:
    if seconds > tuning.pricing_slow:
        return f"took longer than {tuning.pricing_slow:.0f} seconds"
    if answer is None:
        return ""
    if isinstance(answer, bool) or not isinstance(answer, int | Decimal):
        return f"returned no price, but {type(answer).__name__}"
    amount = Decimal(answer)
    is_price = amount.is_finite() and amount.copy_abs() <= _HIGHEST
    return "" if is_price else f"returned no price, but {amount:.0E}"


def _units(centimes: N, margin: Margin) -> N:
    """Return the price in units of 1/10,000 centime; ``centimes`` may be an expression."""
    exact = centimes * int(_CENTIME + margin.margin_percent * 100)
    exact = exact + int(margin.margin_fixed * _DINAR)
    step = margin.round_to * _DINAR or _CENTIME
    return exact + (step - exact % step) % step


def priced(kinds: QuerySet[ProductType]) -> QuerySet[ProductType]:
    """Return the ``kinds`` on the shelf, each annotated with its :func:`price_on_shelf`.

    If ``PRICING`` is not set, all ``kinds`` are on the shelf.
    """
    match conf.pricing:
        case None:
            unknown = Value(None, output_field=DecimalField(**MONEY))
            return kinds.annotate(price=unknown)  # type: ignore[no-redef]
        case Margin() as margin:
            return _priced_by_margin(kinds, margin)
        case path:
            told = kinds.filter(priced_by=path, priced_cost=F("cost"), function_price__gt=0)
            return told.annotate(price=F("function_price"))  # type: ignore[no-redef]


def _priced_by_margin(kinds: QuerySet[ProductType], margin: Margin) -> QuerySet[ProductType]:
    cost: Expression = Least("cost", _DEAREST, output_field=DecimalField(**MONEY))
    centimes = Cast(Round(cost * 100), BigIntegerField())
    found = ExpressionWrapper(
        Cast(_units(centimes, margin), BigIntegerField()) * Value(Decimal(1) / _DINAR),
        output_field=DecimalField(**MONEY),
    )
    least = int(margin.least_margin * _DINAR)
    earned = ExpressionWrapper(
        _units(centimes, margin) - centimes * _CENTIME, output_field=BigIntegerField()
    )
    on_shelf = kinds.filter(cost__lte=_DEAREST).alias(earned=earned).filter(earned__gte=least)
    return on_shelf.annotate(price=found)  # type: ignore[no-redef]


@dataclass(frozen=True, slots=True)
class PriceMove:
    """A change of a type's cost, with the shop's prices before and after.

    A price is ``None`` if ``PRICING`` is not set, or if it takes the card off the shelf.
    """

    kind: ProductType
    at: datetime
    old_cost: Decimal
    old_price: Decimal | None
    price: Decimal | None

    @property
    def cost(self) -> Decimal:
        assert self.kind.cost is not None  # noqa: S101 (see price_moves)
        return self.kind.cost

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
    """Return the condition that a price changed yesterday or today, in the site's time zone."""
    return Q(what=OfferChange.What.PRICE, at__gte=begin_of(today() - timedelta(days=1)))


def price_moves(changes: QuerySet[OfferChange]) -> Iterator[PriceMove]:
    """Yield the price move of each type in ``changes``.

    A type has no move if its cost is again as before ``changes``, or if it is no longer sold.
    """
    first: dict[int, OfferChange] = {}
    last: dict[int, OfferChange] = {}
    for change in changes.order_by("pk").select_related("type__product"):
        first.setdefault(change.type_id, change)
        last[change.type_id] = change
    for key, change in last.items():
        kind, old = change.type, first[key].old_value
        if kind.offer.cost and isinstance(old, Decimal) and kind.cost != old:
            before = copy(kind)
            before.cost = old
            yield PriceMove(kind, change.at, old, price_of(before), price_of(kind))
