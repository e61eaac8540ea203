"""Redemption instructions in everything that a customer or a recipient reads."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core import mail
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from giftcards.delivery.messages import compose
from giftcards.delivery.models import Delivery
from giftcards.engine import outbox
from giftcards.keys.secrecy import Masked
from giftcards.models import Order, Product, RedemptionInstructions
from tests.builders import FULFILLED, make_offer
from tests.delivery.gifts import BUYER, RECIPIENT, mails_to, make_gift, visible_in
from tests.delivery.mails import is_due, send
from tests.delivery.pages import address_of_new_link, make_settled, press, words
from tests.delivery.staff import SUPPORT, person, to
from tests.pages import order_page, read

pytestmark = pytest.mark.django_db

ADDRESS = "https://psn.example/redeem?a=1&b=2"
LINK = f'<a href="{ADDRESS.replace("&", "&amp;")}" rel="noopener noreferrer" dir="ltr">'
TEXTS = {
    "en": f"Open {ADDRESS}.\n<script>alert(1)</script>",
    "fr": f"Ouvrez {ADDRESS}.\n<script>alert(2)</script>",
    "ar": f"افتح {ADDRESS}، ثم أدخل الرمز.\n<script>alert(3)</script>",
}
HEADINGS = {"en": "How to redeem", "fr": "Comment utiliser", "ar": "طريقة استخدام"}
REGIONS = {"en": "Turkey", "fr": "Turquie", "ar": "تركيا"}
each_language = pytest.mark.parametrize("language", TEXTS)


@pytest.fixture(autouse=True)
def product() -> Product:
    product = make_offer().product
    product.region = "TR"
    product.save()
    for language, told in TEXTS.items():
        RedemptionInstructions.objects.create(product=product, language=language, text=told)
    return product


def assert_tells(html: str, language: str) -> None:
    """Check that the page has the texts in this language, with a link, and runs no script."""
    assert HEADINGS[language] in html
    assert REGIONS[language] in html
    assert LINK in html
    assert f"&lt;script&gt;alert({list(TEXTS).index(language) + 1})&lt;/script&gt;" in html
    assert not re.search(r"<script>alert", html)
    assert not any(told in html for code, told in REGIONS.items() if code != language)


def write(order: Order) -> None:
    """Write the messages about the order, and send them."""
    outbox.announce()
    is_due()
    send()


@each_language
@pytest.mark.parametrize("mode", ["link", "codes"])
def test_the_mail_with_the_cards_says_it(settings: Any, language: str, mode: str) -> None:
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": mode}
    write(make_settled(answer=FULFILLED, customer_email=BUYER, customer_language=language))
    [sent] = mails_to(BUYER)
    plain, html = sent.body, str(sent.alternatives[0][0])
    assert_tells(html, language)
    assert TEXTS[language] in plain
    assert REGIONS[language] in plain
    assert HEADINGS[language] in plain


def test_other_mails_tell_the_region_only() -> None:
    write(make_gift(FULFILLED, customer_language="fr", recipient_language="ar"))
    [receipt], [gift] = mails_to(BUYER), mails_to(RECIPIENT)
    assert REGIONS["fr"] in visible_in(receipt)
    assert HEADINGS["fr"] not in visible_in(receipt)
    assert_tells(str(gift.alternatives[0][0]), "ar")


@each_language
def test_the_page_behind_the_link_and_its_file_say_it(language: str) -> None:
    order = make_settled(answer=FULFILLED, customer_language=language)
    address = address_of_new_link(order)
    assert_tells(press(address).content.decode(), language)
    file = press(address, file="1").content.decode()
    head, _blank, cards = file.partition("\r\n\r\n")
    assert TEXTS[language].replace("\n", "\r\n") in head
    assert REGIONS[language] in head
    assert len(cards.strip().splitlines()) == 5


@each_language
def test_the_page_of_a_gift_says_it_in_the_recipients_language(language: str) -> None:
    order = make_gift(FULFILLED, customer_language="de", recipient_language=language)
    assert_tells(press(address_of_new_link(order)).content.decode(), language)


@each_language
def test_the_list_of_a_customers_cards_says_it(language: str) -> None:
    user = get_user_model().objects.create_user("amina")
    browser = Client(headers={"Accept-Language": language})
    browser.force_login(user)
    make_settled(answer=FULFILLED, user=user)
    assert_tells(browser.get("/cards/").content.decode(), language)


def test_a_long_list_takes_as_many_queries_as_a_short_one() -> None:
    user = get_user_model().objects.create_user("amina")
    browser = Client()
    browser.force_login(user)

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            browser.get("/cards/")
        return len(captured)

    make_settled("web-1", answer=FULFILLED, user=user)
    few = queries()
    for number in range(2, 12):
        make_settled(f"web-{number}", answer=FULFILLED, user=user)
    assert queries() == few


def test_a_product_that_is_not_in_the_catalogue_is_told_without_a_gap() -> None:
    Product.objects.all().delete()
    order = make_settled(answer=FULFILLED, customer_email=BUYER, customer_language="en")
    write(order)
    [sent] = mails_to(BUYER)
    shown = visible_in(sent) + words(press(address_of_new_link(order)))
    assert "Region" not in shown
    assert "How to redeem" not in shown


def test_instructions_are_those_of_today_and_the_name_is_that_of_the_sale(product: Product) -> None:
    order = make_settled(answer=FULFILLED, customer_language="en")
    product.own_name = "A new name"
    product.save()
    RedemptionInstructions.objects.filter(language="en").update(text="Ask for the key.")
    shown = words(press(address_of_new_link(order)))
    assert "PlayStation" in shown
    assert "A new name" not in shown
    assert "Ask for the key." in shown


def test_staff_read_it_on_the_page_of_the_order_and_in_the_proof_of_delivery() -> None:
    order = make_settled(answer=FULFILLED)
    clerk = person("view_order", *SUPPORT, name="clerk")
    for address in (order_page(order), to("dispute", order.pk)):
        html = read(clerk.get(address))
        assert LINK in html
        assert "Turkey" in html
        assert "<script>alert(1)" not in html


def test_a_short_message_leaves_it_out(settings: Any) -> None:
    order = make_settled(answer=FULFILLED, customer_email=BUYER, customer_language="en")
    outbox.announce()
    message = Delivery.objects.get(order=order)
    written = compose(message, Masked("token"))
    assert "psn.example" not in written.short
    assert "psn.example" in written.text
    assert mail.outbox == []
