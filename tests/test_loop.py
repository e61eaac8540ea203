"""The loop: sweeps while orders are open, in one process at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from giftcards import loop
from giftcards.conf import conf
from giftcards.following import Swept, sweep
from giftcards.fulfilment import LOOP_LEASE
from giftcards.loop import follow
from giftcards.models import Order, ProviderState
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.engine import ago, buy_many, in_threads, make_order, messages, posts, statuses

pytest_plugins = ["tests.engine_fixtures"]
pytestmark = pytest.mark.django_db

NEVER = timedelta(days=365)


def intervals(times: list[float]) -> float:
    """How many poll intervals lie between the first of the requests and the last.

    One may have arrived late, so that the next seems early: what counts is how many there were.
    """
    return (times[-1] - times[0] + 0.05) / conf.poll_interval


class TestLoop:
    @pytest.fixture(autouse=True)
    def quickly(self, set_conf: Callable[..., None]) -> None:
        set_conf(POLL_INTERVAL=0.1)

    def test_until_all_orders_have_settled(self, simulator: Simulator) -> None:
        simulator.delay = (0.2, 0.5)
        for _order in range(3):
            make_order()
        done = follow(seconds=20)
        assert done is not None
        assert (done.sent, done.settled, done.failed) == (3, 3, 0)
        assert statuses() == ["FULFILLED"] * 3
        state = ProviderState.objects.get()
        assert state.loop_until is None

    def test_asks_every_interval(self, simulator: Simulator) -> None:
        buy_many(simulator, 1, type_id="SIM_NEVER")
        done = follow(seconds=1)
        assert done is not None
        times = [request.at for request in simulator.requests]
        assert 3 <= len(times) <= intervals(times) + 1

    def test_no_longer_than_told(self, simulator: Simulator) -> None:
        buy_many(simulator, 1, type_id="SIM_NEVER")
        began = time.monotonic()
        follow(seconds=0.5)
        assert 0.4 < time.monotonic() - began < 2

    def test_until_it_is_stopped(self, simulator: Simulator) -> None:
        """Without an end of its own it goes on even if there is nothing to do."""
        stop = threading.Event()
        threading.Timer(0.4, stop.set).start()
        began = time.monotonic()
        assert follow(seconds=None, stop=stop) == Swept()
        assert 0.3 < time.monotonic() - began < 2
        assert ProviderState.objects.get().loop_until is None

    def test_not_for_delayed_orders(self, simulator: Simulator) -> None:
        buy_many(simulator, 1, type_id="SIM_NEVER")
        Order.objects.update(status=Status.DELAYED, accepted_at=ago(400))
        began = time.monotonic()
        done = follow(seconds=20)
        assert done is not None
        assert done.checked == 1
        assert time.monotonic() - began < 2

    def test_not_while_the_key_is_refused(self, simulator: Simulator) -> None:
        buy_many(simulator, 3)
        simulator.keys = ["another"]
        began = time.monotonic()
        assert follow(seconds=20) == Swept(postponed=3, is_paused=True)
        assert len(simulator.requests) == 1
        assert time.monotonic() - began < 2

    def test_through_a_short_pause(self, simulator: Simulator) -> None:
        buy_many(simulator, 1)
        ProviderState.objects.pause(
            ProviderState.Pause.RATE, detail="", until=ago(-0.5), key="irrelevant"
        )
        done = follow(seconds=20)
        assert done is not None
        assert (done.settled, done.is_paused) == (1, False)

    def test_idles_through_a_long_one(
        self,
        simulator: Simulator,
        set_conf: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        set_conf(POLL_INTERVAL=0.2)
        buy_many(simulator, 1)
        ProviderState.objects.pause(
            ProviderState.Pause.RATE, detail="", until=ago(-60), key="irrelevant"
        )
        sweeps = []

        def count(*args: Any, **options: Any) -> Swept:
            sweeps.append(sweep(*args, **options))
            return sweeps[-1]

        monkeypatch.setattr(loop, "sweep", count)
        done = follow(seconds=0.7)
        assert done is not None
        assert done.is_paused
        assert 2 <= len(sweeps) <= 4
        assert simulator.requests == []

    def test_wakes_up_for_what_is_due(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        """Not only once an interval, and also for an order that has just been placed."""
        set_conf(POLL_INTERVAL=60)
        order = make_order(due_at=ago(-0.3))
        began = time.monotonic()
        done = follow(seconds=20)
        assert done is not None
        assert done.settled == 1
        assert 0.2 < time.monotonic() - began < 3
        order.refresh_from_db()
        assert order.is_final

    def test_only_one(self, simulator: Simulator) -> None:
        make_order()
        ProviderState.objects.create(loop_token="other", loop_until=ago(-9))
        began = time.monotonic()
        assert follow(seconds=20) is None
        assert time.monotonic() - began < 1
        assert simulator.requests == []
        assert ProviderState.objects.get().loop_token == "other"

    def test_takes_over_from_a_dead_one(self, simulator: Simulator) -> None:
        make_order()
        ProviderState.objects.create(loop_token="other", loop_until=ago(0.1))
        done = follow(seconds=20)
        assert done is not None
        assert done.settled == 1

    def test_waits_for_a_dying_one(self, simulator: Simulator) -> None:
        make_order()
        ProviderState.objects.create(loop_token="other", loop_until=ago(-0.7))
        done = follow(seconds=20, patience=timedelta(seconds=5))
        assert done is not None
        assert done.settled == 1

    def test_waits_no_longer_than_told(self, simulator: Simulator) -> None:
        ProviderState.objects.create(loop_token="other", loop_until=ago(-60))
        began = time.monotonic()
        assert follow(seconds=20, patience=timedelta(seconds=1)) is None
        assert 0.9 < time.monotonic() - began < 3

    def test_does_not_wait_once_it_is_stopped(self, simulator: Simulator) -> None:
        ProviderState.objects.create(loop_token="other", loop_until=ago(-60))
        stop = threading.Event()
        stop.set()
        assert follow(seconds=None, stop=stop, patience=NEVER) is None

    def test_stops_when_another_process_has_taken_over(self, simulator: Simulator) -> None:
        buy_many(simulator, 1, type_id="SIM_NEVER")

        began = time.monotonic()
        with connection.execute_wrapper(_after(12, _take_over)):
            follow(seconds=20)
        assert time.monotonic() - began < 5
        state = ProviderState.objects.get()
        # The other's lease is not released along with its own.
        assert state.loop_token == "other"
        assert state.loop_until is not None

    def test_renews_its_lease(self, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loop, "_HEARTBEAT", 0.2)
        buy_many(simulator, 1, type_id="SIM_NEVER")
        seen: list[Any] = []

        def record(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if "loop_until" in sql and sql.startswith("UPDATE"):
                seen.append(time.monotonic())
            return execute(sql, params, many, context)

        with connection.execute_wrapper(record):
            follow(seconds=0.7)
        # Taken, renewed all the time, released.
        assert 4 <= len(seen) <= 5

    @pytest.mark.django_db(transaction=True)
    def test_survives_the_database(
        self,
        simulator: Simulator,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(loop, "_HEARTBEAT", 0.05)
        monkeypatch.setattr(loop, "_DATABASE_PAUSE", 0.1)
        buy_many(simulator, 1)
        caplog.clear()
        with connection.execute_wrapper(_failing(count=3, after=6)):
            done = follow(seconds=30)
        assert done is not None
        assert statuses() == ["FULFILLED"]
        assert (
            messages(caplog)
            == ["The database failed the loop, which pauses for 0.1 s: OperationalError"] * 3
        )

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("at", range(8))
    def test_survives_the_database_from_the_first_statement_on(
        self, at: int, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Taking the lease and opening the gateway are five or six."""
        monkeypatch.setattr(loop, "_DATABASE_PAUSE", 0.1)
        buy_many(simulator, 1)
        began = time.monotonic()
        with connection.execute_wrapper(_failing(count=1, after=at)):
            done = follow(seconds=30)
        assert done is not None
        assert statuses() == ["FULFILLED"]
        assert ProviderState.objects.get().loop_until is None
        assert time.monotonic() - began < 5

    @pytest.mark.django_db(transaction=True)
    def test_a_lease_that_cannot_be_released_runs_out(
        self,
        simulator: Simulator,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(loop, "_DATABASE_PAUSE", 0.1)
        buy_many(simulator, 1)
        caplog.clear()

        def fail(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            is_null = "= NULL" in sql or None in (params or ())
            if sql.startswith("UPDATE") and "loop_until" in sql and is_null:
                raise OperationalError("server closed the connection unexpectedly")
            return execute(sql, params, many, context)

        with connection.execute_wrapper(fail):
            done = follow(seconds=20)
        assert done is not None
        assert done.settled == 1
        assert messages(caplog) == [
            "The database failed the loop, which pauses for 0.1 s: OperationalError"
        ]
        assert ProviderState.objects.get().loop_until is not None

    @pytest.mark.django_db(transaction=True)
    def test_a_gateway_that_cannot_be_closed_is_no_failure(
        self, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It would give its try of the key back, which runs out by itself."""
        monkeypatch.setattr(loop, "_DATABASE_PAUSE", 0.1)
        buy_many(simulator, 1, type_id="SIM_NEVER")
        ProviderState.objects.update(proven_key="")

        def fail(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            is_null = "= NULL" in sql or None in (params or ())
            if sql.startswith("UPDATE") and "probe_until" in sql and is_null:
                raise OperationalError("server closed the connection unexpectedly")
            return execute(sql, params, many, context)

        with connection.execute_wrapper(fail):
            assert follow(seconds=0.5) is not None
        assert ProviderState.objects.get().loop_until is None

    def test_a_database_that_stays_away_does_not_keep_it(
        self, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loop, "_DATABASE_PAUSE", 0.1)
        began = time.monotonic()
        with connection.execute_wrapper(_failing(count=10**6, after=0)):
            assert follow(seconds=0.5) == Swept()
        assert 0.4 < time.monotonic() - began < 2

    def test_is_stopped_while_the_database_is_away(self, simulator: Simulator) -> None:
        stop = threading.Event()
        threading.Timer(0.3, stop.set).start()
        began = time.monotonic()
        with connection.execute_wrapper(_failing(count=10**6, after=0)):
            assert follow(seconds=None, stop=stop, patience=NEVER) == Swept()
        assert 0.2 < time.monotonic() - began < 1.5

    def test_lets_other_failures_out_and_the_lease_go(self, simulator: Simulator) -> None:
        make_order()

        def fail(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if "INSERT" in sql and "statuschange" in sql:
                raise ZeroDivisionError
            return execute(sql, params, many, context)

        with connection.execute_wrapper(fail), pytest.raises(ZeroDivisionError):
            follow(seconds=20)
        assert ProviderState.objects.get().loop_until is None

    @pytest.mark.django_db(transaction=True)
    def test_one_of_many_processes(self, simulator: Simulator, shared_database: str) -> None:
        simulator.delay = (0.5, 1)
        for _order in range(4):
            make_order()
        results = in_threads(4, lambda: follow(seconds=20))
        [done] = [result for result in results if result is not None]
        assert (done.sent, done.settled) == (4, 4)
        assert posts(simulator) == 4
        by_path: dict[str, list[float]] = {}
        for request in simulator.requests:
            if "/check-order/" in request.path or request.path.endswith("/list"):
                by_path.setdefault(request.path, []).append(request.at)
        assert len(by_path["/v3/gift-cards/list"]) > 2
        for times in by_path.values():
            assert len(times) <= intervals(times) + 1


def _take_over() -> None:
    ProviderState.objects.update(loop_token="other", loop_until=timezone.now() + LOOP_LEASE)


def _after(count: int, work: Callable[[], object]) -> Callable[..., Any]:
    """Do ``work`` once, before the statement that follows the first ``count``."""
    left = [count]

    def wrapper(execute: Any, *args: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            work()
        return execute(*args)

    return wrapper


def _failing(*, count: int, after: int) -> Callable[..., Any]:
    """The database fails ``count`` statements, after the first ``after``."""
    asked = [0]

    def wrapper(execute: Any, *args: Any) -> Any:
        asked[0] += 1
        if after < asked[0] <= after + count:
            raise OperationalError("server closed the connection unexpectedly")
        return execute(*args)

    return wrapper
