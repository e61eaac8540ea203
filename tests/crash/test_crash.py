"""Whatever dies, whenever: nothing is bought twice, nothing paid for is lost, the shop is told.

Real processes on a real database are killed at one step after the other; then time passes, and the
engine goes on in the test's process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from giftcards.following import sweep
from giftcards.fulfilment import place_order, record_order
from giftcards.gateway import Gateway
from giftcards.models import Card, Order, ProviderState, StatusChange
from giftcards.outbox import announce
from giftcards.signals import order_status_changed
from giftcards.simulator import Request, Simulator
from giftcards.statuses import FINAL, SETTLED
from tests.crash.apps import write_down
from tests.engine import LINE, PSN, checks, posts, stop, wait_until

pytest_plugins = ["tests.engine_fixtures"]
pytestmark = [pytest.mark.cluster, pytest.mark.django_db(transaction=True)]

CONF = {
    "POLL_INTERVAL": 0.2,
    "REQUESTS_PER_MINUTE": 6000,
    "REQUEST_TIMEOUT": 5,
    "PROOF_OF_ABSENCE": 1,
}
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Path]:
    """Where receivers of all processes write down what they are told."""
    path = tmp_path / "told"
    path.touch()
    receiver = write_down(path)
    yield path
    assert order_status_changed.disconnect(receiver)


@pytest.fixture
def start(
    child: Start, told: Path, simulator: Simulator, set_conf: Callable[..., None], settings: Any
) -> Start:
    """Start a command that dies at the given step, if any; it writes down what it is told."""
    set_conf(**CONF)

    def run(*args: str, dies: str = "") -> subprocess.Popen[str]:
        return child(
            *args,
            DJANGO_SETTINGS_MODULE="tests.crash.settings",
            CRASH_CONF=json.dumps({**CONF, "BASE_URL": simulator.url}),
            CRASH_AT=dies,
            CRASH_TOLD=str(told),
        )

    return run


def ends_killed(process: subprocess.Popen[str]) -> None:
    process.wait(20)
    assert process.returncode == -signal.SIGKILL, stop(process)


def let_leases_end() -> None:
    """What has been killed left its claims and leases behind; they end by themselves."""
    Order.objects.exclude(claimed_until=None).update(claimed_until=timezone.now())
    ProviderState.objects.update(
        loop_until=None, outbox_until=None, probe_until=None, kicked_at=None
    )


def run_to_the_end() -> None:
    let_leases_end()
    ends = time.monotonic() + 20
    with Gateway() as gateway:
        while Order.objects.exclude(status__in=FINAL).exists():
            assert time.monotonic() < ends, list(Order.objects.values_list("status", "problem"))
            sweep(gateway)
            time.sleep(0.05)
    announce()


def check_promises(simulator: Simulator, told: Path) -> None:
    theirs = simulator.orders
    ours = list(Order.objects.all())
    # Bought once, and known.
    assert Counter(order.provider_order_id for order in ours) == Counter(theirs.keys())
    assert {order.status for order in ours} <= SETTLED
    # Sent once, and again only where it was proven that it had not been bought.
    proven = StatusChange.objects.filter(from_status="UNCONFIRMED", to_status="PENDING").count()
    assert posts(simulator) <= len(ours) + proven
    # Every card once.
    stored = [(card.value, card.serial) for card in Card.objects.select_related("order")]
    delivered = [(card.value, card.serial) for order in theirs.values() for card in order.cards]
    assert Counter(stored) == Counter(delivered)
    # Every dinar.
    for order in ours:
        twin = theirs[str(order.provider_order_id)]
        assert (order.fulfilled_amount, order.status) == (twin.charged, twin.status)
    # Every change was announced, in order.
    assert not StatusChange.objects.filter(announced_at=None).exists()
    heard = told.read_text().splitlines()
    for order in ours:
        changes = [f"{order} {change.to_status}" for change in order.changes.all()]
        assert set(changes) <= set(heard)
        assert [line for line in dict.fromkeys(heard) if line in changes] == list(
            dict.fromkeys(changes)
        )


PLACING = [
    "after giftcards.management.commands.giftcards_place:record_order 1",
    "before giftcards.models:StatusChange.save 1",
    "after giftcards.fulfilment:claim 1",
    "before giftcards.provider:Client.place 1",
    "after giftcards.provider:Client.place 1",
    "before giftcards.models:StatusChange.save 2",
    "after giftcards.fulfilment:send 1",
    "before giftcards.following:record_answers 1",
    "after giftcards.recording:store_cards 1",
    "after giftcards.following:record_answers 1",
]
WORKING = [
    "after giftcards.fulfilment:claim 2",
    "after giftcards.provider:Client.place 2",
    "before giftcards.models:StatusChange.save 4",
    "before giftcards.following:ask 1",
    "after giftcards.recording:_update 2",
    "after giftcards.recording:store_cards 1",
    "before giftcards.outbox:announce 1",
    "before giftcards.outbox:_announce_change 3",
    "before tests.crash.apps:write_line 3",
    "after tests.crash.apps:write_line 3",
    "after giftcards.outbox:_announce_change 3",
]


@pytest.mark.parametrize("step", PLACING)
def test_a_placing_process_is_killed(
    step: str, start: Start, simulator: Simulator, told: Path
) -> None:
    command = ("giftcards_place", PSN, "type_001", "2", "--reference", "order-1", "--wait")
    ends_killed(start(*command, dies=step))
    run_to_the_end()
    check_promises(simulator, told)
    # Whoever ran it runs it again: that is the same order.
    again = record_order(**LINE, reference="order-1")
    assert again.status == "FULFILLED"
    assert Order.objects.count() == 1


def test_a_placing_process_is_killed_while_the_provider_answers(
    start: Start, simulator: Simulator, told: Path
) -> None:
    running: list[subprocess.Popen[str]] = []

    def kill(request: Request) -> None:
        if request.method == "POST":
            wait_until(lambda: running)
            os.kill(running[0].pid, signal.SIGKILL)
            running[0].wait(5)

    simulator.on_request = kill
    command = ("giftcards_place", PSN, "type_001", "2", "--reference", "order-1")
    running.append(start(*command))
    ends_killed(running[0])
    simulator.on_request = None
    run_to_the_end()
    check_promises(simulator, told)
    assert posts(simulator) == 1


@pytest.mark.parametrize("step", WORKING)
def test_a_worker_is_killed_twice(
    step: str, start: Start, simulator: Simulator, told: Path
) -> None:
    for kind in ("type_001", "type_001", "TEST_PARTIAL", "TEST_REFUND", "type_001", "SIM_LOST"):
        place_order(**LINE | {"type_id": kind, "quantity": 3})
    for attempt in range(2):
        worker = start("giftcards_poll", "--loop", dies=step)
        try:
            ends_killed(worker)
        except subprocess.TimeoutExpired:
            # The first one had done all that there was to do.
            assert attempt == 1
            stop(worker)
        let_leases_end()
    run_to_the_end()
    check_promises(simulator, told)


class TestStop:
    def test_while_the_provider_hangs(self, start: Start, simulator: Simulator, told: Path) -> None:
        """What has been answered is recorded before the worker ends."""
        hung, ended = [], []

        def hang(request: Request) -> None:
            # The first answer of the orders is on its way, the second never comes.
            if "/check-order/" in request.path and checks(simulator)[0] not in request.path:
                hung.append(request)
                wait_until(lambda: ended)

        simulator.on_request = hang
        for _order in range(2):
            place_order(**LINE)
        worker = start("giftcards_poll", "--loop")
        try:
            wait_until(lambda: hung)
            began = time.monotonic()
            worker.terminate()
            assert worker.wait(5) == 0
            assert time.monotonic() - began < 5
        finally:
            ended.append(True)
        assert "Traceback" not in stop(worker)
        simulator.on_request = None
        statuses = sorted(Order.objects.values_list("status", flat=True))
        assert statuses == ["FULFILLED", "HANDLING"]
        state = ProviderState.objects.get()
        assert (state.loop_until, state.outbox_until) == (None, None)
        run_to_the_end()
        check_promises(simulator, told)

    def test_while_it_waits(self, start: Start, simulator: Simulator) -> None:
        place_order(**LINE | {"type_id": "SIM_NEVER"})
        worker = start("giftcards_poll", "--loop")
        wait_until(lambda: len(checks(simulator)) > 2)
        worker.terminate()
        assert worker.wait(3) == 0
        assert "Traceback" not in stop(worker)
        assert ProviderState.objects.get().loop_until is None

    def test_a_cluster_need_not_wait_for_the_loop(self, start: Start, simulator: Simulator) -> None:
        cluster = start("qcluster")
        place_order(**LINE | {"type_id": "SIM_NEVER"})
        wait_until(lambda: len(checks(simulator)) > 2)
        assert ProviderState.objects.get().loop_until is not None
        cluster.terminate()
        # Long before its time (LOOP_SECONDS) is over. That the cluster itself does not always end
        # is issue 346 of django-q2.
        wait_until(lambda: ProviderState.objects.get().loop_until is None, seconds=4)
        count = len(checks(simulator))
        time.sleep(1)
        assert len(checks(simulator)) == count
        assert "Traceback" not in stop(cluster)
