"""Customers who reserve cards: accounts, and guests, who are known by a session and a network."""

from __future__ import annotations

from typing import NamedTuple

from django.http import HttpRequest
from django.utils.crypto import get_random_string

from giftcards.text.addresses import client_network

_VISITOR = "giftcards_visitor"


class Guest(NamedTuple):
    """A guest who reserves cards.

    ``visitor`` names one browser. Anybody can get rid of this name, so all guests of a ``network``
    share a higher limit. "" for no network.
    """

    visitor: str
    network: str


def customer_of(request: HttpRequest) -> str | Guest:
    """Return who asks for cards, for :func:`~giftcards.catalogue.reserve`.

    That is the account that is logged in. A guest is known by a name in the session, and by the
    network of ``REMOTE_ADDR``.
    """
    if request.user.is_authenticated:
        return f"user {request.user.pk}"
    name = request.session.get(_VISITOR)
    if not name:
        name = request.session[_VISITOR] = get_random_string(22)
    return Guest(f"visitor {name}", client_network(request))
