"""``giftcards_reconcile`` explains lost orders and reports unknown orders at the provider."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from giftcards.models import Order
from giftcards.provider.client import Client
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.conftest import Call
from tests.stage import LINE, posts

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def quickly(set_conf: Callable[..., None], shorten: Callable[..., None]) -> None:
    set_conf(POLL_INTERVAL=0.1)
    shorten(request_timeout=20)


def lose_one(call: Call) -> Order:
    """Place an order that the provider accepts, but whose answer does not reach the app."""
    product = LINE["product_id"]
    assert call("giftcards_place", product, "SIM_LOST", "2", "-v0").code == 1
    return Order.objects.get(type_id="SIM_LOST")


def test_reconcile_with_nothing_to_explain_reports_zeros(call: Call, simulator: Simulator) -> None:
    out, err, code = call("giftcards_reconcile", "--since", "2026-01-01T00:00:00+00:00")
    assert out == (
        "0 lost orders resolved, 0 left.\n"
        "0 orders at the provider since 2026-01-01T00:00:00+00:00 are not in this database.\n"
        "0 settled orders are different at the provider and need attention.\n"
    )
    assert (err, code) == ("", 0)


def test_reconcile_finds_a_lost_order(call: Call, simulator: Simulator) -> None:
    order = lose_one(call)
    assert order.status == Status.UNCONFIRMED
    out, _err, code = call("giftcards_reconcile", "--json")
    expected = {"explained": 1, "unconfirmed": 0, "is_whole": True, "orphans": [], "changed": []}
    assert json.loads(out) == expected
    assert code == 0
    order.refresh_from_db()
    assert order.provider_order_id in simulator.orders
    assert order.status in {Status.HANDLING, Status.FULFILLED}
    assert posts(simulator) == 1


def test_reconcile_reports_orphans_without_their_codes(call: Call, simulator: Simulator) -> None:
    with Client(base_url=simulator.url, api_key="CANARY-KEY-7f3a9c", timeout=20) as client:
        bought = client.place(product_id=LINE["product_id"], type_id="type_001", quantity=2)
    out, err, code = call("giftcards_reconcile")
    order = simulator.orders[bought]
    assert bought in out
    assert not any(card.value in out or card.serial in out for card in order.cards)
    assert "Some orders are unknown, different or unconfirmed." in err
    assert code == 1
    [orphan] = json.loads(call("giftcards_reconcile", "--json").out)["orphans"]
    assert (orphan["id"], orphan["order"]) == (bought, "")


def test_reconcile_explains_no_order_if_there_is_no_list(call: Call, simulator: Simulator) -> None:
    order = lose_one(call)
    simulator.has_list = False
    assert call("giftcards_reconcile") == (
        "0 lost orders resolved, 1 left.\n"
        "The provider's list could not be read. It may contain orders that are not in this"
        " database.\n",
        "The provider's list could not be read completely. The provider gave no usable answer"
        " (HTTP 404).\n",
        1,
    )
    order.refresh_from_db()
    assert order.status == Status.UNCONFIRMED


def test_reconcile_says_that_the_provider_is_away(call: Call, simulator: Simulator) -> None:
    lose_one(call)
    simulator.outage = True
    out, err, code = call("giftcards_reconcile")
    assert out == (
        "0 lost orders resolved, 1 left.\n"
        "The provider's list could not be read. It may contain orders that are not in this"
        " database.\n"
    )
    assert err.startswith("The provider's list could not be read completely. The provider ")
    assert "The provider gave no usable answer (SERVICE_UNAVAILABLE)." in err
    assert code == 1
    out, _err, code = call("giftcards_reconcile", "--json")
    expected = {"explained": 0, "unconfirmed": 1, "is_whole": False, "orphans": [], "changed": []}
    assert json.loads(out) == expected
    assert code == 1


def test_reconcile_shows_a_wait_for_the_provider(
    call: Call, simulator: Simulator, shorten: Callable[..., None]
) -> None:
    shorten(short_wait=0.1, polling_pulse=0.1)
    lose_one(call)
    simulator.latency = (0.5, 0.5)
    out, _err, code = call("giftcards_reconcile")
    lines = out.splitlines()
    assert lines[0].startswith("Searching for 1 lost order in the provider's list (since ")
    assert lines[1].startswith("Reading the provider's list (since ")
    assert lines[2] == "1 lost order resolved, 0 left."
    assert lines[4:] == ["0 settled orders are different at the provider and need attention."]
    assert code == 0
    # The JSON output contains only the result, and with ``-v0`` nothing is printed.
    assert len(json.loads(call("giftcards_reconcile", "--json").out)) == 5
    assert call("giftcards_reconcile", "-v0") == ("", "", 0)


def test_reconcile_refuses_a_since_that_is_no_date(call: Call, simulator: Simulator) -> None:
    for text in ("yesterday", "2026-13-01"):
        out, err, code = call("giftcards_reconcile", "--since", text)
        assert (out, code) == ("", 2)
        assert (
            f"since: {text!r} is not a date. Use a format such as 2026-11-24 or 2026-11-24T08:00."
            in err
        )
    assert call("giftcards_reconcile", "--since", "2026-11-24").code == 0
