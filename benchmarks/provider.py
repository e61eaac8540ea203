"""The provider of a benchmark in a process of its own, and what it saw: it knows no Django."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from multiprocessing.connection import Connection

from giftcards.simulator import Denomination, Product, Request, Simulator

TYPE = "type_001"
Seconds = tuple[float, float]  # the least and the most


@dataclass(frozen=True)
class Bought:
    """The times at which the provider accepts and settles an order, in Unix time."""

    accepted_at: float
    settles_at: float


@dataclass(frozen=True)
class Ledger:
    """Every request that came, oldest first, and the orders by the provider's ids.

    ``at`` of a request is Unix time.
    """

    requests: list[Request]
    orders: dict[str, Bought]


class Provider:
    """A simulator without a limit; ``products`` is how many it sells, in denomination ``TYPE``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.url: str = connection.recv()

    def ledger(self) -> Ledger:
        self._connection.send(None)
        ledger: Ledger = self._connection.recv()
        return ledger


@contextlib.contextmanager
def running(*, products: int, delay: Seconds, latency: Seconds) -> Iterator[Provider]:
    """Run a provider; orders settle after ``delay``, answers take ``latency`` seconds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, products, delay, latency), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Provider(ours)
    finally:
        ours.close()  # which ends it
        process.join()


def product_ids(count: int) -> list[str]:
    return [f"{number:024x}" for number in range(1, count + 1)]


def _serve(connection: Connection, products: int, delay: Seconds, latency: Seconds) -> None:
    kinds = {TYPE: Denomination("Denomination", Decimal(490))}
    simulator = Simulator(
        catalogue={name: Product(f"Product {name}", "DZ", kinds) for name in product_ids(products)},
        delay=delay,
        latency=latency,
        rate_limit=0,
        opening_balance=Decimal(10**9),
        clock=time.time,
    )
    with simulator, contextlib.suppress(EOFError, KeyboardInterrupt):
        connection.send(simulator.url)
        while True:
            connection.recv()
            orders = {
                order.id: Bought(order.created_at.timestamp(), order.settle_at.timestamp())
                for order in simulator.orders.values()
                if order.settle_at
            }
            connection.send(Ledger(simulator.requests, orders))
