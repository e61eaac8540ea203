"""A cache of card prices, which saves requests to the provider."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.utils import timezone

from giftcards.engine.approvals import release_fallen
from giftcards.engine.database import tolerating
from giftcards.engine.tuning import tuning
from giftcards.exceptions import AccessDenied, NotFound, NotListed, ProviderError, RateLimited
from giftcards.models import Lease, Order, Product, ProductPrices
from giftcards.provider.answers import Product as ToldProduct
from giftcards.rules.purposes import Purpose
from giftcards.rules.times import SLACK

logger = logging.getLogger(__name__)

# The pauses before a failed query is repeated, for optional and for required prices (seconds).
_RETRY = 60.0
_RETRY_REQUIRED = 5.0
# The interval at which one of the processes reads the prices of orders on hold, and the maximum
# number of products that it reads.
_TURN = timedelta(seconds=15)
_PRODUCTS = 5
# A price that a process requested within this time is not requested again.
_RECENT = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class _Prices:
    """The known prices of a product.

    ``asked_at`` is a time on the monotonic clock.
    """

    asked_at: float
    by_type: Mapping[str, Decimal] = field(default_factory=dict)
    # All types in the product's answer, including types without a readable price.
    listed: Collection[str] = ()
    # The error of the last query, or None if the query succeeded.
    failure: ProviderError | None = None

    @property
    def age(self) -> float:
        """The number of seconds since the request was sent."""
        return time.monotonic() - self.asked_at


class PriceCache:
    """A cache of the prices of products that are being ordered.

    ``key`` is the fingerprint of the API key. The cache needs the key because prices differ between
    accounts. ``read`` requests a product from the provider, with one retry if its last argument is
    True. ``read`` returns ``None`` if the request quota does not allow a request now, and raises
    :exc:`~giftcards.exceptions.ProviderError` if the request fails.
    """

    def __init__(
        self, read: Callable[[str, Purpose, bool], ToldProduct | None], *, key: str
    ) -> None:
        self._read = read
        self._key = key
        self._cache: dict[str, _Prices] = {}
        # The next time to read the prices of orders on hold, on the monotonic clock.
        self._due_at = 0.0

    def price(self, product_id: str, type_id: str) -> Decimal | None:
        """Return the price of a card in dinars, or ``None`` if it is unknown.

        If the request quota is used up, the price can be older than ``tuning.price_max_age``.
        Errors of the provider are not raised, except for :exc:`AccessDenied` and
        :exc:`RateLimited`, which pause all calls.
        """
        prices = self._cache.get(product_id)
        if prices is None or prices.age >= (_RETRY if prices.failure else tuning.price_max_age):
            prices = self._request(product_id, Purpose.PRICING) or prices
        return None if prices is None else prices.by_type.get(type_id)

    def required_price(
        self, product_id: str, type_id: str, *, asked_since: datetime | None = None
    ) -> Decimal | None:
        """Return a recent price in dinars, or ``None``.

        The price is at most ``tuning.price_max_age`` seconds old. Returns ``None`` if a request is
        needed but the quota has no free slot. The price can come from a request by another process.
        If ``asked_since`` is passed, only a price that was requested after that time is returned.

        Raises :exc:`ProviderError` if the request fails or the price is unreadable, and
        :exc:`NotListed` if the product does not list the type.
        """
        prices = self._cache.get(product_id)
        if prices is None or type_id in prices.by_type or prices.age >= _RETRY_REQUIRED:
            # The stored prices are used even if this process has prices of its own, because another
            # process may have seen that a price has changed.
            told = self._told(product_id, type_id, max_age=_max_age(asked_since))
            prices = told or self._request(product_id, Purpose.PLACING)
        if prices is None:
            return None
        if type_id in prices.by_type:
            return prices.by_type[type_id]
        # The same error may have been raised before with a different traceback.
        raise (prices.failure or _no_price(prices, type_id)).with_traceback(None)

    def _told(self, product_id: str, type_id: str, *, max_age: float) -> _Prices | None:
        row = ProductPrices.objects.told(
            product_id, key=self._key, max_age=timedelta(seconds=max_age)
        )
        if row is None or type_id not in row.by_type:
            return None
        asked_at = time.monotonic() - (timezone.now() - row.asked_at).total_seconds()
        prices = self._cache[product_id] = _Prices(asked_at, row.prices)
        return prices

    def _request(self, product_id: str, purpose: Purpose) -> _Prices | None:
        asked_at = time.monotonic()
        try:
            product = self.product(product_id, purpose)
        except (AccessDenied, RateLimited):
            raise
        except ProviderError as error:
            prices = _Prices(asked_at, failure=error)
        else:
            if product is None:
                return None
            listed = {kind.type_id for kind in product.types}
            prices = _Prices(asked_at, by_type(product), listed)
            release_fallen(product_id, prices.by_type)
        self._cache[product_id] = prices
        return prices

    def product(
        self, product_id: str, purpose: Purpose, *, may_repeat: bool = True
    ) -> ToldProduct | None:
        """Request a product, and store its prices and types.

        The prices are stored for all processes, and the types are stored in the catalogue. If the
        provider does not know the product, the product is stored without types. Returns ``None`` if
        the quota does not allow the request.
        """
        now = timezone.now()
        try:
            told = self._read(product_id, purpose, may_repeat)
        except NotFound:
            _keep_types(product_id, [], at=now)
            raise
        if told is not None:
            prices = by_type(told)
            ProductPrices.objects.keep(product_id, prices, key=self._key, asked_at=now)
            _keep_types(product_id, _columns_of_types(told), at=now)
        return told

    def look_at_orders_on_hold(self, has_time: Callable[[], bool]) -> bool:
        """Release orders on hold whose price has fallen.

        The method reads the prices of one product, and of further products while ``has_time()``
        returns True. Returns False if the method has not read any prices, for example because it
        was called too early.
        """
        if time.monotonic() < self._due_at:
            return False
        self._due_at = time.monotonic() + _TURN.total_seconds()
        waiting = Order.objects.on_hold_for_price().order_by()
        products = list(waiting.values_list("product_id", flat=True).distinct())
        if not (products and Lease.objects.take(Lease.ON_HOLD_PRICES, _TURN)):
            return False
        # The products are shuffled, so that a product without an answer does not always delay the
        # same other products.
        random.shuffle(products)
        for number, product_id in enumerate(products[:_PRODUCTS]):
            if number and not has_time():
                break
            # The gateway records the error, and pauses calls if it has to.
            with suppress(ProviderError):
                release_fallen(product_id, self._recent(product_id))
        return True

    def _recent(self, product_id: str) -> Mapping[str, Decimal]:
        told = ProductPrices.objects.told(product_id, key=self._key, max_age=_RECENT)
        if told is not None:
            return told.prices
        product = self.product(product_id, Purpose.BACKGROUND, may_repeat=False)
        return {} if product is None else by_type(product)


def _no_price(prices: _Prices, type_id: str) -> ProviderError:
    if type_id in prices.listed:
        return NotFound("The provider shows no price.", reason="no_price")
    return NotListed("The provider does not list the type.")


def _max_age(asked_since: datetime | None) -> float:
    """Return the maximum age of a required price in seconds.

    The result is negative if the price must be requested.
    """
    if asked_since is None:
        return tuning.price_max_age
    # The clocks of two machines may differ, so the price is requested again if its age is in doubt.
    since = timezone.now() - asked_since - SLACK
    return min(tuning.price_max_age, since.total_seconds())


def by_type(product: ToldProduct) -> dict[str, Decimal]:
    """Return the price of each type that has a valid price.

    If a type is listed more than once, its highest price is returned.
    """
    prices: dict[str, Decimal] = {}
    for kind in product.types:
        # A negative price is wrong, and violates a constraint of the table.
        if kind.price is not None and kind.price >= 0:
            prices[kind.type_id] = max(kind.price, prices.get(kind.type_id, kind.price))
    return prices


def _keep_types(product_id: str, types: list[dict[str, Any]], *, at: datetime) -> None:
    # A failure is only logged, because an order that waits for the price does not need the
    # catalogue.
    with tolerating(f"Storing the types of the product {product_id}"):
        Product.objects.keep_types(product_id, types, at=at)


def _columns_of_types(product: ToldProduct) -> list[dict[str, Any]]:
    """Return the values to store in the catalogue for each type.

    If a type is listed more than once, the entry with the highest price is used.
    """
    kinds = {kind.type_id: kind for kind in sorted(product.types, key=lambda kind: kind.price or 0)}
    return [
        {
            "type_id": kind.type_id,
            "name": kind.name,
            "cost": None if kind.price is not None and kind.price < 0 else kind.price,
            "stock": kind.stock,
        }
        for kind in kinds.values()
    ]
