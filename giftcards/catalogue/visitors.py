"""Identify the customers who reserve cards.

An account is identified by its primary key, and a guest by a session and a network.
"""

from __future__ import annotations

from typing import NamedTuple

from django.http import HttpRequest
from django.utils.crypto import get_random_string

from giftcards.text.addresses import client_network

_VISITOR = "giftcards_visitor"


class Guest(NamedTuple):
    """A guest who reserves cards.

    ``visitor`` identifies one browser. A guest can delete this identifier to avoid the limit for
    one customer. Therefore, all guests on the same ``network`` also share a higher limit. If
    ``network`` is "", only the limit for one customer applies.
    """

    visitor: str
    network: str


def customer_of(request: HttpRequest) -> str | Guest:
    """Return the customer who sent a request.

    The result can be passed to :func:`~giftcards.catalogue.reserve`.

    If the visitor has logged in, the customer is the account. A guest is identified by a random
    name that the function stores in the session, and by the network that contains the IP address in
    ``REMOTE_ADDR``.
    """
    if request.user.is_authenticated:
        return f"user {request.user.pk}"
    name = request.session.get(_VISITOR)
    if not name:
        name = request.session[_VISITOR] = get_random_string(22)
    return Guest(f"visitor {name}", client_network(request))
