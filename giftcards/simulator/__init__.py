"""A simulator of the provider (OneClickDz API v3) over real HTTP, for tests and development.

It uses only the standard library and keeps everything in memory. In a test::

    with Simulator(delay=(0, 0), rate_limit=0) as simulator:
        ...  # point GIFTCARDS["BASE_URL"] at simulator.url
    assert [order.status for order in simulator.orders.values()] == ["FULFILLED"]

On the command line, use ``manage.py giftcards_simulator``. The documentation has a page on both,
with the choices that the simulator makes where the provider's documentation is silent.
"""

from __future__ import annotations

from giftcards.simulator.account import (
    LEDGER_ODDITIES,
    SPECIAL_TYPES,
    Denomination,
    Order,
    Product,
    Special,
)
from giftcards.simulator.api import Request, Simulator
from giftcards.simulator.server import Call

__all__ = [
    "LEDGER_ODDITIES",
    "SPECIAL_TYPES",
    "Call",
    "Denomination",
    "Order",
    "Product",
    "Request",
    "Simulator",
    "Special",
]
