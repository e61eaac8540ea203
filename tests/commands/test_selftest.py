"""``giftcards_selftest`` runs the provider's scenarios against the simulator."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import responses
from django.db.models import Model

from giftcards.conf import conf
from giftcards.keys.keyring import generate_key
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Card, Order, ProviderState
from giftcards.signals import order_finalized
from giftcards.simulator import Simulator
from tests.builders import PARTIAL, settle
from tests.conftest import Call
from tests.stage import PLACE, PROVIDER, ago, posts

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("quickly")]


@pytest.fixture(autouse=True)
def _patiently(shorten: Callable[..., None]) -> None:
    """Do not show a wait only because the machine is busy."""
    shorten(short_wait=60)


@pytest.mark.parametrize(
    ("references", "advice", "orders", "requests"),
    [
        (
            "ignored",
            "Leave SEND_REFERENCE off: the provider ignores references.",
            5,
            5,
        ),
        (
            "told",
            "Set SEND_REFERENCE to True for this provider: its list shows references, so lost"
            " orders can be found.",
            5,
            5,
        ),
        (
            "unique",
            "Set SEND_REFERENCE to True for this provider: its list shows references, so lost"
            " orders can be found, and it refuses a second purchase with the same reference.",
            4,
            5,
        ),
        ("cut", "Leave SEND_REFERENCE off: the provider changes references.", 5, 5),
        ("refused", "Leave SEND_REFERENCE off: the provider does not accept references.", 3, 4),
    ],
)
def test_selftest_passes_all_scenarios_against_the_simulator(
    references: Any, advice: str, orders: int, requests: int, call: Call, simulator: Simulator
) -> None:
    simulator.delay = (0.1, 0.3)
    simulator.references = references
    assert call("giftcards_selftest") == (
        "ok      refund: 2 × TEST_REFUND is not delivered, credited back, 0 delivered\n"
        "ok      partial delivery: 4 × TEST_PARTIAL is partly delivered, 2 delivered\n"
        "ok      ordinary order: 2 × type_001 is delivered, 2 delivered\n"
        f"{advice}\n"
        "All 3 scenarios passed.\n",
        "",
        0,
    )
    assert (len(simulator.orders), posts(simulator)) == (orders, requests)


def test_selftest_shows_a_wait_for_the_provider(
    call: Call, simulator: Simulator, shorten: Callable[..., None]
) -> None:
    shorten(short_wait=0.2)
    simulator.delay = (3, 3)
    out, _, code = call("giftcards_selftest")
    waiting = r"refund: In progress, waiting for the provider \(since \d\d:\d\d:\d\d, \d s\)\n"
    # There is one line per order, not one per check.
    assert re.match(f"{waiting}ok      refund", out)
    assert out.count("In progress") <= 3
    assert code == 0


def test_selftest_with_json_prints_one_object(call: Call, simulator: Simulator) -> None:
    out, err, code = call("giftcards_selftest", "--json")
    assert (err, code) == ("", 0)
    result = json.loads(out)
    assert (result["passed"], result["cards"]) == (True, {})
    expected = ["refund", "partial delivery", "ordinary order"]
    assert [scenario["scenario"] for scenario in result["scenarios"]] == expected
    for scenario, order in zip(result["scenarios"], Order.objects.order_by("pk"), strict=True):
        assert (scenario["passed"], scenario["complaints"]) == (True, [])
        assert scenario["order"]["reference"] == order.reference
        assert scenario["order"]["cards"] == order.cards.count()
    refund = result["scenarios"][1]["order"]["refund"]
    assert (refund["refunded_quantity"], refund["refunded_amount"]) == (2, "980.00")


def test_selftest_fails_if_the_keys_do_not_open_the_cards_stored_before(
    call: Call, simulator: Simulator, set_conf: Callable[..., None]
) -> None:
    order = settle("web-1042", PARTIAL)
    newest, oldest = order.cards.get(position=3), order.cards.get(position=1)
    keys = conf.encryption_keys
    set_conf(ENCRYPTION_KEYS=[generate_key(), *keys])
    out, _, code = call("giftcards_selftest", "--json")
    assert (json.loads(out)["cards"], code) == ({"newest": "ok", "oldest": "ok"}, 0)
    Card.objects.filter(pk__gt=newest.pk).delete()
    set_conf(ENCRYPTION_KEYS=[generate_key()])
    troubles = [
        f"Card {card.position} of order {card.order.reference}: This card cannot be decrypted: none"
        " of GIFTCARDS['ENCRYPTION_KEYS'] can decrypt it, or the stored text is damaged."
        for card in (newest, oldest)
    ]
    out, err, code = call("giftcards_selftest")
    assert out.count("ok ") == 3
    expected = (
        f"Some of the cards that were stored before cannot be decrypted. {' '.join(troubles)}\n",
        1,
    )
    assert (err, code) == expected
    set_conf(ENCRYPTION_KEYS=[*conf.encryption_keys, *keys])


def test_selftest_can_order_another_product(call: Call, simulator: Simulator) -> None:
    steam = ("--product", "507f1f77bcf86cd799439012", "--type", "type_101")
    out, _, code = call("giftcards_selftest", *steam)
    assert "ok      ordinary order: 2 × type_101 is delivered, 2 delivered\n" in out
    assert code == 0


def test_selftest_passes_with_a_sale_price_in_a_sandbox_that_lists_no_type_for_tests(
    call: Call, simulator: Simulator
) -> None:
    simulator.lists_test_types = False
    assert call("giftcards_selftest", "-v0") == ("", "", 0)
    for order in Order.objects.filter(type_id__startswith="TEST_"):
        assert order.price_ceiling is not None


def test_selftest_passes_in_a_sandbox_whose_cards_repeat(call: Call, simulator: Simulator) -> None:
    simulator.repeat_codes = True
    assert call("giftcards_selftest").code == 0


def test_selftest_names_the_scenario_that_failed(
    call: Call, simulator: Simulator, set_conf: Callable[..., None]
) -> None:
    set_conf(POLL_TIMEOUT=1)
    out, err, code = call("giftcards_selftest", "--type", "SIM_NEVER")
    assert out == (
        "ok      refund: 2 × TEST_REFUND is not delivered, credited back, 0 delivered\n"
        "ok      partial delivery: 4 × TEST_PARTIAL is partly delivered, 2 delivered\n"
        "FAILED  ordinary order: 2 × SIM_NEVER is delayed, 0 delivered\n"
        "        The order should be delivered, but is delayed.\n"
    )
    assert (err, code) == ("1 of 3 scenarios failed: ordinary order.\n", 1)


def test_selftest_with_json_names_the_complaints_of_failed_scenarios(
    call: Call, simulator: Simulator
) -> None:
    out, err, code = call("giftcards_selftest", "--product", "unknown", "--json")
    result = json.loads(out)
    assert result["passed"] is False
    unpriced = (
        "but is waiting to be sent. The order has not been sent because it has a price limit and"
        " the current price is unknown. (NOT_FOUND)"
    )
    assert [scenario["complaints"] for scenario in result["scenarios"]] == [
        [f"The order should be not delivered, credited back, {unpriced}"],
        [f"The order should be partly delivered, {unpriced}"],
        [
            "The order should be delivered, but is rejected. The provider refused the order, so"
            " nothing was bought. The provider's message: “There is no such product.” (NOT_FOUND)"
        ],
    ]
    names = "refund, partial delivery, ordinary order"
    assert (err, code) == (f"3 of 3 scenarios failed: {names}.\n", 1)


def test_selftest_fails_against_a_provider_that_differs_from_its_guide(
    call: Call, wire: responses.RequestsMock
) -> None:
    """The provider refunds too little, and does not deliver as its guide says."""
    cards = [{"value": f"CANARY-CODE-1234-{number}"} for number in range(2)]
    delivered = {"cards": cards[:1], "fulfilled_quantity": 1, "price_per_card": 490}
    answers = {
        "TEST_REFUND": {"status": "REFUNDED", "fulfilled_amount": 490},
        "TEST_PARTIAL": {"status": "PARTIALLY_FILLED", "fulfilled_amount": 490} | delivered,
        "type_001": {"status": "FULFILLED", "cards": cards},
    }
    wire.get(
        f"{PROVIDER}/v3/validate", json={"success": True, "data": {"apiKey": {"type": "SANDBOX"}}}
    )

    def place(request: Any) -> tuple[int, dict[str, str], str]:
        type_id = json.loads(request.body)["typeId"]
        return 200, {}, json.dumps({"success": True, "data": {"orderId": type_id}})

    wire.add_callback("POST", PLACE, place)
    for type_id, data in answers.items():
        url = f"{PROVIDER}/v3/gift-cards/check-order/{type_id}"
        wire.get(url, json={"success": True, "data": data})
    assert call("giftcards_selftest") == (
        "FAILED  refund: 2 × TEST_REFUND is not delivered, credited back, 0 delivered\n"
        "        The provider's figures contradict each other.\n"
        "FAILED  partial delivery: 4 × TEST_PARTIAL is partly delivered, 1 delivered\n"
        "        2 of 4 cards should have been delivered, but the provider reports 1, and 1 are"
        " stored.\n"
        "        3 cards were refunded.\n"
        "ok      ordinary order: 2 × type_001 is delivered, 2 delivered\n",
        "2 of 3 scenarios failed: refund, partial delivery.\n",
        1,
    )


@pytest.mark.parametrize(
    ("damaged", "complaint"),
    [
        (
            "truncated",
            "This card cannot be decrypted: none of GIFTCARDS['ENCRYPTION_KEYS'] can decrypt it, or"
            " the stored text is damaged.",
        ),
        ("empty", "A card has no code."),
    ],
)
def test_selftest_fails_if_the_database_does_not_keep_the_codes(
    damaged: str, complaint: str, call: Call, simulator: Simulator
) -> None:
    def damage(order: Order, **kwargs: Any) -> None:
        for card in order.cards.select_related("order"):
            card.row = conf.keyring().seal(CardSecret("", ""), place=card.place)
            if damaged == "truncated":
                card.sealed = card.sealed[:50]
            card.save()

    order_finalized.connect(damage)
    try:
        out, err, code = call("giftcards_selftest")
    finally:
        order_finalized.disconnect(damage)
        Card.objects.all().delete()
    assert out.count(f"        {complaint}\n") == 2
    assert (err, code) == ("2 of 3 scenarios failed: partial delivery, ordinary order.\n", 1)


class TestIsNotRun:
    def refused(self, call: Call, message: str) -> None:
        assert call("giftcards_selftest") == ("", f"{message}\n", 2)
        models: list[type[Model]] = [Order, Card]
        assert not any(model._default_manager.exists() for model in models)

    def test_selftest_is_not_run_with_a_production_key(
        self, call: Call, simulator: Simulator
    ) -> None:
        simulator.key_type = "PRODUCTION"
        self.refused(
            call,
            "The key is for PRODUCTION, not for SANDBOX, so the orders would cost money."
            " Set GIFTCARDS['API_KEY'] to a sandbox key.",
        )
        assert posts(simulator) == 0

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            (
                {},
                "The key is for an unknown environment, not for SANDBOX, so the orders would cost"
                " money. Set GIFTCARDS['API_KEY'] to a sandbox key.",
            ),
            (
                {"type": "SANDBOX", "scope": "READ-ONLY"},
                "The key is read-only. Set GIFTCARDS['API_KEY'] to a sandbox key that can place"
                " orders.",
            ),
        ],
    )
    def test_selftest_is_not_run_with_an_unknown_or_read_only_key(
        self, key: dict[str, str], message: str, call: Call, wire: responses.RequestsMock
    ) -> None:
        answer = {"success": True, "data": {"apiKey": key}}
        wire.get(f"{PROVIDER}/v3/validate", json=answer)
        self.refused(call, message)

    def test_selftest_is_not_run_without_the_provider(
        self, call: Call, closed_port: int, set_conf: Callable[..., None]
    ) -> None:
        set_conf(BASE_URL=f"http://127.0.0.1:{closed_port}")
        self.refused(
            call,
            "The app could not determine the environment of the API key: The provider has not"
            " processed the request (it could not be reached).",
        )

    def test_selftest_is_not_run_during_an_outage(self, call: Call, simulator: Simulator) -> None:
        simulator.outage = True
        self.refused(
            call,
            "The app could not determine the environment of the API key: The provider gave no"
            " usable answer (SERVICE_UNAVAILABLE).",
        )

    def test_selftest_is_not_run_with_a_wrong_key_and_tries_it_once(
        self, call: Call, simulator: Simulator
    ) -> None:
        """The key is tried only once, so that repeated runs do not get the server blocked."""
        simulator.keys = ["another"]
        refused = (
            "The provider refused the API key (INVALID_ACCESS_TOKEN, 4 attempts left). Correct"
            " GIFTCARDS['API_KEY'] first: further attempts will block this server."
        )
        self.refused(call, f"The app could not determine the environment of the API key: {refused}")
        for _time in range(3):
            self.refused(
                call,
                f"The provider refuses the API key or this server's address. {refused} Enter a"
                " working key in the settings, or run `manage.py giftcards_poll --resume`"
                " after the current key works again.",
            )
        assert len(simulator.requests) == 1

    def test_selftest_is_not_run_during_a_pause(self, call: Call, simulator: Simulator) -> None:
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="Slower.", until=ago(-60))
        self.refused(
            call,
            "The provider asked for fewer requests. Slower. Requests will resume automatically.",
        )
        assert simulator.requests == []

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["--product", ""], "product_id: This field cannot be blank.\n"),
            (["--type", ""], "type_id: This field cannot be blank.\n"),
            (
                ["--type", "a b"],
                "type_id: Use letters, digits and punctuation only, without spaces.\n",
            ),
        ],
    )
    def test_selftest_is_not_run_for_what_cannot_be_ordered(
        self, args: list[str], message: str, call: Call, simulator: Simulator
    ) -> None:
        assert call("giftcards_selftest", *args) == ("", message, 2)
        assert not Order.objects.exists()
        assert posts(simulator) == 0
