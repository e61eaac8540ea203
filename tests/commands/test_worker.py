"""``giftcards_worker`` runs the worker without a task queue."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError, connection

from giftcards.models import ApiKey, Lease, Order, ProviderState
from giftcards.simulator import Request, Simulator
from tests.conftest import Call
from tests.stage import (
    LINE,
    PSN,
    ago,
    buy,
    changes_lease,
    checks,
    failing,
    hold_lease,
    lease,
    messages,
    posts,
    record_order,
    wait_until,
    wrong_calls,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("quickly")]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the loop without other work, whose threads need a database that they can share."""
    monkeypatch.setattr("giftcards.engine.background.WORK", {})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_worker_goes_on_until_it_is_stopped(
    number: int, handlers: None, call: Call, simulator: Simulator
) -> None:
    buy(type_id="SIM_NEVER")

    def stop_later(request: Request) -> None:
        if len(checks(simulator)) == 4:
            os.kill(os.getpid(), number)

    simulator.on_request = stop_later
    out, err, code = call("giftcards_worker")
    assert out.splitlines()[0] == "Following the orders. Press Ctrl-C to stop."
    assert out.splitlines()[-1] in {
        f"0 sent, {checked} checked, 0 settled, 0 failed." for checked in (4, 5)
    }
    assert (err, code) == ("", 0)
    assert lease(Lease.LOOP).until is None


def test_the_worker_ticks_as_the_schedule_would(
    handlers: None, call: Call, simulator: Simulator, shorten: Callable[..., None]
) -> None:
    """Without a cluster, only these ticks show a monitor that a worker follows the orders."""
    shorten(loop_tick=0.2)
    buy(type_id="SIM_NEVER")
    ticks = []

    def stop_later(execute: Any, sql: str, *args: Any) -> Any:
        if sql.startswith("UPDATE") and "last_tick_at" in sql.partition("WHERE")[0]:
            ticks.append(sql)
            if len(ticks) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
        return execute(sql, *args)

    with connection.execute_wrapper(stop_later):
        assert call("giftcards_worker").code == 0
    assert ProviderState.objects.get().last_tick_at is not None
    assert call("giftcards_status", "--fail-on", "worker").code == 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("most", [0, 3])
def test_the_worker_stands_by_also_through_failures_of_the_database(
    most: int,
    handlers: None,
    call: Call,
    simulator: Simulator,
    caplog: pytest.LogCaptureFixture,
    shorten: Callable[..., None],
) -> None:
    shorten(database_pause=0.1)
    record_order(**LINE, reference=None)
    hold_lease(Lease.LOOP, token="other", until=ago(-1.2))

    def stop_at_once(request: Request) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    simulator.on_request = stop_at_once
    with failing(when=partial(changes_lease, Lease.LOOP), most=most) as failures:
        out, err, code = call("giftcards_worker")
    assert out.splitlines()[0] == "Following the orders. Press Ctrl-C to stop."
    assert (err, code) == ("", 0)
    assert len(failures) == most
    assert len(simulator.requests) >= 1
    lost = "A database error occurred in the loop, which pauses for 0.1 s: OperationalError"
    assert messages(caplog).count(lost) == most


@pytest.mark.django_db(transaction=True)
def test_the_worker_waits_for_a_database_that_is_away_when_it_starts(
    simulator: Simulator,
    child: Callable[..., subprocess.Popen[str]],
    absent_database: tuple[str, Callable[[], object]],
) -> None:
    address, come_back = absent_database
    for type_id in ("type_001", "TEST_PARTIAL"):
        record_order(product_id=PSN, type_id=type_id, quantity=2, reference=None)
    process = child("giftcards_worker", DATABASE_URL=address)
    assert process.stdout is not None
    waiting = process.stdout.readline()
    assert re.fullmatch(
        r"Waiting for the database \(OperationalError\)"
        r" \(since \d\d:\d\d:\d\d, \d s\)\n",
        waiting,
    )
    assert process.poll() is None
    come_back()
    assert process.stdout.readline() == "Following the orders. Press Ctrl-C to stop.\n"
    wait_until(lambda: Order.objects.filter(finalized_at__isnull=False).count() == 2)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.splitlines()[-1].endswith(" 2 settled, 0 failed.")
    assert posts(simulator) == 2
    for order in simulator.orders.values():
        for card in order.cards:
            assert card.value not in output


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("giftcards_worker", 0, "Waiting for the database (OperationalError) (since "),
        (
            "giftcards_poll",
            2,
            "could not be reached (OperationalError). Check that the database is running and that"
            " DATABASES is correct.",
        ),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_without_a_database_the_worker_waits_until_it_is_stopped_and_one_sweep_fails(
    command: str,
    code: int,
    text: str,
    child: Callable[..., subprocess.Popen[str]],
    absent_database: tuple[str, Callable[[], object]],
) -> None:
    process = child(command, DATABASE_URL=absent_database[0])
    assert process.stdout is not None
    assert text in process.stdout.readline()
    if code == 0:
        process.terminate()
    output, _ = process.communicate(timeout=60)
    assert (output, process.returncode) == ("", code)


def test_the_worker_does_not_start_in_a_database_that_works_for_nobody(
    handlers: None, call: Call, simulator: Simulator
) -> None:
    with failing(error=OperationalError("CANARY-CODE-1234")):
        assert call("giftcards_worker") == (
            "",
            f"The database {connection.settings_dict['NAME']} failed (OperationalError)."
            " Check that `manage.py migrate` has been run for this database.\n",
            2,
        )


@pytest.mark.django_db(transaction=True)
def test_the_worker_settles_orders_beside_one_whose_key_is_refused(
    simulator: Simulator, child: Callable[..., subprocess.Popen[str]]
) -> None:
    """A rolling restart brings a wrong new key, and the process with this key starts first."""
    simulator.keys = ["good"]
    record_order(**LINE, reference=None)
    child("giftcards_worker", GIFTCARDS_API_KEY="wrong")
    wait_until(lambda: ApiKey.objects.exclude(stopped_at=None))
    child("giftcards_worker", GIFTCARDS_API_KEY="good")
    settled = Order.objects.filter(finalized_at__isnull=False)
    wait_until(lambda: settled.count() == 1)
    record_order(**LINE, reference=None)
    wait_until(lambda: settled.count() == 2)
    assert wrong_calls(simulator) == 1
