"""A stand-in for the provider, OneClickDz API v3, over real HTTP: for tests, demos and development.

It needs the standard library only and keeps everything in memory. In a test::

    with Simulator(delay=(0, 0), rate_limit=0) as simulator:
        ...  # point GIFTCARDS["BASE_URL"] at simulator.url
    assert [order.status for order in simulator.orders.values()] == ["FULFILLED"]

On the command line it is ``manage.py giftcards_simulator``. Where the provider's documentation is
silent it had to choose; those choices are listed on the simulator's page of the documentation.
"""

from __future__ import annotations

from giftcards.simulator.account import SPECIAL_TYPES, Card, Order, Special
from giftcards.simulator.api import Request, Simulator
from giftcards.simulator.server import Call, Reply

__all__ = [
    "SPECIAL_TYPES",
    "Call",
    "Card",
    "Order",
    "Reply",
    "Request",
    "Simulator",
    "Special",
]
