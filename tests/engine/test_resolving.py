"""Looking up an id that staff give a lost order, comparing it, and taking it back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import pytest
import requests
from django.utils import timezone

from giftcards.engine.recording import record_answers
from giftcards.engine.recovering import adopt, declare_absent
from giftcards.engine.resolving import (
    Fit,
    NoAnswer,
    compare,
    look_up,
    may_release,
    overall,
    release,
)
from giftcards.models import Order, StatusChange
from giftcards.rules.problems import Problem
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import CARDS, PRODUCT, TYPE, claim, details, make_order, problems, settled
from tests.stage import (
    PROVIDER,
    Setter,
    Wire,
    ago,
    buy,
    fresh,
    in_threads,
    provider_state,
    refuse_key,
    run_sweep,
    slots_in_use,
    spend_budget,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_settings")]

CHECK = f"{PROVIDER}/v3/gift-cards/check-order/B1"
STAFF = StatusChange.Source.STAFF
RELEASED = Problem("staff_released", {"by": "amina", "provider_order_id": "B1"})


@pytest.fixture
def _settings(set_conf: Setter, shorten: Setter) -> None:
    set_conf(REQUESTS_PER_MINUTE=1200, POLL_INTERVAL=0.1)
    shorten(proof_of_absence=60)


def envelope(**data: Any) -> dict[str, Any]:
    return {"success": True, "data": data}


def refusal(code: str) -> dict[str, Any]:
    return {"success": False, "error": {"code": code, "message": "no"}}


def lose(**values: Any) -> Order:
    return make_order(Status.UNCONFIRMED, **{"sent_at": ago(1), "claim": "first", **values})


def adopted(name: str = "B1", **values: Any) -> Order:
    """Return a lost order to which staff have assigned the provider's order ``name``."""
    order = lose(**values)
    assert adopt(order, name, source=STAFF)
    return order


class TestLookingUp:
    def test_looking_up_an_id_tells_its_line_and_keeps_no_card(self, wire: Wire) -> None:
        time = "2025-10-29T01:00:00.000Z"
        card = {"value": "CANARY-1", "serial": "CANARY-2"}
        wire.get(
            CHECK,
            json=envelope(
                _id="B1", status="FULFILLED", quantity=1, product="p", type="t", time=time,
                cards=[card],
            ),
        )  # fmt: skip
        assert look_up(Order(), "B1") == {
            "id": "B1",
            "created_at": "2025-10-29T01:00:00+00:00",
            "status": "FULFILLED",
            "quantity": 1,
            "product": "p",
            "type": "t",
            "is_same_key": True,
        }
        # The request uses the shared request quota, and does not count as the work of a worker.
        assert slots_in_use() == 1
        assert provider_state().swept_at is None

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            ({"status": 404, "json": refusal("NOT_FOUND")}, NoAnswer.NOT_FOUND),
            ({"status": 400, "json": refusal("ERR_VALIDATION")}, NoAnswer.UNREACHABLE),
            ({"status": 500, "body": "no"}, NoAnswer.UNREACHABLE),
            ({"status": 200, "body": "no JSON"}, NoAnswer.UNREACHABLE),
            ({"body": requests.ConnectionError("no")}, NoAnswer.UNREACHABLE),
            ({"status": 401, "json": refusal("INVALID_ACCESS_TOKEN")}, NoAnswer.PAUSED),
            ({"status": 429, "json": refusal("RATE_LIMIT_EXCEEDED")}, NoAnswer.PAUSED),
        ],
    )
    def test_looking_up_an_id_tells_why_there_is_no_answer(
        self, answer: dict[str, Any], expected: NoAnswer, wire: Wire
    ) -> None:
        wire.get(CHECK, **answer)
        assert look_up(Order(), "B1") is expected

    @pytest.mark.parametrize(
        ("trouble", "expected"), [(refuse_key, NoAnswer.PAUSED), (spend_budget, NoAnswer.BUSY)]
    )
    def test_looking_up_an_id_asks_nothing_while_calls_are_paused_or_the_budget_is_spent(
        self, trouble: Callable[[], None], expected: NoAnswer, wire: Wire
    ) -> None:
        trouble()
        assert look_up(Order(), "B1") is expected
        assert len(wire.calls) == 0

    def test_looking_up_an_id_without_an_api_key_is_not_configured(self, set_conf: Setter) -> None:
        set_conf(API_KEY="")
        assert look_up(Order(), "B1") is NoAnswer.NOT_CONFIGURED


class TestComparing:
    ROW: ClassVar = {"product": PRODUCT, "type": TYPE, "quantity": 2}

    @pytest.mark.parametrize(
        ("changes", "differing", "verdict"),
        [
            ({}, set(), Fit.FITS),
            ({"hours": 1.9}, set(), Fit.FITS),
            ({"hours": -2.1}, {"created_at"}, Fit.DIFFERS),
            ({"product": "other"}, {"product"}, Fit.DIFFERS),
            ({"type": TYPE.upper()}, {"type"}, Fit.DIFFERS),
            ({"quantity": 5}, {"quantity"}, Fit.DIFFERS),
            # If a value is missing, it does not differ, but it proves nothing either.
            ({"product": ""}, set(), Fit.NOT_TOLD),
            ({"quantity": None}, set(), Fit.NOT_TOLD),
            ({"hours": None}, set(), Fit.FITS),
            ({"product": "", "type": "other"}, {"type"}, Fit.DIFFERS),
        ],
    )
    def test_a_looked_up_id_fits_if_nothing_that_it_tells_differs(
        self, changes: dict[str, Any], differing: set[str], verdict: Fit
    ) -> None:
        order = lose()
        hours = changes.pop("hours", 0)
        time = None if hours is None else (order.sent_at + timedelta(hours=hours)).isoformat()
        fits = compare(order, {**self.ROW, "created_at": time, **changes})
        assert {name for name, fit in fits.items() if fit is Fit.DIFFERS} == differing
        assert overall(fits) is verdict

    def test_the_time_of_an_order_is_not_compared_if_nobody_knows_when_it_was_sent(self) -> None:
        order = lose(sent_at=None)
        row = {**self.ROW, "created_at": timezone.now().isoformat()}
        assert compare(order, row)["created_at"] is Fit.NOT_TOLD


class TestReleasing:
    def test_an_order_that_is_released_is_still_known_to_have_been_accepted(self) -> None:
        order = adopted(answered_id="S1")
        Order.objects.update(checked_at=ago(1))
        assert release(fresh(order), by="amina")
        assert (fresh(order).answered_id, order.checked_at) == ("S1", None)

    @pytest.mark.parametrize("status", [Status.HANDLING, Status.DELAYED])
    def test_an_order_that_is_released_is_lost_again_and_its_id_is_free(
        self, status: Status
    ) -> None:
        order = adopted()
        Order.objects.update(status=status, is_only_listed=True, failures=3)
        assert release(fresh(order), by="amina")
        order.refresh_from_db()
        expected = (Status.UNCONFIRMED, None, "")
        assert (order.status, order.provider_order_id, order.provider_alias) == expected
        assert (order.accepted_at, order.is_only_listed, order.failures) == (None, False, 0)
        assert order.due_at is not None
        assert problems(order) == [RELEASED]
        change = order.changes.last()
        assert (change.from_status, change.source) == (status, "staff")
        assert details(change) == [RELEASED]
        assert adopt(lose(), "B1", source=StatusChange.Source.RECOVERY)

    def test_problems_about_the_other_order_end_when_an_order_is_released(self) -> None:
        order = adopted()
        differs = Problem("quantity_differs", {"told": 5, "ordered": 2})
        Order.objects.update(**order.problem_columns(new=[differs]))
        assert release(fresh(order), by="amina")
        assert problems(order) == [RELEASED]

    @pytest.mark.parametrize("status", sorted(set(Status) - {Status.HANDLING, Status.DELAYED}))
    def test_only_an_order_that_is_followed_can_be_released(self, status: Status) -> None:
        order = make_order(status)
        assert not release(order, by="amina")
        assert not order.changes.exists()

    @pytest.mark.usefixtures("simulator")
    def test_an_order_whose_id_came_from_placing_cannot_be_released(self) -> None:
        order = buy()
        assert order.status == Status.HANDLING
        assert not may_release(order)
        assert not release(order, by="amina")
        # This also applies if the process was only slow, because the id is from the answer.
        late = lose()
        values = {"provider_order_id": "B2", "accepted_at": timezone.now()}
        late.move(Status.HANDLING, source=StatusChange.Source.PLACING, **values)
        assert not release(late, by="amina")

    def test_an_order_that_recovery_found_can_be_released(self, simulator: Simulator) -> None:
        order = lose()
        assert adopt(order, "B1", source=StatusChange.Source.RECOVERY)
        assert release(order, by="amina")

    def test_an_order_that_has_a_card_cannot_be_released(self) -> None:
        order = adopted()
        stale = Order.objects.get(pk=order.pk)
        record_answers(
            [(claim(order)[0], settled(None, CARDS[:1], quantity=order.quantity))],
            now=timezone.now(),
        )
        assert order.cards.count() == 1
        for instance in (Order.objects.get(pk=order.pk), stale):
            assert not release(instance, by="amina")
        assert fresh(order).provider_order_id == "B1"

    def test_a_decision_from_before_an_adoption_does_not_apply_after_the_release(self) -> None:
        order = lose()
        stale = Order.objects.get(pk=order.pk)
        assert adopt(order, "B1", source=STAFF)
        assert release(order, by="amina")
        assert not declare_absent(stale, send_again=True, source=STAFF)
        assert not adopt(stale, "B2", source=STAFF)

    def test_of_two_concurrent_releases_one_counts(self, shared_database: str) -> None:
        order = adopted()
        results = in_threads(2, lambda: release(Order.objects.get(pk=order.pk), by="amina"))
        assert sorted(results) == [False, True]

    def test_recovery_does_not_adopt_a_released_id_but_asks_a_person(
        self, simulator: Simulator
    ) -> None:
        order = buy(type_id="SIM_LOST")
        [bought] = simulator.orders
        assert adopt(order, bought, source=STAFF)
        assert release(order, by="amina")
        Order.objects.update(due_at=ago(1))
        run_sweep()
        assert fresh(order).status == Status.UNCONFIRMED
        assert [row["id"] for row in order.candidates] == [bought]
        # Staff may adopt the id again.
        assert adopt(order, bought, source=STAFF)
