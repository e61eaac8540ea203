"""The loop: sweeps while orders are open, in one process at a time."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection, connections
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine import loop
from giftcards.engine.loop import follow
from giftcards.engine.request_budget import Shares
from giftcards.engine.sweep import Swept, sweep
from giftcards.engine.tuning import tuning
from giftcards.keys.keyring import generate_key
from giftcards.models import ApiKey, Lease, Order, ProviderState, RequestSlot
from giftcards.simulator import Request, Simulator
from giftcards.statuses import Status
from tests.builders import PARTIAL, make_order, settle
from tests.stage import (
    LINE,
    Log,
    Setter,
    ago,
    buy_many,
    changes_lease,
    checks,
    failing,
    fresh,
    hold_lease,
    in_threads,
    lease,
    lists,
    messages,
    posts,
    record_order,
    releases_lease,
    spend_budget,
    statuses,
    unused_port,
    wait_until,
    without_list,
    wrong_calls,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

NEVER = timedelta(days=365)


def intervals(began: float) -> float:
    """Return the number of poll intervals since then, which is higher on a busy machine."""
    return (time.monotonic() - began) / conf.poll_interval


class TestStart:
    """A worker whose keys cannot decrypt the stored cards reports this once per process."""

    @pytest.fixture
    def order(self) -> Order:
        return settle("web-1042", PARTIAL)

    @pytest.mark.usefixtures("order")
    def test_a_worker_with_the_right_encryption_key_logs_nothing(self, caplog: Log) -> None:
        caplog.clear()
        follow(seconds=0)
        assert messages(caplog) == []

    @pytest.mark.usefixtures("order")
    def test_a_worker_with_another_encryption_key_logs_cards_it_cannot_open_once(
        self, caplog: Log, set_conf: Setter
    ) -> None:
        caplog.clear()
        set_conf(ENCRYPTION_KEYS=[generate_key()])
        for _run in range(2):
            follow(seconds=0)
        assert messages(caplog, logging.ERROR) == [
            f"Card {position} of order web-1042: This card cannot be decrypted: none of"
            " GIFTCARDS['ENCRYPTION_KEYS'] can decrypt it, or the stored text is damaged."
            for position in (3, 1)
        ] + [
            "GIFTCARDS['ENCRYPTION_KEYS'] does not contain the keys of all stored cards."
            " Cards that cannot be decrypted: 3."
        ]

    # A connection that has failed is closed, and with it any transaction.
    @pytest.mark.django_db(transaction=True)
    def test_a_worker_tries_the_encryption_keys_once_the_database_is_there(
        self, order: Order, caplog: Log, set_conf: Setter, shorten: Setter
    ) -> None:
        shorten(database_pause=0)
        set_conf(ENCRYPTION_KEYS=[generate_key()])
        with failing("", "giftcards_card"):
            follow(seconds=0)
        assert "This card cannot be decrypted" not in caplog.text
        follow(seconds=0)
        assert "This card cannot be decrypted" in caplog.text


@pytest.mark.usefixtures("quickly")
class TestLoop:
    def test_the_loop_runs_until_all_orders_have_settled(self, simulator: Simulator) -> None:
        simulator.delay = (0.2, 0.5)
        for _order in range(3):
            make_order()
        done = follow(seconds=20)
        assert (done.sent, done.settled, done.failed) == (3, 3, 0)
        assert statuses() == ["FULFILLED"] * 3
        assert lease(Lease.LOOP).until is None

    def test_the_loop_checks_open_orders_once_an_interval(self, simulator: Simulator) -> None:
        buy_many(simulator, 1, type_id="SIM_NEVER")
        stop = threading.Event()
        simulator.on_request = lambda _: stop.set() if len(checks(simulator)) == 6 else None
        began = time.monotonic()
        follow(seconds=60, stop=stop)
        assert len(checks(simulator)) == 6
        assert intervals(began) >= 5

    def test_the_loop_runs_no_longer_than_told(self, simulator: Simulator) -> None:
        buy_many(simulator, 1, type_id="SIM_NEVER")
        began = time.monotonic()
        follow(seconds=0.5)
        assert 0.4 < time.monotonic() - began < 10

    def test_the_loop_without_an_end_runs_until_it_is_stopped(self, simulator: Simulator) -> None:
        stop = threading.Event()
        threading.Timer(0.4, stop.set).start()
        began = time.monotonic()
        assert follow(seconds=None, stop=stop) == Swept()
        assert 0.3 < time.monotonic() - began < 10
        assert lease(Lease.LOOP).until is None

    def test_the_loop_does_not_run_on_for_delayed_orders(self, simulator: Simulator) -> None:
        buy_many(simulator, 1, type_id="SIM_NEVER")
        Order.objects.update(status=Status.DELAYED, accepted_at=ago(400))
        began = time.monotonic()
        assert follow(seconds=20).checked == 1
        assert time.monotonic() - began < 10

    def test_the_loop_ends_when_the_key_is_refused(self, simulator: Simulator) -> None:
        buy_many(simulator, 3)
        simulator.keys = ["another"]
        began = time.monotonic()
        assert follow(seconds=20) == Swept(postponed=3, is_paused=True)
        assert len(simulator.requests) == 1
        assert time.monotonic() - began < 10

    @pytest.mark.parametrize("is_refused", [True, False], ids=["refused key", "no route"])
    @pytest.mark.parametrize("seconds", [None, 20], ids=["endless", "task"])
    @pytest.mark.django_db(transaction=True)
    def test_the_loop_is_left_to_a_process_that_the_provider_answers(
        self,
        is_refused: bool,
        seconds: float | None,
        simulator: Simulator,
        shared_database: str,
        settings: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        well, barred = settings.GIFTCARDS, {"API_KEY": "refused"}
        if not is_refused:
            barred = {"BASE_URL": f"http://127.0.0.1:{unused_port()}"}
        simulator.keys = [well["API_KEY"]]
        order = record_order(**LINE)
        monkeypatch.setattr("socket.gethostname", lambda: threading.current_thread().name)
        settings.GIFTCARDS = {**well, **barred}
        stop = threading.Event()
        other = threading.Thread(target=_follow, args=[stop, seconds], name="barred")
        other.start()
        try:
            # At this point, the other process has read its settings. It is alive and keeps its
            # lease for a while.
            wait_until(ProviderState.objects.exclude(failed_at=None).exists)
            settings.GIFTCARDS = well
            runs = (follow(seconds=20, max_wait=timedelta(seconds=30)) for _try in range(100))
            done = next(run for run in runs if run is not None)
        finally:
            stop.set()
            other.join()
        assert (done.sent, fresh(order).status, posts(simulator)) == (1, Status.FULFILLED, 1)
        assert wrong_calls(simulator) <= 1

    def test_the_loop_waits_through_a_short_pause(self, simulator: Simulator) -> None:
        buy_many(simulator, 1)
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="", until=ago(-0.5))
        done = follow(seconds=20)
        assert (done.settled, done.is_paused) == (1, False)

    def test_the_loop_idles_through_a_long_pause_without_requests(
        self, simulator: Simulator, set_conf: Setter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_conf(POLL_INTERVAL=0.2)
        buy_many(simulator, 1)
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="", until=ago(-60))
        stop, sweeps = threading.Event(), []

        def count(*args: Any, **options: Any) -> Swept:
            sweeps.append(sweep(*args, **options))
            if len(sweeps) == 6:
                stop.set()
            return sweeps[-1]

        monkeypatch.setattr(loop, "sweep", count)
        began = time.monotonic()
        assert follow(seconds=60, stop=stop).is_paused
        assert len(sweeps) == 6
        assert intervals(began) >= 5
        assert simulator.requests == []

    @pytest.mark.parametrize(
        ("status", "free"),
        [
            # Without a list, each kind of check may use one half of the list's slots.
            (Status.HANDLING, "first half"),
            (Status.DELAYED, "second half"),
        ],
    )
    def test_the_loop_does_not_spin_while_the_budget_has_slots_for_other_requests_only(
        self, status: Status, free: str, simulator: Simulator, set_conf: Setter
    ) -> None:
        set_conf(POLL_INTERVAL=2)
        make_order(status, due_at=ago(1))
        # A fresh order keeps the loop running, for late orders as well.
        make_order(Status.HANDLING, due_at=ago(-60))
        without_list()
        spend_budget()
        listing = list(Shares.of(limit=conf.requests_per_minute, poll_interval=2).listing)
        half = len(listing) // 2
        numbers = listing[:half] if free == "first half" else listing[half:]
        RequestSlot.objects.filter(number__in=numbers).update(until=ago(1))
        claims = []

        def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if sql.startswith("UPDATE") and "giftcards_order" in sql and "claim" in sql:
                claims.append(sql)
            return execute(sql, params, many, context)

        with connection.execute_wrapper(count):
            follow(seconds=1.5)
        assert simulator.requests == []
        # The order is claimed and given back once an interval, and not four times a second.
        assert len(claims) <= 4

    def test_the_loop_wakes_up_for_an_order_that_becomes_due(
        self, simulator: Simulator, set_conf: Setter
    ) -> None:
        set_conf(POLL_INTERVAL=60)
        order = make_order(due_at=ago(-0.3))
        began = time.monotonic()
        assert follow(seconds=20).settled == 1
        assert 0.2 < time.monotonic() - began < 10
        assert fresh(order).is_final

    def test_the_loop_does_nothing_while_another_process_runs_it(
        self, simulator: Simulator
    ) -> None:
        make_order()
        hold_lease(Lease.LOOP, token="other", until=ago(-9))
        began = time.monotonic()
        assert follow(seconds=20) is None
        assert time.monotonic() - began < 10
        assert simulator.requests == []
        assert lease(Lease.LOOP).token == "other"

    @pytest.mark.usefixtures("simulator")
    @pytest.mark.parametrize(("left", "patience"), [(-0.1, 0), (0.7, 5)])
    def test_the_loop_is_taken_over_once_the_lease_of_another_process_has_expired(
        self, left: float, patience: float
    ) -> None:
        make_order()
        hold_lease(Lease.LOOP, token="other", until=ago(-left))
        assert follow(seconds=20, max_wait=timedelta(seconds=patience)).settled == 1

    @pytest.mark.usefixtures("simulator")
    def test_a_patient_loop_waits_for_the_lease_no_longer_than_told(self) -> None:
        hold_lease(Lease.LOOP, token="other", until=ago(-60))
        began = time.monotonic()
        assert follow(seconds=20, max_wait=timedelta(seconds=1)) is None
        assert 0.9 < time.monotonic() - began < 10

    def test_a_stopped_loop_does_not_wait_for_the_lease(self, simulator: Simulator) -> None:
        hold_lease(Lease.LOOP, token="other", until=ago(-60))
        stop = threading.Event()
        stop.set()
        assert follow(seconds=None, stop=stop, max_wait=NEVER) is None

    def test_the_loop_stops_when_another_process_has_taken_over(self, simulator: Simulator) -> None:
        buy_many(simulator, 1, type_id="SIM_NEVER")
        began = time.monotonic()
        with connection.execute_wrapper(_after(12, _take_over)):
            follow(seconds=20)
        assert time.monotonic() - began < 10
        # The process does not release the lease of the other process.
        assert lease(Lease.LOOP).token == "other"
        assert lease(Lease.LOOP).until is not None

    def test_the_loop_renews_its_lease(self, simulator: Simulator, shorten: Setter) -> None:
        shorten(loop_look=0.2)
        buy_many(simulator, 1, type_id="SIM_NEVER")
        stop = threading.Event()
        seen: list[str] = []

        def record(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if changes_lease(Lease.LOOP, sql, params):
                seen.append(sql)
                if len(seen) == 6:
                    stop.set()
            return execute(sql, params, many, context)

        began = time.monotonic()
        with connection.execute_wrapper(record):
            follow(seconds=60, stop=stop)
        # The lease is taken, renewed once per heartbeat, and released.
        assert len(seen) == 7
        assert time.monotonic() - began > 5 * 0.2

    @pytest.mark.django_db(transaction=True)
    def test_the_loop_goes_on_after_operational_errors_of_the_database(
        self, simulator: Simulator, caplog: Log, shorten: Setter
    ) -> None:
        shorten(loop_look=0.05, database_pause=0.1)
        buy_many(simulator, 1)
        caplog.clear()
        with _failing(count=3, after=6):
            assert follow(seconds=30) is not None
        assert statuses() == ["FULFILLED"]
        assert (
            messages(caplog)
            == ["A database error occurred in the loop, which pauses for 0.1 s: OperationalError"]
            * 3
        )

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("at", range(8))
    def test_the_loop_goes_on_whichever_of_its_first_statements_fails(
        self, at: int, simulator: Simulator, shorten: Setter
    ) -> None:
        """Taking the lease and opening the gateway take five or six statements."""
        shorten(database_pause=0.1)
        buy_many(simulator, 1)
        began = time.monotonic()
        with _failing(count=1, after=at):
            assert follow(seconds=30) is not None
        assert statuses() == ["FULFILLED"]
        assert lease(Lease.LOOP).until is None
        assert time.monotonic() - began < 10

    @pytest.mark.django_db(transaction=True)
    def test_a_lease_of_the_loop_that_cannot_be_released_expires(
        self, simulator: Simulator, caplog: Log, shorten: Setter
    ) -> None:
        shorten(database_pause=0.1)
        buy_many(simulator, 1)
        caplog.clear()
        with failing(when=partial(releases_lease, Lease.LOOP)):
            assert follow(seconds=20).settled == 1
        assert messages(caplog) == [
            "A database error occurred in the loop, which pauses for 0.1 s: OperationalError"
        ]
        assert lease(Lease.LOOP).until is not None

    @pytest.mark.django_db(transaction=True)
    def test_the_loop_ends_normally_if_its_gateway_cannot_be_closed(
        self, simulator: Simulator, shorten: Setter
    ) -> None:
        """The gateway would give back its try of the key, which expires by itself."""
        shorten(database_pause=0.1)
        buy_many(simulator, 1, type_id="SIM_NEVER")
        ApiKey.objects.doubt()
        with failing(when=partial(releases_lease, Lease.KEY_PROBE)):
            assert follow(seconds=0.5) is not None
        assert lease(Lease.LOOP).until is None

    def test_the_loop_ends_in_time_though_the_database_stays_away(
        self, simulator: Simulator, shorten: Setter
    ) -> None:
        shorten(database_pause=0.1)
        began = time.monotonic()
        with failing():
            assert follow(seconds=0.5) == Swept()
        assert 0.4 < time.monotonic() - began < 10

    def test_the_loop_can_be_stopped_while_the_database_is_away(self, simulator: Simulator) -> None:
        stop = threading.Event()
        threading.Timer(0.3, stop.set).start()
        began = time.monotonic()
        with failing():
            assert follow(seconds=None, stop=stop, max_wait=NEVER) == Swept()
        assert 0.2 < time.monotonic() - began < 10

    @pytest.mark.usefixtures("simulator")
    def test_the_loop_raises_other_errors_and_releases_its_lease(self) -> None:
        make_order()
        trouble = failing("INSERT", "statuschange", error=ZeroDivisionError())
        with trouble, pytest.raises(ZeroDivisionError):
            follow(seconds=20)
        assert lease(Lease.LOOP).until is None

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.usefixtures("shared_database")
    def test_of_many_processes_one_runs_the_loop(self, simulator: Simulator) -> None:
        for _order in range(4):
            make_order(type_id="SIM_NEVER")

        def settle(request: Request) -> None:
            if lists(simulator) >= 6 and len(simulator.orders) == 4:
                for order_id in simulator.orders:
                    simulator.settle(order_id, delivered=2)

        simulator.on_request = settle
        began = time.monotonic()
        results = in_threads(4, lambda: follow(seconds=60))
        [done] = [result for result in results if result is not None]
        assert (done.sent, done.settled) == (4, 4)
        assert posts(simulator) == 4
        asked = Counter(
            request.path
            for request in simulator.requests
            if "/check-order/" in request.path or request.path.endswith("/list")
        )
        assert max(asked.values()) <= intervals(began) + 1


def _follow(stop: threading.Event, seconds: float | None) -> None:
    """Run the loop as another process does: a worker's task, or ``giftcards_worker``."""
    try:
        follow(seconds=seconds, stop=stop)
    finally:
        connections.close_all()


def _take_over() -> None:
    hold_lease(Lease.LOOP, until=timezone.now() + tuning.lease)


def _after(count: int, work: Callable[[], object]) -> Callable[..., Any]:
    """Do ``work`` once, before the statement with the number ``count``."""
    left = [count]

    def wrapper(execute: Any, *args: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            work()
        return execute(*args)

    return wrapper


def _failing(*, count: int, after: int) -> AbstractContextManager[list[str]]:
    """Make ``count`` statements fail, after the first ``after`` statements."""
    numbers = itertools.count(1)
    return failing(when=lambda *_: next(numbers) > after, most=count)
