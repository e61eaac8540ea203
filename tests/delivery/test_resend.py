"""A message that is sent again, from the form to the cards behind its link."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core import mail
from django.test import Client

from giftcards.delivery.links import find
from giftcards.delivery.models import Delivery
from tests.delivery.mails import send
from tests.delivery.pages import press
from tests.delivery.staff import CODES, EMAIL, SUPPORT, delivered, link, message, person, to
from tests.delivery.test_sending_again import filled_in
from tests.pages import element, order_page, plain, read, text

pytestmark = pytest.mark.django_db


def resend(**values: str) -> str:
    """Have the message sent again; return the address of the page that the mail links to, or ""."""
    order = delivered()
    browser = person(*SUPPORT)
    message(order, status="failed")
    _earlier, token = link(order)
    browser.post(to("send_again", order.pk), filled_in(browser, order, **values))
    assert send().sent == 1
    assert (find(token) is None) == (values.get("links") == "all")
    found = re.search(r"https://shop\.example(/cards/[^\s]+/)", str(mail.outbox[-1].body))
    return found[1] if found else ""


@pytest.mark.parametrize("links", ["none", "all"])
def test_the_mail_holds_a_link_that_shows_the_cards_whatever_becomes_of_earlier_ones(
    links: str,
) -> None:
    address = resend(links=links)
    assert mail.outbox[-1].to == [EMAIL]
    assert not [code for code in CODES if code in str(mail.outbox[-1].message())]
    asked = read(Client().get(address))
    assert not [code for code in CODES if code in asked]
    shown = read(press(address))
    assert [code for code in CODES if code in shown] == list(CODES)
    assert "•" not in shown


def test_in_the_mode_with_codes_the_mail_holds_the_codes_unmasked(settings: Any) -> None:
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": "codes"}
    resend()
    assert [code for code in CODES if code in str(mail.outbox[-1].body)] == list(CODES)


def test_the_page_of_the_order_tells_that_it_was_sent_and_used() -> None:
    address = resend(address="lina@other.example", links="none")
    read(Client().get(address))
    read(press(address))
    sent = Delivery.objects.latest("pk")
    browser = Client()
    browser.login(username="amina", password="correct horse")
    html = read(browser.get(order_page(sent.order)))
    shown = plain(text(element(html, 'aria-labelledby="giftcards-messages"', "section")))
    assert "Sent to lina@other.example, less than a minute ago." in shown
    assert "Opened 1 time; cards shown 1 time, last on" in shown
