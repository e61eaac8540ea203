"""The page of an order in a real browser, with its script and without it."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest
from django.utils import timezone
from selenium.webdriver.support.ui import WebDriverWait

from giftcards.models import Note, Order
from giftcards.statuses import Status
from tests.browser.browser import PATIENCE, Browser
from tests.browser.people import without_script
from tests.pages import order_page, page_of

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def open_page(browser: Browser, reference: str) -> Order:
    order = Order.objects.get(reference=reference)
    browser.open(order_page(order))
    return order


def settle(order: Order) -> None:
    Order.objects.filter(pk=order.pk).update(
        status=Status.REFUNDED, finalized_at=timezone.now(), due_at=None
    )


def test_an_open_order_shows_itself_again_once_it_has_changed(boss: Browser) -> None:
    order = open_page(boss, "web-1043")
    assert "The cards will arrive automatically" in boss.texts(".giftcards-summary")[0]
    settle(order)
    boss.wait_for_text(".giftcards-summary", "No card was delivered.")
    assert boss.find_all("#giftcards-follow") == []
    assert boss.complaints() == []


def test_a_page_on_which_something_was_typed_stays_and_says_that_it_is_old(boss: Browser) -> None:
    order = open_page(boss, "web-1043")
    boss.fill(note="She has")
    settle(order)
    boss.wait_for_text(".giftcards-changed", "The order has changed in the meantime.")
    assert boss.find("[name=note]").get_attribute("value") == "She has"
    boss.follow("Show the current state")
    assert "No card was delivered." in boss.texts(".giftcards-summary")[0]


def test_a_page_that_nobody_looks_at_asks_nothing(boss: Browser) -> None:
    open_page(boss, "web-1043")
    asked = boss.run(
        "window.asked = 0;"
        "window.fetch = () => { window.asked += 1; return new Promise(() => {}); };"
        "window.waits = 0; window.setTimeout = () => { window.waits += 1; return 0; };"
        "Object.defineProperty(document, 'hidden', {get: () => true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'));"
        "const hidden = [window.asked, window.waits];"
        "Object.defineProperty(document, 'hidden', {get: () => false, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'));"
        "return [...hidden, window.asked];"
    )
    assert asked == [0, 0, 1]


def test_a_note_and_a_check_need_no_script(boss: Browser) -> None:
    with without_script(boss):
        boss.speak("ar")
        boss.resize(*PHONE)
        order = open_page(boss, "web-1041")
        Order.objects.filter(pk=order.pk).update(due_at=timezone.now() + timedelta(hours=1))
        boss.find("[name=note]").send_keys("اتصلت الزبونة.")
        boss.find("button[form=giftcards-note]").click()
        boss.find(".messagelist li")
        assert Note.objects.get().text == "اتصلت الزبونة."
        boss.find(".giftcards-decide button").click()
        WebDriverWait(boss.driver, PATIENCE).until(
            lambda _driver: Order.objects.get(pk=order.pk).due_at <= timezone.now()
        )


# The window of a phone, and the least size of a target for a finger.
PHONE, FINGER = (390, 844), 44
# Links inside sentences are as high as their line. Django's own links are outside the content.
SMALL = """
    const inSentences = ":is(.giftcards-summary, .giftcards-what, .giftcards-detail) a,"
        + "p.giftcards-warning > a";
    return [...document.querySelectorAll(
        "#content-main :is(a, button, summary, input[type=submit], .giftcards-choice label)"
    )].filter(element => {
        const box = element.getBoundingClientRect();
        return box.height && box.height < arguments[0] && !element.matches(inSentences);
    }).map(element => element.outerHTML.slice(0, 80) + element.getBoundingClientRect().height);
"""


def test_on_a_phone_the_customer_is_in_sight_and_whatever_acts_is_as_large_as_a_finger(
    boss: Browser,
) -> None:
    boss.resize(*PHONE)
    sides = "return getComputedStyle(document.querySelector('[href^=\"tel:\"] bdi')).direction"
    for language, number in product(("en", "ar", "fr"), (1035, 1040, 1041, 1042)):
        boss.speak(language)
        open_page(boss, f"web-{number}")
        for selector in ("strong", "a[href^='tel:']", "a[href^='mailto:']"):
            box = boss.find(f".giftcards-people {selector}").rect
            assert box["y"] + box["height"] < PHONE[1], (language, number)
        assert (boss.run(sides), boss.overflow()) == ("ltr", 0), (language, number)
        assert boss.run(SMALL, FINGER) == [], (language, number)
    pages = [("web-1036", "change"), ("web-1038", "change")]
    pages += [("web-1035", "price"), ("web-1040", "resolve")]
    pages += [("web-1042", name) for name in ("reorder", "pay_back", "dispute", "customer", "note")]
    for reference, name in pages:
        boss.open(page_of(reference, name))
        assert boss.run(SMALL, FINGER) == [], (reference, name)
