"""The provider's catalogue: reading it, and what is known of a card before it is bought."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from django.utils import timezone

from giftcards.engine.background import Stopped, ask_when_free
from giftcards.engine.budget import Purpose
from giftcards.engine.gateway import Gateway
from giftcards.engine.prices import by_type
from giftcards.engine.resolving import NoAnswer
from giftcards.exceptions import ConfigurationError, NotFound, ProviderError, Refused
from giftcards.models import Product, ProductPrices, ProductType, ProviderState
from giftcards.models.catalogue import Names
from giftcards.models.times import is_recent
from giftcards.provider.answers import ListedProduct
from giftcards.provider.answers import Product as ToldProduct
from giftcards.provider.answers import ProductType as ToldType

T = TypeVar("T")

# A reading that was broken off is finished within this time; after it, a new one begins.
_RESUMABLE = timedelta(hours=6)
# After so many products in a row without any answer, the provider is taken to be away.
_MOST_SILENT = 3


# Reading the catalogue.


@dataclass(frozen=True, slots=True)
class CatalogueReading:
    """How far a reading has come; ``total`` counts the products that it found to be read.

    ``skipped`` are products, or rows of the catalogue, that could not be read; ``trouble`` is why
    the last of them could not, or why the reading has ended early.
    """

    total: int = 0
    read: int = 0
    skipped: int = 0
    trouble: str = ""
    # Why it waits: calls are paused, or else the request budget has no slot.
    is_paused: bool = False

    @property
    def is_whole(self) -> bool:
        return not self.trouble and not self.skipped and self.read == self.total


def read_catalogue(
    gateway: Gateway, *, on_wait: Callable[[CatalogueReading], None]
) -> CatalogueReading:
    """Read the catalogue, and then the types of each product on sale: a call each.

    It takes a tenth of the request budget at most. ``on_wait`` is called again and again while it
    waits for a call. A reading that was broken off less than six hours ago goes on where it was.
    """
    reader = _Reader(gateway, on_wait)
    try:
        reader.run()
    except Stopped as stopped:
        # Without a text, the trouble is what the last product had.
        if str(stopped):
            reader.note(trouble=str(stopped))
    except ProviderError as error:
        # The catalogue itself could not be read: what is known of it stays.
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
        if not _is_unfinished():
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
            product = self._ask(lambda: self._gateway.product(product_id, Purpose.BACKGROUND))
        except ProviderError as error:
            self._skip(product_id, error)
        else:
            keep_types(product_id, product, at=at)
            self._silent = 0
            self.note(read=self.reading.read + 1)

    def _skip(self, product_id: str, error: ProviderError) -> None:
        trouble = f"The product {product_id} could not be read. {error}"
        self.note(skipped=self.reading.skipped + 1, trouble=trouble)
        # An answer about this product says nothing of the others.
        is_answer = isinstance(error, Refused) or error.status == 200
        self._silent = 0 if is_answer else self._silent + 1
        if self._silent == _MOST_SILENT:
            raise Stopped

    def _ask(self, call: Callable[[], T | None]) -> T:
        return ask_when_free(self._gateway, call, self._wait)

    def _wait(self, is_paused: bool) -> None:
        self._on_wait(replace(self.reading, is_paused=is_paused))


def _is_unfinished() -> bool:
    """Whether a reading has been broken off, and not so long ago that it has to begin anew."""
    listed_at = Product.objects.last_listed()
    if listed_at is None or not is_recent(listed_at, timezone.now(), within=_RESUMABLE):
        return False
    return Product.objects.to_read().exists()


def keep_types(product_id: str, product: ToldProduct, *, at: datetime) -> None:
    """Keep what the provider told of the types of a product of the catalogue."""
    kinds: dict[str, ToldType] = {}
    for kind in product.types:
        # The highest price if a type is there more than once.
        known = kinds.get(kind.type_id, kind)
        if (kind.price or 0) >= (known.price or 0):
            kinds[kind.type_id] = kind
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
    """The number; ``None``, for "unknown", if it makes no sense."""
    return None if number is not None and number < 0 else number


# What is known of a card before it is bought.


@dataclass(frozen=True, slots=True)
class Quote:
    """What is known of a card before it is bought; ``None``: unknown.

    ``price`` is that of one card as the provider told it at ``price_read_at``, and ``balance`` that
    of the account. ``stock`` is only what it told just now. ``no_answer`` is why it told no price
    just now.
    """

    names: Names
    price: Decimal | None = None
    price_read_at: datetime | None = None
    stock: int | None = None
    is_listed: bool = True
    balance: Decimal | None = None
    balance_read_at: datetime | None = None
    no_answer: NoAnswer | None = None

    @property
    def is_for_sale(self) -> bool:
        """Whether the provider sells it, as far as is known; it does not at a price of 0."""
        return self.is_listed and self.price != 0


def quote(product_id: str, type_id: str) -> Quote:
    """Ask the provider what a card costs and what the account holds; fall back on what is known.

    It makes at most two requests, with their ``REQUEST_TIMEOUT`` each, if the budget is not short.
    Do not call it in a transaction.
    """
    known = _known(product_id, type_id)
    try:
        with Gateway() as gateway:
            told = _ask_price(gateway, known, product_id, type_id)
            if told.no_answer in {None, NoAnswer.NOT_FOUND}:
                told = _ask_balance(gateway, told)
            return told
    except ConfigurationError:
        return replace(known, no_answer=NoAnswer.NOT_CONFIGURED)


def _known(product_id: str, type_id: str) -> Quote:
    state = ProviderState.objects.current()
    told = ProductPrices.objects.filter(pk=product_id).first()
    price = told.prices.get(type_id) if told else None
    return Quote(
        names=Product.objects.names(product_id, type_id),
        price=price,
        price_read_at=told.asked_at if told and price is not None else None,
        balance=state.balance,
        balance_read_at=state.balance_read_at,
    )


def _ask_price(gateway: Gateway, known: Quote, product_id: str, type_id: str) -> Quote:
    at = timezone.now()
    try:
        product = gateway.product(product_id, Purpose.PRICING, may_repeat=False)
    except NotFound:
        return replace(known, is_listed=False, no_answer=NoAnswer.NOT_FOUND)
    except ProviderError:
        why = NoAnswer.UNREACHABLE if gateway.is_open else NoAnswer.PAUSED
        return replace(known, no_answer=why)
    if product is None:
        return replace(known, no_answer=NoAnswer.BUSY if gateway.is_open else NoAnswer.PAUSED)
    keep_types(product_id, product, at=at)
    kind = next((kind for kind in product.types if kind.type_id == type_id), None)
    if kind is None:
        return replace(known, price=None, price_read_at=None, is_listed=False)
    names = Names(product.title or known.names.product, kind.name or known.names.type)
    price = by_type(product).get(type_id)
    return replace(known, names=names, price=price, price_read_at=at, stock=kind.stock)


def _ask_balance(gateway: Gateway, known: Quote) -> Quote:
    at = timezone.now()
    try:
        balance = gateway.ask(gateway.client.balance, Purpose.PRICING, may_repeat=False)
    except ProviderError:
        return known
    if balance is None:
        return known
    ProviderState.objects.keep_balance(balance, asked_at=at)
    return replace(known, balance=balance, balance_read_at=at)


# Counting what was read.


def counts() -> dict[str, int]:
    """How many products the catalogue has, and what of it can be bought."""
    return {
        "products": Product.objects.count(),
        "on_sale": Product.objects.on_sale().count(),
        "types": ProductType.objects.count(),
        "types_for_sale": ProductType.objects.for_sale().count(),
        "to_read": Product.objects.to_read().count(),
    }
