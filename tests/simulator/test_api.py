"""The simulator's paths and envelopes, keys and limits, and log."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Any

import pytest
import requests

from giftcards.simulator import SPECIAL_TYPES, Denomination, Product, Request, Simulator
from tests.simulator.shop import MOBILIS, PSN, STEAM, Shop, error, is_id

# Envelope, account, catalogue.


def test_the_example_in_the_docstring_works() -> None:
    with Simulator(delay=(0, 0), rate_limit=0) as simulator:
        requests.post(
            f"{simulator.url}/v3/gift-cards/placeOrder",
            json={"productId": PSN, "typeId": "type_001", "quantity": 2},
            headers={"X-Access-Token": "key"},
            timeout=30,
        )
    assert [order.status for order in simulator.orders.values()] == ["FULFILLED"]


def test_answers_come_in_the_envelope_of_the_provider(shop: Shop) -> None:
    answer = shop.ask("/v3/account/balance")
    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["X-Request-Id"] == body.pop("requestId")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body.pop("meta")["timestamp"])
    assert body == {"success": True, "data": {"balance": 1_000_000}}


def test_the_date_of_an_answer_follows_the_clock_of_the_simulator() -> None:
    with Shop() as shop:

        def date() -> datetime:
            answer = shop.ask("/v3/account/balance")
            [text] = answer.raw.headers.getlist("Date")
            return parsedate_to_datetime(text)

        began = date()
        shop.clock.now += 3_600
        assert date() - began == timedelta(hours=1)


def test_validate_describes_the_key(shop: Shop) -> None:
    key = {"key": "key", "isEnabled": True, "allowedips": [], "scope": "READ-WRITE"}
    expected = {"username": "+213000000000", "apiKey": key | {"type": "SANDBOX"}}
    assert shop.get("/v3/validate") == expected
    shop.simulator.key_type = "PRODUCTION"
    assert shop.get("/v3/validate")["apiKey"] == key | {"type": "PRODUCTION"}


def test_the_catalogue_lists_products_by_category(shop: Shop) -> None:
    assert shop.get("/v3/gift-cards/catalog") == {
        "categories": [
            {
                "title": "Gaming",
                "products": [
                    {"id": PSN, "title": "PlayStation Network", "enabled": True, "region": "DZ"},
                    {"id": STEAM, "title": "Steam", "enabled": True, "region": "GLOBAL"},
                ],
            },
            {
                "title": "Mobile & Internet",
                "products": [
                    {"id": MOBILIS, "title": "Mobilis", "enabled": True, "region": "DZ"},
                ],
            },
        ]
    }


def test_a_product_is_shown_with_its_types_and_prices(shop: Shop) -> None:
    assert shop.get(f"/v3/gift-cards/checkProduct/{PSN}") == {
        "productId": PSN,
        "productTitle": "PlayStation Network",
        "types": [
            {"id": "type_001", "name": "PSN 500 DA", "price": 490, "quantity": 100_000},
            {"id": "type_003", "name": "PSN 2000 DA", "price": 1960, "quantity": 0},
            *(
                {"id": name, "name": special.name, "price": 490, "quantity": 100_000}
                for name, special in SPECIAL_TYPES.items()
            ),
        ],
    }
    steam = shop.get(f"/v3/gift-cards/checkProduct/{STEAM}")
    assert steam["types"][0]["price"] == 1250.5
    expected = (404, {"code": "NOT_FOUND", "message": "There is no such product."})
    assert error(shop.ask("/v3/gift-cards/checkProduct/other")) == expected


def test_another_catalogue_replaces_what_is_for_sale() -> None:
    product = Product("Xbox", "DZ", {"type_9": Denomination("Xbox 10 USD", Decimal(2000))})
    with Shop(catalogue={"xbox": product}) as shop:
        [category] = shop.get("/v3/gift-cards/catalog")["categories"]
        assert [item["id"] for item in category["products"]] == ["xbox"]
        assert shop.get("/v3/gift-cards/checkProduct/xbox")["types"][0] == (
            {"id": "type_9", "name": "Xbox 10 USD", "price": 2000, "quantity": 100_000}
        )
        meta = shop.ask("/v3/gift-cards/catalog").json()["meta"]
        assert (meta["totalCategories"], meta["totalProducts"]) == (1, 1)
        assert shop.place("type_9", 1, "xbox").ok
        assert shop.place("type_001", 1, PSN).status_code == 404


def test_transactions_add_up_to_the_balance(shop: Shop) -> None:
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


# Variants of the provider's ledger.

LEDGER = "/v3/account/transactions"


def shown(shop: Shop) -> list[dict[str, Any]]:
    """Return the entries that the ledger shows, oldest first."""
    entries: list[dict[str, Any]] = shop.get(f"{LEDGER}?pageSize=100")["items"][::-1]
    return entries


def test_amounts_have_their_sign_if_asked_to() -> None:
    with Shop(ledger_oddities=["signed"]) as shop:
        shop.order("TEST_PARTIAL", 5)
        assert [entry["amount"] for entry in shown(shop)] == [1_000_000, -2450, 1470]


@pytest.mark.parametrize(
    ("oddities", "missing"),
    [
        ({"unsigned"}, {"operation"}),
        ({"no-objid"}, {"objid"}),
        ({"unsigned", "no-objid"}, {"operation", "objid"}),
        ({"bare"}, {"_id", "operation", "oldBalance", "newBalance", "objid", "note"}),
    ],
)
def test_fields_are_left_out_if_asked_to(oddities: set[str], missing: set[str]) -> None:
    with Shop() as shop:
        shop.order()
        whole = shown(shop)
        shop.simulator.ledger_oddities = oddities
        assert shown(shop) == [
            {name: value for name, value in entry.items() if name not in missing} for entry in whole
        ]


def test_every_second_entry_is_shown_late_with_the_time_of_its_booking() -> None:
    with Shop(ledger_oddities=["late"], ledger_delay=30) as shop:
        for _ in range(3):
            shop.order()
        assert [entry["type"] for entry in shown(shop)] == ["DEPOSIT", "ORDER"]
        shop.clock.now += 30
        whole = shown(shop)
        assert [entry["type"] for entry in whole] == ["DEPOSIT", "ORDER", "ORDER", "ORDER"]
        assert whole[1]["time"] <= whole[2]["time"]
        assert [entry["newBalance"] for entry in whole] == [1_000_000, 999_020, 998_040, 997_060]


def test_an_entry_is_shown_when_it_is_told_to_be_or_never(shop: Shop) -> None:
    shop.simulator.add_transaction("FLEXY", 500, shown_after=30)
    shop.simulator.add_transaction("ADSL", 2000, shown_after=None)
    deposit = shop.simulator.add_transaction("DEPOSIT", 100)
    assert [entry["amount"] for entry in shown(shop)] == [1_000_000, 100]
    shop.simulator.hide(deposit.id)
    shop.clock.now += 30
    assert [entry["amount"] for entry in shown(shop)] == [1_000_000, 500]
    assert len(shop.simulator.transactions) == 4
    assert shop.simulator.balance == 1_000_000 - 500 - 2000 + 100
    with pytest.raises(KeyError):
        shop.simulator.hide("other")


def test_the_refund_of_an_order_is_credited_and_never_shown_if_asked_to() -> None:
    with Shop(ledger_oddities=["missing"]) as shop:
        shop.order("TEST_REFUND", 1)
        shop.order("TEST_PARTIAL", 5)
        assert [entry["type"] for entry in shown(shop)] == ["DEPOSIT", "ORDER", "ORDER"]
        assert shop.get("/v3/account/balance") == {"balance": 1_000_000 - 980}


@pytest.mark.parametrize(("size", "rows"), [(1, 5), (2, 8), (3, 6), (5, 5), (100, 5)])
def test_pages_that_move_repeat_rows_and_lose_none(size: int, rows: int) -> None:
    with Shop(ledger_oddities=["repeated"]) as shop:
        for amount in range(1, 5):
            shop.simulator.add_transaction("DEPOSIT", amount)
        whole = shown(shop)[::-1]
        pages, number, last = [], 1, 1
        while number <= last:
            answer = shop.get(f"{LEDGER}?page={number}&pageSize={size}")
            pages.append(answer["items"])
            number, last = number + 1, answer["pagination"]["totalPages"]
        if size > 1:
            assert all(page[-1] == later[0] for page, later in pairwise(pages))
        met = [row for page in pages for row in page]
        assert len(met) == rows
        assert list({row["_id"]: row for row in met}.values()) == whole


def test_other_services_book_beside_the_orders_if_asked_to() -> None:
    with Shop(ledger_oddities=["foreign"]) as shop:
        ids = [shop.order() for _ in range(12)]
        entries = shown(shop)
        orders = [entry for entry in entries if entry["objid"] in ids]
        assert [entry["objid"] for entry in orders] == ids
        others = [entry["type"] for entry in entries if entry["objid"] not in ids]
        kinds = ["DEPOSIT", "FLEXY", "ADSL", "ORDER", "REFUND-ORDER", "WITHDRAW"]
        assert others == ["DEPOSIT", *kinds, *kinds]
        assert shop.simulator.balance == entries[-1]["newBalance"]
        assert sum(entry.change for entry in shop.simulator.transactions) == shop.simulator.balance


def test_an_oddity_or_a_delay_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^Unknown ledger oddities: late!, odd\.$"):
        Simulator(ledger_oddities=["odd", "late", "late!"])
    with pytest.raises(ValueError, match=r"^The delay of the ledger must not be negative\.$"):
        Simulator(ledger_delay=-1)


def invalid(details: list[str]) -> tuple[int, dict[str, Any]]:
    refusal = {"code": "ERR_VALIDATION", "message": "The request is not valid."}
    return 400, refusal | {"details": details}


# Orders.

BODY = "the body must be a JSON object"
PRODUCT = "productId must be a non-empty string"
TYPE = "typeId must be a non-empty string"
QUANTITY = "quantity must be a whole number of at least 1"
NO_BALANCE = "The balance does not cover the order."


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
def test_an_invalid_body_of_an_order_is_refused(shop: Shop, body: str, details: list[str]) -> None:
    answer = shop.ask("/v3/gift-cards/placeOrder", method="POST", data=body.encode("latin-1"))
    assert error(answer) == invalid(details)
    assert shop.simulator.orders == {}


@pytest.mark.parametrize(
    ("product_id", "type_id", "quantity", "status", "code", "message"),
    [
        ("other", "type_001", 1, 404, "NOT_FOUND", "There is no such product."),
        (PSN, "type_101", 1, 404, "NOT_FOUND", "There is no such type."),
        (PSN, "type_003", 1, 400, "OUT_OF_STOCK", "The type is out of stock."),
        (PSN, "TEST_REFUND", 100_001, 400, "OUT_OF_STOCK", "The type is out of stock."),
        (PSN, "SIM_REJECT", 1, 400, "OUT_OF_STOCK", "The type is out of stock."),
        (PSN, "type_001", 2041, 403, "INSUFFICIENT_BALANCE", NO_BALANCE),
    ],
)
def test_a_refused_order_is_not_placed(
    shop: Shop, product_id: str, type_id: str, quantity: int, status: int, code: str, message: str
) -> None:
    answer = shop.place(type_id, quantity, product_id)
    assert error(answer) == (status, {"code": code, "message": message})
    assert shop.simulator.orders == {}
    assert shop.simulator.balance == 1_000_000


@pytest.mark.parametrize("spelling", ["check-order", "checkOrder"])
def test_an_unknown_order_is_not_found(shop: Shop, spelling: str) -> None:
    expected = (404, {"code": "NOT_FOUND", "message": "There is no such order."})
    assert error(shop.ask(f"/v3/gift-cards/{spelling}/6901616fe9e88196b4eb64b2")) == expected


def test_shifted_ids_are_one_higher_in_answers(shop: Shop) -> None:
    order_id = shop.order()
    shop.simulator.shifted_ids = True
    shown = shop.check(order_id)["_id"]
    assert int(shown, 16) == int(order_id, 16) + 1
    assert is_id(shown)
    assert [item["_id"] for item in shop.get("/v3/gift-cards/list")["items"]] == [shown]


# Lists.


def test_the_list_shows_every_order_newest_first(shop: Shop) -> None:
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


def test_the_list_is_given_in_pages(shop: Shop) -> None:
    ids = [shop.order() for _ in range(5)]
    pages = [shop.get(f"/v3/gift-cards/list?page={page}&pageSize=2") for page in (1, 2, 3, 4)]
    shown = [[item["_id"] for item in page["items"]] for page in pages]
    assert shown == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]], []]
    assert {page["pagination"]["totalPages"] for page in pages} == {3}
    assert len(shop.get("/v3/gift-cards/list?pageSize=100")["items"]) == 5


def test_the_window_of_the_list_includes_its_ends(shop: Shop) -> None:
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
WINDOW = "from and to must be ISO 8601 times and must be given together"


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
def test_an_invalid_query_of_a_list_is_refused(
    shop: Shop, path: str, query: str, details: list[str]
) -> None:
    assert error(shop.ask(f"{path}?{query}")) == invalid(details)


def test_the_path_of_the_list_is_not_routed_if_there_is_none(shop: Shop) -> None:
    shop.simulator.has_list = False
    assert "success" not in shop.ask("/v3/gift-cards/list").json()


def test_the_types_for_tests_may_be_unlisted_and_are_sold_nevertheless(shop: Shop) -> None:
    shop.simulator.lists_test_types = False
    listed = shop.get(f"/v3/gift-cards/checkProduct/{PSN}")["types"]
    assert [kind["id"] for kind in listed if kind["id"].startswith("TEST_")] == []
    assert shop.place(type_id="TEST_REFUND")


# Paths.


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
def test_an_unknown_path_is_answered_without_the_envelope(
    shop: Shop, method: str, path: str
) -> None:
    answer = shop.ask(path, method=method, key=None)
    assert answer.status_code == 404
    expected = {"message": f"Cannot {method} {path}", "error": "Not Found", "statusCode": 404}
    assert answer.json() == expected


@pytest.mark.parametrize(
    ("known", "unknown"), [("check-order", "checkOrder"), ("checkOrder", "check-order")]
)
def test_only_the_chosen_spelling_of_the_check_path_is_routed(
    shop: Shop, known: Any, unknown: str
) -> None:
    order_id = shop.order()
    shop.simulator.spelling = known
    assert shop.get(f"/v3/gift-cards/{known}/{order_id}")["_id"] == order_id
    assert "success" not in shop.ask(f"/v3/gift-cards/{unknown}/{order_id}").json()


# Keys and limits.

BLOCKED = (
    403,
    {"code": "IP_BLOCKED", "message": "Too many failed attempts; the address is blocked."},
)


def invalid_key(**details: int) -> tuple[int, dict[str, Any]]:
    refusal = {"code": "INVALID_ACCESS_TOKEN", "message": "The access token is invalid."}
    return 401, refusal | ({"details": details} if details else {})


def test_a_missing_key_is_refused(shop: Shop) -> None:
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


def test_a_lockout_of_0_never_blocks_the_address() -> None:
    with Shop(keys=["right"], lockout=0) as shop:
        for _ in range(7):
            assert error(shop.ask("/v3/validate", key="wrong")) == invalid_key()
        assert shop.ask("/v3/validate", key="right").ok


def test_requests_above_the_rate_limit_are_refused_with_retry_after() -> None:
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


def test_a_body_that_is_too_large_is_refused(shop: Shop) -> None:
    answer = shop.ask("/v3/gift-cards/placeOrder", method="POST", data=b" " * 1_000_000)
    expected = (413, {"code": "PAYLOAD_TOO_LARGE", "message": "The request body is too large."})
    assert error(answer) == expected
    assert shop.place().ok  # on the same connection


def test_an_outage_refuses_requests_until_it_ends(shop: Shop) -> None:
    shop.simulator.outage = True
    expected = (503, {"code": "SERVICE_UNAVAILABLE", "message": "The service is unavailable."})
    assert error(shop.place()) == expected
    assert shop.simulator.orders == {}
    shop.simulator.outage = False
    assert shop.place().ok


def test_a_request_counts_before_its_latency_has_passed() -> None:
    with Shop(latency=(0.2, 0.2), clock=time.monotonic) as shop:
        asked_at = time.monotonic()
        shop.get("/v3/account/balance")
        answered_at = time.monotonic()
        [request] = shop.simulator.requests
    assert answered_at - asked_at >= 0.2
    assert asked_at < request.at < answered_at


# Options and the log.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 65536}, "The port must be from 0 to 65535."),
        (
            {"delay": (2, 1)},
            "The delays must not be negative, and the minimum must not exceed the maximum.",
        ),
        (
            {"latency": (2, 1)},
            "The latencies must not be negative, and the minimum must not exceed the maximum.",
        ),
        ({"slow_delay": -1}, "The slow delay must not be negative."),
        ({"opening_balance": Decimal("NaN")}, "The balance must not be negative."),
        ({"lockout": -1}, "Limits must not be negative."),
        ({"keys": [""]}, "A key must not be empty."),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Simulator(**options)


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


def test_forgetting_the_requests_leaves_the_orders(shop: Shop) -> None:
    order_id = shop.order()
    shop.simulator.forget_requests()
    assert shop.simulator.requests == []
    assert shop.simulator.orders.keys() == {order_id}


def test_reset_forgets_orders_requests_limits_and_locks() -> None:
    with Shop(keys=["key"], rate_limit=3, lockout=2, delay=(30, 30)) as shop:
        url, order_id = shop.simulator.url, shop.order()
        assert shop.check(order_id)["status"] == "HANDLING"
        assert shop.ask("/v3/validate").ok
        assert shop.ask("/v3/validate").status_code == 429
        assert shop.ask("/v3/validate", key="wrong").status_code == 401
        shop.simulator.reset()
        assert (shop.simulator.orders, shop.simulator.requests) == ({}, [])
        assert shop.simulator.balance == 1_000_000
        assert shop.simulator.url == url
        assert error(shop.ask("/v3/validate", key="wrong")) == invalid_key(attemptsLeft=1)
        assert error(shop.ask("/v3/validate", key="wrong")) == invalid_key(attemptsLeft=0)
        assert error(shop.ask("/v3/validate")) == BLOCKED
        shop.simulator.reset()
        assert shop.ask(f"/v3/gift-cards/check-order/{order_id}").status_code == 404
        shop.clock.now += 60  # when the forgotten order would have settled
        assert shop.simulator.balance == 1_000_000
        [deposit] = shop.get("/v3/account/transactions")["items"]
        assert deposit["type"] == "DEPOSIT"


# Payments.

LINK = {"productInfo": {"title": "<b>Cart</b> 7", "amount": 1100}}


def open_link(shop: Shop, **more: Any) -> Any:
    answer = shop.ask("/v3/ocpay/createLink", method="POST", json={**LINK, **more})
    return answer.json()["data"]


def press(shop: Shop, ref: str, button: str) -> requests.Response:
    """Press a button of the payment page as a browser does, without an API key."""
    return shop.ask(f"/pay/{ref}/{button}", method="POST", key=None, allow_redirects=False)


def test_a_link_leads_to_a_page_on_which_the_customer_pays_once() -> None:
    with Shop(keys=["key"]) as shop:
        back = "https://shop.example/paid/"
        link = open_link(shop, redirectUrl=back)
        ref = link["paymentRef"]
        assert re.fullmatch("OCPL-[A-Z0-9]{6}-[A-Z0-9]{4}", ref)
        assert link["paymentUrl"] == f"{shop.simulator.url}/pay/{ref}"
        told = {name: link["paymentLink"][name] for name in ("ref", "isSandbox", "productInfo")}
        assert told == {"ref": ref, "isSandbox": True, **LINK}
        page = shop.ask(f"/pay/{ref}", key=None)
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "<h1>&lt;b&gt;Cart&lt;/b&gt; 7</h1>" in page.text
        asked = f"/v3/ocpay/checkPayment/{ref}"
        pending = {"status": "PENDING", "message": "The payment is PENDING.", "paymentRef": ref}
        assert shop.get(asked) == pending
        for button in ("confirm", "confirm", "decline"):
            answer = press(shop, ref, button)
            assert (answer.status_code, answer.headers["Location"]) == (303, back)
        details = shop.get(asked)["transactionDetails"]
        del details["createdDate"]
        assert details == {"amount": 1100, "currency": "DZD", "isSandbox": True}
        assert "You have paid." in shop.ask(f"/pay/{ref}", key=None).text
        booked = shown(shop)[-1]
        assert (booked["type"], booked["amount"], booked["objid"]) == ("DEPOSIT", 1100, ref)
        assert shop.get("/v3/account/balance") == {"balance": 1_001_100}


def test_a_payment_that_is_declined_or_too_late_fails_and_books_nothing(shop: Shop) -> None:
    declined, expired = (open_link(shop)["paymentRef"] for _ in range(2))
    assert press(shop, declined, "decline").headers["Location"] == f"/pay/{declined}"
    shop.clock.now += 20 * 60
    assert press(shop, expired, "confirm").status_code == 303
    assert "has failed" in shop.ask(f"/pay/{expired}", key=None).text
    for ref in (declined, expired):
        answer = shop.get(f"/v3/ocpay/checkPayment/{ref}")
        assert (answer["status"], answer.keys()) == ("FAILED", {"status", "message", "paymentRef"})
        with pytest.raises(ValueError, match=rf"^Payment {ref} has ended\.$"):
            shop.simulator.pay(ref)
    assert shop.simulator.balance == 1_000_000


def test_a_payment_that_does_not_exist_is_not_found(shop: Shop) -> None:
    assert error(shop.ask("/v3/ocpay/checkPayment/OCPL-1"))[0] == 404
    assert shop.ask("/pay/OCPL-1", key=None).json()["statusCode"] == 404
    with pytest.raises(KeyError):
        shop.simulator.pay("OCPL-1")


TITLE = "title must be a string of 1 to 200 characters"
PRICE = "amount must be a number from 500 to 500000"


@pytest.mark.parametrize(
    ("body", "details"),
    [
        ("[]", [BODY]),
        ("{}", [TITLE, PRICE]),
        ('{"productInfo": []}', [TITLE, PRICE]),
        ('{"productInfo": {"title": "", "amount": "500"}}', [TITLE, PRICE]),
        *(
            (f'{{"productInfo": {{"title": "t", "amount": {amount}}}}}', [PRICE])
            for amount in ("499.99", "500000.01", "500.001", "true", "null", "NaN", "1e999")
        ),
        (
            '{"productInfo": {"title": "t", "amount": 500, "description": 1}, "feeMode": "FREE",'
            ' "successMessage": [], "redirectUrl": "https://shop.example/\\r\\n"}',
            [
                "description must be a string of at most 1000 characters",
                "feeMode must be one of CUSTOMER_FEE, NO_FEE, SPLIT_FEE",
                "successMessage must be a string of at most 500 characters",
                "redirectUrl must be a URL",
            ],
        ),
    ],
)
def test_an_invalid_body_of_a_link_is_refused(shop: Shop, body: str, details: list[str]) -> None:
    answer = shop.ask("/v3/ocpay/createLink", method="POST", data=body)
    assert error(answer) == invalid(details)
    assert shop.simulator.payments == {}
