"""Codes under a backlog: thousands of orders wait to be sent while others are on their way.

Measured from outside the engine, like :mod:`benchmarks.pipeline`. No order comes while it
runs: what waits is sent as fast as the limit allows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from django.utils import timezone

from benchmarks import provider
from benchmarks.pipeline import (
    Shop,
    engine,
    is_within,
    kind_of,
    list_gaps,
    most_in_a_minute,
    seed_loop,
    sleep_until,
    spread,
    stored_after,
    wanted,
)
from benchmarks.provider import TYPE, Ledger
from benchmarks.stage import say
from giftcards.models import Order
from giftcards.provider.client import Client
from giftcards.statuses import Status
from tests.builders import build_guide_order

PRODUCTS = 100
LATENCY = 0.15
# The most seconds, at p99, from settling to the codes in the database, by limit.
PROMISED = {120: 8.0, 60: 12.0}


def run(*args: str, is_quick: bool) -> None:
    options = _parser(is_quick=is_quick).parse_args(args)
    products = provider.product_ids(PRODUCTS)
    delay = tuple(options.delay)
    with provider.running(products=PRODUCTS, delay=delay, latency=(LATENCY, LATENCY)) as simulated:
        shop = Shop()
        for number in range(options.waiting):
            shop.place(products[number % PRODUCTS], f"{shop.run}-{number}")
        _accept(shop, simulated.url, options.open, products)
        with engine(simulated.url, options.limit), shop.watching():
            sleep_until(shop.started_at + options.minutes * 60)
            shop.closed_at = time.time()
            # What has settled by then is stored within the next reading, or counts as late.
            sleep_until(shop.closed_at + 30)
        _report(shop, simulated.ledger(), options)


def _parser(*, is_quick: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks backlog")
    add = parser.add_argument
    waiting = 500 if is_quick else 3_000
    add("--waiting", type=int, default=waiting, help="orders that wait to be sent")
    add("--open", type=int, default=150, help="orders that the provider has accepted by then")
    add("--limit", type=int, default=120, help="REQUESTS_PER_MINUTE")
    add("--minutes", type=float, default=1.5 if is_quick else 4, help="that are measured")
    add(
        "--delay",
        type=float,
        nargs=2,
        default=(3, 45),
        metavar=("LEAST", "MOST"),
        help="seconds in which an order settles",
    )
    return parser


def _accept(shop: Shop, url: str, count: int, products: Sequence[str]) -> None:
    """Have the provider accept ``count`` orders, and record them as it would be without a rest."""

    def buy(number: int) -> Order:
        product_id = products[number % PRODUCTS]
        provider_id = client.place(product_id=product_id, type_id=TYPE, quantity=2)
        return build_guide_order(
            Status.HANDLING,
            reference=f"{shop.run}-open-{number}",
            provider_order_id=provider_id,
            product_id=product_id,
            type_id=TYPE,
            quantity=2,
            sent_at=timezone.now(),
            accepted_at=timezone.now(),
        )

    with Client(base_url=url, api_key="bench", timeout=10) as client, ThreadPoolExecutor(8) as pool:
        Order.objects.bulk_create(list(pool.map(buy, range(count))))


def _report(shop: Shop, ledger: Ledger, options: argparse.Namespace) -> None:
    in_time = partial(is_within, shop.started_at, shop.closed_at)
    requests = [request for request in ledger.requests if in_time(request.at)]
    sent = sum(kind_of(request) == "POST" for request in requests)
    pages = sum(kind_of(request) == "list" for request in requests)
    stored = stored_after(shop, ledger, in_time)
    most = most_in_a_minute(request.at for request in ledger.requests if in_time(request.at))
    lines = [
        f"{options.waiting:,} orders wait and {options.open} are open, limit {options.limit};"
        f" settled in {options.delay[0]:g}–{options.delay[1]:g} s; {options.minutes:g} minutes",
        f"codes of {len(stored)} orders stored after {spread(stored)}"
        + wanted(stored, 0.99, PROMISED.get(options.limit, 0), applies=options.limit in PROMISED),
        f"the list read every {spread(list_gaps(shop, ledger, in_time))}",
        f"requests a minute: {sent / options.minutes:.0f} POST, {pages / options.minutes:.0f} list,"
        f" {(len(requests) - sent - pages) / options.minutes:.0f} others",
        f"requests in any 60 s: at most {most}" + wanted([most], 1, options.limit),
        _compare(ledger, in_time, options),
    ]
    say("\n    ".join(lines))


def _compare(ledger: Ledger, in_time: partial[bool], options: argparse.Namespace) -> str:
    # One check after the other, as fast as the limit allows.
    _asked, stored = seed_loop(ledger.orders.values(), latency=60 / options.limit)
    late = [at - order.settles_at for order, at in stored if in_time(order.settles_at)]
    return (
        "the seed's loop, computed for the same orders as if the whole limit were for its checks:"
        f" codes stored after {spread(late)}"
    )
