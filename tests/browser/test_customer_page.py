"""The customer's page in a browser: on a phone, without scripts, in two languages, accessible."""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest
from django.contrib.auth import get_user_model

from giftcards.delivery.models import CardLink, LinkVisit
from giftcards.delivery.tuning import tuning
from giftcards.models import Order
from tests.browser import axe
from tests.browser.browser import Browser
from tests.browser.people import without_script
from tests.browser.visits import Findings
from tests.builders import CARDS
from tests.delivery.pages import address_of_new_link

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

CODES = [card.value for card in CARDS[:3]]
BUTTON = ".gc-ask button"


@pytest.fixture(autouse=True)
def _shop(settings: Any, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The driver presses the button faster than a person could.
    monkeypatch.setattr(tuning, "press_after", 0)
    settings.GIFTCARDS_DELIVERY = {
        "MODE": "off",
        "SHOP_URL": site,
        "SHOP_NAME": "متجر البطاقات",
        "CONTACT": "+213 21 00 00 00",
    }


def new_address(**values: Any) -> str:
    order = Order.objects.get(reference="web-1042")
    Order.objects.filter(pk=order.pk).update(**values)
    return address_of_new_link(order)


def shown(window: Browser) -> list[str]:
    return window.texts(".gc-secret:not(.gc-serial)")


def test_a_customer_copies_a_code_and_ticks_the_card_off(browser: Browser) -> None:
    address = new_address(customer_language="en")
    browser.open(address)
    browser.run("localStorage.clear()")
    browser.press(BUTTON)
    assert shown(browser) == CODES
    browser.run(
        "window.copied = []; navigator.clipboard.writeText = async (text) => copied.push(text);"
    )
    browser.find("[data-copies=gc-code-2]").click()
    browser.wait_for_text(".gc-status", "Copied.")
    assert browser.run("return copied") == [CODES[1]]
    browser.find("[data-card='2']").click()
    browser.open(address)
    browser.press(BUTTON)
    assert browser.run(
        "return [...document.querySelectorAll('[data-card]')].map(box => box.checked)"
    ) == [False, True, False]
    kept = browser.run(
        "const kept = JSON.stringify(localStorage); localStorage.clear(); return kept"
    )
    assert "web-1042" in kept
    assert not any(code in kept for code in CODES)
    assert browser.run("return document.cookie") == ""
    assert browser.complaints() == []


def test_going_back_to_the_cards_asks_again(browser: Browser) -> None:
    address = new_address()
    browser.open(address)
    browser.press(BUTTON)
    assert shown(browser) == CODES
    browser.driver.back()
    browser.find(BUTTON)
    assert not any(code in browser.driver.page_source for code in CODES)
    browser.press(BUTTON)
    browser.open("/static/giftcards_delivery/page.css")
    browser.driver.back()
    assert not any(code in browser.driver.page_source for code in CODES)
    assert CardLink.objects.get().reveals == 2


def test_the_page_works_without_script(browser: Browser) -> None:
    with without_script(browser):
        browser.open(new_address())
        browser.press(BUTTON)
        assert shown(browser) == CODES
        browser.find(".gc-card summary").click()
        assert browser.find(".gc-qr svg").size["width"] > 100
        # Elements that need a script are hidden, because without scripts they would not work.
        needing = browser.find_all("[data-copies], [data-prints], .gc-used, [data-card]")
        assert len(needing) > len(CODES)
        assert not [element for element in needing if element.is_displayed()]


def test_a_crawler_that_runs_scripts_and_follows_links_uses_nothing_up(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The crawler presses the button within this time, even on a slow machine.
    monkeypatch.setattr(tuning, "press_after", 60)
    address = new_address()
    browser.open(address)
    links = browser.run(
        "return [...document.querySelectorAll('[href], [src]')].map(e => e.href || e.src)"
    )
    assert len(links) >= 2
    for link in filter(lambda link: link.startswith("http"), links):
        browser.driver.get(link)
        assert_nothing_is_shown(browser)
    for method in ("GET", "HEAD"):
        request = urllib.request.Request(browser.site + address, method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            assert not any(code in response.read().decode() for code in CODES)
    # Previews in chat programs may fire every event that a page could listen to.
    browser.open(address)
    browser.run(
        "for (const name of ['focus', 'load', 'pageshow', 'mouseover', 'scroll'])"
        " for (const each of [window, document, ...document.querySelectorAll('*')])"
        " each.dispatchEvent(new Event(name, {bubbles: true}));"
    )
    browser.find(BUTTON)
    # Scanners fill in and submit every form: at once, without the token, or with a wrong one.
    for prepare in ("", "form.token.remove();", "form.token.value = 'x';"):
        with browser.leaving():
            browser.run(f"const form = document.forms[0]; {prepare} form.requestSubmit();")
        assert browser.texts(".gc-alert") == ["يُرجى الضغط على الزر مرة أخرى."]
        assert_nothing_is_shown(browser)
    assert CardLink.objects.get().reveals == 0
    assert {visit.what for visit in LinkVisit.objects.all()} == {"opened"}


def assert_nothing_is_shown(browser: Browser) -> None:
    assert not any(code in browser.driver.page_source for code in CODES)


GIFT = {
    "customer_name": "Amina",
    "recipient_email": "lina@example.com",
    "gift_message": "Happy birthday!\n\nعيد ميلاد سعيد",
}


def test_on_paper_a_gift_is_its_words_and_its_cards(browser: Browser) -> None:
    browser.open(new_address(customer_language="en", **GIFT))
    browser.press(BUTTON)
    for theme in axe.THEMES:
        with browser.on_paper(theme):
            seen = browser.run(
                "return ['h1', '.gc-words', '.gc-secret', '.gc-tools', '.gc-copy', '.gc-used',"
                " '.gc-qr'].filter("
                " selector => document.querySelector(selector)?.getClientRects().length);"
            )
            ink = browser.run("return getComputedStyle(document.querySelector('.gc-words')).color")
            sides = browser.run(
                "return [...document.querySelectorAll('.gc-words p')].map(line =>"
                " getComputedStyle(line).direction)"
            )
        assert seen == ["h1", ".gc-words", ".gc-secret"]
        assert (ink, sides) == ("rgb(0, 0, 0)", ["ltr", "ltr", "rtl"])


@pytest.mark.parametrize("language", ["en", "ar"])
def test_pages_are_within_everybodys_reach(browser: Browser, language: str) -> None:
    browser.speak(language)
    found = Findings()
    browser.open("/cards/nobody/")
    found.look_at(browser, "nobody", [("light", axe.NARROW)])
    # The browser itself reports the missing page.
    [_not_found] = browser.complaints()
    for gift in ({}, GIFT):
        browser.open(new_address(customer_language=language, **gift))
        found.look_at(browser, f"before the button, {gift}", axe.LOOKS)
        browser.press(BUTTON)
        browser.find(".gc-card summary").click()
        browser.find("[data-card='1']").click()
        looks = [(theme, axe.NARROW) for theme in axe.THEMES]
        found.look_at(browser, f"cards, {gift}", looks)
        # No code is broken into two lines to make room for its button.
        browser.resize(390, 844)
        assert max(secret.size["height"] for secret in browser.find_all(".gc-secret")) < 60
    assert not found, str(found)
    assert browser.complaints() == []


def test_a_customer_who_is_logged_in_opens_the_cards_from_the_list(boss: Browser) -> None:
    shown_there = ["web-1038", "web-1042", "web-1043"]
    user = get_user_model().objects.get()
    Order.objects.filter(reference__in=shown_there).update(user=user)
    boss.open("/cards/")
    found = Findings()
    found.look_at(boss, "list", [("light", axe.NARROW)])
    assert not found, str(found)
    boss.press(".gc-order form button")
    assert shown(boss) == CODES
    assert LinkVisit.objects.get().user == "amina"
    assert boss.complaints() == []
