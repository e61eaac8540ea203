"""The pages before the payment say where a gift card can be used, and how it is redeemed."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse_lazy

from giftcards.models import Product, RedemptionInstructions
from giftcards.oscar.templatetags.giftcards_oscar import basket_redemption
from giftcards.simulator import Simulator
from tests.builders import PRODUCT
from tests.oscar.shop import Customer, book, card

BASKET, LAST = reverse_lazy("basket:summary"), reverse_lazy("checkout:preview")
LANGUAGES = pytest.mark.parametrize(
    ("language", "region", "heading"),
    [
        ("en", "Region: <bdi>Algeria</bdi>", "How to redeem a card"),
        ("fr", "Région\u00a0: <bdi>Algérie</bdi>", "Comment utiliser une carte"),
        ("ar", "المنطقة: <bdi>الجزائر</bdi>", "طريقة استخدام البطاقة"),
    ],
)
LINK = '<a href="https://psn.example" rel="noopener noreferrer" dir="ltr">https://psn.example'
TEXT = f"&lt;b&gt;{LINK}</a>&lt;/b&gt;"


def write(language: str) -> None:
    product = Product.objects.get(product_id=PRODUCT)
    product.region = "DZ"
    product.save()
    product.redemption_instructions.create(language=language, text="<b>https://psn.example</b>")


def read(customer: Customer, address: str) -> str:
    page = customer.browser.get(address)
    assert page.status_code == 200
    return page.content.decode()


@LANGUAGES
def test_the_page_of_a_card_says_where_and_how_it_is_redeemed(
    shop: Simulator, language: str, region: str, heading: str
) -> None:
    write(language)
    html = read(Customer(language=language), card().get_absolute_url())
    assert region in html
    assert heading in html
    assert TEXT in html


@LANGUAGES
def test_the_basket_and_the_last_page_say_it_of_each_card(
    shop: Simulator, language: str, region: str, heading: str
) -> None:
    write(language)
    customer = Customer(language=language)
    for product in (card(), card("TEST_REFUND"), book()):
        customer.put(product)
    customer.go_to_pay()
    for address in (BASKET, LAST):
        html = read(customer, address)
        told = html[html.index('class="giftcards-redemption') :]
        assert [told.count(text) for text in (region, heading, TEXT)] == [2, 2, 2]
        assert f"<bdi>{card().get_title()}</bdi>" in told
        assert "<bdi>A book</bdi>" not in told


def test_a_basket_of_any_length_takes_three_more_queries(shop: Simulator) -> None:
    write("en")
    customer = Customer()
    for product in (card(), card("TEST_REFUND"), card("TEST_PARTIAL")):
        customer.put(product)
    basket = customer.browser.get(BASKET).context["basket"]
    basket.all_lines()
    with CaptureQueriesContext(connection) as queries:
        assert len(basket_redemption(basket)["cards"]) == 3
    assert len(queries) == 3


def test_the_pages_of_another_product_and_of_an_unknown_card_say_nothing(shop: Simulator) -> None:
    RedemptionInstructions.objects.all().delete()
    Product.objects.update(region="")
    for product in (book(), card()):
        customer = Customer()
        customer.put(product)
        for address in (product.get_absolute_url(), BASKET):
            assert "giftcards-redemption" not in read(customer, address)
