"""Store the shop's prices, preview changes, and list price moves."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import takewhile
from typing import Any, NamedTuple

from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.module_loading import import_string

from giftcards.conf import LARGEST_AMOUNT, conf
from giftcards.engine.tuning import tuning
from giftcards.keys.secrecy import place_of
from giftcards.models import Category, OfferChange, Product, ProductType, Shelf
from giftcards.models.fields import assign
from giftcards.models.pricing import OF_PRICE, ShelfRow, keeping_prices, terms_of
from giftcards.rules.prices import (
    Margin,
    NoPrice,
    PriceSource,
    Terms,
    find_price,
    find_source,
)
from giftcards.rules.times import ahead, begin_of, today

logger = logging.getLogger(__name__)

_CENT = Decimal("0.01")
# The shop's price function is called again after this time, because its result may depend on more
# than the cost.
_AGAIN = timedelta(minutes=1)
_AGAIN_AFTER_FAILURE = timedelta(minutes=15)
# The number of types for which the function is called before their prices are stored.
_BATCH = 200


def keep_prices(may_go_on: Callable[[], bool] = lambda: True) -> None:
    """Correct wrong prices, and call the shop's ``PRICING`` function.

    Workers call this function once a minute. Prices are wrong if a cost or margin was changed
    without ``save()``, or if ``PRICING`` was set or removed. The ``PRICING`` function is first
    called for the types that it has not priced yet. Then the ``PRICING`` function is called again
    for each type at least one minute after its last call, or 15 minutes after a failed call,
    because its result might depend on more than the cost.
    """
    _mend()
    path = conf.pricing
    if path is None:
        return
    keys = list(_due())
    while keys and may_go_on():
        batch, keys = keys[:_BATCH], keys[_BATCH:]
        kinds = ProductType.objects.select_related("product__category").in_bulk(batch)
        in_turn = (kinds[key] for key in batch if key in kinds)
        asked = takewhile(lambda _kind: may_go_on(), in_turn)
        _store([(kind, *_ask_function(path, kind)) for kind in asked])


def _mend() -> None:
    shelf = Shelf.objects.current().terms
    is_told = Q(price_source=PriceSource.FUNCTION, pricing_due_at__isnull=False)
    for are_told in (True, False):
        kinds = ProductType.objects.filter(is_told if are_told else ~is_told).order_by()
        # Many types have the same cost and margins, so there are far fewer rows than types.
        for facts in kinds.values_list(*OF_PRICE).distinct():
            price, source = facts[-2:]
            found = find_price(terms_of(facts), shelf, function_price=price if are_told else None)
            if (found.price, found.source) != (price, source):
                logger.info("Prices were changed without save(), so all prices are recalculated.")
                with keeping_prices():
                    ProductType.objects.store_prices()
                return


def _due() -> Iterator[int]:
    kinds = ProductType.objects.for_sale().filter(price_source=PriceSource.FUNCTION)
    is_early = ahead("pricing_due_at", timezone.now(), max_distance=_AGAIN_AFTER_FAILURE)
    others = kinds.exclude(pricing_due_at=None).exclude(is_early).order_by("pricing_due_at", "pk")
    for due in (kinds.filter(pricing_due_at=None).order_by("pk"), others):
        yield from due.values_list("pk", flat=True)


def _store(asked: Collection[tuple[ProductType, Decimal | None, bool]]) -> None:
    now = timezone.now()
    with keeping_prices():
        # Costs and margins may have changed while the function was called.
        kinds = ProductType.objects.select_related("product__category")
        stored = kinds.in_bulk([kind.pk for kind, *_ in asked])
        shelf = Shelf.objects.current().terms
        changed = []
        for kind, told, is_usable in asked:
            row = stored.get(kind.pk)
            if row is None or row.cost != kind.cost:
                continue
            price, source, _why_not = find_price(row.terms, shelf, function_price=told)
            if row.price_source != source or source != PriceSource.FUNCTION:
                continue
            row.pricing_due_at = now + (_AGAIN if is_usable else _AGAIN_AFTER_FAILURE)
            if row.price != price:
                row.price, row.priced_at = price, now
            changed.append(row)
        ProductType.objects.bulk_update(changed, ["pricing_due_at", "priced_at", "price"])


def _ask_function(path: str, kind: ProductType) -> tuple[Decimal | None, bool]:
    """Return the price from the shop's function, and True if it is usable.

    The price is ``None`` if the function failed or returned an unusable result. It is also ``None``
    if the function returned ``None``, which counts as a usable result.
    """
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
    return None if answer is None else Decimal(answer).quantize(_CENT, ROUND_HALF_UP), True


def _find_fault(answer: object, *, seconds: float) -> str:
    if seconds > tuning.pricing_slow:
        return f"took longer than {tuning.pricing_slow:.0f} seconds"
    if answer is None:
        return ""
    if isinstance(answer, bool) or not isinstance(answer, int | Decimal):
        return f"returned no price, but {type(answer).__name__}"
    amount = Decimal(answer)
    is_price = amount.is_finite() and amount.copy_abs() <= LARGEST_AMOUNT
    return "" if is_price else f"returned no price, but {amount:.0E}"


class PricePreview(NamedTuple):
    """The effect that unsaved changes would have on the price of a type.

    ``source`` is the rule that sets the new price. If there is no new price, ``why_not`` gives the
    reason.
    """

    kind: ProductType
    old_price: Decimal | None
    new_price: Decimal | None
    source: PriceSource
    why_not: NoPrice | None
    was_sold: bool
    is_sold: bool

    @property
    def loss(self) -> Decimal | None:
        """The amount by which the new price is below the cost, or ``None``.

        The value is also ``None`` if the type would not be sold and its price would not change.
        """
        cost, price = self.kind.cost, self.new_price
        if price is None or cost is None or (price == self.old_price and not self.is_sold):
            return None
        return cost - price if price < cost else None

    @property
    def was_on_shelf(self) -> bool:
        """True if the type is on sale now, regardless of its stock."""
        is_priced = self.old_price is not None or self.kind.price_source == PriceSource.OWN
        return self.was_sold and is_priced

    @property
    def is_on_shelf(self) -> bool:
        """True if the type would be on sale after the change.

        The stock of the type is not considered.
        """
        return self.is_sold and self.why_not in {None, NoPrice.OWN}


def preview(rows: Collection[ShelfRow]) -> list[PricePreview]:
    """Return the effects that saving ``rows`` would have on prices.

    The ``rows`` can be the shop's row, categories, products and types with unsaved changes, which
    the function does not save. The result contains every type with a known cost whose price or rule
    would change, or which would go on sale or off sale.
    """
    if not rows:
        return []
    changes = {(type(row), row.pk): row.unsaved() for row in rows}
    shelf = _with(Shelf.objects.current(), changes).terms
    concerned = Q(*(row.scope() for row in rows), _connector=Q.OR)
    kinds = ProductType.objects.select_related("product__category").filter(concerned, cost__gt=0)
    found = []
    for kind in kinds:
        was_sold = kind.is_sold_here
        for row in (kind, kind.product, kind.product.category):
            _with(row, changes)
        new = find_price(kind.terms, shelf, function_price=kind.told_price)
        before, after = (kind.price, kind.price_source, was_sold), (*new[:2], kind.is_sold_here)
        if before != after:
            found.append(PricePreview(kind, kind.price, *new, was_sold, kind.is_sold_here))
    return found


def _with(row: Any, changes: Mapping[tuple[type, Any], Mapping[str, Any]]) -> Any:
    assign(row, changes.get((type(row), row.pk), {}))
    return row


def save_rows(rows: Iterable[ShelfRow], *, by: str) -> None:
    """Save ``rows`` and the resulting prices in one transaction.

    ``by`` is the name of the person who made the changes. Raises
    :exc:`~django.core.exceptions.ValidationError` if a value is invalid, or if somebody else has
    changed the same value since the row was read. If an error is raised, no row is saved.
    """
    with keeping_prices():
        for row in rows:
            row.full_clean()
            row.check_unchanged()
            row.save(by=by)


def inherited(
    row: Product | ProductType | Category, shelf: Shelf | None = None
) -> tuple[PriceSource, Margin]:
    """Return the margin or function that a row would inherit.

    If the caller has already read the shop's row, it passes this row as ``shelf`` to save a query.
    """
    of_product = of_category = Margin()
    if isinstance(row, ProductType):
        of_product, of_category = row.product.margin, row.product.category.margin
    elif isinstance(row, Product):
        of_category = row.category.margin
    terms = Terms(None, of_product=of_product, of_category=of_category)
    return find_source(terms, (shelf or Shelf.objects.current()).terms)


@dataclass(frozen=True, slots=True)
class PriceMove:
    """A change of a type's cost, with the shop's prices before and after it.

    ``old_price`` or ``price`` is ``None`` if the type had no price at that time.
    """

    kind: ProductType
    at: datetime
    old_cost: Decimal
    old_price: Decimal | None

    @property
    def cost(self) -> Decimal:
        assert self.kind.cost is not None  # noqa: S101 (see price_moves)
        return self.kind.cost

    @property
    def price(self) -> Decimal | None:
        return self.kind.price

    @property
    def old_margin(self) -> Decimal | None:
        return None if self.old_price is None else self.old_price - self.old_cost

    @property
    def margin(self) -> Decimal | None:
        return None if self.price is None else self.price - self.cost

    @property
    def is_off_shelf(self) -> bool:
        """True if the type had a price before the change and now has none."""
        return self.old_price is not None and self.price is None


def since_yesterday(kind: OfferChange.What) -> Q:
    """Return a filter for changes of one kind since the start of yesterday.

    Days begin and end in the site's time zone.
    """
    return Q(what=kind, at__gte=begin_of(today() - timedelta(days=1)))


def price_moves(changes: QuerySet[OfferChange]) -> Iterator[PriceMove]:
    """Yield the price move of each type in ``changes``.

    A type is left out if its cost is the same as before the first of the ``changes``, or if it is
    no longer sold.
    """
    first: dict[int, OfferChange] = {}
    last: dict[int, OfferChange] = {}
    for change in changes.order_by("pk").select_related("type__product__category"):
        first.setdefault(change.type_id, change)
        last[change.type_id] = change
    for key, change in last.items():
        kind, began = change.type, first[key]
        old = began.old_value
        if kind.offer.cost and isinstance(old, Decimal) and kind.cost != old:
            yield PriceMove(kind, change.at, old, began.price)
