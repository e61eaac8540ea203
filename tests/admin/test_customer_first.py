"""The customer and recipient at the top of an order's page, other orders, and duplicates."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from giftcards.engine.approvals import put_on_hold_for_price
from giftcards.models import Order, OrderTerm
from giftcards.privacy.erasure import erase
from giftcards.privacy.person import Person
from giftcards.statuses import Status
from tests.builders import TYPE, build_guide_order, make_guide_order, make_order
from tests.pages import ADD, FORM, LIST, element, order_page, plain, read, references, sign_in, text

pytestmark = pytest.mark.django_db

AMINA = {
    "customer_name": "Amina <b>",
    "customer_phone": "+213 550 12 34 56",
    "customer_email": "amina@example.com",
    "customer_language": "ar",
}


def people(browser: Client, order: Order) -> str:
    html = read(browser.get(order_page(order)))
    return element(html, "giftcards-people", "section")


def make(
    reference: str, *, minutes: float = 0, status: Status = Status.FULFILLED, **more: Any
) -> Order:
    """Make an order for Amina that was placed ``minutes`` before now."""
    at = timezone.now() - timedelta(minutes=minutes)
    values = {**AMINA, "created_at": at, **more}
    return make_guide_order(status, reference=reference, **values)


def test_the_customer_stands_under_the_first_sentence_and_nowhere_else(boss: Client) -> None:
    gift = {"recipient_name": "Lina", "recipient_email": "lina@example.com"}
    order = make("web-1", status=Status.DELAYED, **gift)
    html = read(boss.get(order_page(order)))
    shown = element(html, "giftcards-people", "section")
    assert text(shown.partition("<details")[0]) == (
        "Customer Amina <b> +213 550 12 34 56 amina@example.com Arabic Recipient Lina"
        " lina@example.com This customer has no other orders."
    )
    assert '<a href="tel:+213550123456"><bdi dir="ltr">+213 550 12 34 56</bdi></a>' in shown
    assert '<a href="mailto:amina@example.com"><bdi>amina@example.com</bdi></a>' in shown
    assert html.index("giftcards-summary") < html.index("giftcards-people")
    assert html.index("giftcards-people") < html.index('class="giftcards-decide"')
    for value in ("amina@example.com</bdi>", "+213 550 12 34 56"):
        assert html.count(value) == 1


@pytest.mark.parametrize(
    ("phone", "number"),
    [
        ("0550 12-34-56", "0550123456"),
        ("٠٥٥٠١٢٣٤٥٦", "0550123456"),
        ("+213 (0) 550 12 34 56", "+213550123456"),
        ("00213550123456", "00213550123456"),
        ("0550 12 34 56 / 0661 12 34 56", None),
        ("call my brother", None),
        ("1234", None),
    ],
)
def test_a_phone_number_is_a_link_that_dials_it(
    boss: Client, phone: str, number: str | None
) -> None:
    shown = people(boss, make_guide_order(customer_phone=phone))
    assert re.findall(r'href="tel:([^"]*)"', shown) == ([number] if number else [])
    assert f'<bdi dir="ltr">{phone}</bdi>' in shown


@pytest.mark.parametrize(
    ("values", "roles"),
    [
        (AMINA, ["customer"]),
        ({"customer_phone": "0550 12 34 56"}, ["customer"]),
        ({**AMINA, "recipient_email": "lina@x.dz"}, ["customer", "recipient"]),
        ({"customer_name": "Amina"}, []),
    ],
)
def test_who_asks_for_their_data_is_led_to_its_page(
    boss: Client, values: dict[str, str], roles: list[str]
) -> None:
    order = make_guide_order(**values)
    shown = people(boss, order)
    page = f"{LIST}customer-data/?order={order.pk}&amp;role="
    assert re.findall(rf'href="{re.escape(page)}(\w+)"', shown) == roles
    assert ("If the customer asks for their data, or wants it deleted" in shown) is bool(roles)


def test_a_customer_who_was_erased_is_said_to_be(boss: Client) -> None:
    order = make("web-1")
    assert erase(Person.of("amina@example.com"), [order]).erased == ["web-1"]
    shown = text(people(boss, order))
    assert re.fullmatch(
        r"The customer's details were erased on .* at the customer's request\.", shown
    )
    assert text(people(boss, make_guide_order())) == "The order has no customer details."


def test_the_other_orders_are_counted_with_what_is_open_and_owed_and_lead_to_these(
    boss: Client,
) -> None:
    order = make("web-1", minutes=300)
    make("web-2", status=Status.DELAYED, customer_email="", customer_phone="0550123456")
    make("web-3", status=Status.PARTIALLY_FILLED, sale_price=550, customer_phone="")
    make_guide_order(reference="web-4", customer_email="lina@example.com")
    shown = people(boss, order)
    assert "Other orders of this customer: 2 open: 1 owed: 1,100 DA" in plain(text(shown))
    address = re.findall(r'<a href="([^"]*customer_of[^"]*)"', shown)
    assert address == [f"{LIST}?customer_of={order.pk}"]
    html = read(boss.get(address[0]))
    assert references(html) == ["web-3", "web-2"]
    assert "Other orders from the same customer as \u2068web-1\u2069" in text(html)


def test_more_orders_than_a_page_counts_are_said_to_be_more(boss: Client) -> None:
    order = make("web-1")
    made = [
        build_guide_order(Status.FULFILLED, reference=f"web-1{number}", **AMINA)
        for number in range(201)
    ]
    OrderTerm.objects.add_for(Order.objects.bulk_create(made))
    assert "Other orders of this customer: 200 or more" in plain(text(people(boss, order)))


@pytest.mark.parametrize("key", ["0", "x", "9" * 30, "-1"])
def test_an_address_that_asks_for_no_order_finds_nothing(boss: Client, key: str) -> None:
    make("web-1")
    assert references(read(boss.get(LIST, {"customer_of": key}))) == []


LATER = "Possible duplicate: order web-2 was placed 4 minutes after this order."
EARLIER = "Possible duplicate: order web-2 was placed 4 minutes before this order."


@pytest.mark.parametrize(
    ("minutes", "other", "expected"),
    [
        (8, {"minutes": 4}, LATER),
        (0, {"minutes": 4}, EARLIER),
        (
            0,
            {"minutes": 1},
            "Possible duplicate: order web-2 was placed 1 minute before this order.",
        ),
        (
            0,
            {"minutes": 0},
            "Possible duplicate: order web-2 was placed at almost the same time as this order.",
        ),
        (0, {"minutes": 61}, ""),
        (0, {"minutes": 4, "type_id": "other"}, ""),
        (0, {"minutes": 4, "status": Status.REJECTED}, ""),
        (0, {"minutes": 4, "customer_email": "", "customer_phone": "0550123456"}, EARLIER),
        (0, {"minutes": 4, "customer_email": "l@x.org", "customer_phone": "0661123456"}, ""),
    ],
)
def test_the_same_order_of_a_customer_within_the_hour_looks_like_a_double(
    boss: Client, minutes: float, other: dict[str, Any], expected: str
) -> None:
    first = make("web-2", **other)
    order = make("web-1", minutes=minutes)
    shown = text(people(boss, order))
    assert (expected in shown) if expected else ("double" not in shown)
    # An order for missing cards is not a duplicate.
    Order.objects.filter(pk=order.pk).update(repeats=first)
    assert "double" not in people(boss, order)


def test_who_places_an_order_by_hand_is_told_of_a_double_before_it_is_bought(boss: Client) -> None:
    line = {**FORM, "customer_email": "Amina@example.com"}
    assert "double" not in read(boss.post(ADD, line))
    make("web-2", minutes=4)
    asked = read(boss.post(ADD, {**line, "reference": "web-3"}))
    assert EARLIER in text(asked)
    # It is only a warning.
    assert "confirmed_card" in asked


def test_the_page_reads_as_much_for_a_customer_with_many_orders(
    boss: Client, django_assert_max_num_queries: Any
) -> None:
    order = make("web-1")
    make("web-2")
    counts = []
    for _time in range(2):
        with django_assert_max_num_queries(60) as queries:
            read(boss.get(order_page(order)))
        counts.append(len(queries))
        for number in range(30):
            make(f"web-{_time}-{number}", type_id="other")
    assert counts[1] <= counts[0]


def test_the_sale_and_what_is_lost_by_an_approved_price_are_told(boss: Client) -> None:
    for sale, expected in (
        ({"sale_price": Decimal(550)}, "You lose 40 DA on this order."),
        ({"sale_amount": Decimal(1_200)}, "You still earn 60 DA on this order."),
        ({"sale_price": Decimal(570)}, "You neither earn nor lose anything on this order."),
        ({}, ""),
    ):
        order = make_order(max_price=Decimal(500), **sale)
        put_on_hold_for_price(order, price=Decimal(570), ceiling=Decimal(500))
        shown = plain(text(read(boss.get(order_page(order, "price"))))).replace("\xa0", " ")
        assert (expected in shown) if expected else ("on this order" not in shown)


@pytest.mark.parametrize("name", ["price", "reorder", "pay_back", "dispute", "resolve"])
def test_pages_on_which_a_person_decides_name_product_and_type(name: str) -> None:
    names = {"product_name": "PlayStation", "type_name": "PSN 500 DA"}
    sold: dict[str, Any] = {**names, "sale_price": Decimal(550)}
    if name == "price":
        order = make_order(**sold)
        put_on_hold_for_price(order, price=Decimal(570), ceiling=Decimal(500))
    elif name == "resolve":
        order = make_guide_order(Status.UNCONFIRMED, **sold)
    else:
        order = make_guide_order(Status.PARTIALLY_FILLED, **sold)
    html = read(sign_in(superuser=True).get(order_page(order, name)))
    assert "PlayStation" in html
    assert f'<bdi>PSN 500 DA</bdi> <span class="giftcards-id"><bdi>{TYPE}</bdi></span>' in html
