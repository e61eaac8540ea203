"""Requesting the prices of held orders now and then, because an order whose price falls goes on.

The prices of products that are being sold are requested anyway; see :meth:`.Gateway.price`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from giftcards.engine.gateway import Gateway
from giftcards.engine.price_holds import release_fallen
from giftcards.exceptions import ProviderError
from giftcards.models import Lease, Order

# How often all processes together look at held orders, and at how many products each time.
_TURN = timedelta(seconds=15)
_PRODUCTS = 5
# A price that somebody asked for within this time is not asked for again.
_RECENT = timedelta(minutes=1)


class HeldPrices:
    """The regular look of one process at the prices of held orders."""

    def __init__(self) -> None:
        self._due_at = 0.0

    def look_after(self, gateway: Gateway, has_time: Callable[[], bool]) -> None:
        """If it is time to look, release held orders whose price has fallen.

        Looks at one product at least, and at some more while ``has_time()``.
        """
        if time.monotonic() < self._due_at:
            return
        self._due_at = time.monotonic() + _TURN.total_seconds()
        held = Order.objects.on_hold().order_by()
        products = list(held.values_list("product_id", flat=True).distinct())
        if not (products and Lease.objects.take(Lease.HELD_PRICES, _TURN)):
            return
        # At random, so that a product without an answer does not keep the others from their turn.
        random.shuffle(products)
        for number, product_id in enumerate(products[:_PRODUCTS]):
            if number and not has_time():
                break
            # The gateway keeps the error, and pauses if it has to.
            with suppress(ProviderError):
                release_fallen(product_id, gateway.recent_prices(product_id, max_age=_RECENT))
        gateway.flush()
