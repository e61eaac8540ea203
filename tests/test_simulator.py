"""The stand-in for the provider, spoken to over real HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import http.client
import io
import ipaddress
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests
from django.core.management import BaseCommand, CommandError, call_command
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from giftcards.management.commands.giftcards_simulator import Command
from giftcards.simulator import SPECIAL_TYPES, Order, Request, Simulator

ROOT = Path(__file__).resolve().parent.parent
PSN = "507f1f77bcf86cd799439011"
STEAM = "507f1f77bcf86cd799439012"
LOST = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Shop:
    """A simulator and a client that talks to it."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        options = {"delay": (0, 0), "rate_limit": 0, "clock": self.clock} | options
        self.simulator = Simulator(**options)
        self.session = requests.Session()
        self.session.trust_env = False

    def __enter__(self) -> Shop:
        self.simulator.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.session.close()
        self.simulator.stop()

    def ask(
        self, path: str, *, method: str = "GET", key: str | None = "key", **more: Any
    ) -> requests.Response:
        headers = {} if key is None else {"X-Access-Token": key}
        url = self.simulator.url + path
        return self.session.request(method, url, headers=headers, timeout=5, **more)

    def get(self, path: str, **more: Any) -> Any:
        return self.ask(path, **more).json()["data"]

    def place(
        self, type_id: object = "type_001", quantity: object = 2, product_id: object = PSN
    ) -> requests.Response:
        body = {"productId": product_id, "typeId": type_id, "quantity": quantity}
        return self.ask("/v3/gift-cards/placeOrder", method="POST", json=body)

    def order(self, *args: Any) -> str:
        """Place an order that is accepted and return its id."""
        answer = self.place(*args)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["data"]["orderId"])

    def check(self, order_id: str) -> Any:
        return self.get(f"/v3/gift-cards/check-order/{order_id}")

    @property
    def only_order(self) -> Order:
        [order] = self.simulator.orders.values()
        return order


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Shop() as shop:
        yield shop


def error(answer: requests.Response) -> tuple[int, dict[str, Any]]:
    """Return status and error of an answer in the provider's envelope."""
    body = answer.json()
    assert body.keys() == {"success", "error", "requestId"}
    assert body["success"] is False
    assert answer.headers["X-Request-Id"] == body["requestId"]
    return answer.status_code, body["error"]


def is_id(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{24}", text) is not None


# Envelope, account, catalogue.


def test_envelope(shop: Shop) -> None:
    answer = shop.ask("/v3/account/balance")
    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["X-Request-Id"] == body.pop("requestId")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body.pop("meta")["timestamp"])
    assert body == {"success": True, "data": {"balance": 1_000_000}}


def test_validate_echoes_the_key(shop: Shop) -> None:
    key = {"key": "key", "isEnabled": True, "allowedips": [], "scope": "READ-WRITE"}
    expected = {"username": "+213000000000", "apiKey": key | {"type": "SANDBOX"}}
    assert shop.get("/v3/validate") == expected
    shop.simulator.key_type = "PRODUCTION"
    assert shop.get("/v3/validate")["apiKey"] == key | {"type": "PRODUCTION"}


def test_catalogue(shop: Shop) -> None:
    assert shop.get("/v3/gift-cards/catalog") == {
        "categories": [
            {
                "title": "Gaming",
                "products": [
                    {"id": PSN, "title": "PlayStation Network", "enabled": True, "region": "DZ"},
                    {"id": STEAM, "title": "Steam", "enabled": True, "region": "GLOBAL"},
                ],
            }
        ]
    }


def test_product(shop: Shop) -> None:
    assert shop.get(f"/v3/gift-cards/checkProduct/{PSN}") == {
        "productId": PSN,
        "productTitle": "PlayStation Network",
        "types": [
            {"id": "type_001", "name": "PSN 500 DA", "price": 490, "quantity": 100_000},
            {"id": "type_003", "name": "PSN 2000 DA", "price": 1960, "quantity": 0},
        ],
    }
    steam = shop.get(f"/v3/gift-cards/checkProduct/{STEAM}")
    assert steam["types"][0]["price"] == 1250.5
    assert error(shop.ask("/v3/gift-cards/checkProduct/other")) == (
        404,
        {"code": "NOT_FOUND", "message": "There is no such product."},
    )


def test_transactions_add_up(shop: Shop) -> None:
    order_id = shop.order("TEST_PARTIAL", 4)
    answer = shop.get("/v3/account/transactions?page=1&pageSize=2")
    assert answer["pagination"] == {"page": 1, "pageSize": 2, "totalPages": 2, "totalResults": 3}
    refund, payment = answer["items"]
    [deposit] = shop.get("/v3/account/transactions?page=2&pageSize=2")["items"]
    assert all(is_id(item.pop("_id")) and item.pop("time") for item in (refund, payment, deposit))
    assert refund == {
        "type": "REFUND-ORDER",
        "operation": "IN",
        "amount": 980,
        "oldBalance": 998_040,
        "newBalance": 999_020,
        "objid": order_id,
        "note": "",
    }
    assert payment == {
        "type": "ORDER",
        "operation": "OUT",
        "amount": 1960,
        "oldBalance": 1_000_000,
        "newBalance": 998_040,
        "objid": order_id,
        "note": "",
    }
    assert (deposit["type"], deposit["newBalance"]) == ("DEPOSIT", 1_000_000)
    assert shop.get("/v3/account/balance") == {"balance": 999_020}
    assert shop.simulator.balance == 999_020


# Orders.


def test_order_from_handling_to_fulfilled() -> None:
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


def test_partial_order(shop: Shop) -> None:
    answer = shop.check(shop.order("TEST_PARTIAL", 5))
    assert (answer["status"], answer["quantity"], answer["fulfilled_quantity"]) == (
        "PARTIALLY_FILLED",
        5,
        2,
    )
    assert (answer["fulfilled_amount"], answer["price_per_card"], len(answer["cards"])) == (
        980,
        490,
        2,
    )


@pytest.mark.parametrize(("type_id", "quantity"), [("TEST_REFUND", 2), ("TEST_PARTIAL", 1)])
def test_refunded_order(shop: Shop, type_id: str, quantity: int) -> None:
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


def test_decimal_price(shop: Shop) -> None:
    answer = shop.check(shop.order("type_101", 1, STEAM))
    assert (answer["fulfilled_amount"], answer["price_per_card"]) == (1250.5, 1250.5)
    assert shop.only_order.charged == Decimal("1250.50")


def test_codes_are_unique_unless_told_to_repeat(shop: Shop) -> None:
    ids = [shop.order("type_001", 3) for _ in range(2)]
    cards = [card for order_id in ids for card in shop.check(order_id)["cards"]]
    assert len({card["value"] for card in cards}) == len({card["serial"] for card in cards}) == 6
    shop.simulator.repeat_codes = True
    ids = [shop.order("type_001", 2) for _ in range(2)]
    sandbox = [{"value": f"SANDBOX-CARD-{n}", "serial": f"SANDBOX-{n}"} for n in (1, 2)]
    assert [shop.check(order_id)["cards"] for order_id in ids] == [sandbox, sandbox]


BODY = "the body must be a JSON object"
PRODUCT = "productId must be a text that is not empty"
TYPE = "typeId must be a text that is not empty"
QUANTITY = "quantity must be a whole number of at least 1"


@pytest.mark.parametrize(
    ("body", "details"),
    [
        ("", [BODY]),
        ("[", [BODY]),
        ("[" * 100_000, [BODY]),
        ("9" * 5_000, [BODY]),
        ("\xff", [BODY]),
        ("[]", [BODY]),
        ("{}", [PRODUCT, TYPE, QUANTITY]),
        ('{"productId": 1, "typeId": "", "quantity": "2"}', [PRODUCT, TYPE, QUANTITY]),
        ('{"productId": "p", "typeId": "t", "quantity": 0}', [QUANTITY]),
        ('{"productId": "p", "typeId": "t", "quantity": true}', [QUANTITY]),
        ('{"productId": "p", "typeId": "t", "quantity": 1.5}', [QUANTITY]),
        ('{"productId": "p", "typeId": "t", "quantity": NaN}', [QUANTITY]),
    ],
)
def test_invalid_body(shop: Shop, body: str, details: list[str]) -> None:
    answer = shop.ask("/v3/gift-cards/placeOrder", method="POST", data=body.encode("latin-1"))
    assert error(answer) == (
        400,
        {"code": "ERR_VALIDATION", "message": "The request is not valid.", "details": details},
    )
    assert shop.simulator.orders == {}


@pytest.mark.parametrize(
    ("product_id", "type_id", "quantity", "status", "code", "message"),
    [
        ("other", "type_001", 1, 404, "NOT_FOUND", "There is no such product."),
        (PSN, "type_101", 1, 404, "NOT_FOUND", "There is no such type."),
        (PSN, "type_003", 1, 400, "OUT_OF_STOCK", "The type is out of stock."),
        (PSN, "TEST_REFUND", 100_001, 400, "OUT_OF_STOCK", "The type is out of stock."),
        (PSN, "SIM_REJECT", 1, 400, "OUT_OF_STOCK", "The type is out of stock."),
        (
            PSN,
            "type_001",
            2041,
            403,
            "INSUFFICIENT_BALANCE",
            "The balance does not cover the order.",
        ),
    ],
)
def test_refused_order(
    shop: Shop, product_id: str, type_id: str, quantity: int, status: int, code: str, message: str
) -> None:
    answer = shop.place(type_id, quantity, product_id)
    assert error(answer) == (status, {"code": code, "message": message})
    assert shop.simulator.orders == {}
    assert shop.simulator.balance == 1_000_000


def test_use_as_in_the_docstring() -> None:
    with Simulator(delay=(0, 0), rate_limit=0) as simulator:
        requests.post(
            f"{simulator.url}/v3/gift-cards/placeOrder",
            json={"productId": PSN, "typeId": "type_001", "quantity": 2},
            headers={"X-Access-Token": "key"},
            timeout=5,
        )
    assert [order.status for order in simulator.orders.values()] == ["FULFILLED"]


def test_refund_can_be_spent(shop: Shop) -> None:
    for _ in range(3):
        shop.order("TEST_REFUND", 2040)
    assert shop.simulator.balance == 1_000_000


@pytest.mark.parametrize("spelling", ["check-order", "checkOrder"])
def test_unknown_order(shop: Shop, spelling: str) -> None:
    assert error(shop.ask(f"/v3/gift-cards/{spelling}/6901616fe9e88196b4eb64b2")) == (
        404,
        {"code": "NOT_FOUND", "message": "There is no such order."},
    )


# Types that misbehave.


def test_slow_order(shop: Shop) -> None:
    order_id = shop.order("SIM_SLOW", 1)
    shop.clock.now += 359
    assert shop.check(order_id)["status"] == "HANDLING"
    shop.clock.now += 1
    assert shop.check(order_id)["status"] == "FULFILLED"


def test_endless_order(shop: Shop) -> None:
    order_id = shop.order("SIM_NEVER", 1)
    shop.clock.now += 1e6
    assert shop.check(order_id)["status"] == "HANDLING"
    assert shop.only_order.settle_at is None
    assert shop.simulator.settle(order_id).status == "FULFILLED"


def test_growing_order() -> None:
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


@pytest.mark.parametrize(("type_id", "created"), [("SIM_LOST", 1), ("SIM_DROP", 0)])
def test_lost_answer(shop: Shop, type_id: str, created: int) -> None:
    with pytest.raises(LOST):
        shop.place(type_id, 2)
    assert len(shop.simulator.orders) == created
    assert [request.status for request in shop.simulator.requests] == [0]
    items = shop.get("/v3/gift-cards/list")["items"]
    assert [(item["type"], item["quantity"]) for item in items] == [(type_id, 2)] * created


def test_error_after_creating(shop: Shop) -> None:
    assert error(shop.place("SIM_ERROR", 2)) == (
        500,
        {"code": "INTERNAL_ERROR", "message": "Something went wrong."},
    )
    assert shop.only_order.status == "FULFILLED"


def test_outage(shop: Shop) -> None:
    shop.simulator.outage = True
    assert error(shop.place()) == (
        503,
        {"code": "SERVICE_UNAVAILABLE", "message": "The service is unavailable."},
    )
    assert shop.simulator.orders == {}
    shop.simulator.outage = False
    assert shop.place().ok


# The list.


def test_list_shows_every_order_newest_first(shop: Shop) -> None:
    shop.simulator.delay = (5, 5)
    first = shop.order("TEST_PARTIAL", 2)
    shop.clock.now += 10
    second = shop.order("type_001", 1)
    answer = shop.get("/v3/gift-cards/list")
    assert answer["pagination"] == {"page": 1, "pageSize": 20, "totalPages": 1, "totalResults": 2}
    handling, partial = answer["items"]
    assert handling == shop.check(second)
    assert partial == shop.check(first) | {"product": PSN, "type": "TEST_PARTIAL"}
    assert len(partial["cards"]) == 1


def test_list_pages(shop: Shop) -> None:
    ids = [shop.order() for _ in range(5)]
    pages = [shop.get(f"/v3/gift-cards/list?page={page}&pageSize=2") for page in (1, 2, 3, 4)]
    shown = [[item["_id"] for item in page["items"]] for page in pages]
    assert shown == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]], []]
    assert {page["pagination"]["totalPages"] for page in pages} == {3}
    assert len(shop.get("/v3/gift-cards/list?pageSize=100")["items"]) == 5


def test_list_window_includes_its_ends(shop: Shop) -> None:
    times = []
    for _ in range(3):
        order_id = shop.order()
        times.append(shop.check(order_id)["time"])
        shop.clock.now += 60
    window = shop.get("/v3/gift-cards/list", params={"from": times[0], "to": times[1]})
    assert [item["time"] for item in window["items"]] == [times[1], times[0]]
    naive = {"from": times[2].removesuffix("Z"), "to": "2999-01-01"}
    assert [item["time"] for item in shop.get("/v3/gift-cards/list", params=naive)["items"]] == [
        times[2]
    ]


PAGE = "page must be a whole number of at least 1"
SIZE = "pageSize must be a whole number from 1 to 100"
WINDOW = "from and to must be ISO 8601 times and come together"


@pytest.mark.parametrize(
    ("query", "details"),
    [
        ("page=0&pageSize=101", [PAGE, SIZE]),
        ("page=-1&pageSize=x", [PAGE, SIZE]),
        ("page=99999999999999999999", [PAGE]),
        ("from=2025-10-29T01:00:00Z", [WINDOW]),
        ("to=2025-10-29T01:00:00Z", [WINDOW]),
        ("from=yesterday&to=today", [WINDOW]),
    ],
)
@pytest.mark.parametrize("path", ["/v3/gift-cards/list", "/v3/account/transactions"])
def test_invalid_query(shop: Shop, path: str, query: str, details: list[str]) -> None:
    assert error(shop.ask(f"{path}?{query}")) == (
        400,
        {"code": "ERR_VALIDATION", "message": "The request is not valid.", "details": details},
    )


# Paths that do not exist.


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v3/gift-cards/orders"),
        ("GET", "/v3/validate/"),
        ("GET", "/v3/gift-cards/placeOrder"),
        ("POST", "/v3/account/balance"),
        ("DELETE", "/v3/gift-cards/list"),
    ],
)
def test_unknown_path_answers_without_the_envelope(shop: Shop, method: str, path: str) -> None:
    answer = shop.ask(path, method=method, key=None)
    assert answer.status_code == 404
    assert answer.json() == {
        "message": f"Cannot {method} {path}",
        "error": "Not Found",
        "statusCode": 404,
    }


def test_head_has_no_body(shop: Shop) -> None:
    assert (shop.ask("/v3/validate", method="HEAD").status_code, shop.ask("/").status_code) == (
        404,
        404,
    )


@pytest.mark.parametrize(
    ("known", "unknown"), [("check-order", "checkOrder"), ("checkOrder", "check-order")]
)
def test_one_spelling(shop: Shop, known: Any, unknown: str) -> None:
    order_id = shop.order()
    shop.simulator.spelling = known
    assert shop.get(f"/v3/gift-cards/{known}/{order_id}")["_id"] == order_id
    assert "success" not in shop.ask(f"/v3/gift-cards/{unknown}/{order_id}").json()


def test_no_list(shop: Shop) -> None:
    shop.simulator.has_list = False
    assert "success" not in shop.ask("/v3/gift-cards/list").json()


def test_shifted_ids(shop: Shop) -> None:
    order_id = shop.order()
    shop.simulator.shifted_ids = True
    shown = shop.check(order_id)["_id"]
    assert int(shown, 16) == int(order_id, 16) + 1
    assert is_id(shown)
    assert [item["_id"] for item in shop.get("/v3/gift-cards/list")["items"]] == [shown]


# Keys and limits.

BLOCKED = (
    403,
    {"code": "IP_BLOCKED", "message": "Too many failed attempts; the address is blocked."},
)


def invalid_key(**details: int) -> tuple[int, dict[str, Any]]:
    refusal = {"code": "INVALID_ACCESS_TOKEN", "message": "The access token is invalid."}
    return 401, refusal | ({"details": details} if details else {})


def test_missing_key(shop: Shop) -> None:
    for key in (None, ""):
        assert error(shop.ask("/v3/validate", key=key)) == (
            401,
            {"code": "MISSING_ACCESS_TOKEN", "message": "The access token is missing."},
        )


def test_wrong_keys_block_the_address() -> None:
    with Shop(keys=["right", "also-right"], lockout=2) as shop:
        assert shop.ask("/v3/validate", key="right").ok
        assert error(shop.ask("/v3/validate", key="wrong")) == invalid_key(attemptsLeft=1)
        assert shop.ask("/v3/validate", key="also-right").ok  # which forgives nothing
        assert error(shop.ask("/v3/validate", key="wrong")) == invalid_key(attemptsLeft=0)
        assert error(shop.ask("/v3/validate", key="right")) == BLOCKED
        shop.clock.now += 899
        assert error(shop.ask("/nowhere", key=None)) == BLOCKED
        shop.clock.now += 1
        assert shop.ask("/v3/validate", key="right").ok
        assert error(shop.ask("/v3/validate", key="wrong")) == invalid_key(attemptsLeft=1)


def test_lockout_can_be_off() -> None:
    with Shop(keys=["right"], lockout=0) as shop:
        for _ in range(7):
            assert error(shop.ask("/v3/validate", key="wrong")) == invalid_key()
        assert shop.ask("/v3/validate", key="right").ok


def test_rate_limit() -> None:
    limited = {"code": "RATE_LIMIT_EXCEEDED", "message": "More than 2 requests in a minute."}
    with Shop(rate_limit=2) as shop:
        assert shop.place().ok
        shop.clock.now += 20.5
        assert shop.place().ok
        answer = shop.place()
        assert error(answer) == (429, limited)
        assert answer.headers["Retry-After"] == "40"
        assert shop.ask("/v3/validate", key="another").ok
        shop.clock.now += 39.5
        assert shop.place().ok
        answer = shop.place()
        assert error(answer) == (429, limited)
        assert answer.headers["Retry-After"] == "21"
        assert len(shop.simulator.orders) == 3


def test_too_large(shop: Shop) -> None:
    answer = shop.ask("/v3/gift-cards/placeOrder", method="POST", data=b" " * 1_000_000)
    assert error(answer) == (
        413,
        {"code": "PAYLOAD_TOO_LARGE", "message": "The request body is too large."},
    )
    assert shop.place().ok  # on the same connection


# The ledger.


def test_ledger() -> None:
    with Shop(delay=(30, 30)) as shop:
        order_id = shop.order("TEST_PARTIAL", 5)
        order = shop.only_order
        assert (order.id, order.product, order.type, order.quantity, order.price) == (
            order_id,
            PSN,
            "TEST_PARTIAL",
            5,
            Decimal(490),
        )
        assert order.settle_at == order.created_at + dt.timedelta(seconds=30)
        assert (order.status, order.cards, order.charged, order.refunded) == (
            "HANDLING",
            (),
            2450,
            0,
        )
        assert shop.simulator.balance == 1_000_000 - 2450
        shop.clock.now += 30
        assert order.status == "HANDLING"  # a copy
        order = shop.only_order
        assert (order.status, len(order.cards), order.charged, order.refunded) == (
            "PARTIALLY_FILLED",
            2,
            980,
            1470,
        )
        assert shop.simulator.balance == 1_000_000 - 980


def test_settle_as_in_the_guide() -> None:
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


def test_requests_are_recorded_without_secrets() -> None:
    seen: list[Request] = []
    with Shop(keys=["SECRET-KEY"], on_request=seen.append) as shop:
        shop.ask("/v3/gift-cards/list?page=1&token=SECRET", key="SECRET-KEY")
        shop.clock.now += 5
        shop.ask("/v3/validate", key="SECRET-WRONG")
        shop.ask("/nowhere", method="POST", data="SECRET", key=None)
        assert shop.simulator.requests == seen
    assert seen == [
        Request(1000.0, "GET", "/v3/gift-cards/list", 200, key_ok=True),
        Request(1005.0, "GET", "/v3/validate", 401, key_ok=False),
        Request(1005.0, "POST", "/nowhere", 404, key_ok=False),
    ]
    assert "SECRET" not in repr(shop.simulator)


def test_cards_do_not_show_their_codes(shop: Shop) -> None:
    shop.order()
    assert "SIM-" not in repr(shop.simulator.orders)


def test_parallel_clients_leave_a_whole_ledger(shop: Shop) -> None:
    types = ["type_001", "TEST_PARTIAL", "TEST_REFUND", "SIM_NEVER"] * 10

    def buy(type_id: str) -> str:
        body = {"productId": PSN, "typeId": type_id, "quantity": 3}
        url = f"{shop.simulator.url}/v3/gift-cards/placeOrder"
        answer = requests.post(url, json=body, headers={"X-Access-Token": "key"}, timeout=5)
        return str(answer.json()["data"]["orderId"])

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(buy, types))
    orders = shop.simulator.orders
    assert len(ids) == 40
    assert ids == orders.keys()
    assert all(o.charged + o.refunded == o.quantity * o.price for o in orders.values())
    assert shop.simulator.balance == 1_000_000 - sum(o.charged for o in orders.values())
    assert sum(o.charged for o in orders.values()) == 10 * (1470 + 490 + 0 + 1470)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 65536}, "The port must be from 0 to 65535."),
        (
            {"delay": (2, 1)},
            "The delays must not be negative, nor the least above the most.",
        ),
        ({"slow_delay": -1}, "The slow delay must not be negative."),
        ({"opening_balance": Decimal("NaN")}, "The balance must not be negative."),
        ({"lockout": -1}, "Limits must not be negative."),
        ({"keys": [""]}, "A key must not be empty."),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Simulator(**options)


# The server.


def test_stop_closes_kept_connections_and_start_keeps_orders(shop: Shop) -> None:
    order_id = shop.order()
    url = shop.simulator.url
    shop.simulator.stop()
    shop.simulator.stop()
    with pytest.raises(requests.ConnectionError):
        shop.check(order_id)
    shop.simulator.start()
    with pytest.raises(RuntimeError, match=r"^The simulator is running already.$"):
        shop.simulator.start()
    assert shop.simulator.url == url
    assert shop.check(order_id)["status"] == "FULFILLED"


def test_connections_are_kept(shop: Shop) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shop.simulator.port, timeout=5)
    ports = set()
    for _ in range(3):
        connection.request("GET", "/v3/account/balance", headers={"X-Access-Token": "key"})
        connection.getresponse().read()
        assert isinstance(connection.sock, socket.socket)
        ports.add(connection.sock.getsockname())
    connection.close()
    assert len(ports) == 1


def raw(port: int, request: bytes) -> bytes:
    """Send bytes, then end of file, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read()


@pytest.mark.parametrize("header", ["Content-Length: -1", "Transfer-Encoding: chunked"])
def test_body_of_unknown_length(shop: Shop, header: str) -> None:
    answer = raw(
        shop.simulator.port, f"POST /v3/gift-cards/placeOrder HTTP/1.1\r\n{header}\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 411 ")
    assert b"Connection: close" in answer


def test_request_that_breaks_off_is_not_carried_out(shop: Shop) -> None:
    body = b'{"productId": "%s", "typeId": "type_001", "quantity": 1}' % PSN.encode()
    head = b"POST /v3/gift-cards/placeOrder HTTP/1.1\r\nX-Access-Token: key\r\n"
    head += b"Content-Length: %d\r\n\r\n"
    assert raw(shop.simulator.port, head % (len(body) + 1) + body) == b""
    assert shop.simulator.orders == {}
    assert raw(shop.simulator.port, head % len(body) + body).startswith(b"HTTP/1.1 200 ")
    assert len(shop.simulator.orders) == 1


def test_bug_in_the_simulator_is_not_silent(
    shop: Shop, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.simulator, "respond", lambda call: 1 / 0)
    with pytest.raises(LOST):
        shop.ask("/")
    shop.simulator.stop()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_tls(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with Shop(ssl_context=context) as shop:
        shop.session.verify = str(certificate)
        assert shop.simulator.url.startswith("https://127.0.0.1:")
        # A client that connects and says nothing holds up nobody.
        with socket.create_connection(("127.0.0.1", shop.simulator.port)):
            assert shop.check(shop.order())["status"] == "FULFILLED"
            with pytest.raises(LOST):
                shop.place("SIM_LOST")
            with pytest.raises(LOST):
                requests.get(shop.simulator.url.replace("https", "http"), timeout=5)
            shop.simulator.stop()
        with pytest.raises(requests.ConnectionError):
            shop.ask("/")


def make_certificate(directory: Path) -> Path:
    """Write a certificate for 127.0.0.1, signed by itself, and its key into one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "simulator")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = directory / "simulator.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


# The documentation.


def test_every_type_and_option_is_documented() -> None:
    page = (ROOT / "docs" / "simulator.md").read_text()
    for name in SPECIAL_TYPES:
        assert f"\n| `{name}` |" in page
    parser = Command().create_parser("manage.py", "giftcards_simulator")
    common = BaseCommand().create_parser("manage.py", "any")._option_string_actions
    for name in parser._option_string_actions.keys() - common.keys():
        assert f"\n| `{name}" in page
    for option in dataclasses.fields(Simulator):
        assert f"`{option.name}`" in page


# The command.


class Terminal(io.StringIO):
    """Makes requests to the simulator as soon as it says where it listens, then stops it."""

    def __init__(self, stop_with: signal.Signals) -> None:
        super().__init__()
        self.stop_with = stop_with
        self.url = ""

    def write(self, text: str) -> int:
        written = super().write(text)
        if match := re.match(r"The simulator listens on (http://127\.0\.0\.1:(\d+))\. ", text):
            self.url = match[1]
            self.place("type_001")
            requests.get(
                f"{self.url}/v3/gift-cards/list?token=SECRET",
                headers={"X-Access-Token": "SECRET-KEY"},
                timeout=5,
            )
            raw(int(match[2]), b"GET /\x9b2J HTTP/1.1\r\n\r\n")
            with pytest.raises(LOST):
                self.place("SIM_LOST")
            signal.raise_signal(self.stop_with)
        return written

    def place(self, type_id: str) -> None:
        requests.post(
            f"{self.url}/v3/gift-cards/placeOrder",
            json={"productId": PSN, "typeId": type_id, "quantity": 1},
            headers={"X-Access-Token": "SECRET-KEY"},
            timeout=5,
        )


@pytest.fixture
def _signals() -> Iterator[None]:
    """Undo what the command does to the handlers of signals."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("stop_with", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("keys", "shown"), [([], "any-text"), (["--key=SECRET-KEY"], "one of those given with --key")]
)
def test_command(stop_with: signal.Signals, keys: list[str], shown: str) -> None:
    terminal = Terminal(stop_with)
    call_command("giftcards_simulator", "--port=0", *keys, stdout=terminal)
    text = terminal.getvalue()
    types = "".join(f"  {name:<13} {special.summary}\n" for name, special in SPECIAL_TYPES.items())
    assert re.sub(r"(?m)^\d\d:\d\d:\d\d", "TIME", text) == (
        f"The simulator listens on {terminal.url}. Ctrl+C stops it.\n\n"
        f'  GIFTCARDS["BASE_URL"] = "{terminal.url}"\n'
        f'  GIFTCARDS["API_KEY"] = "{shown}"\n\n'
        f"Types that any product also has:\n\n{types}"
        "TIME POST /v3/gift-cards/placeOrder 200\n"
        "TIME GET /v3/gift-cards/list 200\n"
        "TIME GET /?2J 404\n"
        "TIME POST /v3/gift-cards/placeOrder closed\n"
    )
    with pytest.raises(requests.ConnectionError):
        requests.get(terminal.url, timeout=5)


@pytest.mark.usefixtures("_signals")
def test_command_explains_what_keeps_it_from_starting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for arguments, message in {
            (f"--port={port}",): f"Cannot listen on 127.0.0.1:{port}: the port is in use.",
            ("--host=192.0.2.1",): (
                "Cannot listen on 192.0.2.1:8378: Cannot assign requested address."
            ),
            ("--port=70000",): "The port must be from 0 to 65535.",
            ("--min-delay=50",): "The delays must not be negative, nor the least above the most.",
            ("--balance=x",): "Error: argument --balance: 'x' is not an amount in dinar",
        }.items():
            with pytest.raises(CommandError) as caught:
                call_command("giftcards_simulator", *arguments)
            assert str(caught.value) == message
            if not message.startswith("Error"):  # argparse exits with 2 by itself
                assert caught.value.returncode == 2


@contextlib.contextmanager
def own_process(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a project that configures nothing."""
    (directory / "bare_settings.py").write_text('INSTALLED_APPS = ["giftcards"]\n')
    environment = {"PYTHONPATH": f"{directory}:{ROOT}", "DJANGO_SETTINGS_MODULE": "bare_settings"}
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "django", "giftcards_simulator", *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # else a test that fails would wait for it


def test_command_in_its_own_process(tmp_path: Path) -> None:
    with own_process(tmp_path, "--port=0") as process:
        assert process.stdout
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    assert line.startswith("The simulator listens on http://127.0.0.1:")
    assert (process.returncode, errors) == (0, "")


def test_command_is_silent_at_verbosity_0(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with own_process(tmp_path, f"--port={port}", "-v0") as process, requests.Session() as session:
        # There is no line to wait for: ask until it answers.
        retries = Retry(total=100, backoff_factor=0.1, backoff_max=0.1)
        session.mount("http://", HTTPAdapter(max_retries=retries))
        session.get(f"http://127.0.0.1:{port}/v3/validate", timeout=5)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=10)
    assert (process.returncode, output, errors) == (0, "", "")
