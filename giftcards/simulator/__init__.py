"""A simulator of the provider (OneClickDz API v3) over real HTTP.

Use the simulator for tests and development. The simulator needs only the standard library, and
stores everything in memory. The documentation has a page about the simulator with examples. The
page also explains how the simulator behaves where the provider's documentation does not specify a
behaviour.
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
