"""The environment in which an order was bought: the key determines it, and the claim stores it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from giftcards.engine.gateway import Gateway
from giftcards.exceptions import AccessDenied
from giftcards.models import ApiKey, Lease, Order
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import LINE
from tests.stage import (
    PLACE,
    PROVIDER,
    Setter,
    Wire,
    ago,
    buy,
    buy_many,
    end_pause,
    own_key,
    record_order,
    refill_budget,
    spend_budget,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

VALIDATE = "/v3/validate"


def questions(simulator: Simulator) -> int:
    """Return the number of requests for the environment of the key."""
    return [request.path for request in simulator.requests].count(VALIDATE)


def environments() -> list[str]:
    return list(Order.objects.order_by("pk").values_list("environment", flat=True))


@pytest.mark.parametrize("kind", ["SANDBOX", "PRODUCTION"])
def test_an_order_is_sent_with_the_environment_of_its_key(kind: str, simulator: Simulator) -> None:
    simulator.key_type = kind
    order = buy()
    assert (order.status, order.environment) == (Status.HANDLING, kind)
    assert environments() == [kind]
    assert own_key().environment == kind


def test_the_environment_of_a_key_is_asked_once(simulator: Simulator) -> None:
    for _process in range(3):
        with Gateway() as gateway:
            buy(gateway)
            buy(gateway)
    assert questions(simulator) == 1
    assert environments() == ["SANDBOX"] * 6


def test_another_key_is_asked_about_and_may_be_of_another_environment(
    simulator: Simulator, set_conf: Setter
) -> None:
    buy()
    simulator.key_type = "PRODUCTION"
    set_conf(API_KEY="another-key")
    buy()
    assert environments() == ["SANDBOX", "PRODUCTION"]
    assert questions(simulator) == 2


def test_the_environment_is_written_down_before_the_order_is_sent(wire: Wire) -> None:
    """If the process dies while it sends, the search of the list can use the environment."""
    found: list[tuple[str, str]] = []

    def place(_request: Any) -> tuple[int, dict[str, str], str]:
        order = Order.objects.get()
        found.append((order.status, order.environment))
        return 200, {}, json.dumps({"success": True, "data": {"orderId": "A1"}})

    about = {"type": "PRODUCTION", "scope": "READ-WRITE", "isEnabled": True}
    wire.get(f"{PROVIDER}{VALIDATE}", json={"success": True, "data": {"apiKey": about}})
    wire.add_callback("POST", PLACE, place)
    buy()
    assert found == [("PLACING", "PRODUCTION")]


@pytest.mark.parametrize("kind", ["", "STAGING"])
def test_an_environment_that_is_not_told_or_not_known_stays_empty(
    kind: str, simulator: Simulator
) -> None:
    simulator.key_type = kind
    buy_many(simulator, 3)
    assert environments() == [""] * 3
    assert own_key().environment == ""


def test_a_provider_that_does_not_tell_is_asked_every_two_minutes_at_most(
    simulator: Simulator,
) -> None:
    simulator.key_type = ""
    with Gateway() as gateway:
        for _order in range(3):
            buy(gateway)
        assert questions(simulator) == 1
        Lease.objects.filter(name=Lease.KEY_ENVIRONMENT).update(until=ago(0))
        buy(gateway)
    assert questions(simulator) == 2


def test_an_order_is_sent_although_nobody_answers_what_the_key_is_for(wire: Wire) -> None:
    """A proxy may not route the path of this request."""
    wire.get(f"{PROVIDER}{VALIDATE}", status=404)
    wire.post(PLACE, json={"success": True, "data": {"orderId": "A1"}})
    order = buy()
    assert (order.status, order.environment) == (Status.HANDLING, "")


def test_an_order_is_not_sent_with_a_key_that_is_refused_meanwhile(wire: Wire) -> None:
    refusal = {"error": {"code": "INVALID_API_KEY"}}
    wire.get(f"{PROVIDER}{VALIDATE}", json={"success": False, **refusal}, status=401)
    order = buy()
    assert order.status == Status.PENDING
    assert own_key().is_refused


def test_the_question_waits_while_the_budget_is_short(simulator: Simulator) -> None:
    spend_budget(but=3)
    order = buy()
    assert (order.status, questions(simulator)) == (Status.HANDLING, 0)
    refill_budget()
    Lease.objects.filter(name=Lease.KEY_ENVIRONMENT).update(until=ago(0))
    assert buy().environment == "SANDBOX"


def test_a_key_that_is_tried_after_a_block_is_learned_without_a_further_request(
    simulator: Simulator,
) -> None:
    with Gateway() as gateway:
        gateway.record_outcome(AccessDenied("Blocked.", status=403, code="IP_BLOCKED"))
        end_pause()
        assert gateway.try_open()
        assert own_key().environment == "SANDBOX"
        assert gateway.environment() == "SANDBOX"
    assert questions(simulator) == 1


@pytest.mark.usefixtures("simulator")
def test_an_order_that_is_sent_again_bears_the_environment_that_buys_it() -> None:
    record_order(**LINE)
    Order.objects.update(environment="SANDBOX", sent_with="an earlier key")
    with Gateway() as gateway:
        from giftcards.engine.placing import send

        assert send(Order.objects.get(), gateway)
    assert environments() == ["SANDBOX"]
    assert Order.objects.get().sent_with == own_key().pk


def test_noting_the_environment_changes_nothing_else_of_a_key() -> None:
    key = ApiKey.objects.create(pk="x", accepted_at=ago(5))
    before = vars(ApiKey.objects.get())
    ApiKey.objects.learn(key, "SANDBOX")
    after = vars(ApiKey.objects.get())
    assert {name for name in before if before[name] != after[name]} <= {"_state", "environment"}
