"""How the client reads the provider's answers; the transport is tested in test_transport."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from email.utils import format_datetime
from typing import Any

import pytest
import requests
import responses
from hypothesis import example, given
from hypothesis import strategies as st

from giftcards.exceptions import (
    AccessDenied,
    AlreadyPlaced,
    NotFound,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Refused,
    TryLater,
)
from giftcards.keys.secrecy import CardSecret
from giftcards.provider.answers import (
    Flaw,
    KeyInfo,
    LedgerPage,
    LedgerRow,
    OrderAnswer,
    OrderPage,
    PaymentAnswer,
    PaymentLink,
    Product,
    ProductType,
)
from giftcards.provider.client import Client
from giftcards.provider.failures import retry_after

Answers = Callable[..., None]
Wire = responses.RequestsMock
Question = Callable[[Client], object]
KEY = "CANARY-KEY/7f3a+9c"
CODE = "CANARY-CODE-1111"
SERIAL = "CANARY-SERIAL-2222"
HOST = "https://provider.invalid"
PLACE = f"{HOST}/v3/gift-cards/placeOrder"
CHECK = f"{HOST}/v3/gift-cards/check-order/A1"
REF = "OCPL-ABC123-XY12"
PAY_PAGE = f"https://pay.provider.invalid/{REF}"
OTHER_CHECK = f"{HOST}/v3/gift-cards/checkOrder/A1"
UTC = datetime.UTC

FULFILLED = {
    "_id": "6901616fe9e88196b4eb64b3",
    "status": "FULFILLED",
    "quantity": 2,
    "fulfilled_quantity": 2,
    "fulfilled_amount": 980,
    "price_per_card": 490,
    "cards": [{"value": CODE, "serial": SERIAL}, {"value": "YYYY", "serial": "987654321"}],
    "product": "507f1f77bcf86cd799439011",
    "type": "type_001",
    "time": "2025-10-29T01:00:00.000Z",
}


def error(code: object, message: object = "no", **more: object) -> dict[str, Any]:
    return {"success": False, "error": {"code": code, "message": message, **more}}


def place(client: Client) -> str:
    return client.place(product_id="p", type_id="t", quantity=1)


def check(client: Client) -> OrderAnswer:
    return client.check("A1")


def list_orders(client: Client) -> OrderPage:
    moment = datetime.datetime(2025, 10, 29, tzinfo=UTC)
    return client.list_orders(start=moment, end=moment)


def transactions(client: Client) -> LedgerPage:
    moment = datetime.datetime(2025, 10, 29, tzinfo=UTC)
    return client.transactions(start=moment, end=moment)


def product(client: Client) -> Product:
    return client.product("p1")


def link(client: Client) -> PaymentLink:
    return client.create_payment_link({"productInfo": {"title": "Cart 7", "amount": 1100}})


def payment(client: Client) -> PaymentAnswer:
    return client.check_payment(REF)


CALLS: dict[str, Callable[[Client], object]] = {
    "place": place,
    "link": link,
    "payment": payment,
    "check": check,
    "list": list_orders,
    "transactions": transactions,
    "validate": Client.validate,
    "balance": Client.balance,
    "product": product,
    "catalogue": Client.catalogue,
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(base_url=HOST, api_key=KEY, timeout=5) as opened:
        yield opened


@pytest.fixture
def wire() -> Iterator[Wire]:
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def answers(wire: Wire) -> Answers:
    """Make the provider answer every request with the same body, which may be an object or text."""

    def answers(body: object, status: int = 200, **headers: str) -> None:
        text = body if isinstance(body, str | bytes) else json.dumps(body)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        for method in ("GET", "POST"):
            wire.add(method, re.compile(".*"), body=text, status=status, headers=headers)
        wire.assert_all_requests_are_fired = False

    return answers


def raised(call: Question, client: Client) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call(client)
    return caught.value


class TestAnswers:
    def test_placing_returns_the_order_id(self, client: Client, answers: Answers) -> None:
        answers({"success": True, "data": {"orderId": "6901-_a"}, "requestId": "req-1"})
        assert place(client) == "6901-_a"

    @pytest.mark.parametrize("order_id", [7, "", "../x", "a/b", "a\n", "x" * 101, None, ["a"], "é"])
    def test_placing_with_an_unusable_id_in_the_answer_raises_outcome_unknown(
        self, order_id: object, client: Client, answers: Answers
    ) -> None:
        answers({"success": True, "data": {"orderId": order_id}})
        failure = raised(place, client)
        assert type(failure) is OutcomeUnknown
        assert str(failure) == (
            "The provider gave no usable answer (HTTP 200, the answer does not contain a usable"
            " order id)."
        )

    def test_checking_returns_the_order(self, client: Client, answers: Answers) -> None:
        answers({"success": True, "data": FULFILLED})
        assert check(client) == OrderAnswer(
            provider_id="6901616fe9e88196b4eb64b3",
            status="FULFILLED",
            quantity=2,
            fulfilled_quantity=2,
            fulfilled_amount=Decimal(980),
            price_per_card=Decimal(490),
            cards=(CardSecret(CODE, SERIAL), CardSecret("YYYY", "987654321")),
            product_id="507f1f77bcf86cd799439011",
            type_id="type_001",
            created_at=datetime.datetime(2025, 10, 29, 1, tzinfo=UTC),
            flaws=(),
        )

    def test_the_order_id_is_quoted_in_the_path(self, client: Client, wire: Wire) -> None:
        wire.get(f"{HOST}/v3/gift-cards/check-order/..%2F%3Fa%3D1%20%25", json=error("X"))
        raised(lambda client: client.check("../?a=1 %"), client)

    @pytest.mark.parametrize("identifier", ["", ".", ".."])
    def test_an_id_that_would_change_the_path_is_not_found_without_asking(
        self, identifier: str, client: Client, wire: Wire
    ) -> None:
        with pytest.raises(NotFound):
            client.check(identifier)
        with pytest.raises(NotFound):
            client.product(identifier)

    def test_a_page_of_orders_is_read_and_bad_rows_are_counted(
        self, client: Client, wire: Wire
    ) -> None:
        rows = [FULFILLED, {"_id": "B2", "status": "HANDLING"}, 7, None]
        data = {"items": rows, "pagination": {"page": 2, "totalPages": 11, "totalResults": "55"}}
        wire.get(
            f"{HOST}/v3/gift-cards/list",
            json={"success": True, "data": data},
            match=[
                responses.matchers.query_param_matcher(
                    {
                        "page": "2",
                        "pageSize": "50",
                        "from": "2025-10-29T00:00:00.000Z",
                        "to": "2025-10-29T00:00:01.500Z",
                    }
                )
            ],
        )
        algiers = datetime.timezone(datetime.timedelta(hours=1))
        page = client.list_orders(
            start=datetime.datetime(2025, 10, 29, 1, tzinfo=algiers),
            end=datetime.datetime(2025, 10, 29, 0, 0, 1, 500_000, tzinfo=UTC),
            page=2,
            page_size=50,
        )
        assert [order.provider_id for order in page.items] == [FULFILLED["_id"], "B2"]
        assert (page.total_pages, page.total_results) == (11, 55)
        assert page.flaws == (Flaw("rows_unreadable", {"lost": 2, "total": 4}),)

    def test_a_page_without_pagination_is_one_of_an_unknown_number(
        self, client: Client, answers: Answers
    ) -> None:
        answers({"success": True, "data": {"items": [], "pagination": 3}})
        assert list_orders(client) == OrderPage((), None, None, ())

    def test_a_page_of_the_ledger_is_read_and_bad_rows_are_counted(
        self, client: Client, wire: Wire
    ) -> None:
        rows = [
            {
                "_id": "6901616fe9e88196b4eb64c0",
                "type": "ORDER",
                "operation": "OUT",
                "amount": 2450,
                "oldBalance": 1_000_000,
                "newBalance": "997550.00",
                "objid": "6901616fe9e88196b4eb64b3",
                "note": "",
                "time": "2025-10-29T01:00:00.000Z",
            },
            {"type": "FLEXY", "amount": 500, "time": "2025-10-29T00:59:00.000Z"},
            {"type": "ORDER", "amount": 490},
            7,
        ]
        data = {"items": rows, "pagination": {"page": 3, "totalPages": 11, "totalResults": "1022"}}
        wire.get(
            f"{HOST}/v3/account/transactions",
            json={"success": True, "data": data},
            match=[
                responses.matchers.query_param_matcher(
                    {
                        "page": "3",
                        "pageSize": "100",
                        "from": "2025-10-28T23:00:00.000Z",
                        "to": "2025-10-29T22:59:59.999Z",
                    }
                )
            ],
        )
        algiers = datetime.timezone(datetime.timedelta(hours=1))
        page = client.transactions(
            start=datetime.datetime(2025, 10, 29, tzinfo=algiers),
            end=datetime.datetime(2025, 10, 29, 23, 59, 59, 999_000, tzinfo=algiers),
            page=3,
        )
        assert page == LedgerPage(
            rows=(
                LedgerRow(
                    row_id="6901616fe9e88196b4eb64c0",
                    type="ORDER",
                    amount=Decimal(-2450),
                    time=datetime.datetime(2025, 10, 29, 1, tzinfo=UTC),
                    objid="6901616fe9e88196b4eb64b3",
                    balance_before=Decimal(1_000_000),
                    balance_after=Decimal(997_550),
                ),
                LedgerRow(
                    row_id="",
                    type="FLEXY",
                    amount=Decimal(-500),
                    time=datetime.datetime(2025, 10, 29, 0, 59, tzinfo=UTC),
                ),
            ),
            unreadable=2,
            total_pages=11,
            total_results=1022,
        )

    @pytest.mark.parametrize(
        ("told", "is_sandbox"),
        [
            ({"paymentLink": {"isSandbox": True, "ref": REF}}, True),
            ({"paymentLink": {"isSandbox": False}}, False),
            ({"paymentLink": {"isSandbox": "no"}}, None),
            ({"paymentLink": []}, None),
            ({}, None),
        ],
    )
    def test_a_payment_link_is_made_by_one_request_with_the_fields_of_the_provider(
        self, told: dict[str, Any], is_sandbox: bool | None, client: Client, wire: Wire
    ) -> None:
        fields = {"productInfo": {"title": "Cart 7", "amount": 1100}}
        wire.post(
            f"{HOST}/v3/ocpay/createLink",
            json={"success": True, "data": {"paymentUrl": PAY_PAGE, "paymentRef": REF, **told}},
            match=[responses.matchers.json_params_matcher(fields)],
        )
        assert link(client) == PaymentLink(REF, PAY_PAGE, is_sandbox)
        assert len(wire.calls) == 1

    @pytest.mark.parametrize(
        "url",
        [
            f"http://pay.provider.invalid/{REF}",
            "javascript:alert(1)",
            "//pay.provider.invalid",
            "https://",
            "https:///pay",
            "https://[::1",
            "https://pay.provider.invalid/a b",
            "https://pay.provider.invalid/\n",
            "https://pay.provider.invalid/" + "x" * 500,
            7,
            None,
        ],
    )
    def test_nobody_is_sent_to_a_page_that_is_not_encrypted_or_no_page(
        self, url: object, client: Client, answers: Answers
    ) -> None:
        answers({"success": True, "data": {"paymentUrl": url, "paymentRef": REF}})
        assert type(raised(link, client)) is OutcomeUnknown

    def test_the_page_of_the_simulator_need_not_be_encrypted(
        self, client: Client, answers: Answers
    ) -> None:
        url = f"http://127.0.0.1:8378/pay/{REF}"
        answers({"success": True, "data": {"paymentUrl": url, "paymentRef": REF}})
        assert link(client) == PaymentLink(REF, url, None)

    @pytest.mark.parametrize(
        ("told", "answer"),
        [
            ({"status": "PENDING", "paymentRef": REF}, PaymentAnswer("PENDING", None, "", None)),
            (
                {
                    "status": "CONFIRMED",
                    "transactionDetails": {"amount": 1100, "currency": "dzd", "isSandbox": False},
                },
                PaymentAnswer("CONFIRMED", Decimal(1100), "DZD", False),
            ),
            (
                {
                    "status": "CONFIRMED",
                    "transactionDetails": {"amount": "1100.5", "currency": 12, "isSandbox": 1},
                },
                PaymentAnswer("CONFIRMED", Decimal("1100.5"), "", None),
            ),
            (
                {"status": "NEW_WORD", "transactionDetails": []},
                PaymentAnswer("NEW_WORD", None, "", None),
            ),
        ],
    )
    def test_a_payment_is_read_as_far_as_it_is_told(
        self, told: dict[str, Any], answer: PaymentAnswer, client: Client, wire: Wire
    ) -> None:
        wire.get(f"{HOST}/v3/ocpay/checkPayment/{REF}", json={"success": True, "data": told})
        assert payment(client) == answer

    @pytest.mark.every_row
    @pytest.mark.parametrize(
        ("described", "info"),
        [
            (
                {"key": KEY, "isEnabled": True, "type": "SANDBOX", "scope": "READ-WRITE"},
                ("SANDBOX", "READ-WRITE"),
            ),
            ({"isEnabled": 1, "type": 2}, ("", "")),
        ],
    )
    def test_validating_returns_type_and_scope_of_the_key_as_far_as_they_are_told(
        self, described: dict[str, Any], info: tuple[str, str], client: Client, answers: Answers
    ) -> None:
        answers({"success": True, "data": {"username": "+213", "apiKey": described}})
        assert client.validate() == KeyInfo(*info)

    def test_the_balance_is_read_as_a_decimal(self, client: Client, answers: Answers) -> None:
        answers('{"success": true, "data": {"balance": 1326.13}}')
        assert client.balance() == Decimal("1326.13")

    def test_a_product_is_read_with_its_types(self, client: Client, answers: Answers) -> None:
        types = [
            {"id": "type_001", "name": "PSN  500\u202e DA", "price": 490, "quantity": 150},
            {"_id": "type_003", "price": "1960.50", "quantity": 0, "available": False},
            {"id": "type_004", "name": 7, "price": "dear", "quantity": None},
            {"name": "no id"},
            7,
        ]
        answers({"success": True, "data": {"productTitle": "PlayStation", "types": types}})
        assert product(client) == Product(
            "PlayStation",
            (
                ProductType("type_001", "PSN 500 DA", Decimal(490), 150),
                ProductType("type_003", "", Decimal("1960.5"), 0),
                ProductType("type_004", "", None, None),
            ),
        )

    @pytest.mark.parametrize(
        ("answer", "absent"),
        [
            ({}, 0),
            ({"totalProducts": 3}, 1),
            ({"meta": {"totalProducts": 3}}, 1),
            ({"meta": {"totalProducts": "3"}}, 1),
            ({"meta": {"totalProducts": 2}}, 0),
            ({"meta": {"totalProducts": 1}}, 0),
            ({"meta": {"totalProducts": -3}}, 0),
            ({"meta": {"totalProducts": "many"}}, 0),
            ({"meta": 7}, 0),
        ],
    )
    def test_a_catalogue_lacks_what_it_counts_and_does_not_list(
        self, answer: dict[str, Any], absent: int, client: Client, answers: Answers
    ) -> None:
        # The catalogue lists two products. In the second case, one of them is in two categories.
        listed = [{"id": "p1"}, {"id": "p2"}]
        for more, fewer in (([], 0), ([{"id": "p1"}], 1), ([{"title": "no id"}], 0)):
            categories = [{"title": "A", "products": listed}, {"title": "B", "products": more}]
            answers({"success": True, "data": {"categories": categories}, **answer})
            assert client.catalogue().absent == max(0, absent - fewer)

    @pytest.mark.parametrize(
        "told",
        [{}, {"productId": "p1"}, {"_id": "p1"}, {"productId": "p1", "_id": "x"}, {"_id": None}],
    )
    def test_an_answer_that_names_the_product_or_none_is_about_the_one_that_was_asked_for(
        self, told: dict[str, Any], client: Client, answers: Answers
    ) -> None:
        answers({"success": True, "data": {**told, "types": []}})
        assert product(client) == Product("", ())

    @pytest.mark.parametrize(
        ("call", "data", "trouble"),
        [
            (list_orders, {}, "the answer has no list of orders"),
            (transactions, {"items": {}}, "the answer has no list of transactions"),
            (Client.validate, {"apiKey": KEY}, "the answer does not describe the key"),
            (Client.balance, {"balance": None}, "the answer does not contain a usable balance"),
            (product, {"types": {}}, "the answer has no list of types"),
            (product, {"productId": "p2", "types": []}, "the answer is about another product"),
            (product, {"_id": "p2", "types": []}, "the answer is about another product"),
            (product, {"productId": ["p1"], "types": []}, "the answer is about another product"),
            (link, {"paymentUrl": PAY_PAGE}, "the answer does not contain a usable payment link"),
            (link, {"paymentRef": REF}, "the answer does not contain a usable payment link"),
            (payment, {"paymentRef": REF}, "the answer has no status of the payment"),
            (payment, {"status": "IN DOUBT"}, "the answer has no status of the payment"),
            (
                payment,
                {"status": "CONFIRMED", "paymentRef": "OCPL-OTHER1-XY12"},
                "the answer is about another payment",
            ),
            *((call, [], "the answer has no data") for call in CALLS.values()),
            *((call, None, "the answer has no data") for call in CALLS.values()),
        ],
    )
    def test_an_answer_without_the_expected_data_raises_outcome_unknown(
        self, call: Question, data: object, trouble: str, client: Client, answers: Answers
    ) -> None:
        answers({"success": True, "data": data})
        failure = raised(call, client)
        assert type(failure) is OutcomeUnknown
        assert str(failure) == f"The provider gave no usable answer (HTTP 200, {trouble})."

    @EVERY_CALL
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"null",
            b"[]",
            b"<html>",
            b'{"success": true',
            b'{"success": true, "data": {"orderId": "A1", "orderId": "B2"}}',
            b'{"success": true, "data": NaN}',
            b'{"success": true, "data": {"quantity": 1e99999999999999999999}}',
            b'{"success": true, "data": ' + b"7" * 5000 + b"}",
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'{"success": true, "data": {"orderId": "A\xff1"}}',
            b'\xef\xbb\xbf{"success": true, "data": {}}',
            '{"success": true}'.encode("utf-16"),
        ],
        ids=range(14),
    )
    def test_an_answer_that_is_no_strict_json_raises_outcome_unknown(
        self, body: bytes, call: Question, client: Client, answers: Answers
    ) -> None:
        answers(body)
        failure = raised(call, client)
        assert type(failure) is OutcomeUnknown
        assert str(failure) == (
            "The provider gave no usable answer (HTTP 200, the answer is not a JSON object)."
        )

    @EVERY_CALL
    @pytest.mark.parametrize("body", [{}, {"success": "true"}, {"success": 1, "data": {}}])
    def test_an_answer_without_an_envelope_raises_outcome_unknown(
        self, body: object, call: Question, client: Client, answers: Answers
    ) -> None:
        answers(body)
        assert type(raised(call, client)) is OutcomeUnknown


# status, error code (None: not enveloped), what place() raises, what check() raises
TABLE = [
    (400, "ERR_VALIDATION", Refused, Refused),
    (403, "NO_BALANCE", Refused, Refused),
    (403, "INSUFFICIENT_BALANCE", Refused, Refused),
    (403, "DUPLICATED-REF", AlreadyPlaced, AlreadyPlaced),
    (200, "DUPLICATED_REF", AlreadyPlaced, AlreadyPlaced),
    (403, "SOMETHING_NEW", Refused, Refused),
    (404, "NOT_FOUND", Refused, NotFound),
    (404, "", Refused, NotFound),
    (409, "OUT_OF_STOCK", Refused, Refused),
    (413, "PAYLOAD_TOO_LARGE", Refused, Refused),
    (401, "INVALID_ACCESS_TOKEN", AccessDenied, AccessDenied),
    (401, "SOMETHING_NEW", AccessDenied, AccessDenied),
    (401, None, AccessDenied, AccessDenied),
    (403, "MISSING_ACCESS_TOKEN", AccessDenied, AccessDenied),
    (403, "INVALID_ACCESS_TOKEN", AccessDenied, AccessDenied),
    (403, "ERR_AUTH", AccessDenied, AccessDenied),
    (403, "IP_BLOCKED", AccessDenied, AccessDenied),
    (403, "IP_NOT_ALLOWED", AccessDenied, AccessDenied),
    (403, "API_DISABLED", AccessDenied, AccessDenied),
    (429, "RATE_LIMIT_EXCEEDED", RateLimited, RateLimited),
    (429, "SOMETHING_NEW", RateLimited, RateLimited),
    (429, None, RateLimited, RateLimited),
    (400, "RATE_LIMIT_EXCEEDED", RateLimited, RateLimited),
    (403, "RATE_LIMIT_EXCEEDED", RateLimited, RateLimited),
    (503, "AUTH_UNAVAILABLE", TryLater, TryLater),
    (503, "SERVICE_UNAVAILABLE", OutcomeUnknown, OutcomeUnknown),
    (503, "RATE_LIMIT_EXCEEDED", OutcomeUnknown, OutcomeUnknown),
    (500, "INTERNAL_ERROR", OutcomeUnknown, OutcomeUnknown),
    (500, "AUTH_UNAVAILABLE", OutcomeUnknown, OutcomeUnknown),
    (500, "NO_BALANCE", OutcomeUnknown, OutcomeUnknown),
    (408, "TIMEOUT", OutcomeUnknown, OutcomeUnknown),
    (425, "TOO_EARLY", OutcomeUnknown, OutcomeUnknown),
    (302, "NO_BALANCE", OutcomeUnknown, OutcomeUnknown),
    (200, "NO_BALANCE", Refused, Refused),
    (200, "ERR_VALIDATION", Refused, Refused),
    (200, "NOT_FOUND", Refused, NotFound),
    (200, "ERR_AUTH", AccessDenied, AccessDenied),
    (200, "IP_BLOCKED", AccessDenied, AccessDenied),
    (200, "RATE_LIMIT_EXCEEDED", RateLimited, RateLimited),
    (200, "SOMETHING_NEW", OutcomeUnknown, OutcomeUnknown),
    (200, "", OutcomeUnknown, OutcomeUnknown),
    *((status, None, OutcomeUnknown, OutcomeUnknown) for status in (400, 403, 404, 413, 418)),
    *((status, None, OutcomeUnknown, OutcomeUnknown) for status in (101, 204, 301, 307, 600)),
    *((status, None, OutcomeUnknown, OutcomeUnknown) for status in (500, 502, 503, 504)),
    *((status, None, OutcomeUnknown, OutcomeUnknown) for status in range(520, 527)),
]


REFUSED = "The provider refused the request (HTTP 400)."


class TestErrors:
    @pytest.mark.parametrize(("status", "code", "placing", "checking"), TABLE)
    def test_each_failure_of_a_call_raises_the_error_of_the_table(
        self,
        status: int,
        code: str | None,
        placing: type[ProviderError],
        checking: type[ProviderError],
        client: Client,
        answers: Answers,
    ) -> None:
        body = "<html>Just a moment...</html>" if code is None else error(code)
        answers(body, status)
        for call, expected in ((place, placing), (check, checking)):
            failure = raised(call, client)
            assert type(failure) is expected
            assert (failure.status, failure.code) == (status, code or "")

    @pytest.mark.parametrize("status", [400, 403])
    def test_a_refusal_that_says_success_raises_outcome_unknown(
        self, status: int, client: Client, answers: Answers
    ) -> None:
        answers({"success": True, "data": {"orderId": "A1"}}, status)
        assert type(raised(place, client)) is OutcomeUnknown

    @pytest.mark.parametrize("call", [list_orders, transactions, Client.validate, Client.balance])
    def test_not_found_for_a_call_that_names_no_thing_is_a_refusal(
        self, call: Question, client: Client, answers: Answers
    ) -> None:
        answers(error("NOT_FOUND"), 404)
        assert type(raised(call, client)) is Refused

    @pytest.mark.parametrize(
        ("call", "status", "body", "text"),
        [
            (
                place,
                403,
                error("NO_BALANCE", "Solde insuffisant"),
                "The provider refused the request (NO_BALANCE): Solde insuffisant",
            ),
            (place, 400, {"success": False, "error": "bad"}, REFUSED),
            (check, 400, error("X", "Y"), "The provider refused the request (X)."),
            (check, 404, error(""), "The provider does not have this order or product (HTTP 404)."),
            (
                check,
                429,
                "",
                "Too many requests were sent to the provider"
                " (HTTP 429, the answer is not a JSON object).",
            ),
            (
                place,
                503,
                error("AUTH_UNAVAILABLE"),
                "The provider has not processed the request (AUTH_UNAVAILABLE).",
            ),
            (
                place,
                500,
                error("INTERNAL_ERROR"),
                "The provider gave no usable answer (INTERNAL_ERROR).",
            ),
            (
                check,
                401,
                error("INVALID_ACCESS_TOKEN", details={"attemptsLeft": 2}),
                "The provider refused the API key (INVALID_ACCESS_TOKEN, 2 attempts left). Correct"
                " GIFTCARDS['API_KEY'] first: further attempts will block this server.",
            ),
            (
                check,
                401,
                "",
                "The provider refused the API key (HTTP 401). Correct"
                " GIFTCARDS['API_KEY'] first: further attempts will block this server.",
            ),
            (
                check,
                403,
                error("IP_BLOCKED"),
                "The provider has blocked this server's address (IP_BLOCKED). Check"
                " GIFTCARDS['API_KEY'], and send no requests for 15 minutes.",
            ),
            (
                check,
                403,
                error("IP_NOT_ALLOWED"),
                "The provider does not allow this server's address (IP_NOT_ALLOWED). Add it to the"
                " key's allowed addresses in the provider's dashboard.",
            ),
            (
                check,
                403,
                error("API_DISABLED"),
                "The provider has disabled the API for this account (API_DISABLED). Enable it in"
                " the provider's dashboard.",
            ),
        ],
    )
    def test_the_text_of_an_error_says_what_happened(
        self, call: Question, status: int, body: object, text: str, client: Client, answers: Answers
    ) -> None:
        answers(body, status)
        assert str(raised(call, client)) == text

    @pytest.mark.parametrize(
        ("details", "shown"),
        [
            ({"attemptsLeft": 1}, ", 1 attempt left"),
            ({"attemptsLeft": 0}, ", 0 attempts left"),
            ({"attemptsLeft": True}, ""),
            ({"attemptsLeft": "2"}, ""),
            ({"attemptsLeft": -1}, ""),
            ({"attemptsLeft": 10**9}, ""),
            (["attemptsLeft"], ""),
            (None, ""),
        ],
    )
    def test_the_error_says_how_many_attempts_are_left(
        self, details: object, shown: str, client: Client, answers: Answers
    ) -> None:
        answers(error("ERR_AUTH", details=details), 401)
        assert f"(ERR_AUTH{shown})." in str(raised(check, client))

    @pytest.mark.parametrize(
        ("message", "shown"),
        [
            ("a\u202eb\x00c\n\td\u2028e\u200bf\x7f", "abc d ef"),
            ("x" * 600, "x" * 500),
            ("x" * 495 + " " + KEY, "x" * 495 + " •••"),
            (f"key {KEY.lower()}!", "key •••!"),
            (f"key {KEY[:5]}\u200b{KEY[5:]}!", "key •••!"),
            ("key CANARY-KEY%2f7f3a%2B9c!", "key •••!"),
            ("\ud800 رصيد", "رصيد"),
        ],
    )
    def test_the_providers_message_is_shown_cleaned_and_without_the_key(
        self, message: str, shown: str, client: Client, answers: Answers
    ) -> None:
        answers(error("X", message), 400)
        text = str(raised(place, client))
        assert text == f"The provider refused the request (X): {shown}"

    @pytest.mark.parametrize("message", ["", "\u200b", 7, None, {"a": 1}])
    def test_an_error_without_a_message_shows_its_code_only(
        self, message: object, client: Client, answers: Answers
    ) -> None:
        answers(error("X", message), 400)
        assert str(raised(place, client)) == "The provider refused the request (X)."

    @pytest.mark.parametrize("code", ["<b>", "A B", "A\n", "", "x" * 65, 7, None, [], "clé"])
    def test_an_unusable_error_code_is_dropped(
        self, code: object, client: Client, answers: Answers
    ) -> None:
        answers(error(code), 400)
        failure = raised(check, client)
        assert (failure.code, str(failure)) == ("", REFUSED)

    def test_a_code_or_request_id_that_contains_the_key_is_dropped(self, answers: Answers) -> None:
        answers({**error("BAD_abc123"), "requestId": "abc123"}, 400, X_Request_Id="x-ABC123")
        with Client(base_url=HOST, api_key="abc123", timeout=5) as client:
            failure = raised(check, client)
        assert (failure.code, failure.request_id) == ("", "")

    @pytest.mark.parametrize(
        ("in_body", "in_header", "expected"),
        [("a-1", "b-2", "a-1"), (7, "b-2", "b-2"), ("a b", "<b>", ""), (None, "x" * 65, "")],
    )
    def test_the_request_id_is_read_from_the_body_or_else_the_header(
        self, in_body: object, in_header: str, expected: str, client: Client, answers: Answers
    ) -> None:
        answers({**error("X"), "requestId": in_body}, 400, X_Request_Id=in_header)
        assert raised(check, client).request_id == expected

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            ("5", 5), (" 2.5 ", 2.5), ("0", 0), ("999999999", 999_999_999), ("-5", None),
            ("soon", None), ("", None), ("nan", None), ("inf", None), ("1e3", None),
            ("9" * 400, None), ("٥", None), ("Tue, 29 Oct 2024 00:00:00 GMT", None),
            ("Tue, 99 Oct 2024 00:00:00 GMT", None), (None, None),
        ],
    )  # fmt: skip
    def test_retry_after_is_read_as_seconds_and_else_ignored(
        self, header: str | None, seconds: float | None, client: Client, answers: Answers
    ) -> None:
        told = {} if header is None else {"Retry_After": header.encode().decode("latin-1")}
        answers(error("RATE_LIMIT_EXCEEDED"), 429, **told)
        for call in (check, place):
            assert raised(call, client).retry_after == seconds

    @pytest.mark.parametrize("zone", ["GMT", "-0000", "+0100"])
    def test_retry_after_may_be_a_date(self, zone: str, client: Client, answers: Answers) -> None:
        then = datetime.datetime.now(UTC) + datetime.timedelta(minutes=70)
        answers("", 429, Retry_After=then.strftime(f"%a, %d %b %Y %H:%M:%S {zone}"))
        wait = 600 if zone == "+0100" else 4200
        assert raised(check, client).retry_after == pytest.approx(wait, abs=5)

    @given(st.text())
    @example("Tue, 29 Oct 2099 00:00:00 +9999999999")
    @example("1 1 1 1 1")
    def test_any_retry_after_header_gives_seconds_or_none(self, header: str) -> None:
        seconds = retry_after(header)
        assert seconds is None or 0 <= seconds < 1e12

    @pytest.mark.parametrize(
        ("failure", "was_dropped"),
        [
            (requests.ReadTimeout("slow"), False),
            (requests.ConnectionError("gone"), True),
            (requests.exceptions.ChunkedEncodingError("gone"), True),
            (requests.exceptions.ContentDecodingError("no gzip"), False),
            (ValueError("anything"), False),
        ],
    )
    def test_other_transport_failures_raise_outcome_unknown(
        self, failure: Exception, was_dropped: bool, client: Client, wire: Wire
    ) -> None:
        wire.get(CHECK, body=failure)
        wire.post(PLACE, body=failure)
        error = raised(check, client)
        assert type(error) is OutcomeUnknown
        assert error.is_worth_repeating is was_dropped
        error = raised(place, client)
        assert type(error) is OutcomeUnknown
        assert not error.is_worth_repeating
        assert len(wire.calls) == 2

    @pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 502, 503])
    def test_an_error_answer_is_not_worth_repeating(
        self, status: int, client: Client, answers: Answers
    ) -> None:
        for body in (error("X"), "<html>"):
            answers(body, status)
            for name, call in CALLS.items():
                # After a router's 404, the client uses the other spelling, so the call is worth
                # repeating.
                is_router = name == "check" and status == 404 and body == "<html>"
                assert raised(call, client).is_worth_repeating is is_router


ROUTER = {"message": "Route not found", "error": "Not Found", "statusCode": 404}


class TestClock:
    """The lead of the provider's clock, according to the date of its last answer to a question."""

    def ask(self, client: Client, wire: Wire, **answer: Any) -> float:
        body = {"success": True, "data": {"balance": 1}}
        wire.upsert("GET", re.compile(".*"), **{"json": body, **answer})
        with contextlib.suppress(ProviderError):
            client.balance()
        return client.clock_difference.total_seconds()

    @pytest.mark.parametrize("ahead", [0, -3_600, 86_400])
    def test_the_providers_clock_is_known_by_the_date_of_an_answer(
        self, client: Client, wire: Wire, ahead: float
    ) -> None:
        date = datetime.datetime.now(UTC) + datetime.timedelta(seconds=ahead)
        headers = {"Date": format_datetime(date, usegmt=True)}
        assert self.ask(client, wire, headers=headers) == pytest.approx(ahead, abs=3)
        # An error may come from a server in between, so it does not change the known difference.
        assert self.ask(client, wire, status=502) == pytest.approx(ahead, abs=3)

    @pytest.mark.parametrize("headers", [{}, {"Date": "soon"}, {"Date": ""}])
    def test_without_a_date_the_providers_clock_counts_as_right(
        self, client: Client, wire: Wire, headers: dict[str, str]
    ) -> None:
        self.ask(client, wire, headers={"Date": "Tue, 24 Nov 2020 12:00:00 GMT"})
        assert self.ask(client, wire, headers=headers) == 0


class TestSpellings:
    @pytest.mark.parametrize("nothing", [json.dumps(ROUTER), "<html>", ""])
    def test_the_other_spelling_is_used_after_a_router_404_and_kept(
        self, nothing: str, client: Client, wire: Wire
    ) -> None:
        wire.get(CHECK, body=nothing, status=404)
        wire.get(OTHER_CHECK, json={"success": True, "data": FULFILLED})
        failure = raised(check, client)
        assert (type(failure), failure.is_worth_repeating) == (OutcomeUnknown, True)
        # The other spelling is not confirmed yet.
        assert (client.check_path, client.known_check_path) == ("checkOrder", "")
        for _question in range(2):
            check(client)
            assert (client.check_path, client.known_check_path) == ("checkOrder", "checkOrder")
        assert [call.request.url for call in wire.calls] == [CHECK, OTHER_CHECK, OTHER_CHECK]

    @pytest.mark.every_row
    @pytest.mark.parametrize("spelling", ["check-order", "checkOrder"])
    def test_a_missing_order_proves_the_spelling_of_the_path(
        self, spelling: str, client: Client, wire: Wire
    ) -> None:
        if spelling == "checkOrder":
            wire.get(CHECK, json=ROUTER, status=404)
            raised(check, client)
        wire.get(f"{HOST}/v3/gift-cards/{spelling}/A1", json=error("NOT_FOUND"), status=404)
        assert type(raised(check, client)) is NotFound
        assert (client.check_path, client.known_check_path) == (spelling, spelling)

    def test_if_neither_spelling_is_routed_the_outcome_is_unknown(
        self, client: Client, wire: Wire
    ) -> None:
        wire.get(CHECK, json=ROUTER, status=404)
        wire.get(OTHER_CHECK, json=ROUTER, status=404)
        for spelling in ("checkOrder", "check-order"):
            failure = raised(check, client)
            assert type(failure) is OutcomeUnknown
            assert str(failure) == "The provider gave no usable answer (HTTP 404)."
            assert (client.check_path, client.known_check_path) == (spelling, "")

    def test_a_gateway_error_does_not_change_the_spelling(self, client: Client, wire: Wire) -> None:
        wire.get(CHECK, status=502)
        failure = raised(check, client)
        assert (failure.status, failure.is_worth_repeating) == (502, False)
        assert (client.check_path, client.known_check_path) == ("check-order", "")

    def test_of_several_threads_one_changes_the_spelling(self, client: Client, wire: Wire) -> None:
        """If two threads changed the spelling, the second would change it back."""
        under_way = threading.Barrier(3)

        def nothing(request: object) -> tuple[int, dict[str, str], str]:
            under_way.wait(5)
            return 404, {}, json.dumps(ROUTER)

        wire.add_callback("GET", CHECK, callback=nothing)
        with ThreadPoolExecutor(3) as threads:
            failures = list(threads.map(lambda _: raised(check, client), range(3)))
        assert [failure.is_worth_repeating for failure in failures] == [True] * 3
        assert client.check_path == "checkOrder"

    @pytest.mark.parametrize(
        ("given", "used"), [("checkOrder", OTHER_CHECK), ("check-order", CHECK), ("../x", CHECK)]
    )
    def test_a_spelling_given_to_the_client_is_used_if_it_is_known(
        self, given: str, used: str, wire: Wire
    ) -> None:
        wire.get(used, json={"success": True, "data": FULFILLED})
        with Client(base_url=HOST, api_key=KEY, timeout=5, check_path=given) as client:
            check(client)

    def test_paths_other_than_check_order_have_one_spelling(
        self, client: Client, wire: Wire
    ) -> None:
        wire.get(f"{HOST}/v3/gift-cards/checkProduct/p1", json=ROUTER, status=404)
        assert type(raised(product, client)) is OutcomeUnknown


HOSTILE = json.dumps(
    {"success": True, "data": dict.fromkeys([*FULFILLED, "orderId", "balance"], f" {CODE}")}
)
LEAKY = {
    "truncated": (200, json.dumps({"success": True, "data": FULFILLED})[:-1]),
    "no data": (200, json.dumps({"success": True, "data": [CODE, SERIAL, KEY]})),
    "html": (403, f"<html>{KEY} {CODE}</html>"),
    "refused": (400, json.dumps(error(KEY, KEY, details=[KEY]))),
    "not found": (404, json.dumps({**error(KEY, KEY), "data": FULFILLED})),
    "router": (404, json.dumps({"message": f"{KEY} {CODE}", "data": FULFILLED})),
    "denied": (401, json.dumps(error(KEY, KEY, details={"attemptsLeft": KEY}))),
    "limited": (429, KEY),
    "broken": (500, json.dumps({"success": False, "data": FULFILLED, "error": KEY})),
}


def assert_clean(text: str) -> None:
    for secret in (KEY, CODE, SERIAL, "CANARY-KEY%2F7f3a%2B9c"):
        assert secret not in text


def exceptions_from(failure: BaseException | None) -> Iterator[BaseException]:
    while failure is not None:
        yield failure
        failure = failure.__cause__ or failure.__context__


class TestSecrets:
    @EVERY_CALL
    @pytest.mark.parametrize("leak", LEAKY)
    def test_errors_hold_no_secret(
        self,
        leak: str,
        call: Question,
        client: Client,
        answers: Answers,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        status, body = LEAKY[leak]
        answers(body, status, Retry_After=CODE, X_Request_Id=KEY, X_Echo=KEY)
        self.assert_failure_is_clean(raised(call, client))
        assert_clean(caplog.text)

    @EVERY_CALL
    @pytest.mark.parametrize(
        "failure", [requests.ReadTimeout, requests.ConnectionError, requests.exceptions.SSLError]
    )
    def test_errors_of_the_transport_hold_no_secret(
        self, failure: type[requests.RequestException], call: Question, client: Client, wire: Wire
    ) -> None:
        def fail(request: requests.PreparedRequest) -> None:
            assert request.headers["X-Access-Token"] == KEY
            raise failure(f"{KEY} {CODE}", request=request)

        for method in ("GET", "POST"):
            wire.add_callback(method, re.compile(".*"), callback=fail)
        wire.assert_all_requests_are_fired = False
        self.assert_failure_is_clean(raised(call, client))

    @staticmethod
    def assert_failure_is_clean(failure: ProviderError) -> None:
        frames = 0
        for link in exceptions_from(failure):
            assert_clean(f"{link} {link!r} {link.args} {vars(link)}")
            traceback = link.__traceback__
            while traceback is not None:
                if "/giftcards/" in traceback.tb_frame.f_code.co_filename:
                    frames += 1
                    assert_clean(repr(traceback.tb_frame.f_locals))
                traceback = traceback.tb_next
        assert frames
        assert failure.__context__ is None

    def test_the_repr_of_an_answer_holds_no_secret(
        self, client: Client, answers: Answers, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        answers({"success": True, "data": FULFILLED})
        assert_clean(repr(check(client)))
        assert_clean(caplog.text)

    def test_problems_of_an_answer_hold_no_secret(self, client: Client, answers: Answers) -> None:
        answers(HOSTILE)
        answer = check(client)
        assert answer.flaws
        assert_clean(" ".join(f"{problem!r} {problem}" for problem in answer.flaws))
        self.assert_failure_is_clean(raised(place, client))
        self.assert_failure_is_clean(raised(Client.balance, client))

    def test_the_repr_of_the_client_holds_no_secret(self, client: Client) -> None:
        assert repr(client) == f"<Client of {HOST}>"


# Any JSON, which often replaces a value that has a meaning.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["7", "-1.50", "1e5", "FULFILLED", "2025-10-29T01:00:00Z", CODE, "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
ENVELOPES = {
    "place": {"orderId": "A1"},
    "link": {"paymentUrl": PAY_PAGE, "paymentRef": REF, "paymentLink": {"isSandbox": True}},
    "payment": {
        "status": "CONFIRMED",
        "paymentRef": REF,
        "transactionDetails": {"amount": 1100, "currency": "DZD", "isSandbox": True},
    },
    "check": FULFILLED,
    "list": {"items": [FULFILLED], "pagination": {"page": 1, "totalPages": 1}},
    "transactions": {
        "items": [{"type": "ORDER", "amount": 490, "time": "2025-10-29T01:00:00.000Z"}],
        "pagination": {"totalPages": 1},
    },
    "validate": {"apiKey": {"type": "SANDBOX", "scope": "READ-WRITE", "isEnabled": True}},
    "balance": {"balance": 1326.13},
    "product": {"productId": "p", "types": [{"id": "t", "price": 490, "quantity": 1}]},
    "catalogue": {"categories": [{"title": "c", "products": [{"id": "p", "title": "t"}]}]},
}


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """Return ``value`` with some part of it, or all of it, replaced."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 4)) == 0:
        return draw(JSON)
    copy = dict(value) if isinstance(value, dict) else list(value)
    for key in draw(st.sets(st.sampled_from(sorted(copy) if isinstance(copy, dict) else [0]))):
        copy[key] = draw(mutated(copy[key]))
    return copy


@st.composite
def bodies(draw: st.DrawFn, name: str) -> bytes:
    envelope = {"success": True, "data": ENVELOPES[name], "requestId": "r"}
    body = json.dumps(draw(mutated(envelope))).encode()
    match draw(st.integers(0, 4)):
        case 0:
            return draw(st.binary(max_size=40))
        case 1:
            return body[: draw(st.integers(0, len(body)))]
        case 2:
            start = draw(st.integers(0, len(body)))
            return body[:start] + draw(st.binary(max_size=4)) + body[start + 1 :]
    return body


class TestAnything:
    @given(data=st.data(), name=st.sampled_from(sorted(CALLS)), status=st.sampled_from([200, 400]))
    def test_any_body_gives_an_answer_or_one_of_our_errors(
        self, data: st.DataObject, name: str, status: int
    ) -> None:
        with (
            responses.RequestsMock() as wire,
            Client(base_url=HOST, api_key=KEY, timeout=60) as client,
        ):
            body = data.draw(bodies(name))
            wire.add(
                "POST" if name in {"place", "link"} else "GET",
                re.compile(".*"),
                body=body,
                status=status,
            )
            with contextlib.suppress(ProviderError):
                CALLS[name](client)
