"""What the tests of placing and following share; the fixtures are in engine_fixtures."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from giftcards.fulfilment import record_order, send
from giftcards.gateway import Gateway
from giftcards.models import Card, Order, ProviderState
from giftcards.simulator import Simulator
from giftcards.statuses import ACCEPTED, FINAL, Status

ROOT = Path(__file__).resolve().parent.parent
PSN = "507f1f77bcf86cd799439011"
LINE = {"product_id": PSN, "type_id": "type_001", "quantity": 2}
PROVIDER = "https://provider.invalid"
CODE = "CANARY-CODE-1234"


def ago(seconds: float) -> datetime:
    return timezone.now() - timedelta(seconds=seconds)


def make_order(status: Status = Status.PENDING, **values: Any) -> Order:
    """An order in a status that it could have got into."""
    if status in FINAL:
        values = {"settled_at": timezone.now(), "due_at": None} | values
    delivered = {Status.FULFILLED: 2, Status.PARTIALLY_FILLED: 1}.get(status, 0)
    values = {"fulfilled_quantity": delivered} | values
    if status == Status.PLACING:
        values = {"sent_at": timezone.now(), "due_at": None} | values
    if status in ACCEPTED:
        values = {"provider_order_id": f"A{Order.objects.count()}", "accepted_at": ago(1)} | values
    return Order.objects.create(**{"status": status, **LINE, **values})


def buy(gateway: Gateway | None = None, **line: Any) -> Order:
    """Record an order and send it; how that ended is in the order."""
    order = record_order(**{**LINE, "reference": None, **line})
    with contextlib.ExitStack() as stack:
        gateway = gateway or stack.enter_context(Gateway())
        send(order, gateway)
    return order


def buy_many(simulator: Simulator, count: int, **line: Any) -> list[Order]:
    """Orders that the provider has accepted and nobody has asked about."""
    with Gateway() as gateway:
        orders = [buy(gateway, **line) for _order in range(count)]
    simulator.forget_requests()
    return orders


def statuses() -> list[str]:
    return list(Order.objects.order_by("pk").values_list("status", flat=True))


def without_list() -> None:
    """Orders are asked about one by one: the list has just failed."""
    ProviderState.objects.current()
    ProviderState.objects.update(list_at=timezone.now() + timedelta(hours=1))


def end_pause() -> None:
    """The time of the pause has run out."""
    ProviderState.objects.update(paused_until=ago(1))


def lists(simulator: Simulator) -> int:
    """How many pages of the list have been asked for."""
    return [request.path for request in simulator.requests].count("/v3/gift-cards/list")


def posts(simulator: Simulator) -> int:
    return [request.method for request in simulator.requests].count("POST")


def checks(simulator: Simulator) -> list[str]:
    """The last parts of the paths of all checks, oldest first."""
    paths = [request.path for request in simulator.requests if "/check" in request.path]
    return [path.rpartition("/")[2] for path in paths if "checkProduct" not in path]


def history(order: Order) -> list[str]:
    return [str(change.to_status) for change in order.changes.all()]


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """What our modules have logged."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("giftcards") and record.levelno >= level
    ]


def wait_until(condition: Callable[[], object], *, seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


def in_threads(count: int, work: Callable[[], Any]) -> list[Any]:
    """What ``work`` returns in each of ``count`` threads that start at once."""
    barrier = threading.Barrier(count)
    results: list[Any] = []

    def run() -> None:
        barrier.wait()
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 (for the test to judge)
            results.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


PRICES = {"success": True, "data": {"types": [{"id": "type_001", "price": 490}]}}
PLACE = f"{PROVIDER}/v3/gift-cards/placeOrder"


def check_url(order: Order) -> str:
    return f"{PROVIDER}/v3/gift-cards/check-order/{order.provider_order_id}"


def settled_answer(order: Order, **changes: Any) -> dict[str, Any]:
    """The provider's answer about a fulfilled order."""
    cards = [{"value": f"{CODE}-{number}", "serial": f"{number}"} for number in range(2)]
    data = {
        "_id": order.provider_order_id,
        "status": "FULFILLED",
        "quantity": 2,
        "fulfilled_quantity": 2,
        "fulfilled_amount": 980,
        "price_per_card": 490,
        "cards": cards,
    }
    return {"success": True, "data": data | changes}


def stop(process: subprocess.Popen[str]) -> str:
    """End a process the polite way; return what it printed, errors included.

    A cluster of django-q2 does not always end that way (its issue 346), so its group is killed.
    """
    if process.poll() is None:
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with process:
        assert process.stdout is not None
        return "" if process.stdout.closed else process.stdout.read()


def secrets_of(settings: Any, simulator: Simulator) -> list[str]:
    """Everything that must not be read anywhere: the keys, and all codes there are."""
    found = [settings.GIFTCARDS["API_KEY"], *settings.GIFTCARDS["ENCRYPTION_KEYS"], CODE]
    cards = [card for order in simulator.orders.values() for card in order.cards]
    found += [text for card in cards for text in (card.value, card.serial)]
    return found + [card.value for card in Card.objects.select_related("order")]
