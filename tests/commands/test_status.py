"""``giftcards_status``: one order, or how things stand."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal

import pytest
from django_q.models import Schedule

from giftcards.models import Order, ProviderState
from giftcards.schedules import ensure_schedule
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.conftest import Call
from tests.engine import PSN, ago, buy, make_order

pytest_plugins = ["tests.engine_fixtures"]
pytestmark = pytest.mark.django_db

NO_SCHEDULE = "There is no schedule: run `manage.py giftcards_setup`."
NO_WORKER = "No worker has run yet: start `manage.py qcluster`."
DOWN = "The worker is down: there has been no sign of it for more than 3 minutes."


class TestOverview:
    def test_of_a_new_shop(self, call: Call) -> None:
        assert call("giftcards_status") == (
            "PENDING           0\n"
            "PLACING           0\n"
            "UNCONFIRMED       0\n"
            "REJECTED          0\n"
            "HANDLING          0\n"
            "DELAYED           0\n"
            "FULFILLED         0\n"
            "PARTIALLY_FILLED  0\n"
            "REFUNDED          0\n"
            "need attention    0\n"
            "Provider: In service.\n"
            "  last answer     never\n"
            "  last failure    never\n"
            "  last sweep      never\n"
            "  last tick       never\n"
            f"{NO_SCHEDULE}\n"
            f"{NO_WORKER}\n",
            "",
            0,
        )

    def test_counts(self, call: Call, simulator: Simulator) -> None:
        ensure_schedule()
        for type_id in ("type_001", "TEST_PARTIAL", "TEST_PARTIAL", "SIM_LOST"):
            make_order(type_id=type_id)
        call("giftcards_poll")
        state = ProviderState.objects.get()
        assert state.swept_at is not None
        lines = call("giftcards_status").out.splitlines()
        assert "FULFILLED         1" in lines
        assert "PARTIALLY_FILLED  2" in lines
        assert "UNCONFIRMED       1" in lines
        assert "need attention    1" in lines
        assert f"  last sweep      {state.swept_at.isoformat()}" in lines
        # Nothing is wrong with the schedule and the worker.
        assert lines[-2:] == ["  last tick       never", f"The last failure: {state.failure}"]

    def test_for_machines(self, call: Call, simulator: Simulator) -> None:
        ensure_schedule()
        make_order(type_id="SIM_LOST")
        call("giftcards_poll")
        out, err, code = call("giftcards_status", "--json")
        assert (err, code) == ("", 0)
        state = ProviderState.objects.get()
        assert state.failed_at is not None
        assert state.swept_at is not None
        assert state.succeeded_at is not None  # the price was told
        assert json.loads(out) == {
            "orders": dict.fromkeys(Status.values, 0) | {"UNCONFIRMED": 1},
            "needing_attention": 1,
            "provider": {
                "pause": None,
                "explanation": "In service.",
                "last_failure": "The provider gave no usable answer"
                " (the connection broke before the answer was complete).",
                "paused_until": None,
                "succeeded_at": state.succeeded_at.isoformat(),
                "failed_at": state.failed_at.isoformat(),
                "swept_at": state.swept_at.isoformat(),
                "ticked_at": None,
            },
            "schedule": "ok",
            "worker": "ok",
        }

    def test_of_a_pause(self, call: Call, simulator: Simulator) -> None:
        until = ago(-60)
        ProviderState.objects.pause(
            ProviderState.Pause.RATE, detail="Slower.", until=until, key="irrelevant"
        )
        text = "The provider asked for fewer requests. Slower. Calls go on by themselves."
        assert f"Provider: {text}\n" in call("giftcards_status").out
        provider = json.loads(call("giftcards_status", "--json").out)["provider"]
        assert (provider["pause"], provider["explanation"]) == ("rate", text)
        assert provider["paused_until"] == until.isoformat()

    def test_of_a_schedule_that_does_not_run(self, call: Call) -> None:
        assert json.loads(call("giftcards_status", "--json").out)["schedule"] == NO_SCHEDULE
        ensure_schedule()
        Schedule.objects.update(repeats=0)
        paused = "The schedule is paused: set its repeats to -1 in the admin of django-q2."
        assert call("giftcards_status").out.splitlines()[-2:] == [paused, NO_WORKER]
        assert json.loads(call("giftcards_status", "--json").out)["schedule"] == paused

    @pytest.mark.parametrize("sign", ["ticked_at", "swept_at"])
    @pytest.mark.parametrize(("seconds", "problem"), [(175, "ok"), (185, DOWN)])
    def test_of_a_worker_that_is_down(
        self, sign: str, seconds: float, problem: str, call: Call
    ) -> None:
        ensure_schedule()
        ProviderState.objects.current()
        ProviderState.objects.update(**{sign: ago(seconds)})
        assert json.loads(call("giftcards_status", "--json").out)["worker"] == problem
        assert (call("giftcards_status").out.splitlines()[-1] == DOWN) is (problem == DOWN)

    def test_silently(self, call: Call) -> None:
        assert call("giftcards_status", "-v0") == ("", "", 0)

    def test_asks_nobody(self, call: Call, simulator: Simulator) -> None:
        make_order(Status.HANDLING, due_at=ago(9))
        call("giftcards_status")
        assert simulator.requests == []


class TestOneOrder:
    def test_with_its_breakdown(self, call: Call, simulator: Simulator) -> None:
        order = buy(reference="cart-1", quantity=5, type_id="TEST_PARTIAL")
        call("giftcards_poll")
        assert call("giftcards_status", "cart-1") == (
            "Order cart-1\n"
            "  status      PARTIALLY_FILLED\n"
            f"  provider    {order.provider_order_id}\n"
            f"  line        5 × TEST_PARTIAL ({PSN})\n"
            "  delivered   2 of 5\n"
            "  cards       2 stored, encrypted\n"
            "  refund breakdown\n"
            "    ordered   2450.00 DZD\n"
            "    charged   980.00 DZD\n"
            "    refunded  1470.00 DZD\n",
            "",
            0,
        )

    def test_that_has_not_been_sent(self, call: Call) -> None:
        make_order(reference="cart-1")
        assert call("giftcards_status", "cart-1").out == (
            "Order cart-1\n"
            "  status      PENDING\n"
            "  provider    has not named it\n"
            f"  line        2 × type_001 ({PSN})\n"
            "  delivered   0 of 2\n"
            "  cards       0 stored, encrypted\n"
        )

    def test_whose_figures_do_not_fit(self, call: Call) -> None:
        make_order(
            Status.FULFILLED,
            reference="cart-1",
            price_per_card=Decimal(490),
            fulfilled_amount=Decimal(1000),
            problem="The figures contradict each other.",
        )
        out, _, code = call("giftcards_status", "cart-1")
        assert out.endswith(
            "    ordered   980.00 DZD\n"
            "    charged   1000.00 DZD\n"
            "    refunded  0.00 DZD\n"
            "    The provider's figures contradict each other.\n"
            "  attention   The figures contradict each other.\n"
        )
        assert code == 0
        refund = json.loads(call("giftcards_status", "cart-1", "--json").out)["refund"]
        assert refund["is_consistent"] is False

    def test_whose_price_nobody_knows(self, call: Call, set_conf: Callable[..., None]) -> None:
        set_conf(CURRENCY="EUR")
        make_order(Status.REFUNDED, reference="cart-1")
        assert call("giftcards_status", "cart-1").out.endswith(
            "    ordered   unknown\n    charged   0.00 EUR\n    refunded  unknown\n"
        )
        refund = json.loads(call("giftcards_status", "cart-1", "--json").out)["refund"]
        assert refund == {
            "ordered_amount": None,
            "charged_amount": "0.00",
            "refunded_quantity": 2,
            "refunded_amount": None,
            "is_consistent": True,
        }

    def test_that_was_rejected(self, call: Call) -> None:
        make_order(Status.REJECTED, reference="cart-1")
        result = json.loads(call("giftcards_status", "cart-1", "--json").out)
        assert (result["status"], result["is_final"], result["refund"]) == ("REJECTED", True, None)

    def test_that_does_not_exist(self, call: Call) -> None:
        make_order()
        for more in ([], ["--json"], ["-v0"]):
            assert call("giftcards_status", "unknown", *more) == (
                "",
                "There is no order 'unknown'. `manage.py giftcards_status` counts the orders;"
                " the admin lists them.\n",
                2,
            )

    def test_silently(self, call: Call) -> None:
        order = make_order()
        assert call("giftcards_status", order.reference, "-v0") == ("", "", 0)

    def test_changes_nothing(self, call: Call, simulator: Simulator) -> None:
        order = buy()
        before = Order.objects.values().get()
        asked = len(simulator.requests)
        call("giftcards_status", order.reference)
        assert Order.objects.values().get() == before
        assert len(simulator.requests) == asked


def test_a_currency_that_is_none(call: Call, set_conf: Callable[..., None]) -> None:
    set_conf(CURRENCY="dinar")
    assert call("giftcards_status") == (
        "",
        "GIFTCARDS['CURRENCY'] must be a code of three capital letters."
        " DZD is the one the provider charges in.\n",
        2,
    )
