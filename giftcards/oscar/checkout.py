"""Check and reserve the gift cards in a basket before the payment."""

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

from giftcards.catalogue import Guest, check_offer, customer_of, release, reserve
from giftcards.conf import CURRENCY
from giftcards.exceptions import GiftcardsError, NotForSale
from giftcards.oscar.lines import ids_of, stock_records
from giftcards.oscar.stock import follow_offers

logger = logging.getLogger(__name__)

_CENTIME = Decimal("0.01")
_BASKET = reverse_lazy("basket:summary")


class BasketRefused(GiftcardsError):
    """The gift cards in the basket cannot be sold.

    ``sentences`` explains the reasons to the customer.
    """

    def __init__(self, sentences: list[str]) -> None:
        super().__init__(" ".join(sentences))
        self.sentences = sentences


def check_cards(basket: Any, *, email: str = "") -> None:
    """Check that the shop can sell the cards in the basket without a loss.

    The function compares the prices after all discounts with the costs. The function does not make
    any requests to the provider. Raises :exc:`BasketRefused` if a card cannot be sold.
    """
    _for_each(basket, lambda line: _check(line, email=email, fresh=False))


def reserve_cards(basket: Any, *, email: str = "", customer: str | Guest = "") -> None:
    """Check the cards in the basket, and reserve them for 20 minutes.

    Call this function immediately before the payment, outside a transaction. The function requests
    current prices and stock from the provider, with at most one request per product. The
    ``customer`` argument has the same meaning as in :func:`giftcards.catalogue.reserve`. If the
    function raises :exc:`BasketRefused`, no cards are reserved.
    """
    asked: set[str] = set()

    def check_and_reserve(line: Any) -> None:
        values = _values(line)
        fresh = values["product_id"] not in asked
        asked.add(values["product_id"])
        _check(line, email=email, fresh=fresh)
        reserve(reference=_reservation_of(line), customer=customer, **values)

    try:
        _for_each(basket, check_and_reserve)
    except BasketRefused:
        release_cards(basket)
        raise


def release_cards(basket: Any) -> None:
    """End the reservations of the basket."""
    lines = _card_lines(basket)
    for line in lines:
        release(_reservation_of(line))
    if lines:
        follow_offers([line.stockrecord.partner_sku for line in lines])


def reservations_of(basket: Any) -> list[str]:
    """Return the references of possible reservations for the basket.

    The list contains a reference for each line, whether or not the line has a reservation.
    """
    return list(map(_reservation_of, basket.lines.all()))


def _reservation_of(line: Any) -> str:
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


def _for_each(basket: Any, action: Callable[[Any], None]) -> None:
    """Call ``action`` for each line of the basket that contains gift cards.

    If calls raise ``NotForSale`` or ``ValidationError``, the remaining lines are still processed,
    and :exc:`BasketRefused` is raised at the end.
    """
    sentences = []
    for line in _card_lines(basket):
        try:
            action(line)
        except NotForSale as error:
            logger.info("Basket %s is refused. %s", basket.pk, error)
            sentences.append(f"{line.product.get_title()}: {error.for_customer}")
        except ValidationError as error:
            sentences += [f"{line.product.get_title()}: {message}" for message in error.messages]
    if sentences:
        raise BasketRefused(sentences)


def _check(line: Any, *, email: str, fresh: bool) -> None:
    values, paid = _values(line), _paid_amount(line)
    check_offer(
        **values,
        sale_amount=paid,
        customer_email=email,
        reference=_reservation_of(line),
        fresh=fresh,
    )


def _paid_amount(line: Any) -> Decimal:
    """Return the amount that the customer pays for the line.

    This is the price of the line after all discounts, which oscar will store in the line of its
    order.
    """
    price = line.purchase_info.price
    if not price.exists or price.currency != CURRENCY:
        raise NotForSale(
            "delisted",
            for_customer=gettext("This card is no longer for sale."),
            for_staff=f"It has no price in {CURRENCY}.",
        )
    amount = line.line_price_excl_tax_incl_discounts
    # In some shops, the taxes are known only right before the payment.
    if price.is_tax_known:
        amount = line.line_price_incl_tax_incl_discounts
    return Decimal(amount).quantize(_CENTIME)


class GiftCardsCheckout:
    """A mixin for oscar's ``PaymentDetailsView``.

    The mixin must be the first base class.
    """

    # Attributes of oscar's view.
    request: Any
    checkout_session: Any

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Return a view that runs outside any transaction.

        The view makes requests to the provider, and other processes must see its reservations.
        """
        return transaction.non_atomic_requests(super().as_view(**initkwargs))  # type: ignore[misc]

    def check_pre_conditions(self, request: Any) -> None:
        """Check the cards and oscar's own conditions before each payment page."""
        super().check_pre_conditions(request)  # type: ignore[misc]
        if request.method != "GET":
            return
        try:
            check_cards(request.basket, email=self._email)
        except BasketRefused as error:
            raise FailedPreCondition(_BASKET, messages=error.sentences) from None

    def submit(self, user: Any, basket: Any, *args: Any, **kwargs: Any) -> Any:
        """Reserve the cards and take the payment.

        If the cards cannot be reserved, show the reason.
        """
        try:
            reserve_cards(basket, email=self._email, customer=self.get_customer())
        except BasketRefused as error:
            for sentence in error.sentences:
                messages.error(self.request, sentence)
            return HttpResponseRedirect(_BASKET)
        return super().submit(user, basket, *args, **kwargs)  # type: ignore[misc]

    def restore_frozen_basket(self) -> None:
        """Restore the basket after a failed payment, and end its reservations."""
        super().restore_frozen_basket()  # type: ignore[misc]
        release_cards(self.request.basket)

    def get_customer(self) -> str | Guest:
        """Return the customer to pass to :func:`reserve_cards`.

        If the result is "", the number of cards that the customer can reserve is not limited.
        """
        return customer_of(self.request)

    @property
    def _email(self) -> str:
        user = self.request.user
        email = user.email if user.is_authenticated else self.checkout_session.get_guest_email()
        return email or ""
