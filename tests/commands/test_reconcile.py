"""``giftcards_reconcile``: lost orders explained, and what nobody here owns."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from giftcards.models import Order
from giftcards.provider import Client
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.conftest import Call
from tests.engine import LINE, posts

pytest_plugins = ["tests.engine_fixtures"]
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def quickly(set_conf: Callable[..., None]) -> None:
    set_conf(POLL_INTERVAL=0.1, REQUEST_TIMEOUT=2)


def lose_one(call: Call) -> Order:
    """An order that the provider accepted without our hearing of it."""
    product = LINE["product_id"]
    assert call("giftcards_place", product, "SIM_LOST", "2", "-v0").code == 1
    return Order.objects.get(type_id="SIM_LOST")


def test_nothing_to_explain(call: Call, simulator: Simulator) -> None:
    out, err, code = call("giftcards_reconcile", "--since", "2026-01-01T00:00:00+00:00")
    assert out == (
        "0 lost orders explained, 0 left.\n"
        "0 orders at the provider since 2026-01-01T00:00:00+00:00 are nobody's here.\n"
    )
    assert (err, code) == ("", 0)


def test_a_lost_order_is_found(call: Call, simulator: Simulator) -> None:
    order = lose_one(call)
    assert order.status == Status.UNCONFIRMED
    out, _err, code = call("giftcards_reconcile", "--json")
    assert json.loads(out) == {
        "explained": 1,
        "unconfirmed": 0,
        "is_whole": True,
        "orphans": [],
    }
    assert code == 0
    order.refresh_from_db()
    assert order.provider_order_id in simulator.orders
    assert order.status in {Status.HANDLING, Status.FULFILLED}
    assert posts(simulator) == 1


def test_orphans_are_reported_without_their_codes(call: Call, simulator: Simulator) -> None:
    with Client(base_url=simulator.url, api_key="CANARY-KEY-7f3a9c", timeout=2) as client:
        bought = client.place(product_id=LINE["product_id"], type_id="type_001", quantity=2)
    out, err, code = call("giftcards_reconcile")
    order = simulator.orders[bought.order_id]
    assert bought.order_id in out
    assert not any(card.value in out or card.serial in out for card in order.cards)
    assert "Not every order is explained." in err
    assert code == 1


def test_a_list_that_is_not_there_proves_nothing(call: Call, simulator: Simulator) -> None:
    order = lose_one(call)
    simulator.has_list = False
    _out, err, code = call("giftcards_reconcile")
    assert "The provider's list could not be read whole." in err
    assert code == 1
    order.refresh_from_db()
    assert order.status == Status.UNCONFIRMED


def test_a_date_that_is_none(call: Call, simulator: Simulator) -> None:
    for text in ("yesterday", "2026-13-01"):
        out, err, code = call("giftcards_reconcile", "--since", text)
        assert (out, code) == ("", 2)
        assert (
            f"since: {text!r} is not a date. Write it like 2026-11-24 or 2026-11-24T08:00." in err
        )
    assert call("giftcards_reconcile", "--since", "2026-11-24").code == 0
