"""Functions for ``GIFTCARDS_DELIVERY["PIN"]``."""

from __future__ import annotations

import logging

from giftcards.models import Order

# Not in one piece in a line of this file: Sentry shows lines, too.
CANARY = "CANARY"


def canary(_order: Order) -> str:
    return f"{CANARY}-CODE-pin"


def complaining(order: Order) -> str:
    """A function of a shop that says what it does, while the request is answered."""
    logging.getLogger("shop").error("The PIN of an order was looked up.")
    return canary(order)
