"""The schedule of the watchdog, and task queues that are down or run tasks at once."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction
from django.test import modify_settings, override_settings
from django.utils import timezone
from django_q.brokers import Broker
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule

from giftcards.engine.task_queue import (
    SWEEP_TASK,
    TICK_TASK,
    Outcome,
    ensure_schedule,
    next_tick,
    queue_task,
    schedule_problem,
    waiting_tasks,
    wake_worker,
    workers,
)
from giftcards.fulfilment import place_order
from giftcards.models import Lease, Order, ProviderState
from giftcards.simulator import Simulator
from giftcards.tasks import sweep, tick
from tests.builders import make_order
from tests.fakes import queues
from tests.fakes.brokers import PASSWORD, AtOnce, Down, Hanging, Unreachable, broker
from tests.stage import LINE, Log, Setter, ago, fresh, in_threads, messages, stop, wait_until

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

ROW = {
    "name": "giftcards: follow orders",
    "func": "giftcards.tasks.tick",
    "schedule_type": "I",
    "minutes": 1,
    "args": None,
    "kwargs": "{'q_options': {'save': False, 'ack_failure': True}}",
    "hook": None,
    "repeats": -1,
    "cron": None,
    "cluster": None,
}


def row() -> dict[str, Any]:
    return Schedule.objects.values(*ROW).get()


def test_a_new_schedule_is_created_and_due_at_once() -> None:
    assert ensure_schedule() is Outcome.CREATED
    assert row() == ROW
    assert Schedule.objects.get().next_run <= timezone.now()


def test_a_correct_schedule_is_left_as_it_is() -> None:
    ensure_schedule()
    before = Schedule.objects.values().get()
    assert ensure_schedule() is Outcome.IN_PLACE
    assert Schedule.objects.values().get() == before


@pytest.mark.parametrize(
    "change",
    [
        {"minutes": 5},
        {"minutes": None},
        {"schedule_type": "H"},
        {"schedule_type": "O"},
        {"kwargs": None},
        {"kwargs": "{'q_options': {'save': True}}"},
        {"name": None},
        {"name": "mine"},
    ],
)
def test_a_damaged_schedule_is_repaired(change: dict[str, Any]) -> None:
    ensure_schedule()
    Schedule.objects.update(**change)
    assert ensure_schedule() is Outcome.REPAIRED
    assert row() == ROW
    assert ensure_schedule() is Outcome.IN_PLACE


@pytest.mark.parametrize("change", [{}, {"minutes": 5, "schedule_type": "H"}])
@pytest.mark.parametrize("choice", [{"repeats": 0}, {"cluster": "other"}, {"next_run": ago(-999)}])
def test_changes_to_a_schedule_that_a_person_may_make_are_kept(
    change: dict[str, Any], choice: dict[str, Any]
) -> None:
    ensure_schedule()
    Schedule.objects.update(**change, **choice)
    ensure_schedule()
    assert Schedule.objects.filter(**choice).exists()


def test_of_several_schedules_of_the_watchdog_the_first_is_kept(settings: Any) -> None:
    ensure_schedule()
    first = Schedule.objects.get()
    for name in (first.name, "copy", None):
        Schedule.objects.create(func=first.func, name=name, schedule_type="I", minutes=1)
    assert ensure_schedule() is Outcome.REPAIRED
    assert Schedule.objects.get() == first


def test_schedules_of_other_functions_are_left_alone() -> None:
    Schedule.objects.create(func="shop.tasks.report", name=ROW["name"], schedule_type="D")
    before = Schedule.objects.values().get()
    assert ensure_schedule() is Outcome.CREATED
    assert ensure_schedule() is Outcome.IN_PLACE
    assert Schedule.objects.values().get(func="shop.tasks.report") == before


@pytest.mark.django_db(transaction=True)
def test_concurrent_threads_create_one_schedule(shared_database: str) -> None:
    outcomes = in_threads(4, ensure_schedule)
    assert sorted(outcome.value for outcome in outcomes) == ["created"] + ["in place"] * 3
    assert row() == ROW


@pytest.mark.django_db(transaction=True)
@pytest.mark.all_apps
def test_concurrent_processes_create_one_schedule(
    child: Callable[..., subprocess.Popen[str]],
) -> None:
    processes = [child("giftcards_setup") for _process in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    said = sorted(stop(process).split(".")[0] for process in processes)
    assert said == ["The schedule is created", "The schedule is in place"]
    assert row() == ROW


def test_a_missing_or_paused_schedule_is_explained() -> None:
    assert (
        schedule_problem()
        == "There is no schedule for the background work. Run `manage.py giftcards_setup`."
    )
    ensure_schedule()
    assert schedule_problem() == ""
    Schedule.objects.update(repeats=0)
    assert schedule_problem() == (
        "The schedule for the background work is paused. In the django-q2 admin, set the"
        " schedule's repeats to -1."
    )


@pytest.fixture(params=["not installed", "not used"])
def without_django_q(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test without django-q2: it is not installed, or the shop uses a different queue."""
    if request.param == "not installed":
        change: Any = modify_settings(INSTALLED_APPS={"remove": "django_q"})
    else:
        own = {**settings.GIFTCARDS, "QUEUE_TASK": "tests.fakes.queues.record"}
        change = override_settings(GIFTCARDS=own)
    with change:
        yield


@pytest.mark.usefixtures("without_django_q")
def test_without_django_q_there_is_no_schedule_and_none_is_missed() -> None:
    assert ensure_schedule() is None
    assert not Schedule.objects.exists()
    state = ProviderState.objects.current()
    assert (schedule_problem(), next_tick(state), waiting_tasks(), workers()) == ("", None, None, 2)


@pytest.mark.django_db(transaction=True)
def test_without_a_queue_an_order_is_recorded_and_nothing_is_queued(simulator: Simulator) -> None:
    with modify_settings(INSTALLED_APPS={"remove": "django_q"}):
        order = place_order(**LINE)
        assert not Lease.objects.exists()
        assert "1 sent" in tick()
    assert fresh(order).status == "FULFILLED"
    assert not OrmQ.objects.exists()


@pytest.mark.django_db(transaction=True)
class TestQueueOfTheShop:
    @pytest.fixture(autouse=True)
    def _forget(self) -> Iterator[None]:
        yield
        queues.recorded.clear()
        queues.returned.clear()

    @pytest.fixture
    def own(self, set_conf: Setter) -> Callable[[str], None]:
        return lambda name: set_conf(QUEUE_TASK=f"tests.fakes.queues.{name}")

    def test_it_gets_the_path_of_the_sweep_after_the_commit_and_once(
        self, own: Callable[[str], None], shared_database: str
    ) -> None:
        own("record")
        with transaction.atomic():
            place_order(**LINE)
            assert queues.recorded == []
        place_order(**LINE | {"reference": "cart-2"})
        assert queues.recorded == ["giftcards.tasks.sweep"]
        assert not OrmQ.objects.exists()

    @pytest.mark.all_apps
    def test_it_gets_the_path_of_the_task_that_sends_messages(
        self, own: Callable[[str], None], shared_database: str
    ) -> None:
        from giftcards.delivery.queueing import wake

        make_order()
        own("record")
        wake()
        assert queues.recorded == ["giftcards.delivery.tasks.deliver"]

    @pytest.mark.usefixtures("simulator", "shared_database")
    def test_a_sweep_with_work_left_is_queued_again(
        self, own: Callable[[str], None], shorten: Setter
    ) -> None:
        own("record")
        shorten(task_seconds=0)
        make_order()
        sweep()
        assert queues.recorded == ["giftcards.tasks.sweep"]

    @pytest.mark.parametrize(
        "path",
        [
            SWEEP_TASK,
            TICK_TASK,
            pytest.param("giftcards.delivery.tasks.deliver", marks=pytest.mark.all_apps),
        ],
    )
    def test_a_task_that_it_runs_at_once_does_nothing(
        self,
        path: str,
        own: Callable[[str], None],
        simulator: Simulator,
        caplog: Log,
        shared_database: str,
    ) -> None:
        """Otherwise, a web request would wait until the task has ended."""
        order = make_order()
        own("run_at_once")
        queue_task(path)
        assert (fresh(order).status, simulator.requests) == ("PENDING", [])
        assert queues.returned == ["refused"]
        assert messages(caplog) == [
            "A task ran immediately instead of being queued, so it did not do any work. Orders"
            " wait until a worker or `manage.py giftcards_poll` follows them."
        ]

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("refuse", "Queueing a task failed: ConnectionError."),
            ("gone", "Queueing a task failed: ImportError."),
            ("hang", "The task queue does not answer."),
        ],
    )
    def test_a_queue_that_does_not_work_fails_no_order(
        self, name: str, why: str, own: Callable[[str], None], caplog: Log
    ) -> None:
        own(name)
        queues.answers.clear()
        order = place_order(**LINE)
        queues.answers.set()
        assert Order.objects.get() == order
        assert messages(caplog) == [f"{why} The next tick does the work within about a minute."]
        assert queues.PASSWORD not in caplog.text


@pytest.mark.django_db(transaction=True)
class TestBrokers:
    @pytest.fixture
    def hanging(self) -> Iterator[None]:
        Hanging.answers.clear()
        with broker(Hanging):
            yield
            Hanging.answers.set()

    @pytest.mark.parametrize("kind", [Down, Unreachable])
    def test_a_broker_that_is_down_does_not_fail_the_order(
        self, kind: type[Broker], caplog: Log
    ) -> None:
        with broker(kind):
            order = place_order(**LINE)
        assert Order.objects.get() == order
        assert messages(caplog) == [
            "Queueing a task failed: ConnectionError. The next tick does the work within"
            " about a minute."
        ]
        assert PASSWORD not in caplog.text

    @pytest.mark.usefixtures("hanging")
    def test_a_broker_that_hangs_does_not_hold_up_placing_an_order(self, caplog: Log) -> None:
        began = time.monotonic()
        order = place_order(**LINE)
        assert time.monotonic() - began < 30
        assert Order.objects.get() == order
        assert messages(caplog) == [
            "The task queue does not answer. The next tick does the work within about a minute."
        ]

    @pytest.mark.usefixtures("hanging")
    def test_while_a_broker_hangs_the_next_orders_do_not_wait_for_it(self) -> None:
        before = set(threading.enumerate())
        for _order in range(5):
            place_order(**LINE)
        assert len(set(threading.enumerate()) - before) == 1
        Hanging.answers.set()
        wait_until(lambda: not set(threading.enumerate()) - before)

    @pytest.mark.parametrize("kind", [Down, Unreachable, Hanging])
    def test_the_watchdog_sends_an_order_that_the_broker_did_not_queue(
        self, kind: type[Broker], simulator: Simulator
    ) -> None:
        Hanging.answers.set()
        with broker(kind):
            order = place_order(**LINE)
            assert "1 sent" in tick()
        assert fresh(order).status == "FULFILLED"

    @pytest.mark.usefixtures("shared_database")
    def test_a_broker_that_runs_tasks_at_once_finds_the_committed_order(self) -> None:
        AtOnce.seen.clear()
        with broker(AtOnce):
            with transaction.atomic():
                place_order(**LINE, reference="cart-1")
                wake_worker()
                assert AtOnce.seen == []
            assert AtOnce.seen == [{"cart-1"}]
            Lease.objects.all().delete()
            place_order(**LINE, reference="cart-2")
            assert AtOnce.seen[1:] == [{"cart-1", "cart-2"}]

    def test_the_database_broker_uses_the_connection_of_the_caller(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Tests of a shop can therefore see the task, and no second connection is opened."""
        started: list[threading.Thread] = []
        monkeypatch.setattr(threading.Thread, "start", started.append)
        place_order(**LINE)
        assert OrmQ.objects.count() == 1
        assert started == []

    def test_the_redis_broker_is_used_if_no_database_is_configured(
        self, monkeypatch: pytest.MonkeyPatch, caplog: Log, closed_port: int
    ) -> None:
        monkeypatch.setattr(Conf, "ORM", None)
        monkeypatch.setattr(Conf, "REDIS", {"host": "127.0.0.1", "port": closed_port})
        place_order(**LINE)
        [message] = messages(caplog)
        # The error depends on whether the redis package is installed.
        assert message.startswith("Queueing a task failed: ")
        assert not OrmQ.objects.exists()
