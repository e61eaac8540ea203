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
from giftcards.delivery.kinds import Kind
from giftcards.models import Order
from giftcards.statuses import Status

# Where the word for the order is another than that for the message about it.
_STATES = {
    Kind.DELIVERED: Status.FULFILLED,
    Kind.PARTLY_DELIVERED: Status.PARTIALLY_FILLED,
}
# In the digits of the longest key.
_LONGEST_KEY = 18


@dataclass(frozen=True, slots=True)
class OwnedOrder:
    """An order of the list, in its customer's words."""

    order: Order
    facts: Facts
    #: Whether there are cards to show: not if their codes were destroyed.
    has_cards: bool
    #: Of the form that shows the cards: its token.
    page: str = field(repr=False)

    @property
    def state(self) -> str:
        if not self.facts.kind:
            return gettext("In progress")
        kind = Kind(self.facts.kind)
        return str(_STATES.get(kind, kind).label)


def is_offered() -> bool:
    """Whether the shop says which orders a user owns."""
    return conf.owned_orders is not None


def orders_of(user: Any) -> QuerySet[Order]:
    """The orders that ``user`` owns, newest first; none for who is not logged in."""
    hook = conf.owned_orders
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
        OwnedOrder(order, facts_of(order), order.pk in showing, page_of(user, order))
        for order in listed
    ]


def page_of(user: Any, order: Order) -> str:
    return page_tokens.make(place_of(user, order))[0]


def place_of(user: Any, order: Order) -> str:
    """Where a form of the list belongs, for its token."""
    return f"account {user.pk} {order.pk}"
