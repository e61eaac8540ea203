"""Quoting a card before it is bought."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from django.utils import timezone

from giftcards.engine.budget import Purpose
from giftcards.engine.gateway import Gateway
from giftcards.engine.prices import by_type
from giftcards.engine.resolving import NoAnswer
from giftcards.exceptions import ConfigurationError, NotFound, ProviderError
from giftcards.models import Product, ProductPrices, ProviderState
from giftcards.models.catalogue import Names


@dataclass(frozen=True, slots=True)
class Quote:
    """The known facts about a card before it is bought; ``None`` means unknown.

    ``price`` is for one card, as the provider told it at ``price_read_at``; ``balance`` is the
    account's. ``stock`` is set only if the provider told it just now. ``no_answer`` says why the
    question about the price failed, if it did.
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
        """True if the provider sells the card, as far as is known; at a price of 0 it does not."""
        return self.is_listed and self.price != 0


def quote(product_id: str, type_id: str) -> Quote:
    """Ask the provider for a card's price and the account's balance; fall back on stored values.

    If the request budget allows, it makes up to two requests, each within ``REQUEST_TIMEOUT``. Do
    not call it in a transaction.
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
        product = gateway.prices.product(product_id, Purpose.PRICING, may_repeat=False)
    except NotFound:
        return replace(known, is_listed=False, no_answer=NoAnswer.NOT_FOUND)
    except ProviderError:
        why = NoAnswer.UNREACHABLE if gateway.is_open else NoAnswer.PAUSED
        return replace(known, no_answer=why)
    if product is None:
        return replace(known, no_answer=NoAnswer.BUSY if gateway.is_open else NoAnswer.PAUSED)
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
