"""A working day for each role: support in Arabic on a phone, a manager in French.

Each test runs with and without scripts. Elements are found by their function instead of their
words, which differ by language.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from giftcards.models import Card, CardReveal, Order, ProviderState
from giftcards.statuses import Status
from tests.browser.browser import Browser
from tests.browser.people import log_in_as, without_script
from tests.builders import CARDS, PRODUCT, TYPE
from tests.pages import LIST, PROVIDER_PAGE, page_of

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PHONE = (390, 844)
SUBMIT = ".submit-row [type=submit]"
CODE = CARDS[1].value


@pytest.fixture(params=["with scripts", "without scripts"])
def window(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Browser]:
    if request.param == "with scripts":
        yield browser
        return
    with without_script(browser):
        yield browser


def order(reference: str) -> Order:
    return Order.objects.get(reference=reference)


def links_to(browser: Browser, page: str) -> list[str]:
    """Return the links to an order's sub-page, such as ``price``."""
    found = browser.find_all(f"#content a[href$='/{page}/']")
    return [str(link.get_attribute("href")) for link in found]


def listed(browser: Browser) -> list[str]:
    """Return the references of the orders in the list."""
    return [text.split()[0] for text in browser.texts("#result_list tbody th a")]


def follow_row(browser: Browser, reference: str) -> None:
    """Go from the list to an order."""
    browser.press(f"#result_list a[href*='/{order(reference).pk}/change/']")


def is_refused(browser: Browser, address: str) -> bool:
    browser.open(address)
    return "403" in browser.driver.title


def test_a_window_without_scripts_runs_none_of_the_page(browser: Browser) -> None:
    log_in_as(browser, "reader")
    with without_script(browser):
        browser.open(LIST)
        assert browser.run("return typeof django") == "undefined"
    browser.open(LIST)
    assert browser.run("return typeof django") == "object"


def test_support_answers_a_customer_in_arabic_on_a_phone(window: Browser) -> None:
    """A customer has a card whose code does not work."""
    log_in_as(window, "support")
    window.speak("ar")
    window.resize(*PHONE)
    window.open(LIST)
    assert window.run("return document.documentElement.dir") == "rtl"
    assert window.overflow() == 0
    window.fill(secret=CODE)
    window.press(".giftcards-search button")
    assert CODE not in window.driver.page_source
    window.press("[aria-live] a")
    assert window.path() == page_of("web-1042")
    assert window.overflow() == 0
    assert len(window.find_all(".giftcards-mask")) == 3
    assert not any(card.value in window.driver.page_source for card in CARDS)
    [card] = Card.objects.filter(order__reference="web-1042", position=2)
    window.press(f"a[href$='/cards/{card.pk}/']")
    window.fill(reason="ضاع البريد")
    window.press(SUBMIT)
    assert window.texts(".giftcards-secret")[0] == CODE
    assert CardReveal.objects.get().card == card
    assert window.overflow() == 0
    # Support staff cannot buy anything or decide about money.
    assert links_to(window, "reorder") == []
    for page in ("reorder", "price", "resolve"):
        assert is_refused(window, page_of("web-1042", page)), page


def test_a_manager_gets_the_shop_going_in_french(window: Browser) -> None:
    """Requests are paused, one order is on hold, one came in part, and one is placed by hand."""
    until = timezone.now() + timedelta(minutes=10)
    ProviderState.objects.pause("outage", detail="It is away.", until=until)
    log_in_as(window, "manager")
    window.speak("fr")
    # The manager looks at what there is to do.
    window.open(f"{LIST}?attention=needed")
    window.find(".giftcards-pause")
    assert {"web-1035", "web-1040"} <= set(listed(window))
    # A card costs more than its ceiling.
    follow_row(window, "web-1035")
    window.press("#content a[href$='/price/']")
    window.find("[name=outcome][value=approve]").click()
    window.press(SUBMIT)
    assert order("web-1035").price_ceiling == Decimal(570)
    assert window.path() == page_of("web-1035")
    # Two cards that did not come.
    window.open(page_of("web-1042"))
    window.press("#content a[href$='/reorder/']")
    assert "980" in window.find(".giftcards-facts").text
    window.press(SUBMIT)
    again = Order.objects.get(repeats=order("web-1042"))
    assert (again.quantity, window.path()) == (2, page_of(again.reference))
    # A customer at the counter.
    window.open(f"{LIST}add/")
    window.choose("card", f"{PRODUCT} {TYPE}")
    window.fill(quantity="2", reference="counter-1")
    window.press("[name=_save]")
    assert not Order.objects.filter(reference="counter-1").exists()
    window.press("button.giftcards-button")
    assert (order("counter-1").status, window.path()) == (Status.PENDING, page_of("counter-1"))
    # The provider is back.
    window.open(PROVIDER_PAGE)
    window.press(".giftcards-paused button")
    assert not ProviderState.objects.current().why_paused()
