"""An API for a front end on another origin: the shelf, and the orders of a token's owner."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.translation import get_language
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from rest_framework import serializers
from rest_framework.authtoken.models import Token
from rest_framework.authtoken.views import ObtainAuthToken
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import ScopedRateThrottle
from rest_framework.views import APIView

from example_project.api.models import Reveal
from example_project.api.serializers import (
    KeySerializer,
    LineSerializer,
    OfferSerializer,
    OrderSerializer,
)
from example_project.storefront import catalogue, checkout
from example_project.storefront.models import Purchase
from giftcards.exceptions import CodeDestroyed, DecryptionError, NotForSale, ReferenceConflict
from giftcards.models import Card, Order, ProductType

logger = logging.getLogger(__name__)

_LISTED = 20
_DEARER = "The price has changed."
# Seconds between two requests about an open order: a tenth of its age, within these limits.
_SHORTEST, _LONGEST = 3, 30


class Conflict(APIException):
    status_code = 409


class Gone(APIException):
    status_code = 410


class Unavailable(APIException):
    status_code = 503


class GuessThrottle(ScopedRateThrottle):
    """A limit for each IP address, so that a token of one's own does not allow more guesses."""

    def get_cache_key(self, request: Request, view: APIView) -> str:  # noqa: ARG002
        key: str = self.cache_format % {"scope": self.scope, "ident": self.get_ident(request)}
        return key


@method_decorator(never_cache, name="dispatch")
class TokenView(ObtainAuthToken):
    """POST returns a token for a user name and a password. DELETE deletes it."""

    # The framework's own view also parses forms.
    parser_classes = APIView.parser_classes
    throttle_classes = (GuessThrottle,)
    throttle_scope = "token"

    def delete(self, request: Request) -> Response:
        Token.objects.filter(user=request.user.pk).delete()
        return Response(status=204)


@method_decorator(never_cache, name="dispatch")
class ShopView(APIView):
    """The base of the views for a customer with a token; responses must not be cached."""

    throttle_scope = "orders"

    @staticmethod
    def orders_of(request: Request) -> QuerySet[Order]:
        return Order.objects.of_user(request.user).select_related("api_reveal").order_by("-pk")


class OffersView(ShopView):
    def get(self, _request: Request) -> Response:
        shelf = catalogue.read()
        return Response(OfferSerializer([*shelf.cards, *shelf.trials], many=True).data)


class OrdersView(ShopView):
    """GET lists the customer's newest orders. POST buys, once for each key."""

    def get(self, request: Request) -> Response:
        newest = self.orders_of(request)[:_LISTED]
        return Response(OrderSerializer(newest, many=True).data)

    def post(self, request: Request) -> Response:
        line = LineSerializer(data=request.data)
        line.is_valid(raise_exception=True)
        try:
            purchase, is_new = buy(request.user, **line.validated_data)
        except NotForSale as error:
            raise Conflict(error.for_customer) from None
        except checkout.PriceChanged:
            raise Conflict(_DEARER) from None
        except ValidationError as error:
            raise serializers.ValidationError(error.messages) from None
        order = self.orders_of(request).get(reference=purchase.reference)
        place = reverse("api:order", args=[order.reference])
        status = 201 if is_new else 200
        return Response(OrderSerializer(order).data, status, headers={"Location": place})


def buy(user: Any, **line: Any) -> tuple[Purchase, bool]:
    """Return the paid purchase with this key, and True if it is new."""
    try:
        return _buy(user, **line)
    except ReferenceConflict:
        # The same request was sent twice at once, and the other one has placed the order.
        return _buy(user, **line)


def _buy(
    user: Any, *, key: UUID, offer: ProductType, quantity: int, price: Decimal
) -> tuple[Purchase, bool]:
    customer = f"user {user.pk}"
    # The key is looked up among this customer's purchases only. The reference of the order comes
    # from the row.
    purchase = Purchase.objects.filter(user=user, key=key).first()
    if purchase is None:
        if offer.price != price:
            raise Conflict(_DEARER)
        purchase = checkout.begin(
            user,
            key=key,
            kind=offer,
            quantity=quantity,
            price=price,
            customer=customer,
            email=user.email,
            language=get_language(),
        )
    wanted = {"product_type": offer, "quantity": quantity}
    is_new, is_dearer = purchase.paid_at is None, purchase.amount != quantity * price
    if purchase.line != wanted or (is_dearer and not is_new):
        raise Conflict("This key was used for another purchase.")
    if is_dearer:
        raise Conflict(_DEARER)
    if is_new:
        checkout.pay(purchase, customer=customer)
    return purchase, is_new


class OrderView(ShopView):
    """GET returns the order and, while it is open, the time until the next request."""

    def get(self, request: Request, reference: str) -> Response:
        order = get_object_or_404(self.orders_of(request), reference=reference)
        answer = Response(OrderSerializer(order).data)
        if not order.is_final:
            age = (timezone.now() - order.created_at).total_seconds()
            answer["Retry-After"] = str(int(min(max(age / 10, _SHORTEST), _LONGEST)))
        return answer


class CardsView(ShopView):
    """POST shows the codes once. For some minutes, the same key shows them again."""

    throttle_scope = "cards"

    @method_decorator(sensitive_variables())
    def post(self, request: Request, reference: str) -> Response:
        # Only the recipient of a gift sees its cards.
        own = self.orders_of(request).filter(recipient_email="")
        order = get_object_or_404(own, reference=reference)
        body = KeySerializer(data=request.data)
        body.is_valid(raise_exception=True)
        if not order.is_final or not order.fulfilled_quantity:
            raise Conflict("There are no cards to show.")
        # The record of who saw the codes is committed before the codes are sent.
        with transaction.atomic(durable=True):
            key = body.validated_data["key"]
            given = {"user": request.user, "key": key}
            reveal, _is_new = Reveal.objects.get_or_create(order=order, defaults=given)
            if not reveal.is_repeated_by(key):
                raise Gone("The codes were shown before.")
            # Staff decide about additional cards.
            cards = order.cards.filter(position__lte=order.fulfilled_quantity)
            shown = [opened(card) for card in cards]
            if not any(card["value"] for card in shown):
                raise Unavailable("The codes cannot be shown at the moment. We are working on it.")
        return Response(shown)


@sensitive_variables()
def opened(card: Card) -> dict[str, Any]:
    """Return the card for its customer; ``value`` is "" if decrypting fails, which is logged."""
    told = {"number": card.position, "value": "", "serial": ""}
    try:
        return {**told, "value": card.value, "serial": card.serial}
    except CodeDestroyed:
        raise Gone("The codes of this order were destroyed, because it is old.") from None
    except DecryptionError as error:
        # The traceback is left out, because it could contain the code.
        text = "Card %s of order %s: %s"
        logger.error(text, card.position, card.order.reference, error)  # noqa: TRY400
        return told
