"""The pages about a gift: what its recipient sees, and what its customer sees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.template import Context, Template
from django.test import Client, RequestFactory
from django.utils import timezone, translation

from giftcards.delivery.models import Delivery
from giftcards.delivery.views import file_of
from giftcards.models import Order
from giftcards.settlement import record_refund
from tests.builders import FULFILLED
from tests.delivery.gifts import BUYER, PHONE, RECIPIENT, WORDS, in_days, make_gift
from tests.delivery.pages import (
    CODES,
    address_of_new_link,
    codes_in,
    fetch,
    press,
    words,
)

pytestmark = pytest.mark.django_db

PAGE = "/cards/"


@pytest.mark.parametrize(
    ("language", "title", "direction"),
    [
        ("en", "A gift from Amina", "ltr"),
        ("fr", "Cadeau offert par Amina", "ltr"),
        ("ar", "هدية من Amina", "rtl"),
    ],
)
def test_the_recipient_sees_the_cards_and_the_words_and_nothing_of_money(
    language: str, title: str, direction: str
) -> None:
    order = make_gift(recipient_language=language, type_name="Wallet")
    record_refund(order, amount=1200, reference="R1", method="CCP")
    response = press(address_of_new_link(order))
    shown = words(response)
    assert response["Content-Language"] == language
    assert f'dir="{direction}"' in response.content.decode()
    assert title in shown
    for line in WORDS.split("\n\n"):
        assert f'<p dir="auto">{line}</p>' in response.content.decode()
    Order.objects.update(gift_message="<script>alert(1)</script>\n\n&amp;")
    html = press(address_of_new_link(order)).content.decode()
    assert '<p dir="auto">&lt;script&gt;alert(1)&lt;/script&gt;</p>' in html
    assert '<p dir="auto">&amp;amp;</p>' in html
    assert codes_in(response) == CODES[:3]
    assert not re.search(rf"{BUYER}|{PHONE}|CCP|\bDA\b|دج|R1", shown)


def test_a_template_of_the_shop_finds_no_amounts_in_the_file_for_a_recipient(settings: Any) -> None:
    order = make_gift()
    [engine] = settings.TEMPLATES
    file = "{{ facts.product }}: {{ facts.paid }}, {{ facts.owed }}, {{ facts.paid_back }}"
    own = {"giftcards_delivery/page/file.txt": file}
    loaders = [("django.template.loaders.locmem.Loader", own)]
    options = {**engine["OPTIONS"], "loaders": loaders}
    settings.TEMPLATES = [{**engine, "APP_DIRS": False, "OPTIONS": options}]
    assert words(file_of(order, [])).endswith(": None, None, ()")


def test_before_the_reveal_nothing_is_told_of_the_people_or_the_cards() -> None:
    shown = words(fetch(address_of_new_link(make_gift())))
    assert "A gift is waiting for you" in shown
    assert not re.search(f"{BUYER}|Amina|Lina|sister|PlayStation", shown)


def test_the_recipient_is_not_asked_for_the_phone_number_of_the_customer(settings: Any) -> None:
    pin = "giftcards.delivery.pins.last_digits_of_phone"
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "PIN": pin}
    assert codes_in(press(address_of_new_link(make_gift()))) == CODES[:3]


@pytest.fixture
def _language() -> Iterator[None]:
    yield
    translation.deactivate()


def user_of(address: str) -> Any:
    return get_user_model().objects.get_or_create(username=address, email=address)[0]


def make_bought(*args: Any, **values: Any) -> Order:
    """Create a gift that Amina has bought with her account."""
    return make_gift(*args, user=user_of(BUYER), **values)


def log_in(address: str) -> Client:
    browser = Client()
    browser.force_login(user_of(address))
    return browser


def show(browser: Client, order: Order) -> Any:
    token = re.search(r'name="token" value="([^"]+)"', browser.get(PAGE).content.decode())
    posted = {"order": str(order.pk), "token": token[1] if token else ""}
    return browser.post(PAGE, posted)


@pytest.mark.usefixtures("_language")
class TestMyCards:
    def test_the_customer_sees_state_amounts_and_time_and_no_cards(self) -> None:
        order = make_bought(deliver_at=in_days(2))
        record_refund(order, amount=200, reference="R1")
        amina = log_in(BUYER)
        response = amina.get(PAGE)
        shown = words(response).replace("\N{NO-BREAK SPACE}", " ")
        for part in ("A gift for Lina", "to be sent on", "paid: 3,000 DA", "200 DA refunded on",
                     "1,000 DA will be refunded", "In progress"):  # fmt: skip
            assert part in shown
        assert "<form" not in response.content.decode()
        assert show(amina, order).status_code == 404
        assert codes_in(show(amina, order)) == []

    def test_the_customer_sees_when_the_recipient_was_told(self) -> None:
        order = make_bought(FULFILLED)
        Delivery.objects.create(
            order=order, kind="gift", address=RECIPIENT, status="sent", key="1",
            sent_at=timezone.now(), next_attempt_at=None,
        )  # fmt: skip
        shown = words(log_in(BUYER).get(PAGE))
        assert "A gift for Lina · sent on" in shown
        assert "Delivered" in shown

    @pytest.mark.parametrize("recipient", [RECIPIENT, BUYER], ids=["another", "the customer"])
    def test_the_cards_of_a_gift_are_shown_behind_the_recipients_link_alone(
        self, recipient: str
    ) -> None:
        order = make_bought(recipient_email=recipient)
        for address in (RECIPIENT, BUYER):
            browser = log_in(address)
            assert "<form" not in browser.get(PAGE).content.decode()
            assert show(browser, order).status_code == 404
        assert codes_in(press(address_of_new_link(order))) == CODES[:3]

    def test_an_address_that_somebody_registered_with_shows_them_no_gift(self) -> None:
        order, lina = make_bought(), log_in(RECIPIENT)
        shown = words(lina.get(PAGE))
        assert order.reference not in shown
        assert "You have not ordered any gift cards yet." in shown

    def test_the_tags_show_a_gift_as_the_page_does(self) -> None:
        mine = make_bought(reference="web-1")
        request = RequestFactory().get("/")
        request.user = user_of(BUYER)
        tags = "{% load giftcards_delivery %}{% my_cards %}<hr>{% order_cards mine %}"
        rendered = Template(tags).render(Context({"request": request, "mine": mine}))
        for part in rendered.split("<hr>"):
            assert "A gift for" in part
            assert "<form" not in part
