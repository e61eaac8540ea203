"""Workers beside django-q2's cluster, and promises that every worker has to keep."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from django.core import mail
from django.db import OperationalError, connections
from django.test import modify_settings
from django.utils import timezone
from django.utils.module_loading import import_string
from django_q.models import OrmQ

from giftcards import tasks
from giftcards.engine import background
from giftcards.engine.background import Work
from giftcards.engine.loop import begin_tick
from giftcards.exceptions import GiftcardsError
from giftcards.models import Card, Lease, Order, Product, ProviderState, StatusChange
from giftcards.signals import offer_changed, order_status_changed
from giftcards.simulator import Simulator
from giftcards.watch.conditions import CONDITIONS, Standing
from tests.builders import PARTIAL, settle
from tests.conftest import Call
from tests.docs.pages import blocks, page, rows, section
from tests.fakes.mail import MailServer
from tests.stage import (
    LINE,
    PSN,
    ago,
    buy,
    claim_to_send,
    hold_lease,
    lists,
    messages,
    own_key,
    posts,
    prove_key,
    provider_state,
    record_order,
    spend_budget,
    statuses,
    stop,
    wait_until,
    wrong_calls,
)
from tests.wall import Wall

pytest_plugins = ["tests.stage_fixtures"]


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with MailServer() as running:
        yield running


@pytest.mark.cluster
@pytest.mark.all_apps
@pytest.mark.django_db(transaction=True)
def test_without_django_q_the_loop_alone_does_all_the_work(
    child: Callable[..., subprocess.Popen[str]], simulator: Simulator, mail_server: MailServer
) -> None:
    from giftcards.books.models import LedgerState
    from giftcards.delivery.models import Delivery

    without = {
        "DJANGO_SETTINGS_MODULE": "tests.without_django_q",
        "MAIL_PORT": str(mail_server.port),
        # New orders are sent without waiting for this interval.
        "GIFTCARDS_POLL_INTERVAL": "60",
    }
    for command in (["check", "--fail-level", "WARNING"], ["giftcards_setup"]):
        process = child(*command, **without)
        assert process.wait(60) == 0, stop(process)
    LedgerState.objects.current()
    LedgerState.objects.update(due_at=timezone.now() - timedelta(minutes=1))
    record_order(**LINE, reference="cart-1", customer_email="lina@example.com")
    loop = child("giftcards_worker", **without)
    wait_until(Order.objects.filter(status="FULFILLED").exists)
    wait_until(Delivery.objects.filter(status="sent").exists)
    assert len(mail_server.received) == 1
    # The nightly reading is done, and the next one is due in the next night.
    wait_until(LedgerState.objects.filter(due_at__gt=timezone.now()).exists)
    record_order(**LINE, reference="cart-2")
    wait_until(lambda: posts(simulator) == 2, seconds=45)
    assert ProviderState.objects.get().last_tick_by == f"giftcards_worker@{socket.gethostname()}"
    loop.send_signal(signal.SIGTERM)
    assert loop.wait(60) == 0
    assert "Traceback" not in stop(loop)


# The table: every worker has to keep every documented promise that depends on it.


class Broker:
    """A queue in place of a broker: tasks wait until its worker runs them."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []
        #: The function of the documentation page that the test follows.
        self.queue: Callable[[str], object] = print

    def work(self) -> None:
        for _task in range(len(self.waiting)):
            self.waiting.pop(0)()

    def task(self, function: Callable[[], object], **_options: object) -> Any:
        """Stand in for ``shared_task`` of Celery and ``task`` of django.tasks."""

        def put() -> None:
            self.waiting.append(function)

        return SimpleNamespace(delay=put, enqueue=put)


BROKER = Broker()


def queue(path: str) -> None:
    """Pass the path to the page's function; this function is the ``QUEUE_TASK``."""
    BROKER.queue(path)


def follow_page(text: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the code of a page with the broker in place of its library, and return its names."""
    decorate = SimpleNamespace(
        shared_task=lambda **options: partial(BROKER.task, **options), task=BROKER.task
    )
    for name in ("celery", "django.tasks"):
        monkeypatch.setitem(sys.modules, name, cast("Any", decorate))
    names: dict[str, Any] = {}
    exec(next(block for block in blocks(text, "python") if "def queue(path)" in block), names)
    monkeypatch.setattr(BROKER, "queue", names["queue"])
    monkeypatch.setattr(BROKER, "waiting", [])
    return names


#: Does a minute's work, or works until the promise is kept.
Worker = Callable[[Call, Callable[[], object]], None]


def run_loop(call: Call, kept: Callable[[], object]) -> None:
    """Run the loop until the promise is kept."""

    is_over = threading.Event()

    def stop_then() -> None:
        ends_at = time.monotonic() + 10
        try:
            while not (is_over.wait(0.1) or kept() or time.monotonic() > ends_at):
                pass
        finally:
            connections.close_all()
            if not is_over.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=stop_then)
    watcher.start()
    try:
        call("giftcards_worker")
    finally:
        is_over.set()
        watcher.join()


def run_django_q(_call: Call, _kept: Callable[[], object]) -> None:
    """Run the schedule's task, and then the tasks in the queue."""
    tasks.tick()
    for queued in OrmQ.objects.order_by("pk"):
        queued.delete()
        import_string(queued.task["func"])()


def run_celery(_call: Call, _kept: Callable[[], object]) -> None:
    """Run beat's task, and then the tasks that wait at the broker."""
    BROKER.waiting.append(tasks.tick)
    BROKER.work()
    BROKER.work()


def run_django_tasks(call: Call, _kept: Callable[[], object]) -> None:
    """Run cron's command, and then the tasks in the queue."""
    call("giftcards_poll", "--tick")
    BROKER.work()


def run_cron(call: Call, _kept: Callable[[], object]) -> None:
    call("giftcards_poll", "--tick")


#: The workers that the documentation describes.
WORKERS: Mapping[str, Worker] = {
    "django-q2": run_django_q,
    "the loop": run_loop,
    "Celery": run_celery,
    "django.tasks": run_django_tasks,
    "cron": run_cron,
}


@pytest.fixture
def worker(
    request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Worker]:
    name = request.param
    without = modify_settings(INSTALLED_APPS={"remove": "django_q"})
    if name in {"Celery", "django.tasks"}:
        text = page("recipes/celery") if name == "Celery" else section(page("workers"), name)
        follow_page(text, monkeypatch)
        settings.GIFTCARDS = {**settings.GIFTCARDS, "QUEUE_TASK": f"{__name__}.queue"}
    with contextlib.nullcontext() if name == "django-q2" else without:
        yield WORKERS[name]


#: Prepares a shop, and returns a function that says whether the promise is kept.
Promise = Callable[[Simulator], Callable[[], object]]


def an_order_is_sent_followed_and_delivered(_simulator: Simulator) -> Callable[[], object]:
    from giftcards.delivery.models import Delivery

    record_order(**LINE, customer_email="lina@example.com")
    return lambda: (
        statuses() == ["FULFILLED"]
        and [*Delivery.objects.values_list("status", flat=True)] == ["sent"]
        and len(mail.outbox) == 1
    )


def an_order_whose_answer_was_lost_is_not_bought_twice(
    simulator: Simulator,
) -> Callable[[], object]:
    order = buy(type_id="SIM_LOST")
    Order.objects.filter(pk=order.pk).update(due_at=ago(1))
    return lambda: (
        statuses()[0] not in {"PENDING", "UNCONFIRMED"}
        and len(simulator.orders) == posts(simulator) == 1
    )


def an_order_of_a_dead_process_is_looked_for(simulator: Simulator) -> Callable[[], object]:
    order = record_order(**LINE)
    claim_to_send(order)
    Order.objects.filter(pk=order.pk).update(claimed_until=ago(1))
    return lambda: statuses() == ["UNCONFIRMED"] and not posts(simulator) and lists(simulator)


def the_loop_of_a_dead_process_is_taken_over(_simulator: Simulator) -> Callable[[], object]:
    record_order(**LINE)
    hold_lease(Lease.LOOP, until=ago(1))
    return lambda: statuses() == ["FULFILLED"]


def a_late_order_is_delivered_all_the_same(simulator: Simulator) -> Callable[[], object]:
    order = buy()
    moved = Order.objects.filter(pk=order.pk)
    moved.update(status="DELAYED", accepted_at=ago(3_600), due_at=ago(1))
    return lambda: statuses() == ["FULFILLED"]


def an_order_above_its_ceiling_waits(simulator: Simulator) -> Callable[[], object]:
    record_order(**LINE, max_price=Decimal(1))
    return lambda: Order.objects.get().is_on_hold and not posts(simulator)


def a_key_that_is_refused_makes_one_request(simulator: Simulator) -> Callable[[], object]:
    simulator.keys = ["another"]
    for _order in range(3):
        record_order(**LINE)
    return lambda: (
        statuses() == ["PENDING"] * 3 and wrong_calls(simulator) == 1 and own_key().is_refused
    )


def the_limit_is_kept(simulator: Simulator) -> Callable[[], object]:
    prove_key()
    record_order(**LINE)
    spend_budget()
    asked = len(simulator.requests)
    return lambda: (
        provider_state().last_tick_at
        and statuses() == ["PENDING"]
        and len(simulator.requests) == asked
    )


def every_change_is_told_again_after_a_failure(_simulator: Simulator) -> Callable[[], object]:
    told: list[str] = []

    def hear(change: StatusChange, **_: Any) -> None:
        told.append(change.to_status)
        if len(told) == 1:
            raise ValueError

    _hear(order_status_changed, hear)
    settle("web-1", PARTIAL)

    def kept() -> object:
        # End the back-off.
        StatusChange.objects.exclude(announce_at=None).update(announce_at=ago(1))
        return len(told) > 1 and told[0] == told[1]

    return kept


def news_of_orders_comes_first(_simulator: Simulator) -> Callable[[], object]:
    told: list[str] = []
    _hear(order_status_changed, lambda **_: told.append("order"))
    _hear(offer_changed, lambda **_: told.append("offer"))
    settle("web-1", PARTIAL)
    return lambda: {*told} == {"order", "offer"} and told[0] == "order"


def a_piece_that_fails_keeps_no_other_from_its_turn(_simulator: Simulator) -> Callable[[], object]:
    done: list[str] = []
    _add(Work(name="news", do=_fail, is_prompt=True), Work(name="first", do=_fail))
    _add(Work(name="last", do=lambda _: done.append("last"), is_last=True))
    return lambda: done


def the_daily_work_is_done_while_an_order_is_open(_simulator: Simulator) -> Callable[[], object]:
    from giftcards.books.models import LedgerState

    buy(type_id="SIM_NEVER")
    old = settle("web-1042", PARTIAL)
    Order.objects.filter(pk=old.pk).update(finalized_at=ago(91 * 86_400), open_amount=0)
    StatusChange.objects.update(announced_at=timezone.now(), announce_at=None)
    LedgerState.objects.current()
    LedgerState.objects.update(due_at=ago(1))
    told: list[str] = []
    _hear(offer_changed, lambda type_id, **_: told.append(type_id))
    return lambda: (
        statuses() == ["HANDLING", "PARTIALLY_FILLED"]
        and LedgerState.objects.get().due_at > timezone.now()
        and Product.objects.filter(product_id=PSN).exclude(types_read_at=None)
        and "SIM_NEVER" in told
        and not Card.objects.readable().count()
        and provider_state().chores_ended_at
    )


def a_failure_of_the_database_ends_nothing(_simulator: Simulator) -> Callable[[], object]:
    record_order(**LINE)
    done: list[str] = []

    def fail_once(_may_go_on: object) -> None:
        done.append("once")
        if len(done) == 1:
            raise OperationalError

    _add(Work(name="first", do=fail_once), Work(name="second", do=lambda _: done.append("then")))
    return lambda: statuses() == ["FULFILLED"] and done[:2] == ["once", "then"]


def the_worker_is_named(_simulator: Simulator) -> Callable[[], object]:
    # The row may not be there yet.
    named = ProviderState.objects.filter(last_tick_by__endswith=f"@{socket.gethostname()}")
    return named.exists


PROMISES: Sequence[Promise] = (
    an_order_is_sent_followed_and_delivered,
    an_order_whose_answer_was_lost_is_not_bought_twice,
    an_order_of_a_dead_process_is_looked_for,
    the_loop_of_a_dead_process_is_taken_over,
    a_late_order_is_delivered_all_the_same,
    an_order_above_its_ceiling_waits,
    a_key_that_is_refused_makes_one_request,
    the_limit_is_kept,
    every_change_is_told_again_after_a_failure,
    news_of_orders_comes_first,
    a_piece_that_fails_keeps_no_other_from_its_turn,
    the_daily_work_is_done_while_an_order_is_open,
    a_failure_of_the_database_ends_nothing,
    the_worker_is_named,
)


def _fail(_may_go_on: object) -> None:
    raise ValueError


def _add(*works: Work) -> None:
    background.WORK.update({work.name: work for work in works})


def _hear(signal: Any, receiver: Callable[..., object]) -> None:
    signal.connect(receiver, weak=False, dispatch_uid=f"shop {len(HEARD)}")
    HEARD.append((signal, f"shop {len(HEARD)}"))


HEARD: list[tuple[Any, str]] = []


@pytest.mark.all_apps
class TestPromises:
    @pytest.fixture(autouse=True)
    def _shop(
        self,
        settings: Any,
        set_conf: Callable[..., None],
        shorten: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[None]:
        from tests.delivery.conftest import SHOP
        from tests.delivery.connecting import connect, disconnect

        set_conf(POLL_INTERVAL=0.1, CATALOGUE_INTERVAL=3600, CODES_KEPT_DAYS=90)
        settings.GIFTCARDS_DELIVERY = SHOP
        shorten(
            task_seconds=0.5,
            loop_look=0.05,
            tick_patience=timedelta(0),
            chores_every=0.2,
            turns_pause=0.05,
            task_poll=0.05,
            task_wait=0.2,
            database_pause=0.05,
        )
        monkeypatch.setattr(background, "WORK", dict(background.WORK))
        monkeypatch.setattr("giftcards.plugins.WORK", background.WORK)
        monkeypatch.setattr("tests.delivery.connecting.WORK", background.WORK)
        connect()
        yield
        disconnect()
        while HEARD:
            signal, uid = HEARD.pop()
            signal.disconnect(dispatch_uid=uid)

    def test_each_documented_worker_is_tried(self) -> None:
        documented = [row[0] for row in rows(section(page("workers"), "Which worker?"))]
        assert [re.sub(r"\[(.*)\]\(.*\)", r"\1", name) for name in documented] == [*WORKERS]

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
    @pytest.mark.parametrize("worker", WORKERS, indirect=True)
    def test_every_worker_keeps_every_promise(
        self,
        promise: Promise,
        worker: Worker,
        call: Call,
        simulator: Simulator,
        shared_database: str,
        handlers: None,
    ) -> None:
        kept = promise(simulator)
        for _minute in range(3):
            worker(call, kept)
            if kept():
                break
        assert kept()


@pytest.mark.django_db
class TestTurns:
    """Jobs share the time of a tick; the next tick continues where the last one had to end."""

    @pytest.fixture(autouse=True)
    def _alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(background, "WORK", {})

    def give(self, has_time: Callable[[], bool] = lambda: True) -> None:
        [lane] = background.lanes()
        background.give_turns(lane, threading.Event(), has_time)

    def turn(self, seconds: float = 9) -> list[str]:
        """Return the jobs done in one turn with this much time; each job takes a second."""
        done: list[str] = []
        for name in "abc":
            _add(Work(name=name, do=lambda go, name=name: [done.append(name), go()]))
        self.give(lambda: len(done) < seconds)
        return done

    def overdue(self) -> str:
        return CONDITIONS["daily_work_overdue"].sentence(Standing())

    def test_a_turn_that_has_to_end_goes_on_with_the_next_tick(self) -> None:
        done = [self.turn(seconds) for seconds in (2, 2, 9, 1, 9)]
        assert ["".join(turn) for turn in done] == ["ab", "c", "abc", "a", "bc"]

    def test_work_that_kills_its_worker_does_not_keep_the_others_from_their_turn(self) -> None:
        def die(_has_time: object) -> None:
            raise SystemExit

        _add(Work(name="first", do=die))
        with pytest.raises(SystemExit):
            self.turn()
        assert self.turn() == ["a", "b", "c"]
        assert provider_state().chores_ended_at is None

    def test_work_that_fails_is_logged_and_the_others_are_done(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        _add(Work(name="the ledger", do=lambda _has_time: {}["CANARY"]))
        assert self.turn() == ["a", "b", "c"]
        assert messages(caplog) == ["This background work failed: the ledger. KeyError"]

    def test_what_people_wait_for_comes_first_and_what_may_hang_comes_last(self) -> None:
        _add(
            Work(name="news", do=_fail, is_prompt=True, is_last=True),
            Work(name="catalogue", do=_fail, is_last=True),
            Work(name="ledger", do=_fail),
            Work(name="messages", do=_fail, is_prompt=True),
        )
        found = [[work.name for work in lane] for lane in background.lanes()]
        assert found == [["messages"], ["ledger", "catalogue"], ["news"]]

    def test_one_process_does_the_daily_work_at_a_time(self) -> None:
        hold_lease(Lease.CHORES, until=ago(-60))
        assert self.turn() == []

    def test_work_that_comes_to_its_end_too_late_leaves_the_record_alone(self) -> None:
        def be_late(_has_time: object) -> None:
            hold_lease(Lease.CHORES, until=ago(-60))
            ProviderState.objects.note_chores("b", {})

        _add(Work(name="first", do=be_late))
        assert self.turn() == []
        assert provider_state().chores_record == ("b", {})

    def fail(self) -> None:
        _add(Work(name="c", do=lambda _has_time: {}["CANARY"]))
        self.give()

    @pytest.mark.parametrize("again", ["fail", "turn"])
    def test_work_that_does_not_come_to_its_end_for_an_hour_is_told(
        self, again: str, wall: Wall
    ) -> None:
        # For "turn": the last job asks for more time when none is left.
        work = partial(self.turn, 3) if again == "turn" else self.fail
        self.turn()
        for minutes, told in (
            (59, ""),
            (
                3,
                "Parts of the daily work have not been completed for more than an hour. The log"
                " may show the reason. Not completed: c.",
            ),
        ):
            for _minute in range(minutes):
                ProviderState.objects.note_tick()
                wall.let_pass(60)
            work()
            assert self.overdue() == told
        # A worker that has stopped is reported by a different condition.
        wall.let_pass(600)
        assert self.overdue() == ""

    def test_a_worker_that_has_just_begun_again_has_an_hour(self, wall: Wall) -> None:
        ProviderState.objects.note_tick()
        self.turn()
        wall.let_pass(86_400)
        ProviderState.objects.note_tick()
        assert self.overdue() == ""


@pytest.mark.django_db
class TestNames:
    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            (["manage.py", "qcluster", "--settings=shop.settings"], "qcluster"),
            (["/srv/venv/lib/django/__main__.py", "db_worker", "secret"], "db_worker"),
            (["/srv/venv/bin/django-admin", "giftcards_worker"], "giftcards_worker"),
            (["/srv/venv/bin/celery", "-A", "shop", "worker"], "celery"),
            (["/srv/venv/lib/celery/__main__.py", "worker"], "celery"),
            (["manage.py"], "manage"),
            ([], ""),
            (["x" * 200], "x" * 100),
        ],
    )
    def test_a_tick_records_its_program_and_machine(
        self, arguments: list[str], name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "argv", arguments)
        monkeypatch.setattr(socket, "gethostname", lambda: "web-2")
        begin_tick()
        assert ProviderState.objects.get().last_tick_by == f"{name}@web-2"[:100]


class TestBeside:
    @pytest.fixture(autouse=True)
    def _alone(self, monkeypatch: pytest.MonkeyPatch, shorten: Callable[..., None]) -> None:
        monkeypatch.setattr(background, "WORK", {})
        shorten(chores_every=0.02, turns_pause=0.01, task_poll=0.01, turns_end=0)

    @pytest.mark.parametrize(
        ("error", "why"), [(ValueError("CANARY"), "ValueError"), (GiftcardsError("Why."), "Why.")]
    )
    def test_work_beside_the_loop_that_fails_is_begun_again_until_the_loop_ends(
        self, error: Exception, why: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        begun: list[object] = []

        def work(may_go_on: object) -> None:
            begun.append(may_go_on)
            if len(begun) == 1:
                raise error

        _add(Work(name="the messages", do=work, is_prompt=True))
        before = threading.active_count()
        with background.beside(threading.Event()):
            wait_until(lambda: len(begun) > 2)
        assert threading.active_count() == before
        assert messages(caplog) == [f"This background work failed: the messages. {why}"]

    def test_prompt_work_is_begun_as_soon_as_it_is_due(self, shorten: Callable[..., None]) -> None:
        shorten(chores_every=60)
        begun: list[object] = []
        due = iter([False, True])
        _add(
            Work(
                name="the messages",
                do=begun.append,
                is_prompt=True,
                is_due=lambda: next(due, False),
            )
        )
        with background.beside(threading.Event()):
            wait_until(lambda: len(begun) == 2)

    def test_an_error_of_the_loop_ends_the_work_beside_it(self) -> None:
        _add(Work(name="the messages", do=lambda may_go_on: may_go_on(), is_prompt=True))
        with pytest.raises(ValueError, match="CANARY"), background.beside(threading.Event()):
            raise ValueError("CANARY")

    @pytest.mark.django_db(transaction=True)
    def test_work_that_hangs_holds_up_neither_the_others_nor_the_end(
        self,
        shared_database: str,
        shorten: Callable[..., None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        shorten(turn_seconds=0.1, request_timeout=1)
        begun: list[str] = []
        goes_on = threading.Event()

        def hang(_may_go_on: object) -> None:
            begun.append("hangs")
            Lease.objects.revoke(Lease.CHORES)  # as if two minutes had passed
            goes_on.wait(60)

        _add(Work(name="a", do=hang), Work(name="b", do=lambda _: begun.append("b")))
        try:
            with background.beside(threading.Event()):
                wait_until(lambda: begun.count("b") > 1)
        finally:
            goes_on.set()
        assert begun.count("hangs") == 1
        # On a busy machine, a turn may be given up before its first job begins.
        assert [said for said in messages(caplog) if said.startswith("No progress for 0.1 s: ")]
        wait_until(lambda: not background._under_way)
