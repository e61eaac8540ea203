"""The requests that following takes, and the time from settling to cards in the database."""

from __future__ import annotations

import random
import time
from datetime import timedelta

from django.utils import timezone

from benchmarks.stage import accept, configure, quantile, say
from giftcards.engine.loop import follow
from giftcards.models import Card, Order, StatusChange
from giftcards.provider.client import Client
from giftcards.simulator import Simulator
from tests.builders import PRODUCT

TYPES = ("type_001", "TEST_PARTIAL", "TEST_REFUND")


class Clock:
    """The simulator's: it stands still until every order is placed."""

    def __init__(self) -> None:
        self.zero = time.monotonic()
        self.is_stopped = True
        self.offset = 0.0

    def __call__(self) -> float:
        return self.zero if self.is_stopped else time.monotonic() - self.offset

    def start(self) -> None:
        self.offset = time.monotonic() - self.zero
        self.is_stopped = False


def run(size: str, kind: str, limit: str = "60", *, is_quick: bool) -> None:
    count = int(size)
    # All orders stay open for so long, in which requests are counted, and settle in so long then.
    still, settling = (15, 10) if is_quick else (60, 42)
    clock = Clock()
    with Simulator(delay=(still, still + settling), rate_limit=0, clock=clock) as simulator:
        configure(BASE_URL=simulator.url, REQUESTS_PER_MINUTE=int(limit))
        with Client(base_url=simulator.url, api_key="bench", timeout=10) as client:
            placed: dict[str, list[str]] = {type_id: [] for type_id in TYPES}
            for type_id in random.choices(TYPES, k=count):
                order = client.place(product_id=PRODUCT, type_id=type_id, quantity=2)
                placed[type_id].append(order)
        for type_id, ids in placed.items():
            accept(ids, type_id=type_id)
        base = len(simulator.requests)
        # The seed's loop would get nothing but 429 from here on: it is spared the limit.
        simulator.rate_limit = int(limit) if kind == "app" else 0
        clock.start()
        seconds = still + settling + 40
        if kind == "app":
            follow(seconds=seconds)
        else:
            seed_loop(simulator.url, seconds)
        requests = simulator.requests[base:]
        # How far the simulator's time of day is behind ours.
        behind = timedelta(seconds=clock.offset)
        lags = [
            order.finalized_at - settle_at - behind
            for order in Order.objects.all()
            if order.finalized_at
            and (settle_at := simulator.orders[order.provider_order_id or ""].settle_at)
        ]
    while_open = [request for request in requests if request.at - clock.zero <= still]
    a_minute = len(while_open) * 60 / still
    refused = sum(request.status == 429 for request in requests)
    name = f"the app, limit {limit}" if kind == "app" else "the seed's loop, no limit"
    seconds_late = [lag.total_seconds() for lag in lags]
    say(
        f"{name}, {count:>5,} open orders: {a_minute:.0f} requests a minute;"
        f" {len(lags):,} settled, cards stored after"
        f" p50 {quantile(seconds_late, 0.5):.1f} s, p99 {quantile(seconds_late, 0.99):.1f} s"
        f"; {refused} × 429"
    )


def seed_loop(url: str, seconds: float) -> None:
    """One check an order every 5 seconds, and rows saved one by one."""
    ends_at = time.monotonic() + seconds
    with Client(base_url=url, api_key="bench", timeout=10) as client:
        while time.monotonic() < ends_at:
            round_ends_at = time.monotonic() + 5
            open_orders = list(Order.objects.filter(finalized_at=None))
            if not open_orders:
                return
            for order in open_orders:
                answer = client.check(order.provider_order_id or "")
                if answer.status == "HANDLING":
                    continue
                now = timezone.now()
                before, order.status = order.status, answer.status or ""
                order.finalized_at, order.due_at = now, None
                order.fulfilled_quantity = answer.fulfilled_quantity or 0
                order.save()
                for position, card in enumerate(answer.cards, 1):
                    Card(
                        order=order,
                        position=position,
                        sealed=card.value,
                        value_fingerprint="-",
                        key_fingerprint="-",
                    ).save()
                StatusChange(order=order, from_status=before, to_status=order.status).save()
            time.sleep(max(round_ends_at - time.monotonic(), 0))
