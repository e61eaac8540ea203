"""A shop's day in short: orders come evenly, and an engine of its own sends and follows them.

Everything is measured from outside the engine. The provider, a process of its own, tells when it
got each request and when it settled each order; the shop tells when it committed an order, and
looks for settled ones in the database ten times a second. The engine is ``giftcards_worker``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from django.db import connection, transaction
from django.db.models import QuerySet

from benchmarks import provider
from benchmarks.provider import TYPE, Bought, Ledger
from benchmarks.stage import quantile, say
from giftcards.fulfilment import place_order
from giftcards.models import Order
from giftcards.simulator import Request

ROOT = Path(__file__).resolve().parents[1]
INTERVAL = 5.0  # POLL_INTERVAL of the engine and of the seed's loop, in seconds
LOOK_EVERY = 0.1
# How long after its last order may have settled a run is given up.
PATIENCE = 30.0
Test = Callable[[float], bool]  # whether a Unix time lies in the part that is measured
KINDS = {"placeOrder": "POST", "list": "list", "checkProduct": "product"}


def run(*args: str, is_quick: bool) -> None:
    options = _parser(is_quick=is_quick).parse_args(args)
    shop = Shop()
    with (
        provider.running(
            products=options.products, delay=tuple(options.delay), latency=options.latency
        ) as simulated,
        engine(simulated.url, options.limit),
    ):
        shop.trade(
            rate=options.rate,
            seconds=options.minutes * 60,
            products=provider.product_ids(options.products),
            patience=options.delay[1] + PATIENCE,
        )
        report(shop, simulated.ledger(), options)


def _parser(*, is_quick: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks pipeline")
    add = parser.add_argument
    add("--rate", type=float, default=97, help="orders a minute")
    add("--limit", type=int, default=120, help="REQUESTS_PER_MINUTE")
    add("--products", type=int, default=100, help="different products, ordered in turn")
    add("--minutes", type=float, default=0.9 if is_quick else 3, help="in which orders come")
    add(
        "--warm-up",
        type=float,
        default=20 if is_quick else 60,
        help="the first seconds, left out of all figures but the most requests in 60 s",
    )
    add(
        "--delay",
        type=float,
        nargs=2,
        default=(3, 15) if is_quick else (3, 45),
        metavar=("LEAST", "MOST"),
        help="seconds in which an order settles",
    )
    add(
        "--latency",
        type=lambda text: (float(text), float(text)),
        default=(0.15, 0.15),
        metavar="SECONDS",
        help="that each answer takes",
    )
    add(
        "--jumping",
        dest="latency",
        action="store_const",
        const=(0.0, 2.0),
        help="each answer takes another time, up to 2 s",
    )
    return parser


@contextlib.contextmanager
def engine(url: str, limit: int) -> Iterator[None]:
    """Run the loop as a shop without django-q2 does; show what it warned of."""
    with (
        tempfile.TemporaryFile("w+") as log,
        start_engine(url, limit, log=log) as process,
    ):
        try:
            assert process.stdout
            if not process.stdout.readline():  # "Following the orders"
                raise RuntimeError("The engine did not start.")
            yield
        finally:
            process.terminate()
            process.communicate()
            log.seek(0)
            warnings = [line.strip() for line in log if " INFO " not in line]
            for line in warnings[:5]:
                say(f"the engine, 1 of {len(warnings)} warnings: {line}")


def start_engine(url: str, limit: int, *, log: IO[str]) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "example_project.settings",
        "DJANGO_DEBUG": "0",
        "GIFTCARDS_BASE_URL": url,
        "GIFTCARDS_REQUESTS_PER_MINUTE": str(limit),
        "GIFTCARDS_POLL_INTERVAL": f"{INTERVAL:g}",
    }
    command = [sys.executable, "-u", "manage.py", "giftcards_worker"]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
    )


@dataclass
class Shop:
    """The shop's knowledge of its orders by reference; times are Unix times, of commits.

    ``run`` begins the references: the database may hold those of another run.
    """

    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    placed: dict[str, float] = field(default_factory=dict)
    stored: dict[str, float] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # the provider's, of those it accepted
    started_at: float = 0
    closed_at: float = 0  # no order came after
    ended_at: float = 0

    def trade(
        self, *, rate: float, seconds: float, products: Sequence[str], patience: float
    ) -> None:
        """Place orders for ``seconds``; return when all are stored, or after ``patience``."""
        with self.watching():
            for number in range(int(rate * seconds / 60)):
                sleep_until(self.started_at + number * 60 / rate)
                self.place(products[number % len(products)], f"{self.run}-{number}")
            sleep_until(self.started_at + seconds)
            self.closed_at = time.time()
            while len(self.stored) < len(self.placed):
                if time.time() > self.closed_at + patience:
                    break
                time.sleep(LOOK_EVERY)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Note when orders are stored; in the end also how the provider calls them."""
        is_over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(is_over,))
        watcher.start()
        self.started_at = time.time()
        try:
            yield
        finally:
            self.ended_at = time.time()
            is_over.set()
            watcher.join()
        for reference, name in self._orders().values_list("reference", "provider_order_id"):
            if name is not None:
                self.names[reference] = name

    def place(self, product_id: str, reference: str) -> None:
        def note() -> None:
            self.placed[reference] = time.time()

        with transaction.atomic():
            transaction.on_commit(note)
            place_order(product_id=product_id, type_id=TYPE, quantity=2, reference=reference)

    def _orders(self) -> QuerySet[Order]:
        return Order.objects.filter(reference__startswith=self.run)

    def _watch(self, is_over: threading.Event) -> None:
        settled = self._orders().exclude(finalized_at=None).values_list("reference", flat=True)
        try:
            while not is_over.wait(LOOK_EVERY):
                found = list(settled.all())
                now = time.time()
                for reference in found:
                    self.stored.setdefault(reference, now)
        finally:
            connection.close()


def sleep_until(moment: float) -> None:
    time.sleep(max(moment - time.time(), 0))


def report(shop: Shop, ledger: Ledger, options: argparse.Namespace) -> None:
    since = shop.started_at + options.warm_up
    minutes = (shop.closed_at - since) / 60
    in_time = partial(is_within, since, shop.closed_at)
    share = options.rate / (options.limit - 60 / INTERVAL)
    # At the ceiling orders queue up, and with slow answers everything is later. Where few orders
    # are open they are asked about one by one, and the list is not needed.
    is_steady = options.latency[1] < 1
    promised = is_steady and share < 0.91
    latency = "–".join(f"{seconds:g}" for seconds in sorted(set(options.latency)))
    requests = [request for request in ledger.requests if in_time(request.at)]
    kinds = sorted(Counter(map(kind_of, requests)).items())
    most = most_in_a_minute(request.at for request in ledger.requests)
    lines = [
        f"{options.rate:g} orders a minute ({share:.0%} of the ceiling) of {options.products}"
        f" products, limit {options.limit}; answers after {latency} s, settled in"
        f" {options.delay[0]:g}–{options.delay[1]:g} s; {options.minutes:g} minutes, the first"
        f" {options.warm_up:g} s left out",
        f"sent after {spread(sent := sent_after(shop, ledger, in_time))}"
        + wanted(sent, 0.99, 3, applies=promised),
        f"codes stored after {spread(stored := stored_after(shop, ledger, in_time))}"
        + wanted(stored, 0.99, 6.5, applies=promised),
        f"the list read every {spread(gaps := list_gaps(shop, ledger, in_time))}"
        + wanted(gaps, 1, 5.5, applies=is_steady and share > 0.85),
        f"requests a minute: {len(requests) / minutes:.0f}, of which "
        + ", ".join(f"{count / minutes:.0f} {kind}" for kind, count in kinds),
        f"requests in any 60 s: at most {most}" + wanted([most], 1, options.limit),
        f"at the end {len(shop.placed) - len(ledger.orders)} not sent,"
        f" {len(shop.placed) - len(shop.stored)} not stored, of {len(shop.placed)}",
        _compare(ledger, in_time, minutes, options),
    ]
    say("\n    ".join(lines))


def sent_after(shop: Shop, ledger: Ledger, in_time: Test) -> list[float]:
    """From commit to acceptance; what was not sent is as late as the end of the run, at least."""
    accepted = {
        reference: ledger.orders[provider_order_id].accepted_at
        for reference, provider_order_id in shop.names.items()
    }
    return [
        accepted.get(reference, shop.ended_at) - placed_at
        for reference, placed_at in shop.placed.items()
        if in_time(placed_at)
    ]


def stored_after(shop: Shop, ledger: Ledger, in_time: Test) -> list[float]:
    """From settling to the codes in the database; what is not there is as late as the end."""
    references = {name: reference for reference, name in shop.names.items()}
    return [
        shop.stored.get(references.get(name, ""), shop.ended_at) - order.settles_at
        for name, order in ledger.orders.items()
        if in_time(order.settles_at)
    ]


def _compare(ledger: Ledger, in_time: Test, minutes: float, options: argparse.Namespace) -> str:
    orders = ledger.orders.values()
    checked, stored = seed_loop(orders, latency=sum(options.latency) / 2)
    asked = [*checked, *(order.accepted_at for order in orders)]
    late = [at - order.settles_at for order, at in stored if in_time(order.settles_at)]
    most = most_in_a_minute(asked)
    return (
        "the seed's loop, computed for the same orders as if there were no limit:"
        f" {sum(map(in_time, asked)) / minutes:.0f} requests a minute, at most {most} in 60 s"
        f" ({most / options.limit:.1f} × the limit); codes stored after {spread(late)}"
    )


def seed_loop(
    orders: Iterable[Bought], *, latency: float
) -> tuple[list[float], list[tuple[Bought, float]]]:
    """The times at which the seed's loop asks, and at which it has each order's codes.

    Every ``INTERVAL`` seconds it asks about each open order, one after the other; an answer takes
    ``latency`` seconds, half of them on its way to the provider. Storing takes no time.
    """
    coming = sorted(orders, key=lambda order: order.accepted_at, reverse=True)
    now = coming[-1].accepted_at if coming else 0
    open_orders: list[Bought] = []
    asked: list[float] = []
    stored: list[tuple[Bought, float]] = []
    while coming or open_orders:
        next_round_at = now + INTERVAL
        while coming and coming[-1].accepted_at <= now:
            open_orders.append(coming.pop())
        still_open = []
        for order in open_orders:
            asked.append(now + latency / 2)
            now += latency
            if order.settles_at <= asked[-1]:
                stored.append((order, now))
            else:
                still_open.append(order)
        open_orders = still_open
        now = max(now, next_round_at)
    return asked, stored


def most_in_a_minute(moments: Iterable[float]) -> int:
    """The most of ``moments`` that lie within any 60 s, as the provider counts."""
    ranked = sorted(moments)
    first = most = 0
    for position, moment in enumerate(ranked, 1):
        while ranked[first] <= moment - 60:
            first += 1
        most = max(most, position - first)
    return most


def kind_of(request: Request) -> str:
    endpoint, _, _last = urlsplit(request.path).path.removeprefix("/v3/gift-cards/").partition("/")
    return KINDS.get(endpoint, "check" if endpoint.startswith("check") else "other")


def list_gaps(shop: Shop, ledger: Ledger, in_time: Test) -> list[float]:
    """The pauses between readings of the list, whose pages follow each other within a second."""
    read = [request.at for request in ledger.requests if kind_of(request) == "list"]
    # The last pause may not be over when the last order comes.
    read = [*(at for at in read if at < shop.closed_at), shop.closed_at]
    pairs = itertools.pairwise(read)
    gaps = (later - earlier for earlier, later in pairs if in_time(later) or later == read[-1])
    return [gap for gap in gaps if gap > 1]


def is_within(since: float, until: float, moment: float) -> bool:
    return since <= moment < until


def spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "(none)"
    p50, p99, most = (quantile(seconds, share) for share in (0.5, 0.99, 1))
    return f"p50 {p50:.1f} s, p99 {p99:.1f} s, max {most:.1f} s"


def wanted(values: Sequence[float], share: float, most: float, *, applies: bool = True) -> str:
    if not (applies and values):
        return ""
    name = "max" if share == 1 else f"p{share * 100:g}"
    verdict = "met" if quantile(values, share) <= most else "MISSED"
    return f"   (wanted: {name} ≤ {most:g}: {verdict})"
