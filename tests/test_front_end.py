"""The example's API over HTTP: access to orders, what it returns, and codes that are shown once."""

from __future__ import annotations

import json
import logging
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.authtoken.models import Token

from example_project.api.models import Reveal
from example_project.storefront.models import Purchase
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.fulfilment import reorder_missing
from giftcards.models import Card, Order, ProductType
from giftcards.settlement import record_refund
from giftcards.simulator import Simulator
from tests.builders import CARDS, TYPE, change_cost, make_order
from tests.docs.pages import blocks, page, rows, section
from tests.example_shop import fill_shelf, kind, opened, work
from tests.site import Demo
from tests.stage import ROOT, ago, in_threads, secrets_of, sharing_database

ORIGIN = "http://127.0.0.1:8001"
PASSWORD = "correct horse"
FRONT_END = ROOT / "example_project" / "front_end"
PARTIAL = "TEST_PARTIAL"


class Customer:
    """A customer of the front end: a page on another origin, with a token."""

    def __init__(self, name: str) -> None:
        users = get_user_model().objects
        self.user = users.create_user(name, f"{name}@example.com", PASSWORD)
        token = Token.objects.create(user=self.user)
        self.client = Client(headers={"Authorization": f"Token {token.key}", "Origin": ORIGIN})

    def get(self, path: str) -> Any:
        return self.client.get(f"/api/{path}")

    def post(self, path: str, **body: Any) -> Any:
        return self.client.post(f"/api/{path}", body, "application/json")

    def place(self, type_id: str = PARTIAL) -> str:
        """Buy five cards, and return the path of the order."""
        answer = self.post("orders/", **line(type_id), key=key())
        assert answer.status_code == 201, answer.content
        return f"orders/{answer.json()['reference']}/"

    def bought(self, type_id: str = PARTIAL) -> str:
        """Buy five cards, run the worker, and return the path of the order."""
        path = self.place(type_id)
        work()
        return path

    def reveal(self, path: str, named: str = "") -> Any:
        return self.post(f"{path}cards/", key=named or key())


def key() -> str:
    return str(uuid.uuid4())


def line(type_id: str = PARTIAL, quantity: int = 5) -> dict[str, Any]:
    return {"offer": kind(type_id).pk, "quantity": quantity, "price": "550.00"}


def codes(order: Order) -> list[str]:
    return [card.value for card in order.cards.filter(position__lte=order.fulfilled_quantity)]


@pytest.fixture
def shop(db: None, settings: Any, simulator: Simulator, tmp_path: Path) -> Iterator[Simulator]:
    """The provider of a shop with a full shelf, where customers have not sent any requests yet."""
    cache.clear()
    fill_shelf()
    with opened(settings, tmp_path):
        yield simulator
    cache.clear()


@pytest.fixture
def amina(shop: Simulator) -> Customer:
    return Customer("amina")


@pytest.fixture
def karim(shop: Simulator) -> Customer:
    return Customer("karim")


# Buying


def change_price(_amina: Customer) -> None:
    change_cost(PARTIAL, 600)


def take_off_the_shelf(_amina: Customer) -> None:
    ProductType.objects.filter(type_id=PARTIAL).update(stock=0)


@pytest.mark.parametrize(
    ("changed", "meanwhile", "status"),
    [
        ({}, None, 200),
        ({"reference": "shop-999"}, None, 200),
        ({}, change_price, 200),
        ({}, take_off_the_shelf, 200),
        ({"quantity": 4}, None, 409),
        ({"price": "540.00"}, None, 409),
        ({"offer": "type_001"}, None, 409),
    ],
)
def test_a_second_post_with_the_same_key(
    changed: dict[str, Any],
    meanwhile: Callable[[Customer], None] | None,
    status: int,
    amina: Customer,
) -> None:
    sent = {**line(), "key": key()}
    first = amina.post("orders/", **sent)
    assert first.status_code == 201
    assert first["Location"] == f"/api/orders/{first.json()['reference']}/"
    if meanwhile:
        meanwhile(amina)
    again = {**sent, **changed}
    if isinstance(again["offer"], str):
        again["offer"] = kind(again["offer"]).pk
    second = amina.post("orders/", **again)
    assert second.status_code == status
    if status == 200:
        assert second.json() == first.json()
    assert Order.objects.get().reference == first.json()["reference"]


def test_the_key_of_another_customer_buys_a_new_order(amina: Customer, karim: Customer) -> None:
    sent = {**line(), "key": key()}
    answers = [customer.post("orders/", **sent) for customer in (amina, karim)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert len({answer.json()["reference"] for answer in answers}) == 2


@pytest.mark.parametrize(
    ("changed", "meanwhile", "status"),
    [
        ({"quantity": 0}, None, 400),
        ({"quantity": 101}, None, 400),
        ({"offer": 0}, None, 400),
        ({"key": "mine"}, None, 400),
        ({"price": "540.00"}, None, 409),
        ({}, change_price, 409),
        ({}, take_off_the_shelf, 409),
    ],
)
def test_what_cannot_be_bought_is_not_ordered(
    changed: dict[str, Any],
    meanwhile: Callable[[Customer], None] | None,
    status: int,
    amina: Customer,
) -> None:
    sent = {**line(), "key": key(), **changed}
    if meanwhile:
        meanwhile(amina)
    answer = amina.post("orders/", **sent)
    assert (answer.status_code, Order.objects.count()) == (status, 0), answer.content


def test_a_key_that_was_refused_buys_at_the_price_of_today(amina: Customer) -> None:
    sent = {**line(), "key": key()}
    ProductType.objects.filter(type_id=PARTIAL).update(stock=0)
    assert amina.post("orders/", **sent).status_code == 409
    ProductType.objects.filter(type_id=PARTIAL).update(stock=9)
    change_cost(PARTIAL, 600)
    for _try in range(2):
        answer = amina.post("orders/", **sent)
        assert (answer.status_code, answer.json()["detail"]) == (409, "The price has changed.")
    assert amina.post("orders/", **{**sent, "price": "680.00"}).status_code == 201
    assert Order.objects.get().sale_amount == 5 * 680


# Answers about an order


def nothing() -> None:
    """Do nothing, so that no worker has run yet."""


def wait_for_a_worker() -> None:
    Order.objects.update(created_at=ago(120))


def let_it_be_late() -> None:
    work()
    Order.objects.update(created_at=ago(303), accepted_at=ago(301), checked_at=ago(60))
    work("--reference", Order.objects.get().reference)


def pay_back() -> None:
    work()
    order = Order.objects.get()
    record_refund(order, amount=650, reference="wallet-1")


def order_again() -> None:
    work()
    reorder_missing(Order.objects.get(), by="support")


OPEN = {"delivered": 0, "is_final": False, "paid": None, "to_pay_back": None, "codes": "none"}
PAID = {"paid": "2750.00", "paid_back": "0.00", "to_pay_back": "0.00", "is_reordered": False}
PARTLY = {**PAID, "state": "partly_delivered", "delivered": 2, "codes": "ready"}
NONE = {"state": "not_delivered", "delivered": 0, "codes": "none"}


@pytest.mark.parametrize(
    ("type_id", "meanwhile", "told", "pause"),
    [
        (PARTIAL, nothing, {**OPEN, "state": "in_progress"}, "3"),
        ("SIM_SLOW", work, {**OPEN, "state": "in_progress"}, "3"),
        ("SIM_SLOW", let_it_be_late, {**OPEN, "state": "delayed"}, "30"),
        ("SIM_LOST", work, {**OPEN, "state": "delayed"}, "3"),
        (PARTIAL, wait_for_a_worker, {**OPEN, "state": "in_progress"}, "12"),
        ("type_001", work, {**PAID, "state": "delivered", "delivered": 5, "codes": "ready"}, ""),
        (PARTIAL, work, {**PARTLY, "to_pay_back": "1650.00"}, ""),
        (PARTIAL, pay_back, {**PARTLY, "paid_back": "650.00", "to_pay_back": "1000.00"}, ""),
        (PARTIAL, order_again, {**PARTLY, "is_reordered": True}, ""),
        ("TEST_REFUND", work, {**PAID, **NONE, "to_pay_back": "2750.00"}, ""),
        ("SIM_REJECT", work, {**PAID, **NONE, "to_pay_back": "2750.00"}, ""),
    ],
)
def test_an_order_is_told_in_the_customers_words_and_says_when_to_ask_again(
    type_id: str, meanwhile: Callable[[], None], told: dict[str, Any], pause: str, amina: Customer
) -> None:
    path = amina.place(type_id)
    meanwhile()
    answer = amina.get(path)
    assert answer.json() == {**answer.json(), **told}
    assert answer.get("Retry-After", "") == pause
    # The answer contains neither the shop's costs nor the problems of the order.
    assert {*answer.json()} == {
        *("reference", "name", "quantity", "state", "is_final", "delivered", "codes"),
        *("paid", "paid_back", "to_pay_back", "is_reordered", "region", "instructions"),
    }


def test_the_list_has_the_customers_own_orders_and_those_that_order_again(
    amina: Customer, karim: Customer
) -> None:
    amina.bought()
    again = reorder_missing(Order.objects.get(), by="support")
    make_order(repeats=again, quantity=1, user=amina.user)
    karim.bought("type_001")
    assert [order["quantity"] for order in amina.get("orders/").json()] == [1, 3, 5]
    assert amina.get(f"orders/{again.reference}/").status_code == 200
    assert [order["quantity"] for order in karim.get("orders/").json()] == [5]


# Access


@pytest.mark.parametrize("place", ["{order}", "orders/shop-0/"])
@pytest.mark.parametrize("what", ["", "cards/"])
def test_the_order_of_another_customer_is_not_found_as_one_that_does_not_exist(
    place: str, what: str, amina: Customer, karim: Customer
) -> None:
    path = place.format(order=amina.bought())
    answer = karim.reveal(path) if what else karim.get(path)
    assert (answer.status_code, "shop" in answer.content.decode()) == (404, False)
    assert not Reveal.objects.exists()


@pytest.mark.parametrize("token", ["", "Token ", "Token wrong"])
@pytest.mark.parametrize("path", ["offers/", "orders/", "orders/shop-1/", "orders/shop-1/cards/"])
def test_nobody_without_a_token_is_told_anything(path: str, token: str, shop: Simulator) -> None:
    headers = {"Authorization": token} if token else {}
    answer = Client(headers=headers).get(f"/api/{path}")
    assert answer.status_code == 401


def test_a_token_is_given_for_the_password_and_ends_with_delete(amina: Customer) -> None:
    Token.objects.all().delete()
    who = {"username": "amina", "password": "wrong"}
    browser = Client()
    assert browser.post("/api/token/", who, "application/json").status_code == 400
    answer = browser.post("/api/token/", {**who, "password": PASSWORD}, "application/json")
    browser = Client(headers={"Authorization": f"Token {answer.json()['token']}"})
    assert browser.get("/api/orders/").status_code == 200
    assert browser.delete("/api/token/").status_code == 204
    assert browser.get("/api/orders/").status_code == 401


NUMBER = '{"key": "%s", "offer": %s, "quantity": %s, "price": %s}'
UNREADABLE = {
    "offer": NUMBER % (key(), "1e400", "1", "1"),
    "quantity": NUMBER % (key(), "1", "-1e400", "1"),
    "price": NUMBER % (key(), "1", "1", "1e400"),
    "large": NUMBER % ("mine", "9" * 30, "1", "1"),
    "NUL": NUMBER % ("\\u0000", "1", "1", "1"),
    "name": '{"username": "\\u0000", "password": "\\u0000"}',
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep number": '{"key": [{"a": 1e400}]}',
    "half": '{"key": "',
    "digits": NUMBER % (key(), "9" * 5_000, "1", "1"),
    "list": "[1]",
    "surrogate": '{"username": "\\ud800", "password": "x"}',
}


@pytest.mark.parametrize("path", ["token/", "orders/", "orders/shop-1/cards/"])
@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_refused(path: str, body: str, amina: Customer) -> None:
    make_order(reference="shop-1", user=amina.user)
    Purchase.objects.create(
        pk=1, user=amina.user, key=key(), quantity=2, amount=1, product_type=kind(PARTIAL)
    )
    answer = amina.client.post(f"/api/{path}", body, "application/json")
    assert answer.status_code == 400, answer.content


def test_offers_and_orders_say_where_and_how_a_card_is_redeemed(amina: Customer) -> None:
    card = kind(TYPE)
    card.product.redemption_instructions.create(language="fr", text="<b>Ouvrez</b> le site.")
    path = amina.place(TYPE)

    def told(address: str, key: str, value: Any) -> list[tuple[str, str]]:
        found = amina.client.get(f"/api/{address}", headers={"Accept-Language": "fr"}).json()
        listed = found if isinstance(found, list) else [found]
        return [(it["region"], it["instructions"]) for it in listed if it[key] == value]

    expected = [("Algérie", "<b>Ouvrez</b> le site.")]
    assert told("offers/", "id", card.pk) == expected
    reference = Order.objects.get().reference
    assert told(path, "reference", reference) == told("orders/", "reference", reference) == expected


def test_orders_are_listed_with_the_same_number_of_queries(amina: Customer) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert amina.get("orders/").status_code == 200
        return len(queries)

    make_order(user=amina.user)
    few = count()
    for _each in range(9):
        make_order(user=amina.user)
    assert count() == few


@pytest.mark.parametrize("path", ["orders/%00/", "orders/%00/cards/", "orders/%FF/"])
def test_an_address_that_cannot_be_read_is_not_found(path: str, amina: Customer) -> None:
    assert amina.get(path).status_code == 404


@pytest.mark.parametrize(("what", "most"), [("token", 10), ("orders", 60), ("cards", 10)])
def test_who_asks_too_often_is_told_when_to_come_back(
    what: str, most: int, amina: Customer, karim: Customer
) -> None:
    def ask(customer: Customer) -> Any:
        if what == "orders":
            return customer.get("orders/")
        # A forged address does not avoid the limit.
        headers = {"X-Forwarded-For": key()}
        path = {"token": "/api/token/", "cards": "/api/orders/shop-0/cards/"}[what]
        # Requests for a token are counted by address, whether or not they send a token.
        client = customer.client if what != "token" or customer is karim else Client()
        return client.post(path, {}, "application/json", headers=headers)

    answers = [ask(amina) for _time in range(most + 1)]
    assert [answer.status_code == 429 for answer in answers] == [False] * most + [True]
    assert 0 < int(answers[-1]["Retry-After"]) <= 60
    assert (ask(karim).status_code == 429) is (what == "token")


# Codes


def test_codes_are_shown_once_and_it_is_recorded_to_whom_and_when(amina: Customer) -> None:
    path = amina.bought()
    # An additional card that arrives late is for staff.
    store_cards([Arrival(Order.objects.get(), CARDS[:1])])
    answer = amina.reveal(path)
    assert [card["value"] for card in answer.json()] == codes(Order.objects.get())
    assert [card["number"] for card in answer.json()] == [1, 2]
    assert "no-store" in answer["Cache-Control"]
    reveal = Reveal.objects.get()
    assert (reveal.user, reveal.order.reference) == (amina.user, path.split("/")[1])
    assert reveal.at > ago(60)
    assert amina.get(path).json()["codes"] == "shown"
    assert amina.reveal(path).status_code == 410
    assert Reveal.objects.get() == reveal


@pytest.mark.parametrize(("age", "status"), [(590, 200), (601, 410)])
def test_a_reveal_whose_answer_was_lost_can_be_repeated_for_ten_minutes(
    age: int, status: int, amina: Customer
) -> None:
    path, named = amina.bought(), key()
    first = amina.reveal(path, named)
    Reveal.objects.update(at=ago(age))
    again = amina.reveal(path, named)
    assert again.status_code == status
    assert (again.json() == first.json()) is (status == 200)
    assert Reveal.objects.count() == 1


def lose_the_keys(_order: Order) -> None:
    Card.objects.update(sealed="damaged")


def destroy(_order: Order) -> None:
    Card.objects.all().destroy()


def make_a_gift(order: Order) -> None:
    Order.objects.filter(pk=order.pk).update(recipient_email="lina@example.com")


@pytest.mark.parametrize(
    ("type_id", "meanwhile", "status"),
    [
        ("SIM_SLOW", None, 409),
        ("TEST_REFUND", None, 409),
        ("SIM_REJECT", None, 409),
        (PARTIAL, lose_the_keys, 503),
        (PARTIAL, destroy, 410),
        (PARTIAL, make_a_gift, 404),
    ],
)
def test_what_cannot_be_shown_uses_up_no_reveal(
    type_id: str, meanwhile: Callable[[Order], None] | None, status: int, amina: Customer
) -> None:
    path = amina.bought(type_id)
    if meanwhile:
        meanwhile(Order.objects.get())
    assert amina.reveal(path).status_code == status
    assert not Reveal.objects.exists()


def test_a_card_that_does_not_open_keeps_no_other_from_being_shown(
    amina: Customer, caplog: pytest.LogCaptureFixture
) -> None:
    path = amina.bought()
    first, second = Card.objects.order_by("position")[:2]
    Card.objects.filter(pk=first.pk).update(sealed="damaged")
    shown = amina.reveal(path).json()
    assert [card["value"] for card in shown] == ["", second.value]
    assert f"Card 1 of order {path.split('/')[1]}: " in caplog.text


def test_no_code_is_in_a_get_a_log_or_the_page(
    amina: Customer, settings: Any, shop: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = amina.bought()
    amina.bought("type_001")
    before = [amina.get(each).content.decode() for each in ("offers/", "orders/", path)]
    shown = amina.reveal(path).content.decode()
    after = [amina.get(each).content.decode() for each in ("orders/", path)]
    again = amina.reveal(path).content.decode()
    get = amina.get(f"{path}cards/")
    assert get.status_code == 405
    page = [file.read_text() for file in FRONT_END.iterdir()]
    read = "".join([*before, *after, again, get.content.decode(), *page, caplog.text])
    secrets = [secret for secret in secrets_of(settings, shop) if secret]
    assert secrets
    assert not [secret for secret in secrets if secret in read]
    assert any(secret in shown for secret in secrets)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("what", ["buy", "reveal with one key", "reveal with two keys"])
def test_requests_at_the_same_moment_buy_and_reveal_once(
    what: str, settings: Any, simulator: Simulator, tmp_path: Path
) -> None:
    cache.clear()
    fill_shelf()
    with opened(settings, tmp_path), sharing_database(tmp_path / "shared.sqlite3"):
        amina = Customer("amina")
        sent, named = {**line(), "key": key()}, key()
        path = amina.bought() if what != "buy" else ""

        def ask() -> Any:
            if what == "buy":
                return amina.post("orders/", **sent)
            return amina.reveal(path, named if "one" in what else "")

        answers = in_threads(4, ask)
        assert Order.objects.count() == 1
        assert Reveal.objects.count() == (what != "buy")
    told = sorted(answer.status_code for answer in answers)
    if what == "buy":
        assert {*told} <= {200, 201}
    else:
        assert told == ([200] * 4 if "one" in what else [200, 410, 410, 410])


# Another origin


@pytest.mark.parametrize(
    ("path", "origin", "is_allowed"),
    [
        ("/api/offers/", ORIGIN, True),
        ("/api/offers/", "https://evil.example", False),
        ("/cards/my/", ORIGIN, False),
        ("/admin/login/", ORIGIN, False),
    ],
)
def test_only_the_front_end_may_read_from_another_origin_and_only_the_api(
    path: str, origin: str, is_allowed: bool, shop: Simulator
) -> None:
    asking = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answers = [Client(headers={"Origin": origin}).get(path), Client(headers=asking).options(path)]
    for answer in answers:
        assert (answer.get("Access-Control-Allow-Origin") == origin) is is_allowed
        assert "Access-Control-Allow-Credentials" not in answer
    if is_allowed:
        assert answers[0]["Access-Control-Expose-Headers"] == "Retry-After"
        assert "authorization" in answers[1]["Access-Control-Allow-Headers"]


@pytest.mark.parametrize("path", ["offers/", "orders/", "orders/shop-0/"])
def test_no_answer_is_kept(path: str, amina: Customer) -> None:
    for customer in (amina.client, Client()):
        assert "no-store" in customer.get(f"/api/{path}")["Cache-Control"]


# The page of the documentation


def test_the_documentation_lists_every_request_and_shows_an_order_as_it_is_told(
    amina: Customer,
) -> None:
    from example_project.api.urls import urlpatterns

    api = section(page("recipes/drf"), "The API")
    listed = {re.findall(r"`\w+ (.*)`", cell)[0] for cell, _answer in rows(api)}
    routes = {re.sub("<[a-z]+:", "<", str(route.pattern)) for route in urlpatterns}
    assert listed == routes
    [example] = blocks(api, "json")
    shown = amina.get(amina.bought()).json()
    assert json.loads(example) == {**shown, "reference": "shop-1"}


@pytest.mark.cluster
def test_the_command_of_the_documentation_runs_the_front_end_and_its_api_on_any_ports(
    tmp_path: Path,
) -> None:
    """The usual ports may be taken, for example in CI, so the test occupies them."""
    [command] = blocks(section(page("recipes/drf"), "Trying it"), "console")
    # CI runs `make demo`; this test starts the program that it runs.
    assert command.strip() == "$ make demo"
    with ExitStack() as taken:
        for port in (8000, 8001):
            with suppress(OSError):
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
        demo = Demo(tmp_path)
        try:
            demo.wait_until(lambda: "another origin" in demo.output)
            [origin] = re.findall(r"^ +(\S+)/ +the shop's API", demo.output, re.MULTILINE)
            assert not origin.endswith(":8001")
            walk(demo, origin)
        finally:
            demo.close()


def walk(demo: Demo, origin: str) -> None:
    """Do what the page does with the demo's user: buy five cards, wait, and reveal the codes."""
    shown = requests.get(f"{origin}/", timeout=10).text
    assert '<script src="page.js"' in shown
    found = re.search(r"Site +(\S+)  \(user admin, password (\S+)\)", demo.output)
    assert found
    api, headers = f"{found[1]}api/", {"Origin": origin}
    assert f'<meta name="api" content="{api}">' in shown
    assert f"connect-src {found[1].rstrip('/')};" in shown

    def call(method: str, path: str, **body: Any) -> Any:
        answer = requests.request(method, api + path, json=body, headers=headers, timeout=30)
        assert answer.ok, answer.text
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        return answer

    token = call("POST", "token/", username="admin", password=found[2]).json()["token"]
    headers["Authorization"] = f"Token {token}"
    [offer] = [
        offer
        for offer in call("GET", "offers/").json()
        if offer["name"] == "Half of the cards arrive"
    ]
    sent = {"offer": offer["id"], "quantity": 5, "price": offer["price"]}
    order = call("POST", "orders/", key=key(), **sent).json()
    path = f"orders/{order['reference']}/"
    while pause := call("GET", path).headers.get("Retry-After"):
        demo.wait_until(lambda: True)  # it still runs
        time.sleep(int(pause) / 10)
    assert call("GET", path).json()["to_pay_back"] == "1650.00"
    assert len(call("POST", f"{path}cards/", key=key()).json()) == 2
