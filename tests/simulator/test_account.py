"""Orders, cards and money in the simulator, and the types that misbehave."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from giftcards.simulator import (
    LEDGER_ODDITIES,
    SPECIAL_TYPES,
    Call,
    OfferChange,
    Shortfall,
    Simulator,
)
from tests.simulator.shop import LOST, PSN, STEAM, Clock, Shop, error, is_id


def test_an_order_goes_from_handling_to_fulfilled() -> None:
    with Shop(delay=(30, 30)) as shop:
        order_id = shop.order("type_001", 2)
        assert is_id(order_id)
        created = shop.only_order.created_at
        assert int(order_id[:8], 16) == int(created.timestamp())
        time = created.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        handling = {
            "_id": order_id,
            "status": "HANDLING",
            "quantity": 2,
            "product": PSN,
            "type": "type_001",
            "time": time,
        }
        assert shop.check(order_id) == handling
        shop.clock.now += 29.9
        assert shop.check(order_id) == handling
        shop.clock.now += 0.1
        answer = shop.check(order_id)
        assert shop.check(order_id) == answer
        cards = answer.pop("cards")
        assert answer == {
            "_id": order_id,
            "status": "FULFILLED",
            "quantity": 2,
            "fulfilled_quantity": 2,
            "fulfilled_amount": 980,
            "price_per_card": 490,
            "time": time,
        }
        assert [card.keys() for card in cards] == [{"value", "serial"}] * 2
        assert all(re.fullmatch(r"SIM(-[A-Z2-9]{4}){3}", card["value"]) for card in cards)
        assert all(re.fullmatch(r"\d{9}", card["serial"]) for card in cards)


def test_every_price_can_be_multiplied_while_the_simulator_runs(shop: Shop) -> None:
    before = shop.order("type_001", 2)
    shop.simulator.price_factor = 100
    [shown, *_] = shop.get(f"/v3/gift-cards/checkProduct/{PSN}")["types"]
    assert shown["price"] == 49_000
    after = shop.order("TEST_PARTIAL", 2)
    prices = [shop.check(order_id)["price_per_card"] for order_id in (before, after)]
    assert prices == [490, 49_000]


@pytest.mark.parametrize("factor", [-1, Decimal("NaN"), Decimal("Infinity")])
def test_a_price_factor_that_is_negative_or_no_number_is_refused(factor: Decimal) -> None:
    with pytest.raises(ValueError, match="The price factor must not be negative"):
        Shop(price_factor=factor)


def test_prices_and_stocks_change_at_their_times() -> None:
    changes = [
        OfferChange(60, "type_001", stock=0),
        OfferChange(30, "type_001", price=Decimal(520)),
        OfferChange(90, "type_001", price=Decimal(510), stock=7),
        OfferChange(30, "SIM_SLOW", price=Decimal(500)),
    ]
    with Shop(offer_changes=changes) as shop:

        def shown(type_id: str) -> tuple[int, int]:
            types = shop.get(f"/v3/gift-cards/checkProduct/{PSN}")["types"]
            [found] = [kind for kind in types if kind["id"] == type_id]
            return found["price"], found["quantity"]

        told = {}
        for second in (0, 29.9, 30, 60, 90):
            shop.clock.now = 1000 + second
            told[second] = shown("type_001")
        assert told == {
            0: (490, 100_000),
            29.9: (490, 100_000),
            30: (520, 100_000),
            60: (520, 0),
            90: (510, 7),
        }
        assert shown("SIM_SLOW") == (500, 100_000)
        assert shown("type_003") == (1960, 0)
        # Orders use the same prices and stocks.
        assert error(shop.place("type_001", 8))[1]["code"] == "OUT_OF_STOCK"
        assert shop.check(shop.order("type_001", 7))["price_per_card"] == 510
        # Another product also has the test types, but not the other types that change.
        shop.get(f"/v3/gift-cards/checkProduct/{STEAM}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (OfferChange(-1, "type_001", stock=0), "The time of a change must not be negative"),
        (OfferChange(float("nan"), "type_001"), "The time of a change must not be negative"),
        (OfferChange(1, "type_001", price=Decimal(-1)), "The price must not be negative"),
        (OfferChange(1, "type_001", price=Decimal("NaN")), "The price must not be negative"),
        (OfferChange(1, "type_001", stock=-1), "The stock must not be negative"),
        (OfferChange(1, "type_002", stock=0), "Unknown product types: type_002"),
        (Shortfall("type_002", 5, 3), "Unknown product types: type_002"),
        (
            Shortfall("type_001", 5, 6),
            "The number of delivered cards must be from 0 to the number of ordered cards",
        ),
        (
            Shortfall("type_001", 5, -1),
            "The number of delivered cards must be from 0 to the number of ordered cards",
        ),
    ],
)
def test_a_change_that_cannot_come_is_refused(
    change: OfferChange | Shortfall, message: str
) -> None:
    option = "offer_changes" if isinstance(change, OfferChange) else "shortfalls"
    with pytest.raises(ValueError, match=message):
        Shop(**{option: [change]})


def test_of_the_first_order_that_is_short_only_some_cards_come() -> None:
    short = [Shortfall("type_001", 5, 3), Shortfall("type_001", 2, 0)]
    with Shop(shortfalls=short) as shop:
        for _ in range(2):
            orders = [shop.order(*line) for line in (("type_001", 5), ("type_001", 2))]
            orders += [shop.order(*line) for line in (("type_001", 5), ("type_001", 3))]
            answers = [shop.check(order) for order in orders]
            assert [(told["status"], told["fulfilled_quantity"]) for told in answers] == [
                ("PARTIALLY_FILLED", 3),
                ("REFUNDED", 0),
                ("FULFILLED", 5),
                ("FULFILLED", 3),
            ]
            assert shop.simulator.balance == 1_000_000 - 11 * 490
            shop.simulator.reset()


def test_each_type_for_tests_has_a_name_in_the_catalogue(shop: Shop) -> None:
    types = shop.get(f"/v3/gift-cards/checkProduct/{PSN}")["types"]
    names = {kind["id"]: kind["name"] for kind in types}
    assert names["TEST_PARTIAL"] == "Test: delivers half of the cards"
    assert names.keys() & SPECIAL_TYPES.keys() == SPECIAL_TYPES.keys()
    assert not set(names.values()) & SPECIAL_TYPES.keys()


def test_a_partial_order_delivers_half(shop: Shop) -> None:
    answer = shop.check(shop.order("TEST_PARTIAL", 5))
    expected = ("PARTIALLY_FILLED", 5, 2)
    assert (answer["status"], answer["quantity"], answer["fulfilled_quantity"]) == expected
    expected = (980, 490, 2)
    assert (answer["fulfilled_amount"], answer["price_per_card"], len(answer["cards"])) == expected


@pytest.mark.parametrize(("type_id", "quantity"), [("TEST_REFUND", 2), ("TEST_PARTIAL", 1)])
def test_a_refunded_order_delivers_nothing(shop: Shop, type_id: str, quantity: int) -> None:
    order_id = shop.order(type_id, quantity)
    answer = shop.check(order_id)
    assert answer.pop("time")
    assert answer == {
        "_id": order_id,
        "status": "REFUNDED",
        "quantity": quantity,
        "fulfilled_quantity": 0,
        "fulfilled_amount": 0,
        "price_per_card": 490,
        "cards": [],
    }
    assert shop.simulator.balance == 1_000_000


def test_a_decimal_price_is_charged_exactly(shop: Shop) -> None:
    answer = shop.check(shop.order("type_101", 1, STEAM))
    assert (answer["fulfilled_amount"], answer["price_per_card"]) == (1250.5, 1250.5)
    assert shop.only_order.charged == Decimal("1250.50")


def test_a_refund_can_be_spent_again(shop: Shop) -> None:
    for _ in range(3):
        shop.order("TEST_REFUND", 2040)
    assert shop.simulator.balance == 1_000_000


def test_codes_are_unique_unless_told_to_repeat(shop: Shop) -> None:
    ids = [shop.order("type_001", 3) for _ in range(2)]
    cards = [card for order_id in ids for card in shop.check(order_id)["cards"]]
    assert len({card["value"] for card in cards}) == len({card["serial"] for card in cards}) == 6
    shop.simulator.repeat_codes = True
    ids = [shop.order("type_001", 2) for _ in range(2)]
    sandbox = [{"value": f"SANDBOX-CARD-{n}", "serial": f"SANDBOX-{n}"} for n in (1, 2)]
    assert [shop.check(order_id)["cards"] for order_id in ids] == [sandbox, sandbox]


def test_the_repr_of_a_card_does_not_show_its_code(shop: Shop) -> None:
    shop.order()
    assert "SIM-" not in repr(shop.simulator.orders)


# Types that misbehave.


def test_a_slow_order_settles_late(shop: Shop) -> None:
    order_id = shop.order("SIM_SLOW", 1)
    shop.clock.now += 359
    assert shop.check(order_id)["status"] == "HANDLING"
    shop.clock.now += 1
    assert shop.check(order_id)["status"] == "FULFILLED"


def test_an_endless_order_never_settles(shop: Shop) -> None:
    order_id = shop.order("SIM_NEVER", 1)
    shop.clock.now += 1e6
    assert shop.check(order_id)["status"] == "HANDLING"
    assert shop.only_order.settle_at is None
    assert shop.simulator.settle(order_id).status == "FULFILLED"


def test_a_growing_order_delivers_card_by_card() -> None:
    with Shop(delay=(30, 30)) as shop:
        order_id = shop.order("SIM_GROW", 3)
        assert "cards" not in shop.check(order_id)
        shop.clock.now += 20
        assert len(shop.only_order.cards) == 2
        growing = shop.check(order_id)
        assert (growing["status"], growing["fulfilled_quantity"], growing["fulfilled_amount"]) == (
            "HANDLING",
            2,
            980,
        )
        shop.clock.now += 10
        full = shop.check(order_id)
        assert full["status"] == "FULFILLED"
        assert full["cards"][:2] == growing["cards"]
        assert len(full["cards"]) == 3


@pytest.mark.parametrize("delay", [10.5, 11.5])
def test_a_growing_order_never_shows_more_cards_than_it_has(delay: float) -> None:
    """This is true even if the order's time ends while it is being read."""
    with Shop(delay=(delay, delay)) as shop:
        shop.order("SIM_GROW", 100)
        shop.simulator.clock = itertools.count(shop.clock.now).__next__
        while not shop.only_order.is_settled:
            assert len(shop.only_order.cards) <= 100
        assert len(shop.only_order.cards) == 100


@pytest.mark.parametrize(("type_id", "created"), [("SIM_LOST", 1), ("SIM_DROP", 0)])
def test_an_order_whose_answer_is_lost_was_placed(shop: Shop, type_id: str, created: int) -> None:
    with pytest.raises(LOST):
        shop.place(type_id, 2)
    assert len(shop.simulator.orders) == created
    assert [request.status for request in shop.simulator.requests] == [0]
    items = shop.get("/v3/gift-cards/list")["items"]
    assert [(item["type"], item["quantity"]) for item in items] == [(type_id, 2)] * created


def test_an_order_answered_with_an_error_was_placed(shop: Shop) -> None:
    expected = (500, {"code": "INTERNAL_ERROR", "message": "Something went wrong."})
    assert error(shop.place("SIM_ERROR", 2)) == expected
    assert shop.only_order.status == "FULFILLED"


# The ledger.


def test_the_ledger_of_an_order_adds_up() -> None:
    with Shop(delay=(30, 30)) as shop:
        order_id = shop.order("TEST_PARTIAL", 5)
        order = shop.only_order
        expected = (order_id, PSN, "TEST_PARTIAL", 5, Decimal(490))
        assert (order.id, order.product, order.type, order.quantity, order.price) == expected
        assert order.settle_at == order.created_at + dt.timedelta(seconds=30)
        expected = ("HANDLING", (), 2450, 0)
        assert (order.status, order.cards, order.charged, order.refunded) == expected
        assert shop.simulator.balance == 1_000_000 - 2450
        shop.clock.now += 30
        assert order.status == "HANDLING"  # a copy
        order = shop.only_order
        expected = ("PARTIALLY_FILLED", 2, 980, 1470)
        assert (order.status, len(order.cards), order.charged, order.refunded) == expected
        assert shop.simulator.balance == 1_000_000 - 980


def test_an_order_can_be_settled_by_hand_once() -> None:
    with Shop(delay=(30, 30)) as shop:
        order_id = shop.order("type_001", 5)
        with pytest.raises(ValueError, match=f"^Order {order_id} cannot deliver 6 cards.$"):
            shop.simulator.settle(order_id, delivered=6)
        order = shop.simulator.settle(order_id, delivered=3)
        assert (order.status, order.charged, order.refunded) == ("PARTIALLY_FILLED", 1470, 980)
        assert shop.check(order_id)["fulfilled_quantity"] == 3
        assert shop.simulator.settle(order_id) == order
        with pytest.raises(ValueError, match=f"^Order {order_id} is settled already.$"):
            shop.simulator.settle(order_id, delivered=4)
        shop.clock.now += 60
        assert shop.only_order == order
        with pytest.raises(KeyError):
            shop.simulator.settle("other")


def test_something_else_is_booked_and_explains_the_balance(shop: Shop) -> None:
    shop.order("TEST_PARTIAL", 5)
    flexy = shop.simulator.add_transaction("FLEXY", Decimal("500.50"))
    refund = shop.simulator.add_transaction("REFUND-ORDER", 490, objid="abc")
    assert (flexy.kind, flexy.change, flexy.objid) == ("FLEXY", Decimal("-500.50"), "")
    assert (refund.kind, refund.change, refund.objid) == ("REFUND-ORDER", 490, "abc")
    booked = shop.simulator.transactions
    expected = ["DEPOSIT", "ORDER", "REFUND-ORDER", "FLEXY", "REFUND-ORDER"]
    assert [entry.kind for entry in booked] == expected
    assert booked[-2:] == [flexy, refund]
    assert sum(entry.change for entry in booked) == shop.simulator.balance
    assert shop.simulator.balance == 1_000_000 - 980 - Decimal("500.50") + 490


@pytest.mark.parametrize("amount", [0, -1, Decimal("0.005"), Decimal("NaN"), Decimal("Infinity")])
def test_an_amount_that_is_no_sum_of_money_is_not_booked(shop: Shop, amount: Decimal) -> None:
    with pytest.raises(
        ValueError, match=r"^The amount must be positive, with at most two decimals\."
    ):
        shop.simulator.add_transaction("DEPOSIT", amount)
    assert shop.simulator.balance == 1_000_000


def test_what_is_not_there_cannot_be_withdrawn(shop: Shop) -> None:
    with pytest.raises(ValueError, match=r"^The balance does not cover the amount\.$"):
        shop.simulator.add_transaction("WITHDRAW", Decimal("1000000.01"))
    assert shop.simulator.add_transaction("WITHDRAW", 1_000_000).balance == 0


def test_the_ledger_is_in_the_order_of_time_whenever_orders_are_looked_at() -> None:
    with Shop(delay=(10, 10)) as shop:
        first, second = shop.order("TEST_REFUND", 1), shop.order("TEST_REFUND", 2)
        shop.clock.now += 20
        shop.simulator.settle(second)
        shop.simulator.add_transaction("DEPOSIT", 1)
        assert shop.simulator.orders[first].is_settled
        booked = shop.simulator.transactions
        times = [entry.created_at for entry in booked]
        assert times == sorted(times)
        balances = [entry.balance for entry in booked]
        assert balances == list(itertools.accumulate(entry.change for entry in booked))


def test_a_refund_that_is_never_credited_is_not_in_the_balance() -> None:
    with Shop(ledger_oddities=["uncredited"]) as shop:
        answer = shop.check(shop.order("TEST_PARTIAL", 5))
        assert answer["status"] == "PARTIALLY_FILLED"
        assert shop.simulator.balance == 1_000_000 - 2450
        assert [entry.kind for entry in shop.simulator.transactions] == ["DEPOSIT", "ORDER"]


@given(data=st.data(), oddities=st.sets(st.sampled_from(sorted(LEDGER_ODDITIES))))
def test_the_ledger_explains_the_balance_whatever_happens(
    data: st.DataObject, oddities: set[str]
) -> None:
    clock = Clock()
    # Hypothesis repeats only what it drew itself, so the simulator must not use its own random
    # values.
    simulator = Simulator(delay=(4, 4), clock=clock, ledger_oddities=oddities, rate_limit=0)

    def ask(path: str, *, body: object = None, query: str = "") -> Any:
        method = "GET" if body is None else "POST"
        call = Call(method, path, query, "key", json.dumps(body).encode(), "127.0.0.1")
        reply = simulator.respond(call)
        assert reply is not None
        return reply.payload["data"]

    for _ in range(data.draw(st.integers(0, 9))):
        match data.draw(st.sampled_from(["order", "book", "wait", "hide"])):
            case "order":
                kind = data.draw(st.sampled_from(["type_001", "TEST_PARTIAL", "TEST_REFUND"]))
                line = {"productId": PSN, "typeId": kind, "quantity": 3}
                ask("/v3/gift-cards/placeOrder", body=line)
            case "book":
                amount = data.draw(st.decimals("0.01", 999, places=2))
                simulator.add_transaction(data.draw(st.sampled_from(["FLEXY", "DEPOSIT"])), amount)
            case "wait":
                clock.now += data.draw(st.integers(0, 30))
            case "hide":
                simulator.hide(data.draw(st.sampled_from(simulator.transactions)).id)
    # Wait until all orders have settled and the late entries of the ledger are shown.
    clock.now += simulator.delay[1] + simulator.ledger_delay
    booked = simulator.transactions
    assert sum(entry.change for entry in booked) == simulator.balance
    assert simulator.balance == ask("/v3/account/balance")["balance"]
    shown = ask("/v3/account/transactions", query="pageSize=100")["items"]
    visible = [entry for entry in booked if entry.shown_at is not None][::-1]
    assert [(row["type"], abs(row["amount"])) for row in shown] == [
        (entry.kind, abs(entry.change)) for entry in visible
    ]


def test_parallel_clients_leave_a_ledger_that_adds_up(shop: Shop) -> None:
    types = ["type_001", "TEST_PARTIAL", "TEST_REFUND", "SIM_NEVER"] * 10

    def buy(type_id: str) -> str:
        body = {"productId": PSN, "typeId": type_id, "quantity": 3}
        url = f"{shop.simulator.url}/v3/gift-cards/placeOrder"
        answer = requests.post(url, json=body, headers={"X-Access-Token": "key"}, timeout=30)
        return str(answer.json()["data"]["orderId"])

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(buy, types))
    orders = shop.simulator.orders
    assert len(ids) == 40
    assert ids == orders.keys()
    assert all(o.charged + o.refunded == o.quantity * o.price for o in orders.values())
    assert shop.simulator.balance == 1_000_000 - sum(o.charged for o in orders.values())
    assert sum(o.charged for o in orders.values()) == 10 * (1470 + 490 + 0 + 1470)
