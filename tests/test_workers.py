"""Workers beside django-q2's cluster, in processes of their own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from giftcards import tasks
from giftcards.conditions import CONDITIONS, Standing
from giftcards.engine.loop import begin_tick, follow
from giftcards.exceptions import GiftcardsError
from giftcards.models import Card, Lease, Order, Product, ProviderState, StatusChange
from giftcards.signals import offer_changed
from giftcards.simulator import Simulator
from giftcards.tasks import add_chore, add_companion, companions, do_chores
from tests.builders import PARTIAL, settle
from tests.conftest import Call
from tests.docs.pages import page, rows, section
from tests.fakes.mail import MailServer
from tests.stage import (
    LINE,
    PSN,
    ago,
    buy,
    hold_lease,
    messages,
    posts,
    provider_state,
    record_order,
    statuses,
    stop,
    wait_until,
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
        # A new order does not wait for it.
        "GIFTCARDS_POLL_INTERVAL": "60",
    }
    for command in (["check", "--fail-level", "WARNING"], ["giftcards_setup"]):
        process = child(*command, **without)
        assert process.wait(60) == 0, stop(process)
    LedgerState.objects.current()
    LedgerState.objects.update(due_at=timezone.now() - timedelta(minutes=1))
    record_order(**LINE, reference="cart-1", customer_email="lina@example.com")
    loop = child("giftcards_poll", "--loop", **without)
    wait_until(Order.objects.filter(status="FULFILLED").exists)
    wait_until(Delivery.objects.filter(status="sent").exists)
    assert len(mail_server.received) == 1
    # The night's reading is done, and put off to the next night.
    wait_until(LedgerState.objects.filter(due_at__gt=timezone.now()).exists)
    record_order(**LINE, reference="cart-2")
    wait_until(lambda: posts(simulator) == 2, seconds=45)
    assert ProviderState.objects.get().ticked_by == f"giftcards_poll@{socket.gethostname()}"
    loop.send_signal(signal.SIGTERM)
    assert loop.wait(60) == 0
    assert "Traceback" not in stop(loop)


def by_the_loop(_call: Call) -> None:
    """Until its thread has done the daily work once, beside the orders."""
    stop = threading.Event()

    def stop_then() -> None:
        try:
            wait_until(lambda: provider_state().chores_ended_at)
        finally:
            stop.set()
            connections.close_all()

    watcher = threading.Thread(target=stop_then)
    watcher.start()
    with companions(stop):
        follow(seconds=None, stop=stop)
    watcher.join()


def by_a_tick(_call: Call) -> None:
    tasks.tick()


def by_a_tick_beside_another_worker(call: Call) -> None:
    hold_lease(Lease.LOOP, token="other", until=ago(-60))
    by_a_tick(call)


def by_cron(call: Call) -> None:
    call("giftcards_poll", "--tick")


@pytest.mark.all_apps
class TestDailyWork:
    """Chores get their turn whatever is open, by each worker of the documentation."""

    #: The worker, and how it works in the minute of the test.
    WORKERS: Mapping[str, Sequence[Callable[[Call], None]]] = {
        "django-q2": (by_a_tick, by_a_tick_beside_another_worker),
        "the loop": (by_the_loop,),
        "Celery": (by_a_tick, by_a_tick_beside_another_worker),
        "django.tasks": (by_cron,),
        "cron": (by_cron,),
    }

    @pytest.fixture(autouse=True)
    def quickly(self, set_conf: Callable[..., None], shorten: Callable[..., None]) -> None:
        set_conf(POLL_INTERVAL=0.1, CATALOGUE_EVERY=60, CODES_KEPT_DAYS=90)
        shorten(task_seconds=0.3, loop_look=0.05, tick_patience=timedelta(seconds=1))

    def test_each_documented_worker_is_tried(self) -> None:
        documented = [row[0] for row in rows(section(page("workers"), "Which worker?"))]
        assert [re.sub(r"\[(.*)\]\(.*\)", r"\1", name) for name in documented] == [*self.WORKERS]

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize(
        "work",
        dict.fromkeys(work for ways in WORKERS.values() for work in ways),
        ids=lambda work: work.__name__,
    )
    def test_daily_work_is_done_while_an_order_is_open(
        self,
        work: Callable[[Call], None],
        call: Call,
        simulator: Simulator,
        shared_database: str,
        handlers: None,
    ) -> None:
        from giftcards.books.models import LedgerState

        buy(type_id="SIM_NEVER")
        old = settle("web-1042", PARTIAL)
        Order.objects.filter(pk=old.pk).update(settled_at=ago(91 * 86_400), open_amount=0)
        StatusChange.objects.update(announced_at=timezone.now(), announce_at=None)
        LedgerState.objects.current()
        LedgerState.objects.update(due_at=ago(1))
        told: list[str] = []

        def hear(type_id: str, **_: Any) -> None:
            told.append(type_id)

        offer_changed.connect(hear, dispatch_uid="shop")
        try:
            work(call)
        finally:
            offer_changed.disconnect(dispatch_uid="shop")
        assert statuses() == ["HANDLING", "PARTIALLY_FILLED"]
        assert LedgerState.objects.get().due_at > timezone.now()
        assert Product.objects.get(product_id=PSN).types_read_at
        assert "SIM_NEVER" in told
        assert Card.objects.readable().count() == 0
        assert provider_state().chores_ended_at


@pytest.mark.django_db
class TestTurns:
    """The chores share the time of a tick; the next one goes on where one had to end."""

    @pytest.fixture(autouse=True)
    def _alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("giftcards.tasks._LAST_CHORES", {})
        monkeypatch.setattr("giftcards.tasks._chores", {})

    def turn(self, seconds: float = 9) -> list[str]:
        """The chores of one turn, each of which takes a second; their time is as given."""
        done: list[str] = []
        for name in "abc":
            add_chore(name, lambda has_time, name=name: [done.append(name), has_time()])
        do_chores(threading.Event(), lambda: len(done) < seconds)
        return done

    def overdue(self) -> str:
        return CONDITIONS["chores"].sentence(Standing())

    def test_a_turn_that_has_to_end_goes_on_with_the_next_tick(self) -> None:
        turns = [self.turn(seconds) for seconds in (2, 2, 9, 1, 9)]
        assert ["".join(turn) for turn in turns] == ["ab", "c", "abc", "a", "bc"]

    def test_a_chore_that_kills_its_worker_does_not_keep_the_others_from_their_turn(self) -> None:
        def die(_has_time: object) -> None:
            raise SystemExit

        add_chore("first", die)
        with pytest.raises(SystemExit):
            self.turn()
        assert self.turn() == ["a", "b", "c"]
        assert provider_state().chores_ended_at is None

    def test_a_chore_that_fails_is_logged_and_the_others_are_done(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        add_chore("the ledger", lambda _has_time: {}["CANARY"])
        assert self.turn() == ["a", "b", "c"]
        assert messages(caplog) == ["Without the ledger for a minute: KeyError"]

    def test_one_process_does_the_daily_work_at_a_time(self) -> None:
        hold_lease(Lease.CHORES, until=ago(-60))
        assert self.turn() == []

    def fail(self) -> None:
        add_chore("c", lambda _has_time: {}["CANARY"])
        do_chores(threading.Event())

    @pytest.mark.parametrize("again", ["fail", "turn"])
    def test_a_chore_that_does_not_come_to_its_end_for_an_hour_is_told(
        self, again: str, wall: Wall
    ) -> None:
        # The last one asks for more time when all is used.
        work = partial(self.turn, 3) if again == "turn" else self.fail
        self.turn()
        for minutes, told in (
            (59, ""),
            (3, "Daily work has not come to its end for more than an hour, as the log may say: c."),
        ):
            for _minute in range(minutes):
                ProviderState.objects.note_tick()
                wall.let_pass(60)
            work()
            assert self.overdue() == told
        # A worker that has stopped is told as such.
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
            (["/srv/venv/bin/django-admin", "giftcards_poll", "--loop"], "giftcards_poll"),
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
        assert ProviderState.objects.get().ticked_by == f"{name}@web-2"[:100]


class TestCompanions:
    @pytest.fixture(autouse=True)
    def _alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("giftcards.tasks._companions", {})
        monkeypatch.setattr("giftcards.tasks._COMPANION_PAUSE", 0.01)

    @pytest.mark.parametrize(
        ("error", "why"), [(ValueError("CANARY"), "ValueError"), (GiftcardsError("Why."), "Why.")]
    )
    def test_work_beside_the_loop_that_fails_is_begun_again_until_the_loop_ends(
        self, error: Exception, why: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        begun: list[threading.Event] = []

        def work(stop: threading.Event) -> None:
            begun.append(stop)
            if len(begun) == 1:
                raise error
            stop.wait()

        add_companion("the messages", work)
        before = threading.active_count()
        with companions(threading.Event()):
            wait_until(lambda: len(begun) == 2)
        assert threading.active_count() == before
        assert messages(caplog) == [f"Without the messages for a minute: {why}"]

    def test_an_error_of_the_loop_ends_the_work_beside_it(self) -> None:
        add_companion("the messages", threading.Event.wait)
        with pytest.raises(ValueError, match="CANARY"), companions(threading.Event()):
            raise ValueError("CANARY")
