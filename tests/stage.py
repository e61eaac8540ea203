"""Helpers for the tests of placing and following orders. The fixtures are in stage_fixtures."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from copy import copy
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import responses
from django.apps import AppConfig, apps
from django.db import OperationalError, connection, connections, transaction
from django.db.models import F
from django.db.models.base import ModelState
from django.dispatch import Signal
from django.utils import timezone

from giftcards.catalogue import read_catalogue
from giftcards.conf import conf
from giftcards.engine.gateway import Gateway
from giftcards.engine.placing import claim, send
from giftcards.engine.request_budget import Budget
from giftcards.engine.sweep import Swept, sweep
from giftcards.keys.keyring import key_fingerprint
from giftcards.models import ApiKey, Card, Lease, Order, OrderQuerySet, ProviderState, RequestSlot
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import LINE, PRODUCT

ROOT = Path(__file__).resolve().parent.parent
PSN = PRODUCT
PROVIDER = "https://provider.invalid"
CODE = "CANARY-CODE-1234"

# The types of the fixtures: `set_conf` and `shorten`, `wire`, and `caplog`.
Setter = Callable[..., None]
Wire = responses.RequestsMock
Log = pytest.LogCaptureFixture


def ago(seconds: float) -> datetime:
    return timezone.now() - timedelta(seconds=seconds)


def record_order(*, reference: str | None = None, **line: Any) -> Order:
    """Record an order without notifying a worker, and return it."""
    named = {} if reference is None else {"reference": reference}
    return Order.objects.record(Order(**line, **named))


def claim_to_send(order: Order) -> bool:
    """Claim the order like a process that is about to send it with the API key of the settings."""
    return claim(order, key=ApiKey.objects.current(key_fingerprint(conf.api_key)))


def fresh(order: Order) -> Order:
    """Return the same order with the values that are stored now."""
    order.refresh_from_db()
    return order


def buy(gateway: Gateway | None = None, **line: Any) -> Order:
    """Record an order and send it; the returned order shows the outcome."""
    order = record_order(**{**LINE, "reference": None, **line})
    with contextlib.ExitStack() as stack:
        gateway = gateway or stack.enter_context(Gateway())
        send(order, gateway)
    return order


def buy_many(simulator: Simulator, count: int, **line: Any) -> list[Order]:
    """Return orders that the provider has accepted and that were not checked yet.

    The first order is really bought. The others are recorded as copies of it in the database and in
    the simulator.
    """
    orders = [buy(**line)]
    changes = list(orders[0].changes.all())
    for _copy in range(count - 1):
        order, now = copy(orders[0]), timezone.now()
        bought = simulator._place(*order.line)
        order.pk, order.reference, order.provider_order_id = None, secrets.token_hex(8), bought.id
        order.sent_at = order.accepted_at = order.due_at = order.queued_at = now
        order._state = ModelState()
        order.save(force_insert=True)
        for change in changes:
            change.pk, change.order = None, order
            change.save(force_insert=True)
        orders.append(order)
    simulator.forget_requests()
    return orders


def run_sweep(orders: OrderQuerySet | None = None, **options: Any) -> Swept:
    with Gateway() as gateway:
        return sweep(gateway, orders, **options)


def look(times: int = 1) -> None:
    """Make all orders due and run a sweep, ``times`` times."""
    for _ in range(times):
        Order.objects.filter(due_at__isnull=False).update(due_at=timezone.now())
        run_sweep()


def pass_time(seconds: float) -> None:
    """Pretend that ``seconds`` have passed for the lost orders."""
    passed = timedelta(seconds=seconds)
    lost = Order.objects.filter(status=Status.UNCONFIRMED)
    lost.update(sent_at=F("sent_at") - passed, absent_since=F("absent_since") - passed)


def fill_catalogue() -> None:
    """Read the provider's whole catalogue."""
    with Gateway() as gateway:
        assert read_catalogue(gateway, on_wait=lambda _reading: None).is_whole


@contextlib.contextmanager
def undone() -> Iterator[None]:
    """Undo the changes of the block in the database; the provider keeps its data."""
    # Newer versions of Django have a new name for this function.
    create = getattr(transaction, "savepoint_create", None) or transaction.savepoint
    point = create()
    yield
    transaction.savepoint_rollback(point)


def statuses() -> list[str]:
    return list(Order.objects.order_by("pk").values_list("status", flat=True))


def without_list() -> None:
    """Have the orders checked one by one, because the list has just failed."""
    ProviderState.objects.current()
    ProviderState.objects.update(list_usable_at=timezone.now() + timedelta(hours=1))


def lease(name: str) -> Lease:
    """Return the stored lease, or a free lease if no process has ever held it."""
    return Lease.objects.filter(name=name).first() or Lease(name=name)


def hold_lease(name: str, *, until: datetime, token: str = "other") -> None:
    """Let another process hold the lease."""
    Lease.objects.update_or_create(name=name, defaults={"token": token, "until": until})


def changes_lease(name: str, sql: str, params: Any) -> bool:
    """Return True if the statement takes, renews or releases the lease."""
    is_update = sql.startswith("UPDATE") and "giftcards_lease" in sql
    return is_update and name in (params or ())


def releases_lease(name: str, sql: str, params: Any) -> bool:
    # Some versions of Django write the NULL into the statement, others pass it as a parameter.
    return changes_lease(name, sql, params) and ("= NULL" in sql or None in params)


def spend_budget(*, but: int = 0) -> None:
    """Spend the requests of the minute, except for ``but`` of those that are not set aside."""
    Budget()
    RequestSlot.objects.update(until=timezone.now() + timedelta(seconds=60))
    free = RequestSlot.objects.order_by("-number").values_list("number", flat=True)[:but]
    RequestSlot.objects.filter(number__in=list(free)).update(until=ago(1))


def leave_questions(count: int) -> None:
    """Leave ``count`` checks in the budget, and one request that only placing may use."""
    spend_budget(but=count + 1)


def refill_budget() -> None:
    """Refill the budget, as if a minute had passed since the last request."""
    RequestSlot.objects.update(until=ago(1))


def slots_in_use() -> int:
    """Return the number of this minute's requests that are spent."""
    return RequestSlot.objects.filter(until__gt=timezone.now()).count()


def prove_key() -> None:
    """Record that the provider has just accepted the API key."""
    with Gateway() as gateway:
        gateway.record_outcome(None)


def refuse_key(detail: str = "Refused.", *, api_key: str | None = None) -> None:
    """Record that the provider has refused an API key, by default that of the settings."""
    ApiKey.objects.refuse(key_fingerprint(api_key or conf.api_key), detail=detail)


def own_key() -> ApiKey:
    """Return the record of the API key of the settings."""
    return ApiKey.objects.get(pk=key_fingerprint(conf.api_key))


def wrong_calls(simulator: Simulator) -> int:
    """Return the number of requests with a key that the provider does not know."""
    return [request.key_ok for request in simulator.requests].count(False)


def provider_state() -> ProviderState:
    """Return the record of the provider's state."""
    return ProviderState.objects.get()


def end_pause() -> None:
    """Pretend that the time of the pause is over."""
    ProviderState.objects.update(paused_until=ago(1))


def lists(simulator: Simulator) -> int:
    """Return the number of list pages that were requested."""
    return [request.path for request in simulator.requests].count("/v3/gift-cards/list")


def posts(simulator: Simulator) -> int:
    return [request.method for request in simulator.requests].count("POST")


def checks(simulator: Simulator) -> list[str]:
    """Return the last parts of the paths of all checks, oldest first."""
    paths = [request.path for request in simulator.requests if "/check" in request.path]
    return [path.rpartition("/")[2] for path in paths if "checkProduct" not in path]


def use_keys(settings: Any, *keys: str) -> None:
    """Use these encryption keys from now on."""
    settings.GIFTCARDS = {**settings.GIFTCARDS, "ENCRYPTION_KEYS": list(keys)}


def history(order: Order) -> list[str]:
    return [str(change.to_status) for change in order.changes.all()]


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """Return the messages that modules of the app have logged."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("giftcards") and record.levelno >= level
    ]


@contextlib.contextmanager
def receiving(signal: Signal, receiver: Callable[..., Any], **options: Any) -> Iterator[None]:
    """Connect the receiver to the signal during the block."""
    signal.connect(receiver, **options)
    try:
        yield
    finally:
        signal.disconnect(receiver, **options)


@contextlib.contextmanager
def out_of_service(simulator: Simulator) -> Iterator[None]:
    """Stop the provider during the block, and keep its address from being used by others."""
    simulator.stop()
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", simulator.port))
        yield
    simulator.start()


def unused_port() -> int:
    """Return a port for a process to listen on later, which the system does not assign itself."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_until(condition: Callable[[], object], *, seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


def apps_of_others() -> list[AppConfig]:
    """Return the installed apps that do not belong to this project."""
    ours = ("giftcards", "example_project")
    return [app for app in apps.get_app_configs() if not app.name.startswith(ours)]


@contextlib.contextmanager
def sharing_database(path: Path) -> Iterator[str]:
    """Let threads and processes open the database side by side; yield its address.

    Others cannot open a database in memory, so a copy of it in a file takes its place.
    """
    original, values = connections["default"], connections.settings["default"]
    if original.vendor != "sqlite":
        place = f"{values['HOST']}:{values['PORT']}/{values['NAME']}"
        kind = {"postgresql": "postgres"}.get(original.vendor, original.vendor)
        password = f":{values['PASSWORD']}" if values["PASSWORD"] else ""
        yield f"{kind}://{values['USER']}{password}@{place}"
        return
    original.ensure_connection()
    with contextlib.closing(sqlite3.connect(path)) as copy:
        original.connection.backup(copy)
    # The dictionary is replaced and not changed, because the original connection reads it as well.
    # That connection has to know that it is in memory; otherwise the threads of a live server,
    # which use it, might close it.
    connections.settings["default"] = {**values, "NAME": str(path)}
    connections["default"] = connections.create_connection("default")
    # The first connection changes the journal mode, and SQLite does not wait for other connections
    # when this happens.
    connections["default"].ensure_connection()
    try:
        yield f"sqlite:///{path}"
    finally:
        connections["default"].close()
        connections["default"] = original
        connections.settings["default"] = values


@contextlib.contextmanager
def failing(
    verb: str = "",
    *texts: str,
    error: Exception | None = None,
    when: Callable[[str, Any], object] = lambda _sql, _params: True,
    most: float = math.inf,
) -> Iterator[list[str]]:
    """Make the database fail at statements that start with ``verb`` and contain these texts.

    Of these statements, only those fail for which ``when(sql, params)`` is true, and at most
    ``most`` of them. Yields the statements that have failed.
    """
    error = error or OperationalError("server closed the connection unexpectedly")
    failed: list[str] = []

    def fail(execute: Any, sql: str, params: Any, *args: Any) -> Any:
        is_meant = sql.startswith(verb) and all(text in sql for text in texts)
        if is_meant and len(failed) < most and when(sql, params):
            failed.append(sql)
            raise error
        return execute(sql, params, *args)

    with connection.execute_wrapper(fail):
        yield failed


def in_threads(count: int, work: Callable[[], Any]) -> list[Any]:
    """Return the results of ``work``, or its errors, from ``count`` threads that start at once."""
    barrier = threading.Barrier(count)
    results: list[Any] = []

    def run() -> None:
        barrier.wait()
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            results.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(results) == count, "they did not end in time"
    return results


LIST = f"{PROVIDER}/v3/gift-cards/list"
PRICES = {"success": True, "data": {"types": [{"id": "type_001", "price": 490}]}}
PLACE = f"{PROVIDER}/v3/gift-cards/placeOrder"


def check_url(order: Order) -> str:
    return f"{PROVIDER}/v3/gift-cards/check-order/{order.provider_order_id}"


def settled_answer(order: Order, **changes: Any) -> dict[str, Any]:
    """Return the provider's answer about a fulfilled order."""
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


def list_row(order: Order, **changes: Any) -> dict[str, Any]:
    """Return the row of a fulfilled order in the provider's list."""
    shown: dict[str, Any] = settled_answer(order)["data"]
    time = order.sent_at or timezone.now()
    about = {"product": order.product_id, "type": order.type_id, "time": time.isoformat()}
    return shown | about | changes


def list_page(*rows: Any, **changes: Any) -> dict[str, Any]:
    """Return a page of the provider's list."""
    pagination = {"page": 1, "pageSize": 100, "totalPages": 1, "totalResults": len(rows)} | changes
    return {"success": True, "data": {"items": list(rows), "pagination": pagination}}


def stop(process: subprocess.Popen[str]) -> str:
    """End a process the polite way; return what it printed, including errors.

    A cluster of django-q2 does not always end that way (its issue 346), so its process group is
    killed afterwards.
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
    """Return everything that must not be readable anywhere: the keys, and all codes."""
    found = [settings.GIFTCARDS["API_KEY"], *settings.GIFTCARDS["ENCRYPTION_KEYS"], CODE]
    cards = [card for order in simulator.orders.values() for card in order.cards]
    found += [text for card in cards for text in (card.value, card.serial)]
    return found + [card.value for card in Card.objects.select_related("order")]
