"""The registry of other apps' buttons on the page of an order; see :func:`register`.

A subclass of ``OrderAdmin`` extends ``get_order_buttons`` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from django.http import HttpRequest

from giftcards.models import Order

if TYPE_CHECKING:
    from giftcards.admin.pages import OrderButton

Offer = Callable[[HttpRequest, Order], "Iterable[OrderButton]"]

_offers: list[Offer] = []


def register(offer: Offer) -> Offer:
    """Add the buttons that ``offer`` returns for a request and an order; usable as a decorator.

    Call it once, from the ``ready`` method of an app. Both ``offer`` and the page behind the button
    have to check what the person may do.
    """
    if offer not in _offers:
        _offers.append(offer)
    return offer


def offered(request: HttpRequest, order: Order) -> list[OrderButton]:
    """The buttons that other apps add to the page of ``order``."""
    return [button for offer in _offers for button in offer(request, order)]
