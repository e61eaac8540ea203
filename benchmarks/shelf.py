"""The first 50 offers in a rush, beside a plain list of types, whatever the planner knows.

``python -m benchmarks shelf [COUNT]``: so many settled orders, by default a million. Then 3,000
orders are opened, and as many cards held, of 1,000 types.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import timedelta

from django.db import connection
from django.utils import timezone

from benchmarks.stage import configure, say
from giftcards.catalogue import check_offer, offers
from giftcards.models import Order, Product, ProductType, Reservation
from giftcards.statuses import Status
from tests.builders import build_guide_order, category, set_shelf
from tests.history import add_history, analyze

PRODUCTS, TYPES = 100, 10
OPEN = 3_000
REPEATS = 15
# Milliseconds.
MOST = 300


def run(*args: str, is_quick: bool) -> None:
    count = int(args[-1]) if args and args[-1].isdigit() else 20_000 if is_quick else 1_000_000
    configure(CATALOGUE_INTERVAL=3600)
    set_shelf(margin_percent=10, round_to=10)
    add_history(count)
    _fill()
    analyze(Product, ProductType)
    say(f"The first 50 of 1,000 types, {count:,} settled orders, {connection.vendor}:")
    _measure("nothing is open")
    _rush()
    _measure(f"{OPEN:,} open, statistics from before")
    analyze(Product, ProductType, Reservation)
    _measure(f"{OPEN:,} open, statistics of now")


def _fill() -> None:
    now = timezone.now()
    names = [f"product-{number:03}" for number in range(PRODUCTS)]
    read = {"listed_at": now, "types_read_at": now, "asked_at": now}
    products = Product.objects.bulk_create(
        Product(product_id=name, name=name, category=category("Games"), **read)
        for name in reversed(names)
    )
    ProductType.objects.bulk_create(
        ProductType(
            product=product,
            type_id=f"type_{number}",
            cost=100 * (number + 1),
            stock=500,
            read_at=now - timedelta(minutes=45),
        )
        for product in Product.objects.filter(pk__in=[each.pk for each in products])
        for number in range(TYPES)
    )


def _rush() -> None:
    lines = list(ProductType.objects.values_list("product__product_id", "type_id"))
    chosen = [lines[number % len(lines)] for number in range(OPEN)]
    now = timezone.now()
    Order.objects.bulk_create(
        build_guide_order(
            Status.HANDLING,
            product_id=product_id,
            type_id=type_id,
            accepted_at=now - timedelta(minutes=number % 90),
        )
        for number, (product_id, type_id) in enumerate(chosen)
    )
    Reservation.objects.bulk_create(
        Reservation(
            reference=f"hold-{number}",
            product_id=product_id,
            type_id=type_id,
            quantity=1,
            until=now + timedelta(minutes=20),
            left=timedelta(minutes=40),
        )
        for number, (product_id, type_id) in enumerate(chosen)
    )


def _measure(when: str) -> None:
    product_id, type_id = ProductType.objects.values_list("product__product_id", "type_id")[0]
    plain = _middle(lambda: list(ProductType.objects.for_sale()[:50]))
    shelf = _middle(lambda: list(offers()[:50]))
    check = _middle(lambda: check_offer(product_id, type_id, 1, sale_amount=10_000))
    say(f"  {when:<36} {shelf:6.0f} ms; plain list {plain:.0f} ms; check_offer() {check:.0f} ms")
    assert shelf < MOST


def _middle(do: Callable[[], object]) -> float:
    took = []
    for _time in range(REPEATS):
        began = time.perf_counter()
        do()
        took.append((time.perf_counter() - began) * 1_000)
    return statistics.median(took)
