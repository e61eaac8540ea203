"""Reading the provider's catalogue, a product at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.db.models import Max
from django.utils import timezone

from giftcards.engine.background import Stopped, ask_when_free
from giftcards.engine.budget import Purpose
from giftcards.engine.gateway import Gateway
from giftcards.exceptions import ProviderError, Refused
from giftcards.models import Product, ProductType
from giftcards.models.times import is_recent
from giftcards.provider.answers import ListedProduct
from giftcards.provider.answers import Product as ToldProduct
from giftcards.provider.answers import ProductType as ToldType

T = TypeVar("T")

# An interrupted reading is resumed within this time; after it, a new one begins.
_RESUMABLE = timedelta(hours=6)
# After this many products in a row without an answer, the provider counts as unreachable.
_MOST_SILENT = 3


@dataclass(frozen=True, slots=True)
class CatalogueReading:
    """The progress of a reading; ``total`` counts the products to be read.

    ``skipped`` counts the products, or rows of the catalogue, that could not be read. ``trouble``
    says why the last of them failed, or why the reading ended early.
    """

    total: int = 0
    read: int = 0
    skipped: int = 0
    trouble: str = ""
    # The reason for waiting: True if calls are paused, False if the request budget has no slot.
    is_paused: bool = False

    @property
    def is_whole(self) -> bool:
        return not self.trouble and not self.skipped and self.read == self.total


def read_catalogue(
    gateway: Gateway, *, on_wait: Callable[[CatalogueReading], None]
) -> CatalogueReading:
    """Read the catalogue, then the types of each product on sale, with one call each.

    It uses at most a tenth of the request budget. ``on_wait`` is called repeatedly while the
    reading waits for a call. A reading interrupted less than six hours ago is resumed.
    """
    reader = _Reader(gateway, on_wait)
    try:
        reader.run()
    except (Stopped, ProviderError) as error:
        # Without a text, the trouble of the last product stays.
        if str(error):
            reader.note(trouble=str(error))
    return reader.reading


class _Reader:
    def __init__(self, gateway: Gateway, on_wait: Callable[[CatalogueReading], None]) -> None:
        self.reading = CatalogueReading()
        self._gateway = gateway
        self._on_wait = on_wait
        self._silent = 0

    def note(self, **changes: Any) -> None:
        self.reading = replace(self.reading, **changes)

    def run(self) -> None:
        listed_at = Product.objects.aggregate(last=Max("listed_at"))["last"]
        is_resumable = is_recent(listed_at, timezone.now(), within=_RESUMABLE)
        if not (is_resumable and Product.objects.to_read().exists()):
            self._read_list()
        products = list(Product.objects.to_read())
        self.note(total=len(products))
        for product in products:
            # Another process may be reading as well.
            if Product.objects.to_read().filter(pk=product.pk).exists():
                self._read_types(product.product_id)
            else:
                self.note(total=self.reading.total - 1)

    def _read_list(self) -> None:
        at = timezone.now()
        client = self._gateway.client
        catalogue = self._ask(lambda: self._gateway.ask(client.catalogue, Purpose.BACKGROUND))
        if catalogue.unreadable:
            trouble = "The catalogue has rows that could not be read."
            self.note(skipped=catalogue.unreadable, trouble=trouble)
        Product.objects.keep(map(_columns_of_product, catalogue.products), at=at)

    def _read_types(self, product_id: str) -> None:
        at = timezone.now()
        try:
            product = self._ask(
                lambda: self._gateway.prices.product(product_id, Purpose.BACKGROUND)
            )
        except ProviderError as error:
            self._skip(product_id, error)
        else:
            keep_types(product_id, product, at=at)
            self._silent = 0
            self.note(read=self.reading.read + 1)

    def _skip(self, product_id: str, error: ProviderError) -> None:
        trouble = f"The product {product_id} could not be read. {error}"
        self.note(skipped=self.reading.skipped + 1, trouble=trouble)
        # An answer, even an unusable one, shows that the provider is there.
        is_answer = isinstance(error, Refused) or error.status == 200
        self._silent = 0 if is_answer else self._silent + 1
        if self._silent == _MOST_SILENT:
            raise Stopped

    def _ask(self, call: Callable[[], T | None]) -> T:
        return ask_when_free(self._gateway, call, self._wait)

    def _wait(self, is_paused: bool) -> None:
        self._on_wait(replace(self.reading, is_paused=is_paused))


def keep_types(product_id: str, product: ToldProduct, *, at: datetime) -> None:
    """Store the types of a product as the provider told them."""
    # The last one counts: a type that is listed more than once has its highest price.
    kinds = {kind.type_id: kind for kind in sorted(product.types, key=lambda kind: kind.price or 0)}
    Product.objects.keep_types(product_id, map(_columns_of_type, kinds.values()), at=at)


def _columns_of_product(product: ListedProduct) -> dict[str, Any]:
    return {
        "product_id": product.product_id,
        "name": product.title,
        "category": product.category,
        "region": product.region,
        "is_enabled": product.is_enabled,
    }


def _columns_of_type(kind: ToldType) -> dict[str, Any]:
    return {
        "type_id": kind.type_id,
        "name": kind.name,
        "price": _unless_negative(kind.price),
        "stock": _unless_negative(kind.stock),
    }


def _unless_negative(number: Any) -> Any:
    """Return ``number``; ``None``, for "unknown", if it is negative."""
    return None if number is not None and number < 0 else number


def counts() -> dict[str, int]:
    """Count the products and types in the catalogue, for sale, and still to be read."""
    return {
        "products": Product.objects.count(),
        "on_sale": Product.objects.on_sale().count(),
        "types": ProductType.objects.count(),
        "types_for_sale": ProductType.objects.for_sale().count(),
        "to_read": Product.objects.to_read().count(),
    }
