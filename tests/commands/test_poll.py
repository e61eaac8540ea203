"""``giftcards_poll`` runs one sweep, checks one order, or runs a worker's tick from cron."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable

import pytest
from django.db import OperationalError

from giftcards.models import Order, ProviderState
from giftcards.simulator import Simulator
from tests.builders import make_order
from tests.conftest import Call
from tests.stage import (
    LINE,
    ago,
    buy,
    checks,
    failing,
    posts,
    record_order,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("quickly")]

PAUSED = (
    "The provider refuses the API key or this server's address. The provider refused the API key"
    " (INVALID_ACCESS_TOKEN, 4 attempts left). Correct GIFTCARDS['API_KEY'] first: further"
    " attempts will block this server. Enter a working key in the settings, or run `manage.py"
    " giftcards_poll --resume` after the current key works again.\n"
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
            " (SERVICE_UNAVAILABLE). Requests will resume automatically.\n",
            1,
        )

    def test_poll_says_why_an_order_was_refused(self, call: Call, simulator: Simulator) -> None:
        record_order(**LINE | {"type_id": "SIM_REJECT"}, reference=None)
        assert call("giftcards_poll") == (
            "0 sent, 0 checked, 0 settled, 1 failed.\n",
            "Some of the work failed. The provider refused the request (OUT_OF_STOCK):"
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
        assert re.match(r"Waiting [123] s: the order was checked a moment ago, or the request", out)
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
            "The order was sent, but the app did not receive a usable answer. The cards may have"
            " been bought. (the connection broke before the answer was complete)\n",
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
            f"There is no order {reference!r}. `manage.py giftcards_status` counts the orders,"
            " and the admin lists them.\n",
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
            failed = ("Failed.\n", "The log shows the reason.\n", 1)
            assert call("giftcards_poll", "--tick") == failed


def test_a_tick_is_about_no_single_order(handlers: None, call: Call, simulator: Simulator) -> None:
    refused = ("", "Use either --tick or --reference.\n", 2)
    assert call("giftcards_poll", "--tick", "--reference", "cart-1") == refused
