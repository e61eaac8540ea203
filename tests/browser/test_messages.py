"""WCAG 2.1 AA in what staff see of messages and links: what axe-core finds in each page."""

from __future__ import annotations

import re
from typing import Any

import pytest

from giftcards.delivery.models import CardLink, Delivery
from giftcards.models import Order
from tests.browser import showcase
from tests.browser.axe import THEMES, WINDOWS
from tests.browser.browser import Browser
from tests.browser.test_accessibility import SUBMIT, Findings, at, sent
from tests.delivery.staff import to

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
]

LOOKS = ((THEMES[0], WINDOWS[0]), (THEMES[1], WINDOWS[1]))


@pytest.fixture
def order(boss: Browser, settings: Any) -> Order:
    settings.GIFTCARDS_DELIVERY = {"BASE_URL": "https://shop.example", "SHOP_NAME": "The Shop"}
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


def test_a_link_is_copied_and_gone_when_the_page_is_left(boss: Browser, order: Order) -> None:
    boss.open(to("new_link", order.pk))
    boss.fill(reason="On the phone")
    boss.press(SUBMIT)
    [address] = boss.texts(".giftcards-secret")
    assert re.fullmatch(r"https://shop\.example/cards/[\w-]{32}/", address)
    boss.follow("Hide the link")
    assert address not in boss.driver.page_source


def test_what_cannot_be_undone_in_the_section_of_an_order_asks_first(
    boss: Browser, order: Order
) -> None:
    waiting = Delivery.objects.get(status="retrying")
    boss.open(f"/admin/giftcards/order/{order.pk}/change/")
    boss.press(f"[href='{to('cancel', waiting.pk)}']")
    boss.press(SUBMIT)
    assert boss.texts(".messagelist li") == ["The message is not sent."]
    boss.press(f"[href='{to('withdraw', order.pk)}']")
    assert CardLink.objects.filter(revoked_at=None).exists()
    boss.press(SUBMIT)
    assert not CardLink.objects.filter(revoked_at=None).exists()
