"""Placing an order by hand in a real browser: choose a card, see what it costs, buy it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from selenium.webdriver import ActionChains

from giftcards.models import Order
from tests.browser.browser import Browser
from tests.builders import PRODUCT, TYPE
from tests.pages import LIST, order_page

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PHONE = (360, 800)
BUY = "button.giftcards-button"


def test_a_card_can_be_chosen_looked_at_and_bought_on_a_phone(shop: Browser) -> None:
    shop.resize(*PHONE)
    shop.open(f"{LIST}add/")
    shop.choose("card", f"{PRODUCT} {TYPE}")
    # Typing replaces the reference that the field already contains.
    shop.run("document.querySelector('[name=reference]').focus()")
    ActionChains(shop.driver).send_keys("web-1046").perform()
    shop.fill(quantity="3")
    shop.press("[name=_save]")
    assert shop.texts(".giftcards-breakdown tr") == [
        "Price per card 490 DA",
        "Total 1,470 DA",
        "Account balance 88,235.91 DA read 3 minutes ago",
    ]
    # Each amount is on one line, and within the window.
    amounts: list[Any] = shop.run(
        "return [...document.querySelectorAll('.giftcards-money')].map("
        " amount => amount.getBoundingClientRect()).map("
        " box => [box.height < 30, 0 <= box.left, box.right <= 360]);"
    )
    assert len(amounts) == 4
    assert all(map(all, amounts))
    # After going back, the form still contains what was typed.
    shop.press("[name=_change]")
    shop.fill(quantity="2")
    shop.press("[name=_save]")
    assert shop.texts(BUY) == ["Buy 2 for 980 DA"]
    assert not Order.objects.filter(reference="web-1046").exists()
    shop.press(BUY)
    order = Order.objects.get(reference="web-1046")
    assert (order.line, order.price_ceiling) == ((PRODUCT, TYPE, 2), Decimal(490))
    assert shop.path() == order_page(order)
    assert shop.complaints() == []
