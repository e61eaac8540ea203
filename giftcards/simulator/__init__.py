"""A simulator of the provider (OneClickDz API v3) over real HTTP.

It is for tests and development. It uses only the standard library, and keeps everything in memory.
The page about it in the documentation has examples, and explains what the simulator does where the
provider's documentation says nothing.
"""

from __future__ import annotations

from giftcards.simulator.account import (
    LEDGER_ODDITIES,
    SPECIAL_TYPES,
    Denomination,
    OfferChange,
    Order,
    Payment,
    Product,
    Shortfall,
    Special,
)
from giftcards.simulator.api import Request, Simulator
from giftcards.simulator.server import Call

__all__ = [
    "LEDGER_ODDITIES",
    "SPECIAL_TYPES",
    "Call",
    "Denomination",
    "OfferChange",
    "Order",
    "Payment",
    "Product",
    "Request",
    "Shortfall",
    "Simulator",
    "Special",
]
