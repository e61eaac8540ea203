"""Checking and holding the gift cards in a basket before the customer pays."""

from __future__ import annotations

import logging
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpResponseRedirect
from django.urls import reverse_lazy
from django.utils.translation import gettext
from oscar.apps.checkout.exceptions import FailedPreCondition

from giftcards.catalogue import Guest, check_offer, hold, holder_of, release
from giftcards.conf import conf as core
from giftcards.exceptions import GiftcardsError, NotForSale
from giftcards.fulfilment import check_line
from giftcards.oscar.lines import ids_of, stock_records
from giftcards.oscar.stock import follow_offers

logger = logging.getLogger(__name__)

_CENTIME = Decimal("0.01")
_BASKET = reverse_lazy("basket:summary")


class BasketRefused(GiftcardsError):
    """Gift cards in the basket cannot be sold; ``sentences`` tell the customer why."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__(" ".join(sentences))
        self.sentences = sentences


def check_cards(basket: Any, *, email: str = "") -> None:
    """Check that the cards in the basket can be bought, and are not sold at a loss.

    The prices after all discounts are compared with the costs. No request to the provider is made.
    Raises :exc:`BasketRefused`.
    """
    _for_each(basket, lambda line: _check(line, email=email, fresh=False))


def hold_cards(basket: Any, *, email: str = "", holder: str | Guest = "") -> None:
    """Check the cards in the basket as the provider sells them now; hold them for 20 minutes.

    Call this right before the payment, outside any transaction. At most one request is made for
    each product. ``holder`` is the person for whom the number of holds is limited: see
    :func:`giftcards.catalogue.hold`. If :exc:`BasketRefused` is raised, no card is held.
    """
    asked: set[str] = set()

    def check_and_hold(line: Any) -> None:
        values = _values(line)
        fresh = values["product_id"] not in asked
        asked.add(values["product_id"])
        _check(line, email=email, fresh=fresh)
        hold(reference=_hold_of(line), holder=holder, **values)

    try:
        _for_each(basket, check_and_hold)
    except BasketRefused:
        release_cards(basket)
        raise


def release_cards(basket: Any) -> None:
    """End the holds of the basket, so that the cards are offered to others."""
    lines = _card_lines(basket)
    for line in lines:
        release(_hold_of(line))
    if lines:
        follow_offers([line.stockrecord.partner_sku for line in lines])


def holds_of(basket: Any) -> list[str]:
    """The references under which lines of the basket may have holds."""
    return list(map(_hold_of, basket.lines.all()))


def _hold_of(line: Any) -> str:
    return f"oscar-basket-line-{line.pk}"


def _card_lines(basket: Any) -> list[Any]:
    lines = basket.all_lines()
    cards = set(
        stock_records()
        .filter(pk__in=[line.stockrecord_id for line in lines])
        .values_list("pk", flat=True)
    )
    return [line for line in lines if line.stockrecord_id in cards]


def _values(line: Any) -> dict[str, Any]:
    product_id, type_id = ids_of(line.stockrecord.partner_sku)
    return {"product_id": product_id, "type_id": type_id, "quantity": line.quantity}


def _for_each(basket: Any, do: Callable[[Any], None]) -> None:
    """Call ``do`` for each line with cards; raise :exc:`BasketRefused` if any call failed."""
    sentences = []
    for line in _card_lines(basket):
        try:
            do(line)
        except NotForSale as error:
            logger.info("Basket %s is refused. %s", basket.pk, error)
            sentences.append(f"{line.product.get_title()}: {error.for_customer}")
        except ValidationError as error:
            sentences += [f"{line.product.get_title()}: {message}" for message in error.messages]
    if sentences:
        raise BasketRefused(sentences)


def _check(line: Any, *, email: str, fresh: bool) -> None:
    values, paid = _values(line), _paid_amount(line)
    check_line(**values, sale_amount=paid, customer_email=email)
    check_offer(**values, sale_amount=paid, reference=_hold_of(line), fresh=fresh)


def _paid_amount(line: Any) -> Decimal:
    """The amount that the customer pays for the line, and that oscar's order will have."""
    price = line.purchase_info.price
    if not price.exists or price.currency != core.currency:
        raise NotForSale(
            "delisted",
            for_customer=gettext("This card is not for sale any more."),
            for_staff=f"It has no price in {core.currency}.",
        )
    amount = line.line_price_excl_tax_incl_discounts
    # Some shops know the taxes only right before the payment.
    if price.is_tax_known:
        amount = line.line_price_incl_tax_incl_discounts
    return Decimal(amount).quantize(_CENTIME)


class GiftCardsCheckout:
    """A mixin for the view of the payment; put it before oscar's ``PaymentDetailsView``."""

    # Attributes of oscar's view.
    request: Any
    checkout_session: Any

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Return the view, which runs outside any transaction.

        The view makes requests to the provider, and other processes have to see its holds.
        """
        return transaction.non_atomic_requests(super().as_view(**initkwargs))  # type: ignore[misc]

    def check_pre_conditions(self, request: Any) -> None:
        """Check the cards, and oscar's own conditions, before each page of the payment."""
        super().check_pre_conditions(request)  # type: ignore[misc]
        if request.method != "GET":
            return
        try:
            check_cards(request.basket, email=self._email)
        except BasketRefused as error:
            raise FailedPreCondition(_BASKET, messages=error.sentences) from None

    def submit(self, user: Any, basket: Any, *args: Any, **kwargs: Any) -> Any:
        """Hold the cards, then take the payment; if the cards cannot be held, show why."""
        try:
            hold_cards(basket, email=self._email, holder=self.get_holder())
        except BasketRefused as error:
            for sentence in error.sentences:
                messages.error(self.request, sentence)
            return HttpResponseRedirect(_BASKET)
        return super().submit(user, basket, *args, **kwargs)  # type: ignore[misc]

    def restore_frozen_basket(self) -> None:
        """Give the basket back after a failed payment, and end its holds."""
        super().restore_frozen_basket()  # type: ignore[misc]
        release_cards(self.request.basket)

    def get_holder(self) -> str | Guest:
        """The holder for :func:`hold_cards`; "" if the number of holds is not limited."""
        return holder_of(self.request)

    @property
    def _email(self) -> str:
        user = self.request.user
        email = user.email if user.is_authenticated else self.checkout_session.get_guest_email()
        return email or ""
