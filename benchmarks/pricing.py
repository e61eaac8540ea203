"""A change of the shop's margin that reprices all types, and an order placed meanwhile.

``python -m benchmarks pricing [COUNT]``: so many types, by default 10,000, each of a cost of its
own. An order waits for the prices only if it needs a new cost, or on SQLite, for the database.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from decimal import Decimal

from django.db import connection, connections
from django.utils import timezone

from benchmarks.stage import configure, say
from giftcards.catalogue import keep_prices, offers, preview
from giftcards.fulfilment import place_order
from giftcards.models import Product, ProductType, Shelf
from tests.builders import category, set_shelf
from tests.history import analyze

OF_PRODUCT = 20
# Seconds for 10,000 types.
MOST = 5


def run(*args: str, is_quick: bool) -> None:
    count = int(args[-1]) if args and args[-1].isdigit() else 2_000 if is_quick else 10_000
    configure(CATALOGUE_INTERVAL=3600)
    set_shelf(margin_percent=10)
    _fill(count)
    analyze(Product, ProductType)
    say(f"{count:,} types, {connection.vendor}:")
    _measure("all stored for the first time", lambda: keep_prices())
    took = _measure("the margin of the shop changes", lambda: set_shelf(margin_percent=12))
    _measure("the worker finds nothing to mend", keep_prices)
    shelf = Shelf.objects.get()
    shelf.margin_percent = Decimal(15)
    _measure("a preview of the same", lambda: preview([shelf]))
    _measure("the first 50 offers", lambda: list(offers()[:50]))
    _measure_orders()
    assert took < MOST * max(1, count / 10_000)


def _fill(count: int) -> None:
    now = timezone.now()
    read = {"listed_at": now, "types_read_at": now, "asked_at": now}
    games = category("Games")
    Product.objects.bulk_create(
        Product(product_id=f"product-{number}", name=f"P {number}", category=games, **read)
        for number in range(count // OF_PRODUCT)
    )
    ProductType.objects.bulk_create(
        ProductType(
            product=product,
            type_id=f"type_{number}",
            cost=Decimal(product.pk * OF_PRODUCT + number) / 100 + 1,
            stock=500,
            read_at=now,
        )
        for product in Product.objects.all()
        for number in range(OF_PRODUCT)
    )


def _measure(what: str, do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    took = time.perf_counter() - began
    say(f"  {what:<34} {took:6.2f} s")
    return took


def _measure_orders() -> None:
    """Place orders until the margin of the shop has been changed in another thread."""
    changing = threading.Thread(target=_change)
    longest, placed = 0.0, 0
    changing.start()
    while changing.is_alive():
        began = time.perf_counter()
        place_order(product_id="product-1", type_id="type_1", quantity=1, sale_price=Decimal(10**6))
        longest, placed = max(longest, time.perf_counter() - began), placed + 1
    changing.join()
    say(f"  {placed} orders placed meanwhile, the slowest in {longest:.2f} s")


def _change() -> None:
    try:
        set_shelf(margin_percent=17)
    finally:
        connections.close_all()
