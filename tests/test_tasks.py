"""Tasks of django-q2: the functions that it runs, its rows, and a real cluster."""

from __future__ import annotations

import base64
import multiprocessing
import subprocess
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, ProgrammingError, connection
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.cluster import Sentinel
from django_q.models import OrmQ, Schedule, Task
from django_q.monitor import monitor
from django_q.pusher import pusher
from django_q.queues import Queue
from django_q.scheduler import scheduler
from django_q.tasks import async_task
from django_q.worker import worker

from giftcards import tasks
from giftcards.engine.task_queue import cluster_stop, ensure_schedule
from giftcards.fulfilment import place_order
from giftcards.models import Lease, Order, ProviderState
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import make_order
from tests.stage import (
    LINE,
    ago,
    buy,
    changes_lease,
    checks,
    failing,
    history,
    hold_lease,
    lease,
    lists,
    messages,
    posts,
    provider_state,
    releases_lease,
    secrets_of,
    stop,
    wait_until,
)

pytest_plugins = ["tests.stage_fixtures"]

BUSY = "another process runs the loop"


@pytest.fixture(autouse=True)
def quickly(shorten: Callable[..., None], set_conf: Callable[..., None]) -> None:
    set_conf(POLL_INTERVAL=0.1)
    # This is longer than anything here takes. Tests whose task does not end by itself use `soon`.
    shorten(task_seconds=10)


@pytest.fixture
def soon(quickly: None, shorten: Callable[..., None]) -> None:
    shorten(task_seconds=0.5)


@pytest.mark.django_db
@pytest.mark.parametrize("task", [tasks.sweep, tasks.tick])
class TestBoth:
    def test_both_tasks_send_and_check_orders(
        self, task: Callable[[], str], simulator: Simulator
    ) -> None:
        make_order()
        make_order(type_id="SIM_LOST")
        assert task() == "1 sent, 1 checked, 1 settled, 1 failed"
        assert lease(Lease.LOOP).until is None
        assert not OrmQ.objects.exists()

    def test_both_tasks_do_nothing_if_no_order_is_due(
        self, task: Callable[[], str], simulator: Simulator
    ) -> None:
        assert task() == "0 sent, 0 checked, 0 settled, 0 failed"
        assert lease(Lease.LOOP).until is None
        assert provider_state().swept_at is not None
        assert [request.path for request in simulator.requests] == ["/v3/account/balance"]
        assert not OrmQ.objects.exists()

    @pytest.mark.usefixtures("soon")
    def test_both_tasks_queue_a_sweep_while_orders_are_open(
        self, task: Callable[[], str], simulator: Simulator
    ) -> None:
        buy(type_id="SIM_NEVER")
        # The task may end while the order is due again, and then reports it as postponed.
        assert "0 settled, 0 failed" in task()
        assert lease(Lease.LOOP).until is None
        [queued] = OrmQ.objects.all()
        assert queued.task["func"] == "giftcards.tasks.sweep"
        assert (queued.task["args"], queued.task["kwargs"]) == ((), {})

    def test_both_tasks_queue_no_sweep_for_orders_that_wait_long(
        self, task: Callable[[], str], simulator: Simulator
    ) -> None:
        for status in ("DELAYED", "UNCONFIRMED", "REJECTED", "REFUNDED"):
            make_order(Status(status), due_at=None)
        task()
        assert not OrmQ.objects.exists()

    def test_both_tasks_queue_no_sweep_once_the_key_is_refused(
        self, task: Callable[[], str], simulator: Simulator
    ) -> None:
        buy()
        simulator.keys = ["another"]
        assert task() == "0 sent, 1 checked, 0 settled, 1 failed; paused"
        assert task() == "0 sent, 0 checked, 0 settled, 0 failed; paused"
        assert not OrmQ.objects.exists()
        assert [request.key_ok for request in simulator.requests].count(False) == 1

    @pytest.mark.usefixtures("soon")
    def test_both_tasks_queue_a_sweep_during_a_short_pause(
        self, task: Callable[[], str], simulator: Simulator
    ) -> None:
        make_order()
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="", until=ago(-60))
        assert task() == "0 sent, 0 checked, 0 settled, 0 failed; paused"
        assert OrmQ.objects.count() == 1

    def test_both_tasks_queue_a_sweep_for_an_order_placed_as_they_end(
        self, task: Callable[[], str], simulator: Simulator
    ) -> None:
        """The order queued no task because of the lease, so the running task must look again."""

        def place(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            done = execute(sql, params, many, context)
            if releases_lease(Lease.LOOP, sql, params):
                make_order()
            return done

        with connection.execute_wrapper(place):
            assert task() == "0 sent, 0 checked, 0 settled, 0 failed"
        assert OrmQ.objects.count() == 1

    def test_an_order_placed_after_a_task_has_run_queues_its_own_sweep(
        self, task: Callable[[], str], simulator: Simulator, django_capture_on_commit_callbacks: Any
    ) -> None:
        """If the work of a kick is done, a new order needs another kick, even seconds later."""
        for _order in range(2):
            with django_capture_on_commit_callbacks(execute=True):
                place_order(**LINE)
            assert OrmQ.objects.count() == 1
            OrmQ.objects.all().delete()
            assert task() == "1 sent, 1 checked, 1 settled, 0 failed"

    def test_both_tasks_raise_nothing_when_they_fail(
        self,
        task: Callable[[], str],
        simulator: Simulator,
        set_conf: Callable[..., None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        make_order()
        set_conf(API_KEY="")
        assert task() == "failed"
        assert messages(caplog) == [
            "The task failed: GIFTCARDS['API_KEY'] is not set."
            " Set it to the key from the provider's dashboard."
        ]
        assert simulator.requests == []
        assert lease(Lease.LOOP).until is None

    def test_both_tasks_log_a_failure_without_its_text(
        self, task: Callable[[], str], simulator: Simulator, caplog: pytest.LogCaptureFixture
    ) -> None:
        make_order()

        def fail(execute: Any, sql: str, *args: Any) -> Any:
            raise ValueError("CANARY")

        with connection.execute_wrapper(fail):
            assert task() == "failed"
        assert messages(caplog) == ["The task failed: ValueError"]
        assert "CANARY" not in caplog.text


@pytest.mark.django_db
class TestTick:
    def test_a_tick_records_that_the_schedule_ran_and_a_sweep_does_not(
        self, simulator: Simulator
    ) -> None:
        tasks.sweep()
        assert provider_state().last_tick_at is None
        began = timezone.now()
        tasks.tick()
        assert began <= provider_state().last_tick_at <= timezone.now()  # type: ignore[operator]

    def test_a_tick_is_recorded_even_if_it_fails_afterwards(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(API_KEY="")
        assert tasks.tick() == "failed"
        assert provider_state().last_tick_at is not None

    @pytest.mark.django_db(transaction=True)
    def test_a_tick_settles_orders_even_if_announcing_is_refused(
        self, simulator: Simulator, shorten: Callable[..., None]
    ) -> None:
        shorten(database_pause=0.2, task_seconds=3)
        order = make_order()
        error = ProgrammingError("no such column")
        with failing("SELECT", "giftcards_statuschange", error=error):
            tasks.tick()
        order.refresh_from_db()
        assert order.status == "FULFILLED"

    def test_a_tick_checks_late_orders_and_gives_dead_ones_up(self, simulator: Simulator) -> None:
        late = buy()
        Order.objects.update(status=Status.DELAYED, accepted_at=ago(900))
        lost = make_order(Status.PLACING, claim="x", claimed_until=ago(1))
        tasks.tick()
        assert history(late)[-1] == "FULFILLED"
        assert history(lost) == ["UNCONFIRMED"]
        assert not late.changes.filter(announced_at=None).exists()

    def test_a_tick_leaves_a_loop_that_is_running_alone(self, simulator: Simulator) -> None:
        make_order()
        hold_lease(Lease.LOOP, token="other", until=ago(-5))
        renewals = iter(range(1, 9))

        def renew(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if changes_lease(Lease.LOOP, sql, params) and next(renewals) == 1:
                Lease.objects.filter(name=Lease.LOOP).update(until=ago(-10))
            return execute(sql, params, many, context)

        with connection.execute_wrapper(renew):
            assert tasks.tick() == BUSY
        assert simulator.requests == []
        assert not OrmQ.objects.exists()

    def test_a_tick_takes_over_from_a_dead_loop(
        self, simulator: Simulator, shorten: Callable[..., None]
    ) -> None:
        shorten(task_seconds=20)
        make_order()
        hold_lease(Lease.LOOP, token="dead", until=ago(-0.8))
        assert tasks.tick() == "1 sent, 1 checked, 1 settled, 0 failed"


@pytest.mark.django_db
def test_a_sweep_task_does_not_wait_for_the_loop(simulator: Simulator) -> None:
    hold_lease(Lease.LOOP, token="other", until=ago(-5))
    make_order()
    assert tasks.sweep() == BUSY
    assert lease(Lease.LOOP).token == "other"
    assert not OrmQ.objects.exists()


@pytest.mark.django_db
def test_a_tick_fails_without_an_error_if_the_database_is_away(
    simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> Any:
        raise OperationalError("CANARY")

    with connection.execute_wrapper(fail):
        assert tasks.tick() == "failed"
    assert messages(caplog) == ["The task failed: OperationalError"]


class OtherSentinel:
    """An object that runs a task like django-q2's class, with an event of the same name."""

    def __init__(self) -> None:
        self.stop_event = threading.Event()
        self.stop_event.set()

    def run(self, task: Callable[[], str]) -> str:
        return task()


class StoppingSentinel(OtherSentinel, Sentinel):  # type: ignore[misc]
    """The class of django-q2, in a cluster that is stopping."""


@pytest.mark.django_db
class TestClusterThatStops:
    def test_a_cluster_that_stops_ends_the_loop_at_once(self, simulator: Simulator) -> None:
        make_order()
        assert StoppingSentinel().run(tasks.sweep) == "0 sent, 0 checked, 0 settled, 0 failed"

    def test_an_event_of_another_object_does_not_end_the_loop(self, simulator: Simulator) -> None:
        make_order()
        assert OtherSentinel().run(tasks.sweep) == "1 sent, 1 checked, 1 settled, 0 failed"

    def test_a_stopping_cluster_is_found_beyond_another_object(self, simulator: Simulator) -> None:
        make_order()
        inner = OtherSentinel()
        done = StoppingSentinel().run(lambda: inner.run(tasks.sweep))
        assert done == "0 sent, 0 checked, 0 settled, 0 failed"


def is_stop_found() -> bool:
    """A task that returns whether it finds the event with which its cluster stops."""
    return cluster_stop() is not None


def run_queue() -> None:
    """Run what is queued as a cluster does, in this process."""
    queued, finished, stopped = Queue(), Queue(), multiprocessing.Event()
    stopped.set()
    while get_broker().queue_size():
        pusher(queued, stopped)
    queued.put("STOP")
    worker(queued, finished, multiprocessing.Value("f", -1))
    finished.put("STOP")
    monitor(finished)


@pytest.mark.django_db(transaction=True)
class TestPipeline:
    @pytest.mark.parametrize("hours", [0.001, 9])
    def test_a_schedule_that_is_due_or_hours_behind_queues_one_tick(self, hours: float) -> None:
        ensure_schedule()
        Schedule.objects.update(next_run=ago(hours * 3600))
        scheduler()
        [queued] = OrmQ.objects.all()
        task = queued.task
        assert task["func"] == "giftcards.tasks.tick"
        assert (task["args"], task["kwargs"]) == ((), {})
        assert (task["save"], task["ack_failure"]) == (False, True)
        schedule = Schedule.objects.get()
        assert timezone.now() < schedule.next_run <= timezone.now() + timedelta(minutes=1)
        assert schedule.repeats == -1
        scheduler()
        scheduler()
        assert OrmQ.objects.count() == 1

    def test_a_paused_schedule_stays_paused(self) -> None:
        ensure_schedule()
        Schedule.objects.update(next_run=ago(1), repeats=0)
        ensure_schedule()
        scheduler()
        assert not OrmQ.objects.exists()

    def test_an_order_settles_by_the_task_that_it_queued(self, simulator: Simulator) -> None:
        order = place_order(**LINE)
        run_queue()
        order.refresh_from_db()
        assert order.status == "FULFILLED"
        # Successful tasks leave no rows.
        assert not OrmQ.objects.exists()
        assert not Task.objects.exists()

    @pytest.mark.usefixtures("soon")
    def test_sweeps_queue_each_other_until_the_order_has_settled(
        self, simulator: Simulator
    ) -> None:
        order = place_order(**LINE | {"type_id": "SIM_NEVER"})
        for _link in range(3):
            run_queue()
            assert OrmQ.objects.count() == 1
        order.refresh_from_db()
        simulator.settle(order.provider_order_id, delivered=1)
        run_queue()
        order.refresh_from_db()
        assert order.status == "PARTIALLY_FILLED"
        assert not OrmQ.objects.exists()

    def test_a_failed_task_leaves_no_row_with_a_traceback(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        place_order(**LINE)
        set_conf(ENCRYPTION_KEYS=[])
        run_queue()
        assert not Task.objects.exists()
        assert not OrmQ.objects.exists()

    def test_a_task_that_is_run_again_sends_no_order_twice(self, simulator: Simulator) -> None:
        """The button in the admin of django-q2 or a second cluster can run a task again."""
        place_order(**LINE)
        [task] = [row.task for row in OrmQ.objects.all()]
        for _time in range(3):
            async_task(task["func"], *task["args"], **task["kwargs"])
        run_queue()
        run_queue()
        assert posts(simulator) == 1

    @pytest.mark.usefixtures("soon")
    def test_rows_of_django_q_hold_no_secrets(self, simulator: Simulator, settings: Any) -> None:
        order = place_order(**LINE, reference="CANARY-REFERENCE")
        make_order(type_id="SIM_NEVER")
        ensure_schedule()
        Schedule.objects.update(next_run=ago(1))
        scheduler()
        tasks.sweep()
        # This row stays, because the caller wants to see the result.
        async_task("giftcards.tasks.sweep", save=True)
        rows = [(row.payload, str(row.task)) for row in OrmQ.objects.all()]
        assert len(rows) == 4
        Schedule.objects.update(next_run=ago(1))
        run_queue()
        assert order.cards.count() == 2
        [kept] = Task.objects.all()
        assert ", 0 failed" in kept.result
        text = str([rows, Schedule.objects.values(), vars(kept)])
        raw = [base64.urlsafe_b64decode(payload.split(":")[0] + "==") for payload, _task in rows]
        for secret in [*secrets_of(settings, simulator), order.reference]:
            assert secret not in text
            assert all(secret.encode() not in content for content in raw)


@pytest.mark.cluster
@pytest.mark.django_db(transaction=True)
class TestCluster:
    def test_a_cluster_sends_and_settles_orders_within_seconds(
        self,
        simulator: Simulator,
        child: Callable[..., subprocess.Popen[str]],
        settings: Any,
        set_conf: Callable[..., None],
    ) -> None:
        set_conf(POLL_INTERVAL=1)
        simulator.delay = (1, 2)
        simulator.keys = [settings.GIFTCARDS["API_KEY"]]
        cluster = child("qcluster")
        first = [place_order(**LINE | {"type_id": kind}) for kind in ("type_001", "TEST_PARTIAL")]
        never = place_order(**LINE | {"type_id": "SIM_NEVER"})
        lost = place_order(**LINE | {"type_id": "SIM_LOST"})
        wait_until(lambda: statuses_of(first) == ["FULFILLED", "PARTIALLY_FILLED"])
        # The loop is running now, so it finds a new order that has no task of its own.
        later = place_order(**LINE | {"type_id": "TEST_REFUND"})
        wait_until(lambda: statuses_of([later]) == ["REFUNDED"])
        assert statuses_of([never, lost]) == ["HANDLING", "UNCONFIRMED"]
        assert posts(simulator) == 5
        # The order is checked alone, or together with other orders through the provider's list.
        assert checks(simulator).count(id_of(never)) + lists(simulator) >= 3
        simulator.settle(id_of(never), delivered=2)
        wait_until(lambda: statuses_of([never]) == ["FULFILLED"])
        output = stop(cluster)
        assert "Traceback" not in output
        assert not Task.objects.exists()
        for secret in secrets_of(settings, simulator):
            assert secret not in output

    def test_a_task_finds_the_stop_event_of_its_cluster(
        self, child: Callable[..., subprocess.Popen[str]]
    ) -> None:
        child("qcluster")
        async_task("tests.test_tasks.is_stop_found", save=True)
        wait_until(Task.objects.exists)
        assert Task.objects.get().result is True

    def test_two_clusters_send_each_order_once(
        self, simulator: Simulator, child: Callable[..., subprocess.Popen[str]]
    ) -> None:
        simulator.delay = (0.5, 1)
        clusters = [child("qcluster"), child("qcluster")]
        orders = [place_order(**LINE) for _order in range(12)]
        wait_until(lambda: set(statuses_of(orders)) == {"FULFILLED"})
        assert posts(simulator) == 12
        assert sorted(id_of(order) for order in orders) == sorted(simulator.orders)
        for order in orders:
            assert order.cards.count() == 2
        for cluster in clusters:
            stop(cluster)


def statuses_of(orders: list[Order]) -> list[str]:
    for order in orders:
        order.refresh_from_db()
    return [order.status for order in orders]


def id_of(order: Order) -> str:
    order.refresh_from_db()
    return str(order.provider_order_id)
