"""The page on which staff look at examples of the messages."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core import mail
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from giftcards.delivery.kinds import WITH_CARDS, Kind
from giftcards.delivery.models import CardLink, Delivery
from giftcards.models import Order
from tests.delivery.staff import person
from tests.fakes.mail import REFUSING
from tests.pages import read

pytestmark = pytest.mark.django_db

PAGE = "/admin/giftcards_delivery/delivery/previews/"
MAIL = f"{PAGE}mail/"
SEND = f"{PAGE}send/"
CHOICE = {"kind": "partly_delivered", "language": "ar", "mode": "codes"}


def staff(*permissions: str, email: str = "amina@shop.example", **options: Any) -> Client:
    browser = person(*permissions, **options)
    get_user_model().objects.update(email=email)
    return browser


@pytest.fixture
def browser() -> Client:
    return staff("view_delivery")


@pytest.mark.parametrize("address", [PAGE, MAIL])
def test_examples_are_for_who_may_see_messages(address: str) -> None:
    assert Client().get(address, CHOICE).status_code == 302
    assert staff("resend_delivery").get(address, CHOICE).status_code == 403


@pytest.mark.parametrize(
    ("kind", "language", "mode"),
    [
        *((kind, "ar", "link") for kind in Kind),
        *((kind, "fr", "codes") for kind in Kind),
        ("delivered", "en", "link"),
    ],
)
def test_each_message_is_shown_in_all_its_forms(
    browser: Client, kind: str, language: str, mode: str
) -> None:
    choice = {"kind": kind, "language": language, "mode": mode}
    page = read(browser.get(PAGE, choice))
    texts = re.findall(rf'<pre [^>]*lang="{language}"[^>]*>(.*?)</pre>', page, re.DOTALL)
    assert len(texts) == 2
    assert "PUBG Mobile" in texts[0]
    [frame] = re.findall(r'<iframe [^>]*sandbox [^>]*src="([^"]*)"', page)
    html = read(browser.get(unescape(frame)))
    assert html.startswith("<!DOCTYPE html>")
    assert f'<html lang="{language}"' in html
    has_codes = mode == "codes" and kind in WITH_CARDS
    assert ("AAAA-AAAA-AAAA-AAAA" in html) is has_codes
    assert ("AAAA-AAAA-AAAA-AAAA" in texts[0]) is has_codes


def test_the_page_begins_with_what_the_shop_sends(browser: Client, settings: Any) -> None:
    assert "/cards/example/" in read(browser.get(PAGE))
    settings.GIFTCARDS_DELIVERY = {"MODE": "codes"}
    assert "AAAA-AAAA-AAAA-AAAA" in read(browser.get(PAGE))


def test_the_language_of_a_region_is_shown_in_that_of_the_site(
    browser: Client, settings: Any
) -> None:
    settings.LANGUAGE_CODE = "en-us"
    assert 'lang="en"' in read(browser.get(PAGE, headers={"accept-language": "de"}))


def test_examples_are_the_providers_own_and_nothing_is_stored(browser: Client) -> None:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        page = read(browser.get(PAGE, {**CHOICE, "language": "en", "mode": "link"}))
    assert "3 of the 5" in page
    assert "980" in page
    assert not [query for query in queries if not query["sql"].startswith("SELECT")]
    assert not any(model.objects.exists() for model in (Order, Delivery, CardLink))


@pytest.mark.parametrize(
    "wrong", [{"kind": "other"}, {"language": "tlh"}, {"mode": "off"}, {"kind": "<script>"}]
)
def test_a_choice_that_does_not_exist_is_an_error_of_the_form(
    browser: Client, wrong: dict[str, str]
) -> None:
    page = read(browser.get(PAGE, CHOICE | wrong))
    assert "errorlist" in page
    assert "<iframe" not in page
    assert "<script>" not in re.sub(r"<script[^>]* src=[^>]*>", "", page)
    read(browser.get(MAIL, CHOICE | wrong), status=400)


def test_the_mail_is_a_document_that_can_do_nothing(browser: Client) -> None:
    response = browser.get(MAIL, CHOICE)
    policy = response["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "script-src" not in policy
    # Shown in a frame of the admin, and in no other.
    assert response["X-Frame-Options"] == "SAMEORIGIN"
    assert "frame-ancestors 'self'" in policy


def test_the_page_has_neither_inline_scripts_nor_styles(browser: Client) -> None:
    content = read(browser.get(PAGE, CHOICE)).partition('id="content-main"')[2]
    assert not re.search(r"<style| style=|<script| on[a-z]+=", content)


class TestSending:
    def test_an_example_is_sent_to_who_asks_and_only_to_them(self) -> None:
        browser = staff("view_delivery", "resend_delivery")
        assert "amina@shop.example" in read(browser.get(PAGE, CHOICE))
        page = read(browser.post(SEND, {**CHOICE, "address": "x@y.example"}, follow=True))
        assert "The example was sent." in page
        [message] = mail.outbox
        assert message.to == ["amina@shop.example"]
        assert "AAAA-AAAA-AAAA-AAAA" in message.body
        assert not Delivery.objects.exists()

    @pytest.mark.parametrize(
        ("permissions", "email"),
        [
            (["view_delivery"], "amina@shop.example"),
            (["resend_delivery"], "amina@shop.example"),
            (["view_delivery", "resend_delivery"], ""),
        ],
    )
    def test_who_may_not_send_messages_or_has_no_address_sends_none(
        self, permissions: list[str], email: str
    ) -> None:
        browser = staff(*permissions, email=email)
        assert browser.post(SEND, CHOICE).status_code == 403
        assert not mail.outbox
        if "view_delivery" in permissions:
            assert "Send this example" not in read(browser.get(PAGE, CHOICE))

    def test_only_a_post_with_a_real_choice_sends(self) -> None:
        browser = staff("view_delivery", "resend_delivery")
        assert browser.get(SEND, CHOICE).status_code == 405
        assert browser.post(SEND, {**CHOICE, "kind": "other"}).status_code == 400
        assert not mail.outbox

    def test_it_is_protected_against_forgery(self) -> None:
        browser = staff("view_delivery", "resend_delivery", enforce_csrf_checks=True)
        assert browser.post(SEND, CHOICE).status_code == 403

    def test_a_mail_server_that_fails_is_named_by_its_error_only(
        self, send_through: Callable[..., None]
    ) -> None:
        send_through(REFUSING)
        browser = staff("view_delivery", "resend_delivery")
        page = read(browser.post(SEND, CHOICE, follow=True))
        assert "The example was not sent." in page
        assert "CANARY-WORDS" not in page
