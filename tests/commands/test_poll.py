"""``giftcards_poll``: one sweep, one order, or the loop without django-q2."""

from __future__ import annotations

import json
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
from tests.builders import make_order
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

PAUSED = (
    "The provider refuses the API key or this server's address. The provider refused the API key"
    " (INVALID_ACCESS_TOKEN, 4 attempts left). Correct GIFTCARDS['API_KEY'] first: further"
    " tries will block this server. Put a working key into the settings, or run"
    " `manage.py giftcards_poll --resume` once it works again.\n"
)
NOTHING = "0 sent, 0 checked, 0 settled, 0 failed"


class TestSweep:
    def test_poll_says_what_was_sent_checked_and_settled(
        self, call: Call, simulator: Simulator, shorten: Callable[..., None]
    ) -> None:
        shorten(shortest_sending=10)
        record_order(**LINE, reference=None)
        buy(type_id="SIM_NEVER")
        done = "1 sent, 2 checked, 1 settled, 0 failed.\n"
        assert call("giftcards_poll") == (done, "", 0)

    def test_poll_with_nothing_to_do_says_so(self, call: Call, simulator: Simulator) -> None:
        assert call("giftcards_poll") == (f"{NOTHING}.\n", "", 0)

    def test_poll_with_json_prints_the_counts_as_one_object(
        self, call: Call, simulator: Simulator
    ) -> None:
        record_order(**LINE, reference=None)
        out, err, code = call("giftcards_poll", "--json")
        assert (err, code) == ("", 0)
        counts = {"sent": 1, "checked": 1, "settled": 1, "failed": 0, "postponed": 0}
        counts |= {"is_paused": False}
        assert json.loads(out) == counts

    def test_poll_with_verbosity_0_prints_nothing(self, call: Call, simulator: Simulator) -> None:
        record_order(**LINE, reference=None)
        assert call("giftcards_poll", "-v0") == ("", "", 0)
        assert posts(simulator) == 1

    def test_poll_in_an_outage_exits_with_1(self, call: Call, simulator: Simulator) -> None:
        buy()
        simulator.outage = True
        assert call("giftcards_poll") == (
            "0 sent, 1 checked, 0 settled, 1 failed; paused.\n",
            "The provider does not answer. The provider gave no usable answer"
            " (SERVICE_UNAVAILABLE). Requests go on automatically.\n",
            1,
        )

    def test_poll_says_why_an_order_was_refused(self, call: Call, simulator: Simulator) -> None:
        record_order(**LINE | {"type_id": "SIM_REJECT"}, reference=None)
        assert call("giftcards_poll") == (
            "0 sent, 0 checked, 0 settled, 1 failed.\n",
            "Not everything worked. The provider refused the request (OUT_OF_STOCK):"
            " The type is out of stock.\n",
            1,
        )


class TestRefusedKey:
    def test_poll_with_a_refused_key_makes_one_request(
        self, call: Call, simulator: Simulator
    ) -> None:
        buy()
        simulator.keys = ["another"]
        simulator.forget_requests()
        first = "0 sent, 1 checked, 0 settled, 1 failed; paused.\n"
        assert call("giftcards_poll") == (first, PAUSED, 1)
        assert call("giftcards_poll") == (f"{NOTHING}; paused.\n", PAUSED, 1)
        assert len(simulator.requests) == 1

    def test_poll_with_resume_ends_the_pause_of_a_refused_key(
        self, call: Call, simulator: Simulator
    ) -> None:
        buy()
        simulator.keys = ["another"]
        call("giftcards_poll")
        simulator.keys = []
        Order.objects.update(due_at=ago(1))
        expected = ("The pause is over.\n0 sent, 1 checked, 1 settled, 0 failed.\n", "", 0)
        assert call("giftcards_poll", "--resume") == expected
        assert call("giftcards_poll", "--resume") == (f"There was no pause.\n{NOTHING}.\n", "", 0)

    def test_poll_with_resume_is_paused_again_if_the_key_is_still_refused(
        self, call: Call, simulator: Simulator
    ) -> None:
        buy()
        simulator.keys = ["another"]
        call("giftcards_poll")
        Order.objects.update(due_at=ago(1))
        out, err, code = call("giftcards_poll", "--resume")
        assert out.startswith("The pause is over.\n")
        assert (err, code) == (PAUSED.replace("4 attempts", "3 attempts"), 1)

    def test_poll_of_one_order_with_a_refused_key_exits_with_1(
        self, call: Call, simulator: Simulator
    ) -> None:
        order = buy()
        simulator.keys = ["another"]
        for _time in range(2):
            out, err, code = call("giftcards_poll", "--reference", order.reference)
            assert out.startswith(f"Order {order.reference}\n  status      In progress\n")
            assert (err, code) == (PAUSED, 1)


class TestOneOrder:
    def test_poll_of_one_order_checks_it_whether_it_is_due_or_not(
        self, call: Call, simulator: Simulator
    ) -> None:
        order, other = buy(reference="cart-1"), buy()
        Order.objects.update(due_at=ago(-99))
        out, err, code = call("giftcards_poll", "--reference", "cart-1")
        assert out.startswith("Order cart-1\n  status      Delivered\n")
        assert (err, code) == ("", 0)
        assert checks(simulator) == [order.provider_order_id]
        other.refresh_from_db()
        assert other.status == "HANDLING"

    def test_poll_of_one_order_waits_for_its_turn_and_says_so(
        self, call: Call, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(POLL_INTERVAL=3)
        buy(reference="cart-1", type_id="SIM_NEVER")
        out, _err, _code = call("giftcards_poll", "--reference", "cart-1")
        assert out.startswith("Order cart-1\n")
        out, _err, _code = call("giftcards_poll", "--reference", "cart-1")
        assert re.match(r"Waiting [123] s: it was asked about a moment ago, or the request", out)
        first, second = [r.at for r in simulator.requests if "/check-order/" in r.path]
        assert second - first > 2.9

    def test_poll_of_one_order_with_json_prints_one_object(
        self, call: Call, simulator: Simulator
    ) -> None:
        buy(reference="cart-1", type_id="TEST_PARTIAL")
        out, err, code = call("giftcards_poll", "--reference", "cart-1", "--json")
        assert (err, code) == ("", 0)
        assert json.loads(out)["status"] == "PARTIALLY_FILLED"

    def test_poll_of_one_order_says_what_is_wrong_with_it(
        self, call: Call, simulator: Simulator
    ) -> None:
        make_order(reference="cart-1", type_id="SIM_LOST")
        out, err, code = call("giftcards_poll", "--reference", "cart-1")
        assert "  status      Unconfirmed\n" in out
        assert (err, code) == (
            "The order was sent, and no usable answer came back: it may have been bought."
            " (the connection broke before the answer was complete)\n",
            1,
        )

    @pytest.mark.parametrize("reference", ["unknown", ""])
    def test_poll_of_an_order_that_does_not_exist_is_refused(
        self, reference: str, call: Call, simulator: Simulator
    ) -> None:
        buy()
        simulator.forget_requests()
        state = ProviderState.objects.values().get()
        assert call("giftcards_poll", "--resume", "--reference", reference) == (
            "",
            f"There is no order {reference!r}. `manage.py giftcards_status` counts the orders;"
            " the admin lists them.\n",
            2,
        )
        assert simulator.requests == []
        assert ProviderState.objects.values().get() == state


class TestTick:
    def test_the_poll_tick_follows_the_orders_and_does_the_daily_work(
        self, handlers: None, call: Call, simulator: Simulator
    ) -> None:
        order = record_order(**LINE, reference=None)
        done = "1 sent, 1 checked, 1 settled, 0 failed.\n"
        assert call("giftcards_poll", "--tick") == (done, "", 0)
        order.refresh_from_db()
        assert order.status == "FULFILLED"
        state = ProviderState.objects.get()
        assert state.last_tick_at
        assert state.chores_ended_at

    def test_the_poll_tick_stops_when_it_is_told_to(
        self, handlers: None, call: Call, simulator: Simulator
    ) -> None:
        buy(type_id="SIM_NEVER")
        simulator.on_request = lambda _request: os.kill(os.getpid(), signal.SIGTERM)
        out, err, code = call("giftcards_poll", "--tick")
        assert (out.startswith("0 sent, 1 checked, 0 settled"), err, code) == (True, "", 0)

    @pytest.mark.django_db(transaction=True)
    def test_a_poll_tick_that_failed_exits_with_1(
        self, handlers: None, call: Call, simulator: Simulator
    ) -> None:
        with failing("UPDATE", "last_tick_at", error=OperationalError("CANARY")):
            failed = ("Failed.\n", "The log says why.\n", 1)
            assert call("giftcards_poll", "--tick") == failed


class TestLoop:
    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The loop without other work, whose threads need a database that they can share."""
        monkeypatch.setattr("giftcards.engine.background.WORK", {})

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_poll_loop_goes_on_until_it_is_stopped(
        self, number: int, handlers: None, call: Call, simulator: Simulator
    ) -> None:
        buy(type_id="SIM_NEVER")

        def stop_later(request: Request) -> None:
            if len(checks(simulator)) == 4:
                os.kill(os.getpid(), number)

        simulator.on_request = stop_later
        out, err, code = call("giftcards_poll", "--loop")
        assert out.splitlines()[0] == "Following the orders. Stop with Ctrl-C."
        assert out.splitlines()[-1] in {
            f"0 sent, {checked} checked, 0 settled, 0 failed." for checked in (4, 5)
        }
        assert (err, code) == ("", 0)
        assert lease(Lease.LOOP).until is None

    def test_the_poll_loop_ticks_as_the_schedule_would(
        self, handlers: None, call: Call, simulator: Simulator, shorten: Callable[..., None]
    ) -> None:
        """Without a cluster, nothing else shows a monitor that orders are followed."""
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
            assert call("giftcards_poll", "--loop").code == 0
        assert ProviderState.objects.get().last_tick_at is not None
        assert call("giftcards_status", "--fail-on", "worker").code == 0

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("most", [0, 3])
    def test_the_poll_loop_stands_by_also_through_failures_of_the_database(
        self,
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
            out, err, code = call("giftcards_poll", "--loop")
        assert out.splitlines()[0] == "Following the orders. Stop with Ctrl-C."
        assert (err, code) == ("", 0)
        assert len(failures) == most
        assert len(simulator.requests) >= 1
        lost = "The database failed the loop, which pauses for 0.1 s: OperationalError"
        assert messages(caplog).count(lost) == most

    @pytest.mark.django_db(transaction=True)
    def test_the_poll_loop_waits_for_a_database_that_is_away_when_it_starts(
        self,
        simulator: Simulator,
        child: Callable[..., subprocess.Popen[str]],
        absent_database: tuple[str, Callable[[], object]],
    ) -> None:
        address, come_back = absent_database
        for type_id in ("type_001", "TEST_PARTIAL"):
            record_order(product_id=PSN, type_id=type_id, quantity=2, reference=None)
        process = child("giftcards_poll", "--loop", DATABASE_URL=address)
        assert process.stdout is not None
        waiting = process.stdout.readline()
        assert re.fullmatch(
            r"Waiting for the database \(OperationalError\)"
            r" \(since \d\d:\d\d:\d\d, \d s\)\n",
            waiting,
        )
        assert process.poll() is None
        come_back()
        assert process.stdout.readline() == "Following the orders. Stop with Ctrl-C.\n"
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
        ("args", "code", "text"),
        [
            (["--loop"], 0, "Waiting for the database (OperationalError) (since "),
            ([], 2, "could not be reached (OperationalError). Is it running, and DATABASES right?"),
        ],
    )
    @pytest.mark.django_db(transaction=True)
    def test_without_a_database_the_poll_loop_waits_until_it_is_stopped_and_one_sweep_fails(
        self,
        args: list[str],
        code: int,
        text: str,
        child: Callable[..., subprocess.Popen[str]],
        absent_database: tuple[str, Callable[[], object]],
    ) -> None:
        process = child("giftcards_poll", *args, DATABASE_URL=absent_database[0])
        assert process.stdout is not None
        assert text in process.stdout.readline()
        if args:
            process.terminate()
        output, _ = process.communicate(timeout=60)
        assert (output, process.returncode) == ("", code)

    def test_the_poll_loop_does_not_start_in_a_database_that_works_for_nobody(
        self, handlers: None, call: Call, simulator: Simulator
    ) -> None:
        with failing(error=OperationalError("CANARY-CODE-1234")):
            assert call("giftcards_poll", "--loop") == (
                "",
                f"The database {connection.settings_dict['NAME']} did not work (OperationalError)."
                " Has `manage.py migrate` been run in it?\n",
                2,
            )

    @pytest.mark.parametrize(
        "options",
        [
            ("--loop", "--tick"),
            ("--loop", "--reference", "cart-1"),
            ("--tick", "--reference", "cart-1"),
        ],
    )
    def test_two_ways_to_poll_cannot_be_combined(
        self, options: tuple[str, ...], handlers: None, call: Call, simulator: Simulator
    ) -> None:
        refused = ("", "Use only one of --loop, --tick and --reference.\n", 2)
        assert call("giftcards_poll", *options) == refused

    @pytest.mark.django_db(transaction=True)
    def test_the_poll_loop_settles_orders_beside_one_whose_key_is_refused(
        self, simulator: Simulator, child: Callable[..., subprocess.Popen[str]]
    ) -> None:
        """A rolling restart brings a wrong new key, and its process begins first."""
        simulator.keys = ["good"]
        record_order(**LINE, reference=None)
        child("giftcards_poll", "--loop", GIFTCARDS_API_KEY="wrong")
        wait_until(lambda: ApiKey.objects.exclude(stopped_at=None))
        child("giftcards_poll", "--loop", GIFTCARDS_API_KEY="good")
        settled = Order.objects.filter(finalized_at__isnull=False)
        wait_until(lambda: settled.count() == 1)
        record_order(**LINE, reference=None)
        wait_until(lambda: settled.count() == 2)
        assert wrong_calls(simulator) == 1
