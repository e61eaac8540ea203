"""The pages about a gift: what its recipient sees, and what its customer sees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db.models import QuerySet
from django.template import Context, Template
from django.test import Client, RequestFactory
from django.utils import timezone, translation

from giftcards.delivery.models import Delivery
from giftcards.delivery.views import file_of
from giftcards.models import Order
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import FULFILLED, make_guide_order
from tests.delivery.gifts import BUYER, PHONE, RECIPIENT, WORDS, in_days, make_gift
from tests.delivery.pages import (
    CODES,
    address_of_new_link,
    codes_in,
    fetch,
    page_token,
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


def bought_by(user: Any) -> QuerySet[Order]:
    return Order.objects.filter(customer_email=user.email)


def given_to(user: Any) -> QuerySet[Order]:
    """The hook of a shop whose users have proven their addresses."""
    return Order.objects.filter(recipient_email=user.email)


@pytest.fixture
def _hooks(settings: Any) -> Iterator[None]:
    settings.GIFTCARDS_DELIVERY = {
        **settings.GIFTCARDS_DELIVERY,
        "OWNED_ORDERS": f"{__name__}.bought_by",
        "RECEIVED_GIFTS": f"{__name__}.given_to",
    }
    yield
    translation.deactivate()


def log_in(address: str) -> Client:
    browser = Client()
    browser.force_login(get_user_model().objects.create_user(address, address))
    return browser


def show(browser: Client, order: Order) -> Any:
    token = re.search(r'name="token" value="([^"]+)"', browser.get(PAGE).content.decode())
    posted = {"order": str(order.pk), "token": token[1] if token else ""}
    return browser.post(PAGE, posted)


@pytest.mark.usefixtures("_hooks")
class TestMyCards:
    def test_the_customer_sees_state_amounts_and_time_and_no_cards(self) -> None:
        order = make_gift(deliver_at=in_days(2))
        record_refund(order, amount=200, reference="R1")
        amina = log_in(BUYER)
        response = amina.get(PAGE)
        shown = words(response).replace("\N{NO-BREAK SPACE}", " ")
        for part in ("A gift for Lina", "to be sent on", "paid: 3,000 DA", "200 DA paid back on",
                     "1,000 DA will be paid back", "In progress"):  # fmt: skip
            assert part in shown
        assert "<form" not in response.content.decode()
        assert show(amina, order).status_code == 404
        assert codes_in(show(amina, order)) == []

    def test_the_customer_sees_when_the_recipient_was_told(self) -> None:
        order = make_gift(FULFILLED)
        Delivery.objects.create(
            order=order, kind="gift", address=RECIPIENT, status="sent", key="1",
            sent_at=timezone.now(), next_attempt_at=None,
        )  # fmt: skip
        shown = words(log_in(BUYER).get(PAGE))
        assert "A gift for Lina · sent on" in shown
        assert "Delivered" in shown

    def test_the_recipient_sees_the_gift_and_its_cards(self) -> None:
        order = make_gift(type_name="Wallet")
        record_refund(order, amount=1200, reference="R1")
        lina = log_in(RECIPIENT)
        shown = words(lina.get(PAGE))
        assert "Gifts for you" in shown
        assert "A gift from Amina" in shown
        assert not re.search(rf"{BUYER}|\bDA\b|Partly|could not", shown)
        response = show(lina, order)
        assert codes_in(response) == CODES[:3]
        assert WORDS.split("\n\n")[0] in words(response)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: make_gift(deliver_at=in_days(0.1)),
            lambda: make_guide_order(recipient_email=RECIPIENT),
            lambda: make_guide_order(Status.REFUNDED, recipient_email=RECIPIENT),
            # An order with an empty address is nobody's gift.
            lambda: make_gift(customer_email="x@example.com", recipient_email="sami@example.com"),
        ],
        ids=["too early", "open", "refunded", "of somebody else"],
    )
    def test_a_gift_that_is_not_there_yet_is_not_told(self, make: Any) -> None:
        order, lina = make(), log_in(RECIPIENT)
        shown = words(lina.get(PAGE))
        assert order.reference not in shown
        assert "You have not ordered any gift cards yet." in shown
        assert show(lina, order).status_code == 404

    def test_an_order_that_is_no_gift_is_no_gift_of_a_user_without_an_address(self) -> None:
        order = make_gift(recipient_email="", recipient_name="", recipient_language="",
                          gift_message="")  # fmt: skip
        nobody = Client()
        nobody.force_login(get_user_model().objects.create_user("nobody"))
        assert order.reference not in words(nobody.get(PAGE))
        assert show(nobody, order).status_code == 404

    def test_who_buys_for_themselves_sees_both(self) -> None:
        order = make_gift(recipient_email=BUYER)
        amina = log_in(BUYER)
        shown = words(amina.get(PAGE))
        assert "Gifts for you" in shown
        assert "Ordered by you" in shown
        assert codes_in(show(amina, order)) == CODES[:3]

    def test_more_gifts_than_fit_have_pages_of_their_own(self) -> None:
        for number in range(22):
            make_guide_order(
                Status.FULFILLED, recipient_email=RECIPIENT, reference=f"web-{number}",
                created_at=in_days(-number),
            )  # fmt: skip
        lina = log_in(RECIPIENT)
        assert "1 / 2" in words(lina.get(PAGE))
        last = words(lina.get(PAGE, {"gifts": "2"}))
        assert "web-21" in last
        assert "web-0 " not in last

    def test_the_tags_list_gifts_as_the_page_does(self) -> None:
        mine = make_gift(reference="web-1")
        got = make_gift(reference="web-2", customer_email="x@example.com", recipient_email=BUYER)
        request = RequestFactory().get("/")
        request.user = get_user_model().objects.create_user("amina", BUYER)
        tags = "{% load giftcards_delivery %}{% my_cards %}<hr>{% order_cards mine %}"
        rendered = Template(tags).render(Context({"request": request, "mine": mine}))
        listed, one = rendered.split("<hr>")
        assert listed.index("web-2") < listed.index("web-1")
        assert f'name="order" value="{got.pk}"' in listed
        assert f'name="order" value="{mine.pk}"' not in rendered
        assert "A gift for" in one


@pytest.mark.parametrize("hook", ["OWNED_ORDERS", "RECEIVED_GIFTS"])
def test_gifts_are_shown_by_their_own_hook_alone(settings: Any, hook: str) -> None:
    path = {"OWNED_ORDERS": "bought_by", "RECEIVED_GIFTS": "given_to"}[hook]
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, hook: f"{__name__}.{path}"}
    order, lina = make_gift(), log_in(RECIPIENT)
    shown = lina.get(PAGE)
    if hook == "RECEIVED_GIFTS":
        assert page_token(shown)
        assert codes_in(show(lina, order)) == CODES[:3]
    else:
        assert order.reference not in words(shown)
        assert show(lina, order).status_code == 404
