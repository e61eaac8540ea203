"""Killed processes do not buy twice, lose paid orders, or keep changes from the shop.

Real processes on a real database are killed at one step after another. Then time passes, and the
engine continues in the test's process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone

from giftcards.engine.gateway import Gateway
from giftcards.engine.outbox import announce
from giftcards.engine.sweep import sweep
from giftcards.fulfilment import place_order
from giftcards.models import Card, Lease, Order, StatusChange
from giftcards.signals import order_status_changed
from giftcards.simulator import Request, Simulator
from giftcards.statuses import FINAL, SETTLED
from tests.crash.apps import write_down
from tests.stage import LINE, PSN, checks, lease, posts, record_order, stop, wait_until

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.cluster, pytest.mark.django_db(transaction=True)]

CONF = {"POLL_INTERVAL": 0.2, "REQUESTS_PER_MINUTE": 1200}
TUNING = {"request_timeout": 5.0, "proof_of_absence": 1.0}
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Path]:
    """Yield the file in which the receivers of all processes write down status changes."""
    path = tmp_path / "told"
    path.touch()
    receiver = write_down(path)
    yield path
    assert order_status_changed.disconnect(receiver)


@pytest.fixture
def start(
    child: Start,
    told: Path,
    simulator: Simulator,
    set_conf: Callable[..., None],
    shorten: Callable[..., None],
    settings: Any,
) -> Start:
    """Start a command that dies at the given step, if any, and writes down status changes."""
    set_conf(**CONF)
    shorten(**TUNING)

    def run(
        *args: str, dies: str = "", tuning: dict[str, float] | None = None, **variables: str
    ) -> subprocess.Popen[str]:
        return child(
            *args,
            DJANGO_SETTINGS_MODULE="tests.crash.settings",
            CRASH_CONF=json.dumps({**CONF, "BASE_URL": simulator.url}),
            CRASH_TUNING=json.dumps({**TUNING, **(tuning or {})}),
            CRASH_AT=dies,
            CRASH_TOLD=str(told),
            **variables,
        )

    return run


def ends_killed(process: subprocess.Popen[str]) -> None:
    process.wait(60)
    assert process.returncode == -signal.SIGKILL, stop(process)


def let_leases_end() -> None:
    """End the claims, leases and pauses that killed processes have left behind."""
    Order.objects.exclude(claimed_until=None).update(claimed_until=timezone.now())
    # Let enough time pass that no request of a killed process can still be on its way.
    Order.objects.exclude(sent_at=None).update(sent_at=F("sent_at") - timedelta(seconds=10))
    StatusChange.objects.filter(announced_at=None).update(announce_at=timezone.now())
    Lease.objects.update(until=None)


def is_all_done() -> bool:
    is_open = Order.objects.exclude(status__in=FINAL).exists()
    return not is_open and not StatusChange.objects.filter(announced_at=None).exists()


def run_to_the_end() -> None:
    let_leases_end()
    ends = time.monotonic() + 60
    with Gateway() as gateway:
        while Order.objects.exclude(status__in=FINAL).exists():
            assert time.monotonic() < ends, list(Order.objects.values_list("status", "problems"))
            sweep(gateway)
            time.sleep(0.05)
    announce()


def check_promises(simulator: Simulator, told: Path) -> None:
    theirs = simulator.orders
    ours = list(Order.objects.all())
    # Each order was bought once, and its id is known.
    assert Counter(order.provider_order_id for order in ours) == Counter(theirs.keys())
    assert {order.status for order in ours} <= set(SETTLED)
    # Each order was sent once, and again only after it was proven that it had not been bought.
    proven = StatusChange.objects.filter(from_status="UNCONFIRMED", to_status="PENDING").count()
    assert posts(simulator) <= len(ours) + proven
    # Each card is stored exactly once.
    stored = [(card.value, card.serial) for card in Card.objects.select_related("order")]
    delivered = [(card.value, card.serial) for order in theirs.values() for card in order.cards]
    assert Counter(stored) == Counter(delivered)
    # Amounts and statuses are the same.
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
    "after giftcards.models.orders:OrderQuerySet.record 1",
    "before giftcards.models.history:StatusChange.save 1",
    "after giftcards.engine.placing:claim 1",
    "before giftcards.provider.client:Client.place 1",
    "after giftcards.provider.client:Client.place 1",
    "before giftcards.models.history:StatusChange.save 2",
    "after giftcards.engine.placing:send 1",
    "before giftcards.engine.sweep:record_answers 1",
    "after giftcards.engine.recording:store_cards 1",
    "after giftcards.engine.sweep:record_answers 1",
]
WORKING = [
    "after giftcards.engine.placing:claim 2",
    "after giftcards.provider.client:Client.place 2",
    "before giftcards.models.history:StatusChange.save 4",
    "before giftcards.engine.sweep:check_orders 1",
    "after giftcards.models.orders:OrderQuerySet.write_batch 2",
    "after giftcards.engine.recording:store_cards 1",
    "before giftcards.engine.outbox:announce 1",
    "before giftcards.engine.outbox:_announce_change 3",
    "before tests.crash.apps:write_line 3",
    "after tests.crash.apps:write_line 3",
    "after giftcards.engine.outbox:_announce_change 3",
]


@pytest.mark.parametrize("step", PLACING)
def test_killing_a_placing_process_at_any_step_keeps_the_promises(
    step: str, start: Start, simulator: Simulator, told: Path
) -> None:
    command = ("giftcards_place", PSN, "type_001", "2", "--reference", "order-1", "--wait")
    ends_killed(start(*command, dies=step))
    run_to_the_end()
    check_promises(simulator, told)
    # If the command is run again, it finds the same order.
    again = record_order(**LINE, reference="order-1")
    assert again.status == "FULFILLED"
    assert Order.objects.count() == 1


def test_killing_a_placing_process_during_the_answer_buys_the_order_once(
    start: Start, simulator: Simulator, told: Path
) -> None:
    running: list[subprocess.Popen[str]] = []

    def kill(request: Request) -> None:
        if request.method == "POST":
            wait_until(lambda: running)
            os.kill(running[0].pid, signal.SIGKILL)
            running[0].wait(30)

    simulator.on_request = kill
    command = ("giftcards_place", PSN, "type_001", "2", "--reference", "order-1")
    running.append(start(*command))
    ends_killed(running[0])
    simulator.on_request = None
    run_to_the_end()
    check_promises(simulator, told)
    assert posts(simulator) == 1


@pytest.mark.parametrize("step", WORKING)
def test_killing_a_worker_twice_at_any_step_keeps_the_promises(
    step: str, start: Start, simulator: Simulator, told: Path
) -> None:
    for kind in ("type_001", "type_001", "TEST_PARTIAL", "TEST_REFUND", "type_001", "SIM_LOST"):
        place_order(**LINE | {"type_id": kind, "quantity": 3})
    ends_killed(start("giftcards_worker", dies=step))
    let_leases_end()
    second = start("giftcards_worker", dies=step)
    # The second worker does not reach the step if the first one had passed it for all orders.
    wait_until(lambda: second.poll() is not None or is_all_done())
    stop(second)
    run_to_the_end()
    check_promises(simulator, told)


# The steps at which a process that sends an order is halted. Up to the last byte of the request,
# the process can still be kept from sending it. After that, the order is found at the provider.
HALTS = [
    "before giftcards.engine.placing:claim 1",
    "after giftcards.engine.placing:claim 1",
    "before giftcards.provider.client:Client.place 1",
    "before giftcards.provider.transport:_Session.__init__ 2",
    "before giftcards.provider.transport:_Connection.request 3",
    "before giftcards.provider.transport:_Connection.connect 2",
    "after giftcards.provider.transport:_Connection.connect 2",
    "before giftcards.provider.transport:_Connection.send 3",
    "after giftcards.provider.transport:_Connection.send 3",
    "before giftcards.provider.transport:_Connection.send 4",
    "after giftcards.provider.transport:_Connection.send 4",
    "after giftcards.provider.client:Client.place 1",
]


@pytest.mark.parametrize("step", HALTS)
def test_a_process_halted_anywhere_while_it_sends_does_not_buy_what_another_has_bought(
    step: str, start: Start, simulator: Simulator, told: Path
) -> None:
    halted = start(
        *("giftcards_place", PSN, "type_001", "2", "--reference", "order-1"),
        dies=step,
        CRASH_SIGNAL=str(signal.SIGSTOP.value),
        tuning={"start_within": 1.0},
    )
    wait_until(lambda: is_halted(halted))
    since = time.monotonic()
    run_to_the_end()
    # The halt is longer than ``start_within``, by a clock that continues meanwhile.
    wait_until(lambda: time.monotonic() - since > 1)
    halted.send_signal(signal.SIGCONT)
    halted.wait(60)
    check_promises(simulator, told)
    assert posts(simulator) == 1


def is_halted(process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, stop(process)
    # The process name before the state may contain any character, including brackets.
    _, _, rest = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")
    return rest.startswith("T")


class TestStop:
    def test_a_worker_stopped_while_the_provider_hangs_records_what_was_answered(
        self, start: Start, simulator: Simulator, told: Path
    ) -> None:
        """The worker ends only after it has recorded the answers it has got."""
        hung, ended = [], []

        def hang(request: Request) -> None:
            # The answer about the first order is on its way, but the answer about the second never
            # comes.
            if "/check-order/" in request.path and checks(simulator)[0] not in request.path:
                hung.append(request)
                wait_until(lambda: ended)

        simulator.on_request = hang
        for _order in range(2):
            place_order(**LINE)
        worker = start("giftcards_worker")
        try:
            wait_until(lambda: hung)
            began = time.monotonic()
            worker.terminate()
            assert worker.wait(30) == 0
            assert time.monotonic() - began < 9
        finally:
            ended.append(True)
        assert "Traceback" not in stop(worker)
        simulator.on_request = None
        statuses = sorted(Order.objects.values_list("status", flat=True))
        assert statuses == ["FULFILLED", "HANDLING"]
        assert (lease(Lease.LOOP).until, lease(Lease.OUTBOX).until) == (None, None)
        run_to_the_end()
        check_promises(simulator, told)

    def test_a_worker_stopped_while_it_waits_ends_within_seconds(
        self, start: Start, simulator: Simulator
    ) -> None:
        place_order(**LINE | {"type_id": "SIM_NEVER"})
        worker = start("giftcards_worker")
        wait_until(lambda: len(checks(simulator)) > 2)
        worker.terminate()
        assert worker.wait(30) == 0
        assert "Traceback" not in stop(worker)
        assert lease(Lease.LOOP).until is None

    def test_a_loop_ends_at_once_when_its_cluster_is_stopped(
        self, start: Start, simulator: Simulator
    ) -> None:
        cluster = start("qcluster")
        place_order(**LINE | {"type_id": "SIM_NEVER"})
        wait_until(lambda: len(checks(simulator)) > 2)
        assert lease(Lease.LOOP).until is not None
        cluster.terminate()
        # The lease ends long before its time (LOOP_SECONDS) is over. The cluster itself does not
        # always end; see issue 346 of django-q2.
        wait_until(lambda: lease(Lease.LOOP).until is None, seconds=30)
        count = len(checks(simulator))
        time.sleep(1)
        assert len(checks(simulator)) == count
        assert "Traceback" not in stop(cluster)
