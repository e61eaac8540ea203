"""WCAG 2.1 AA checks by axe-core of the staff pages about messages and links."""

from __future__ import annotations

from typing import Any

import pytest

from giftcards.delivery.models import CardLink, Delivery
from giftcards.models import Order
from tests.browser import showcase
from tests.browser.axe import LOOKS
from tests.browser.browser import Browser
from tests.browser.visits import Findings, at, sent
from tests.delivery.staff import to

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def order(boss: Browser, settings: Any) -> Order:
    settings.GIFTCARDS_DELIVERY = {"SHOP_URL": "https://shop.example", "SHOP_NAME": "The Shop"}
    return showcase.tell()


def test_axe_finds_nothing_of_ours(boss: Browser, order: Order) -> None:
    boss.speak("ar")
    waiting = Delivery.objects.get(status="retrying")
    pages = {
        "order": at(f"/admin/giftcards/order/{order.pk}/change/"),
        "send again, wrong": sent(at(to("send_again", order.pk)), reason="", address="lina"),
        "withdraw": at(to("withdraw", order.pk)),
        "do not send": at(to("cancel", waiting.pk)),
        "new link": at(to("new_link", order.pk)),
        "new link, made": sent(at(to("new_link", order.pk)), reason="On the phone"),
        "proof of delivery": at(to("dispute", order.pk)),
        "messages": at("/admin/giftcards_delivery/delivery/?status__exact=failed"),
        "message": at(to("delivery_change", waiting.pk)),
        "links": at("/admin/giftcards_delivery/cardlink/"),
        "link": at(to("cardlink_change", CardLink.objects.earliest("pk").pk)),
        "digests": at("/admin/giftcards_delivery/staffdigest/"),
        "index": at("/admin/giftcards_delivery/"),
    }
    found = Findings()
    for name, visit_page in pages.items():
        visit_page(boss)
        found.look_at(boss, name, LOOKS)
    assert not found, str(found)
    assert boss.complaints() == []
