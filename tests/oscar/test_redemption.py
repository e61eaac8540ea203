"""The page of a gift card says where it can be used, and how it is redeemed."""

from __future__ import annotations

import pytest

from giftcards.models import Product, RedemptionInstructions
from giftcards.simulator import Simulator
from tests.builders import PRODUCT
from tests.oscar.shop import Customer, book, card


@pytest.mark.parametrize(
    ("language", "region", "heading"),
    [
        ("en", "Region: <bdi>Algeria</bdi>", "How to redeem a card"),
        ("fr", "Région\u00a0: <bdi>Algérie</bdi>", "Comment utiliser une carte"),
        ("ar", "المنطقة: <bdi>الجزائر</bdi>", "طريقة استخدام البطاقة"),
    ],
)
def test_the_page_of_a_card_says_where_and_how_it_is_redeemed(
    shop: Simulator, language: str, region: str, heading: str
) -> None:
    product = Product.objects.get(product_id=PRODUCT)
    product.region = "DZ"
    product.save()
    texts = product.redemption_instructions
    texts.create(language=language, text="<b>https://psn.example</b>")
    customer = Customer(language=language)
    html = customer.browser.get(card().get_absolute_url()).content.decode()
    assert region in html
    assert heading in html
    link = '<a href="https://psn.example" rel="noopener noreferrer" dir="ltr">https://psn.example'
    assert f"&lt;b&gt;{link}</a>&lt;/b&gt;" in html


def test_the_page_of_another_product_and_of_an_unknown_card_says_nothing(shop: Simulator) -> None:
    for product in (book(), card()):
        RedemptionInstructions.objects.all().delete()
        Product.objects.update(region="")
        html = Customer().browser.get(product.get_absolute_url()).content.decode()
        assert "giftcards-redemption" not in html
