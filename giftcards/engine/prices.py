"""Current prices of cards, cached, because each query costs a request.

An order without a price ceiling is sent without its price if need be. An order with a ceiling is
not sent before its price is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Self

from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.budget import Purpose
from giftcards.exceptions import AccessDenied, NotFound, NotListed, ProviderError, RateLimited
from giftcards.models import ProductPrices
from giftcards.models.times import SLACK
from giftcards.provider.answers import Product

# The pause before a failed query is repeated, if the price is optional and if it is required
# (seconds).
_RETRY = 60.0
_RETRY_REQUIRED = 5.0


@dataclass(frozen=True, slots=True)
class _Prices:
    """The known prices of a product; ``asked_at`` is on the monotonic clock."""

    asked_at: float
    by_type: Mapping[str, Decimal] = field(default_factory=dict)
    # All types that the product lists, even those without a readable price.
    listed: Collection[str] = ()
    # Why the last query failed; None if it succeeded.
    failure: ProviderError | None = None

    @property
    def age(self) -> float:
        """Seconds since the request was made, which include the time until its answer."""
        return time.monotonic() - self.asked_at

    @classmethod
    def of(cls, row: ProductPrices) -> Self:
        age = timezone.now() - row.asked_at
        return cls(time.monotonic() - age.total_seconds(), row.prices)


class PriceList:
    """The prices of the products that are being ordered.

    ``key`` is the fingerprint of the API key: each account has prices of its own. ``read`` requests
    a product from the provider. It returns ``None`` if the request budget does not allow that now,
    and raises :exc:`~giftcards.exceptions.ProviderError`.
    """

    def __init__(self, read: Callable[[str, Purpose], Product | None], *, key: str) -> None:
        self._read = read
        self._key = key
        self._cache: dict[str, _Prices] = {}

    def price(self, product_id: str, type_id: str) -> Decimal | None:
        """Return the price of a card of the type, in dinars; ``None`` if it is unknown.

        The price may be older than ``PRICE_MAX_AGE`` while the budget is short. Raises
        :exc:`AccessDenied` and :exc:`RateLimited`, which pause all calls.
        """
        prices = self._cache.get(product_id)
        if prices is None or prices.age >= (_RETRY if prices.failure else conf.price_max_age):
            prices = self._request(product_id, Purpose.PRICING) or prices
        return None if prices is None else prices.by_type.get(type_id)

    def required_price(
        self, product_id: str, type_id: str, *, asked_since: datetime | None = None
    ) -> Decimal | None:
        """Return the price of a card, at most ``PRICE_MAX_AGE`` old; ``None`` without a slot.

        The query counts as placing, so it may take any slot that placing may take. A price that the
        provider told another process will do, because most orders of a shop have a ceiling. With
        ``asked_since``, only a price that was requested after that moment counts. Raises
        :exc:`ProviderError` if the price is unknown: the query failed, the price is unreadable, or
        (:exc:`NotListed`) the product does not list the type.
        """
        prices = self._cache.get(product_id)
        is_told = prices is not None and type_id in prices.by_type
        max_age = _max_age(asked_since)
        if prices is None or prices.age >= (max_age if is_told else _RETRY_REQUIRED):
            told = self._told(product_id, type_id, max_age=max_age)
            prices = told or self._request(product_id, Purpose.PLACING)
        if prices is None:
            return None
        if type_id in prices.by_type:
            return prices.by_type[type_id]
        # A failure may have been raised before.
        raise (prices.failure or _no_price(prices, type_id)).with_traceback(None)

    def _told(self, product_id: str, type_id: str, *, max_age: float) -> _Prices | None:
        """The prices that the provider told another process; ``None`` without the type's price."""
        row = ProductPrices.objects.told(
            product_id, key=self._key, max_age=timedelta(seconds=max_age)
        )
        if row is None or type_id not in row.by_type:
            return None
        prices = self._cache[product_id] = _Prices.of(row)
        return prices

    def _request(self, product_id: str, purpose: Purpose) -> _Prices | None:
        asked_at, now = time.monotonic(), timezone.now()
        try:
            product = self._read(product_id, purpose)
        except (AccessDenied, RateLimited):
            raise
        except ProviderError as error:
            prices = _Prices(asked_at, failure=error)
        else:
            if product is None:
                return None
            listed = {kind.type_id for kind in product.types}
            prices = _Prices(asked_at, by_type(product), listed)
            self.keep(product_id, prices.by_type, asked_at=now)
        self._cache[product_id] = prices
        return prices

    def keep(self, product_id: str, prices: Mapping[str, Decimal], *, asked_at: datetime) -> None:
        """Store what the provider told, for orders with a ceiling in any process."""
        ProductPrices.objects.keep(product_id, prices, key=self._key, asked_at=asked_at)


def _no_price(prices: _Prices, type_id: str) -> ProviderError:
    if type_id in prices.listed:
        return NotFound("The provider shows no price.", reason="no_price")
    return NotListed("The provider does not list the type.")


def _max_age(asked_since: datetime | None) -> float:
    """The maximum age of a required price in seconds; negative if it must be requested now."""
    if asked_since is None:
        return conf.price_max_age
    # Another machine's clock may have written either time: in doubt, the provider is asked again.
    since = timezone.now() - asked_since - SLACK
    return min(conf.price_max_age, since.total_seconds())


def by_type(product: Product) -> dict[str, Decimal]:
    """The readable prices by type; the highest if a type is listed more than once."""
    prices: dict[str, Decimal] = {}
    for kind in product.types:
        # A negative price is wrong, and violates a constraint of the table.
        if kind.price is not None and kind.price >= 0:
            prices[kind.type_id] = max(kind.price, prices.get(kind.type_id, kind.price))
    return prices
