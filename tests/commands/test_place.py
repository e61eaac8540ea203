"""``giftcards_place`` places one order and sends it before the command returns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
import responses
from django.db import OperationalError, connection
from django_q.models import OrmQ

from giftcards.conf import problems
from giftcards.management.output import clock_time
from giftcards.models import Order, ProviderState
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import ODD_AMOUNTS, make_order
from tests.conftest import Call
from tests.stage import PLACE, PSN, ago, buy, failing, posts

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("quickly")]

PLACE_TWO = ("giftcards_place", PSN, "type_001", "2", "--reference", "cart-1")
KEYS = [
    "reference", "provider_order_id", "status", "is_final", "product_id", "type_id", "quantity",
    "fulfilled_quantity", "price_per_card", "fulfilled_amount", "cards", "refund", "customer",
    "refunds", "created_at", "finalized_at", "problems",
]  # fmt: skip
PAUSED = "The provider asked for fewer requests. Slower. Requests will resume automatically."


@pytest.mark.django_db(transaction=True)
def test_place_sends_the_order_before_it_returns_and_queues_a_sweep_for_a_worker(
    call: Call, simulator: Simulator
) -> None:
    out, err, code = call(*PLACE_TWO, "--sale-price", "549.90", "--email", "a@example.com")
    order = Order.objects.get()
    assert out == (
        "Order cart-1\n"
        "  status      In progress\n"
        f"  provider    {order.provider_order_id}\n"
        f"  line        2 × type_001 ({PSN})\n"
        "  delivered   0 of 2\n"
        "  cards       0 stored, encrypted\n"
    )
    assert (err, code) == ("", 0)
    assert list(simulator.orders) == [order.provider_order_id]
    assert (order.sale_price, order.customer_email) == (Decimal("549.90"), "a@example.com")
    [queued] = OrmQ.objects.all()
    assert queued.task["func"] == "giftcards.tasks.sweep"


def test_place_says_that_another_process_is_sending_the_order(
    call: Call, simulator: Simulator
) -> None:
    order = make_order(
        Status.PLACING, reference="cart-1", sent_at=ago(30), claimed_until=ago(-3), due_at=None
    )
    out, _err, code = call(*PLACE_TWO)
    assert order.sent_at is not None
    assert re.match(
        r"Being sent: 0 of 2 cards delivered, another process is sending it"
        rf" \(since {clock_time(order.sent_at)}, 3\d s\)\n",
        out,
    )
    assert code == 1


def test_place_with_wait_shows_progress_until_the_order_settles(
    call: Call, simulator: Simulator
) -> None:
    simulator.delay = (3, 3)
    out, err, code = call("giftcards_place", PSN, "SIM_GROW", "2", "--wait")
    order = Order.objects.get()
    assert order.accepted_at is not None
    waiting = f"waiting for the provider (since {clock_time(order.accepted_at)}, "
    lines = out.splitlines()
    # There is one line per change, not one per check.
    assert lines[0].startswith(f"In progress: 0 of 2 cards delivered, {waiting}")
    assert lines[1].startswith(f"In progress: 1 of 2 cards delivered, {waiting}")
    assert lines[2] == "Delivered: 2 of 2 cards delivered"
    assert lines[lines.index(f"Order {order.reference}") - 1] == (
        "Delivered: 2 of 2 cards delivered"
    )
    assert out.endswith(
        "  status      Delivered\n"
        f"  provider    {order.provider_order_id}\n"
        f"  line        2 × SIM_GROW ({PSN})\n"
        "  delivered   2 of 2\n"
        "  cards       2 stored, encrypted\n"
        "  refund breakdown\n"
        "    ordered   980.00 DZD\n"
        "    charged   980.00 DZD\n"
        "    refunded  0.00 DZD\n"
    )
    assert (err, code) == ("", 0)
    assert not OrmQ.objects.exists()


@pytest.mark.parametrize(
    ("type_id", "status", "cards", "refund"),
    [
        ("type_001", "FULFILLED", 2, ["980.00", "980.00", 0, "0.00", True]),
        ("TEST_PARTIAL", "PARTIALLY_FILLED", 1, ["980.00", "490.00", 1, "490.00", True]),
        ("TEST_REFUND", "REFUNDED", 0, ["980.00", "0.00", 2, "980.00", True]),
    ],
)
def test_place_with_json_prints_the_settled_order_as_one_object(
    type_id: str, status: str, cards: int, refund: list[Any], call: Call, simulator: Simulator
) -> None:
    out, err, code = call("giftcards_place", PSN, type_id, "2", "--wait", "--json")
    assert (err, code) == ("", 0)
    result = json.loads(out)
    order = Order.objects.get()
    assert list(result) == KEYS
    assert list(result["refund"]) == [
        "ordered_amount",
        "charged_amount",
        "refunded_quantity",
        "refunded_amount",
        "is_consistent",
    ]
    for name in ("created_at", "finalized_at"):
        assert datetime.fromisoformat(result.pop(name)) == getattr(order, name)
    assert list(result.pop("refund").values()) == refund
    assert (result.pop("customer"), result.pop("refunds")) == (None, [])
    assert list(result.values()) == [
        order.reference,
        order.provider_order_id,
        status,
        True,
        PSN,
        type_id,
        2,
        cards,
        "490.00",
        refund[1],
        cards,
        [],
    ]


def test_place_with_json_prints_an_open_order(call: Call, simulator: Simulator) -> None:
    out, err, code = call(*PLACE_TWO, "--json")
    assert (err, code) == ("", 0)
    result = json.loads(out)
    assert list(result) == KEYS
    nothing_yet = ("fulfilled_amount", "refund", "finalized_at")
    assert [result[name] for name in nothing_yet] == [None] * 3
    assert (result["status"], result["is_final"], result["cards"]) == ("HANDLING", False, 0)
    assert result["price_per_card"] == "490.00"


@pytest.mark.parametrize("wait", [[], ["--wait"]])
def test_place_with_verbosity_0_prints_nothing(
    wait: list[str], call: Call, simulator: Simulator
) -> None:
    assert call(*PLACE_TWO, *wait, "-v0") == ("", "", 0)
    assert posts(simulator) == 1


def test_place_with_a_used_reference_shows_the_same_order(call: Call, simulator: Simulator) -> None:
    call(*PLACE_TWO)
    out, err, code = call(*PLACE_TWO, "--wait", "--json")
    assert (err, code) == ("", 0)
    assert json.loads(out)["status"] == "FULFILLED"
    assert call(*PLACE_TWO).code == 0
    assert posts(simulator) == 1


UNKNOWN = (
    "The order was sent, but the app did not receive a usable answer. The cards may have been"
    " bought. (the connection broke before the answer was complete)"
)


@pytest.mark.parametrize("wait", [[], ["--wait"]])
@pytest.mark.parametrize(
    ("type_id", "status", "why"),
    [
        ("SIM_LOST", "UNCONFIRMED", UNKNOWN),
        (
            "SIM_REJECT",
            "REJECTED",
            "The provider refused the order, so nothing was bought. The card is out of stock. The"
            " provider's message: “The type is out of stock.” (OUT_OF_STOCK)",
        ),
    ],
)
def test_place_says_why_an_order_was_lost_or_rejected_and_exits_with_1(
    type_id: str, status: str, why: str, wait: list[str], call: Call, simulator: Simulator
) -> None:
    _, err, code = call("giftcards_place", PSN, type_id, "2", "--reference", "cart-1", *wait)
    assert (err, code) == (f"The order cart-1 is {status.lower()}. {why}\n", 1)
    out, err, code = call(
        "giftcards_place", PSN, type_id, "2", "--reference", "cart-1", *wait, "--json"
    )
    assert json.loads(out)["status"] == status
    assert (err, code) == (f"The order cart-1 is {status.lower()}. {why}\n", 1)
    assert posts(simulator) == 1


def test_place_waits_no_longer_than_the_timeout(
    call: Call, simulator: Simulator, set_conf: Callable[..., None]
) -> None:
    set_conf(POLL_TIMEOUT=1)
    out, err, code = call(
        "giftcards_place", PSN, "SIM_NEVER", "2", "--reference", "cart-1", "--wait"
    )
    assert out.count("Delayed") == 2  # progress and result
    assert (err, code) == ("The order cart-1 is delayed.\n", 1)


@pytest.mark.django_db(transaction=True)
def test_place_says_that_the_provider_is_away_and_queues_a_sweep(
    call: Call, closed_port: int, set_conf: Callable[..., None]
) -> None:
    set_conf(BASE_URL=f"http://127.0.0.1:{closed_port}")
    _, err, code = call(*PLACE_TWO)
    assert (err, code) == (
        "The order cart-1 is waiting to be sent. The order has not been sent to the provider yet."
        " The provider could not be reached or could not accept the order. (it could not be"
        " reached)\n",
        1,
    )
    assert OrmQ.objects.count() == 1  # a worker will try again


def test_place_explains_a_pause_and_makes_no_request(call: Call, simulator: Simulator) -> None:
    ProviderState.objects.pause(ProviderState.Pause.RATE, detail="Slower.", until=ago(-60))
    _, err, code = call(*PLACE_TWO)
    assert (err, code) == (f"The order cart-1 is waiting to be sent. {PAUSED}\n", 1)
    assert simulator.requests == []


def test_place_explains_that_the_key_is_refused_after_one_request(
    call: Call, simulator: Simulator
) -> None:
    simulator.keys = ["another"]
    refused = (
        "The order cart-1 is waiting to be sent. The provider refuses the API key or this server's"
        " address. The provider refused the API key (INVALID_ACCESS_TOKEN, 4 attempts left)."
        " Correct GIFTCARDS['API_KEY'] first: further attempts will block this server. Enter a"
        " working key in the settings, or run `manage.py giftcards_poll --resume` after the current"
        " key works again.\n"
    )
    for wait in ([], ["--wait"]):
        _, err, code = call(*PLACE_TWO, *wait)
        assert (err, code) == (refused, 1)
    assert len(simulator.requests) == 1


def test_place_shows_no_code_of_an_unusable_answer(
    call: Call, wire: responses.RequestsMock
) -> None:
    wire.post(PLACE, body='{"success": true, "data": {"cards": "CANARY-CODE-1234"}}')
    assert call(*PLACE_TWO).code == 1


NAMES = "Use letters, digits and punctuation only, without spaces.\n"


class TestBadInput:
    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ((PSN, "t", "0"), "quantity: Ensure this value is greater than or equal to 1.\n"),
            ((PSN, "t", "-1"), "quantity: Ensure this value is greater than or equal to 1.\n"),
            ((PSN, "t", "9" * 18), "quantity: Ensure this value is less than or equal to 2000.\n"),
            *(
                (
                    (PSN, "t", text),
                    f"quantity: {text!r} is not a whole number. Enter the number of cards, for"
                    " example 2.\n",
                )
                for text in ("two", "1.5", "", " 2", "2 ", "+2", "0x2", "1e1", "٢", "9" * 5000)
            ),
            (("", "t", "2"), "product_id: This field cannot be blank.\n"),
            ((PSN, "", "2"), "type_id: This field cannot be blank.\n"),
            ((PSN, "a b", "2"), f"type_id: {NAMES}"),
            ((PSN, "t", "2", "--reference", "a b"), f"reference: {NAMES}"),
            (
                (PSN, "t", "2", "--reference", "x" * 101),
                "reference: Ensure this value has at most 100 characters (it has 101).\n",
            ),
            (
                (PSN, "t", "2", "--email", "nobody"),
                "customer_email: Enter a valid email address.\n",
            ),
            (
                (PSN, "t", "2", "--sale-price", "cheap"),
                "sale_price: 'cheap' is not an amount. Use a format such as 550 or 549.90.\n",
            ),
            *(
                (
                    (PSN, "t", "2", f"{option}={text}"),
                    f"{option[2:].replace('-', '_')}: {text!r} is not an amount. Use a format"
                    " such as 550 or 549.90.\n",
                )
                for option in ("--sale-price", "--max-price")
                for text in ODD_AMOUNTS
            ),
            (
                (PSN, "t", "2", "--sale-price", "1.005"),
                "sale_price: Ensure that there are no more than 2 decimal places.\n",
            ),
            (
                (PSN, "t", "2", "--sale-price=-1"),
                "sale_price: Ensure this value is greater than or equal to 0.\n",
            ),
            (
                ("x y", "t", "0"),
                f"product_id: {NAMES[:-1]} quantity: Ensure this value is greater"
                " than or equal to 1.\n",
            ),
        ],
    )
    def test_place_names_the_argument_that_is_wrong(
        self, args: tuple[str, ...], message: str, call: Call, simulator: Simulator
    ) -> None:
        assert call("giftcards_place", *args) == ("", message, 2)
        assert not Order.objects.exists()
        assert not OrmQ.objects.exists()
        assert simulator.requests == []

    def test_place_refuses_a_reference_of_another_line(
        self, call: Call, simulator: Simulator
    ) -> None:
        make_order(Status.REFUNDED, reference="cart-1")
        assert call("giftcards_place", PSN, "type_001", "3", "--reference", "cart-1") == (
            "",
            "The reference cart-1 is already used for another order, or for the same order with"
            " different details. Use a new reference for a new order. To repeat an order, pass"
            " exactly the same details as the first time.\n",
            2,
        )
        assert Order.objects.count() == 1
        assert simulator.requests == []


# All settings that these commands read must be valid before a command begins.
WRONG_SETTINGS: list[dict[str, Any]] = [
    {"API_KEY": ""},
    {"API_KEY": "two words"},
    {"ENCRYPTION_KEYS": []},
    {"ENCRYPTION_KEYS": ["CANARY-CODE-1234"]},
    {"ENCRYPTION_KEYS": "CANARY-CODE-1234"},
    {"BASE_URL": "http://example.com"},
    {"POLL_TIMEOUT": 0},
    {"LATE_WATCH_HOURS": "x"},
    {"REQUESTS_PER_MINUTE": 0},
    {"SEND_TIMEOUT": 0},
]


@pytest.mark.parametrize("command", [PLACE_TWO, ("giftcards_poll",), ("giftcards_selftest",)])
@pytest.mark.parametrize("wrong", WRONG_SETTINGS)
def test_commands_refuse_wrong_settings_before_anything_begins(
    command: tuple[str, ...], wrong: dict[str, Any], call: Call, simulator: Simulator, settings: Any
) -> None:
    right = settings.GIFTCARDS
    settings.GIFTCARDS = right | wrong
    [problem] = problems()
    assert call(*command) == ("", f"{problem.message} {problem.hint}\n", 2)
    settings.GIFTCARDS = right
    assert not Order.objects.exists()
    assert simulator.requests == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "command", [PLACE_TWO, ("giftcards_poll",), ("giftcards_status",), ("giftcards_setup",)]
)
def test_commands_explain_a_database_without_tables(
    command: tuple[str, ...], call: Call, simulator: Simulator
) -> None:
    def fail(execute: Any, sql: str, *args: Any) -> Any:
        # This simulates the database of a project that has not been migrated.
        return execute(sql.replace("giftcards_", "not_there_yet_"), *args)

    with connection.execute_wrapper(fail):
        out, err, code = call(*command)
    assert (out, code) == ("", 2)
    assert err.startswith(f"The database {connection.settings_dict['NAME']} failed (")
    assert err.endswith("Error). Check that `manage.py migrate` has been run for this database.\n")
    assert simulator.requests == []


@pytest.mark.django_db(transaction=True)
class TestADatabaseThatGoesAway:
    """If the database fails after something has begun, the message must say so."""

    @pytest.fixture(autouse=True)
    def impatiently(self, shorten: Callable[..., None]) -> None:
        shorten(database_patience=0)

    @pytest.mark.parametrize("wait", [[], ["--wait"]])
    @pytest.mark.parametrize("reference", [[], ["--reference", "cart-1"]])
    @pytest.mark.parametrize("is_sent", [False, True])
    def test_place_says_that_the_order_is_recorded_if_the_database_fails_then(
        self, is_sent: bool, reference: list[str], wait: list[str], call: Call, simulator: Simulator
    ) -> None:
        inserted, recorded = [], []

        def fail(execute: Any, sql: str, *args: Any) -> Any:
            if recorded and posts(simulator) >= is_sent:
                raise OperationalError("server closed the connection unexpectedly")
            result = execute(sql, *args)
            if sql.startswith("INSERT") and "giftcards_order" in sql:
                inserted.append(sql)
            elif inserted and "giftcards_product" in sql and "MAX(" in sql:
                # The last query of the transaction checks whether the product is missing from the
                # catalogue.
                recorded.append(sql)
            return result

        with connection.execute_wrapper(fail):
            out, err, code = call("giftcards_place", PSN, "type_001", "2", *reference, *wait)
        order = Order.objects.get()
        assert (out, code) == ("", 1)
        assert err == (
            f"The database failed (OperationalError). The order {order.reference} was recorded"
            " and may have been sent. Do not place it again with another reference."
            f" `manage.py giftcards_status {order.reference}` shows what happened to the order.\n"
        )
        assert posts(simulator) == is_sent
        assert call("giftcards_status", order.reference).code == 0

    @pytest.mark.parametrize(
        "command",
        [
            ("giftcards_poll",),
            ("giftcards_poll", "--reference", "cart-1"),
            ("giftcards_reconcile",),
            ("giftcards_selftest",),
        ],
    )
    def test_commands_say_they_may_be_half_done_if_the_database_fails_midway(
        self, command: tuple[str, ...], call: Call, simulator: Simulator
    ) -> None:
        buy(reference="cart-1", type_id="SIM_LOST" if "reconcile" in command[0] else "type_001")
        simulator.forget_requests()
        with failing(when=lambda *_: simulator.requests):
            out, err, code = call(*command)
        assert simulator.requests
        assert (out, code) == ("", 1)
        assert err == (
            "The database failed (OperationalError). The command may have completed only a part"
            " of its work. `manage.py giftcards_status` shows the current state.\n"
        )


class TestCeiling:
    """If a card costs more than the limit, the order is recorded and waits for staff."""

    @pytest.mark.parametrize("option", ["--sale-price", "--max-price"])
    @pytest.mark.parametrize("wait", [(), ("--wait",)], ids=["", "--wait"])
    def test_place_above_the_ceiling_says_that_the_order_waits_for_a_person(
        self, option: str, wait: tuple[str, ...], call: Call, simulator: Simulator
    ) -> None:
        simulator.price_factor = 100
        out, err, code = call(*PLACE_TWO, option, "550", *wait)
        assert (err, code) == (
            "The order cart-1 is waiting to be sent. A card costs 49000.00 at the provider, but"
            " your limit is 550.00. The order is waiting for a decision.\n",
            1,
        )
        assert "  attention   price_above: A card costs 49000.00" in out
        assert posts(simulator) == 0
        assert Order.objects.get().is_on_hold

    def test_max_price_counts_instead_of_the_sale_price(
        self, call: Call, simulator: Simulator
    ) -> None:
        _, err, code = call(*PLACE_TWO, "--sale-price", "400", "--max-price", "490")
        assert (err, code) == ("", 0)
        assert Order.objects.get().max_price == 490

    def test_place_with_a_ceiling_says_that_the_price_is_unknown(
        self, call: Call, simulator: Simulator
    ) -> None:
        _, err, code = call("giftcards_place", PSN, "not-listed", "1", "--max-price", "490")
        order = Order.objects.get()
        assert (err, code) == (
            f"The order {order.reference} is waiting to be sent. The order has not been sent"
            " because it has a price limit and the current price is unknown. The provider does"
            " not show a price for the card.\n",
            1,
        )

    def test_placing_an_order_on_hold_again_shows_that_it_still_waits(
        self, call: Call, simulator: Simulator
    ) -> None:
        for factor in (100, 1):
            simulator.price_factor = factor
            assert call(*PLACE_TWO, "--sale-price", "550").code == 1
        assert Order.objects.count() == 1
        assert posts(simulator) == 0
