"""The orders, and the gifts received, of a person who is logged in to the shop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import Min, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext

from giftcards.delivery import page_tokens
from giftcards.delivery.conf import conf
from giftcards.delivery.facts import (
    Facts,
    Gift,
    facts_for_recipient,
    facts_of,
    has_cards,
    with_cards,
)
from giftcards.delivery.kinds import WITH_CARDS, Kind, Mode
from giftcards.delivery.models import Delivery, DeliveryStatus
from giftcards.models import Order
from giftcards.rules.states import Status

_MAIL = "giftcards.delivery.channels.Mail"
# The kinds of messages one of which tells the customer how the order ended; and of a gift.
_ENDINGS = (Kind.DELIVERED, Kind.PARTLY_DELIVERED, Kind.REFUNDED)
_ENDINGS_OF_GIFT = (Kind.RECEIPT, Kind.REFUNDED)
# Digits of the longest primary key.
_LONGEST_KEY = 18


@dataclass(frozen=True, slots=True)
class OwnedOrder:
    """An order as the list of its customer shows it, or of the recipient of a gift."""

    order: Order
    facts: Facts
    #: True if there are cards to show; False once their codes were destroyed.
    has_cards: bool
    #: The token of the form that shows the cards.
    page: str = field(repr=False)
    #: Of an order that is one.
    gift: Gift | None = None
    #: True if the list is that of the recipient.
    is_received: bool = False
    #: When the recipient was first told.
    sent_at: datetime | None = None

    @property
    def state(self) -> str:
        if not self.facts.kind:
            return gettext("In progress")
        if self.facts.kind not in WITH_CARDS:
            return str(Kind(self.facts.kind).label)
        if self.is_received:
            # The customer is told of what is missing.
            return str(Status.FULFILLED.label)
        if self.gift and not self.sent_at and conf.mode[Kind.GIFT] != Mode.OFF:
            return gettext("In progress")
        # The label of the kind suits only the message.
        return str(Status(self.order.status).label)

    @property
    def is_open(self) -> bool:
        """True while the customer waits."""
        return not self.order.is_final

    @property
    def is_told_by_mail(self) -> bool:
        """True if a mail is sure to tell the customer how the order ends."""
        kinds = _ENDINGS_OF_GIFT if self.gift else _ENDINGS
        is_on = all(conf.mode[kind] != Mode.OFF for kind in kinds)
        return is_on and bool(self.order.customer_email) and _MAIL in conf.channels


def orders_of(user: Any) -> QuerySet[Order]:
    """The orders that ``user`` owns, newest first; none unless they are logged in."""
    return _found_by(conf.orders_of, user)


def gifts_of(user: Any) -> QuerySet[Order]:
    """The gifts that ``user`` has received, newest first; none unless they are logged in.

    Without those whose cards or whose time are yet to come.
    """
    is_time = Q(deliver_at=None) | Q(deliver_at__lte=timezone.now())
    come = {"settled_at__isnull": False, "fulfilled_quantity__gt": 0}
    return _found_by(conf.gifts_of, user).filter(is_time, recipient_email__gt="", **come)


def _found_by(hook: Callable[[Any], QuerySet[Order]] | None, user: Any) -> QuerySet[Order]:
    if hook is None or not getattr(user, "is_authenticated", False):
        return Order.objects.none()
    return hook(user).order_by("-created_at", "-pk")


def order_with_cards(user: Any, key: str) -> Order | None:
    """The order with this primary key, if its cards are those of ``user``, and can be shown.

    The cards of a gift are its recipient's, whoever owns the order.
    """
    if not (key.isascii() and key.isdecimal() and len(key) <= _LONGEST_KEY):
        return None
    order = orders_of(user).filter(pk=key, recipient_email="").first()
    order = order or gifts_of(user).filter(pk=key).first()
    return order if order is not None and has_cards(order) else None


def shown_orders(user: Any, orders: Iterable[Order]) -> list[OwnedOrder]:
    """The orders that ``user`` owns, for a list."""
    listed = list(orders)
    showing = with_cards(order for order in listed if not order.is_gift)
    sent = _sent(listed)
    return [
        OwnedOrder(
            order,
            facts_of(order),
            order.pk in showing,
            page=page_tokens.make(place_of(user, order))[0],
            gift=Gift.of(order),
            sent_at=sent.get(order.pk),
        )
        for order in listed
    ]


def shown_gifts(user: Any, orders: Iterable[Order]) -> list[OwnedOrder]:
    """The gifts that ``user`` has received, for a list."""
    listed = list(orders)
    showing = with_cards(listed)
    return [
        OwnedOrder(
            order,
            facts_for_recipient(order),
            order.pk in showing,
            page=page_tokens.make(place_of(user, order))[0],
            gift=Gift.of(order),
            is_received=True,
        )
        for order in listed
    ]


def _sent(orders: Iterable[Order]) -> dict[int, datetime]:
    """The times at which recipients were told, by order; of the gifts only. One query, or none."""
    gifts = [order.pk for order in orders if order.is_gift and order.is_final]
    if not gifts:
        return {}
    rows = Delivery.objects.filter(order__in=gifts, kind=Kind.GIFT, status=DeliveryStatus.SENT)
    return dict(rows.order_by().values_list("order_id").annotate(Min("sent_at")))


def place_of(user: Any, order: Order) -> str:
    """The place of the order's form in the list of ``user``, to which its token is bound."""
    return f"account {user.pk} {order.pk}"
