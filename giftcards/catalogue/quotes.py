"""Quoting a card before it is bought."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import transaction
from django.utils import timezone

from giftcards.catalogue.pricing import shop_price
from giftcards.catalogue.stock import with_available
from giftcards.conf import conf
from giftcards.engine.budget import Purpose
from giftcards.engine.gateway import Gateway
from giftcards.engine.resolving import NoAnswer
from giftcards.engine.timings import timings
from giftcards.exceptions import ConfigurationError, NotFound, ProviderError
from giftcards.models import (
    Order,
    Product,
    ProductPrices,
    ProductType,
    ProviderState,
    new_reference,
)
from giftcards.models.catalogue import Names
from giftcards.models.times import is_recent

# How often a caller looks whether the question of another one is answered (seconds).
_LOOK = 0.1


@dataclass(frozen=True, slots=True)
class Quote:
    """The known facts about a card before it is bought; ``None`` means unknown.

    ``price`` is the cost of one card and ``stock`` the provider's, as told at ``read_at``;
    ``available`` and ``shop_price`` are those of :func:`~giftcards.catalogue.offers`. ``balance``
    is the account's. ``no_answer`` says why the provider, if it was asked, has not answered.
    """

    names: Names
    price: Decimal | None = None
    stock: int | None = None
    available: int | None = None
    shop_price: Decimal | None = None
    read_at: datetime | None = None
    is_listed: bool = True
    balance: Decimal | None = None
    balance_read_at: datetime | None = None
    no_answer: NoAnswer | None = None
    quantity: int = 1
    # The type in the catalogue, by which the shop's price is computed.
    _kind: ProductType | None = field(default=None, repr=False)

    @property
    def is_for_sale(self) -> bool:
        """True if the provider sells the card, as far as is known; at a price of 0 it does not."""
        return self.is_listed and self.price != 0

    @property
    def cost(self) -> Decimal | None:
        """The cost of ``quantity`` cards, in dinars."""
        return None if self.price is None else self.price * self.quantity

    def is_read_within(self, seconds: float) -> bool:
        return is_recent(self.read_at, timezone.now(), within=timedelta(seconds=seconds))

    def with_shop_price(self) -> Quote:
        """This quote with the shop's price: a step of its own, as a function of the shop is slow.

        Nobody else may wait for it, so it is taken outside locks and transactions.
        """
        return self if self._kind is None else replace(self, shop_price=shop_price(self._kind))


@dataclass(frozen=True, slots=True)
class Line:
    """Cards that may be bought, and the reference of a hold that is the customer's own, or ""."""

    product_id: str
    type_id: str
    quantity: int = 1
    reference: str = ""

    def check_values(self) -> None:
        """Raise ``ValidationError`` for values that an order cannot have."""
        named = {"reference": self.reference or new_reference()}
        line = {"product_id": self.product_id, "type_id": self.type_id, "quantity": self.quantity}
        Order(**line, **named).check_values()

    def known(self) -> Quote:
        """The quote from the database alone, without the shop's price."""
        state = ProviderState.objects.current()
        known = Quote(
            names=Names(),
            balance=state.balance,
            balance_read_at=state.balance_read_at,
            quantity=self.quantity,
        )
        kinds = ProductType.objects.select_related("product").filter(
            product__product_id=self.product_id, type_id=self.type_id
        )
        kind = with_available(kinds, now=timezone.now(), reference=self.reference).first()
        if kind is not None:
            return replace(
                known,
                names=Names(kind.product.name, kind.name),
                price=kind.price,
                stock=kind.stock,
                available=kind.available,
                read_at=kind.read_at,
                is_listed=kind.product.is_enabled,
                _kind=kind,
            )
        # The price of a product that the catalogue does not list may have been asked for.
        told = ProductPrices.objects.filter(pk=self.product_id).first()
        price = told.prices.get(self.type_id) if told else None
        names = Product.objects.names(self.product_id, self.type_id)
        read_at = told.asked_at if told and price else None
        return replace(known, names=names, price=price, read_at=read_at)

    def quote(self, *, max_age: float) -> Quote:
        """See :func:`quote`; without the shop's price."""
        with transaction.atomic(durable=True):
            known = self.known()
        if known.is_read_within(max_age):
            return known
        try:
            with Gateway() as gateway:
                return self._ask(gateway, known)
        except ConfigurationError:
            return replace(known, no_answer=NoAnswer.NOT_CONFIGURED)

    def _ask(self, gateway: Gateway, known: Quote) -> Quote:
        products = Product.objects.filter(product_id=self.product_id)
        claim = products.claim_reading(longest=conf.request_timeout)
        if claim is None:
            return self._answer_to_other(known)
        latest = self.known()
        if latest.read_at != known.read_at:
            # Another process has asked between the first look and the claim.
            products.unclaim_reading(claim)
            return latest
        try:
            told = gateway.prices.product(self.product_id, Purpose.PRICING, may_repeat=False)
        except NotFound:
            return replace(known, is_listed=False, no_answer=NoAnswer.NOT_FOUND)
        except ProviderError:
            why = NoAnswer.UNREACHABLE if gateway.is_open else NoAnswer.PAUSED
            return replace(known, no_answer=why)
        if told is None:
            products.unclaim_reading(claim)
            return replace(known, no_answer=NoAnswer.BUSY if gateway.is_open else NoAnswer.PAUSED)
        kind = next((kind for kind in told.types if kind.type_id == self.type_id), None)
        if kind is None:
            return replace(known, price=None, read_at=None, is_listed=False)
        # The prices are stored, and the type, too, if the catalogue has ever listed the product.
        new = self.known()
        names = Names(told.title or new.names.product, kind.name or new.names.type)
        return replace(new, names=names, stock=kind.stock if new.stock is None else new.stock)

    def _answer_to_other(self, known: Quote) -> Quote:
        """The quote after the question of another process, which is on its way, was answered."""
        ends_at = time.monotonic() + timings.quote_patience
        products = Product.objects.filter(product_id=self.product_id)
        # Of a slow answer, nobody waits for more than the first second.
        asked = products.being_read(longest=timings.quote_patience)
        while asked.exists() and time.monotonic() < ends_at:
            time.sleep(_LOOK)
        new = self.known()
        return new if new.read_at != known.read_at else replace(new, no_answer=NoAnswer.BUSY)


def quote(product_id: str, type_id: str, quantity: int = 1, *, max_age: float = 60) -> Quote:
    """Quote ``quantity`` cards; ask the provider if the facts are older than ``max_age`` seconds.

    It makes one request at most, within ``REQUEST_TIMEOUT``, and only if the request budget allows.
    Without an answer, the quote is what is known: see ``read_at`` and ``no_answer``. While another
    caller asks, others wait for a second at most.

    Raises :exc:`~django.core.exceptions.ValidationError` for values that an order cannot have, and
    :exc:`RuntimeError` in a transaction.
    """
    line = Line(product_id, type_id, quantity)
    line.check_values()
    return line.quote(max_age=max_age).with_shop_price()
