"""The orders of a customer who is logged in to the shop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext

from giftcards.delivery import page_tokens
from giftcards.delivery.conf import conf
from giftcards.delivery.facts import Facts, facts_of, has_cards, with_cards
from giftcards.delivery.kinds import WITH_CARDS, Kind
from giftcards.models import Order
from giftcards.statuses import Status

# Digits of the longest primary key.
_LONGEST_KEY = 18


@dataclass(frozen=True, slots=True)
class OwnedOrder:
    """An order as the customer's list shows it."""

    order: Order
    facts: Facts
    #: True if there are cards to show; False once their codes were destroyed.
    has_cards: bool
    #: The token of the form that shows the cards.
    page: str = field(repr=False)

    @property
    def state(self) -> str:
        if not self.facts.kind:
            return gettext("In progress")
        # The label of these kinds suits only the message.
        has_come = self.facts.kind in WITH_CARDS
        return str(Status(self.order.status).label if has_come else Kind(self.facts.kind).label)


def orders_of(user: Any) -> QuerySet[Order]:
    """The orders that ``user`` owns, newest first; none unless they are logged in."""
    hook = conf.orders_of
    if hook is None or not getattr(user, "is_authenticated", False):
        return Order.objects.none()
    return hook(user).order_by("-created_at", "-pk")


def order_with_cards(user: Any, key: str) -> Order | None:
    """The order with this primary key, if ``user`` owns it and there are cards to show."""
    if not (key.isascii() and key.isdecimal() and len(key) <= _LONGEST_KEY):
        return None
    order = orders_of(user).filter(pk=key).first()
    return order if order is not None and has_cards(order) else None


def shown_orders(user: Any, orders: Iterable[Order]) -> list[OwnedOrder]:
    listed = list(orders)
    showing = with_cards(listed)
    return [
        OwnedOrder(
            order,
            facts_of(order),
            order.pk in showing,
            page=page_tokens.make(place_of(user, order))[0],
        )
        for order in listed
    ]


def place_of(user: Any, order: Order) -> str:
    """The place of the order's form in the list of ``user``, to which its token is bound."""
    return f"account {user.pk} {order.pk}"
