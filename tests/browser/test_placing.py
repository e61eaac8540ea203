"""Placing an order by hand in a real browser: choose a card, see what it costs, buy it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from selenium.webdriver import ActionChains

from giftcards.models import Order, Product
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.browser.browser import Browser
from tests.builders import PRODUCT, TYPE
from tests.pages import LIST, order_page
from tests.stage import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PHONE = (390, 844)
BUY = "button.giftcards-button"


def test_without_a_catalogue_an_order_is_placed_by_ids_after_a_mistake_was_corrected(
    boss: Browser,
) -> None:
    Product.objects.all().delete()
    boss.open(LIST)
    boss.press(".object-tools .addlink")
    boss.fill(product_id=PRODUCT, type_id=TYPE, quantity="0", reference="web-1045")
    boss.press("[name=_save]")
    # The browser itself lets 0 through: the field's lower limit is the column's.
    assert boss.texts(".errorlist:not(.nonfield)") == [
        "Ensure this value is greater than or equal to 1."
    ]

    boss.fill(quantity="2")
    boss.press("[name=_save]")
    assert boss.texts(BUY) == ["Buy 2 cards"]
    boss.press(BUY)

    assert boss.texts(".messagelist li") == [
        "The order \u2068web-1045\u2069 was recorded; it is being sent."
    ]
    assert "Waiting to be sent" in boss.texts(".giftcards-badge")
    order = Order.objects.get(reference="web-1045")
    assert (order.quantity, order.status) == (2, Status.PENDING)
    assert boss.complaints() == []


@pytest.mark.parametrize("window", [(1280, 900), PHONE])
def test_a_card_can_be_chosen_looked_at_and_bought(
    shop: Browser, simulator: Simulator, window: tuple[int, int]
) -> None:
    shop.resize(*window)
    shop.open(f"{LIST}add/")
    shop.choose("card", f"{PRODUCT} {TYPE}")
    # What is typed replaces the reference that stands there.
    shop.run("document.querySelector('[name=reference]').focus()")
    ActionChains(shop.driver).send_keys("web-1046").perform()
    shop.fill(quantity="3")
    shop.press("[name=_save]")
    assert shop.texts(".giftcards-breakdown tr") == [
        "Price per card 490 DA",
        "Total 1,470 DA",
        "Balance of the account 88,235.91 DA as known 3 minutes ago",
    ]
    assert shop.overflow() == 0

    # Back, and what was typed is still there.
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


def test_two_quick_clicks_on_the_button_buy_once(shop: Browser) -> None:
    shop.open(f"{LIST}add/")
    shop.choose("card", f"{PRODUCT} {TYPE}")
    shop.fill(quantity="1", reference="web-1047")
    shop.press("[name=_save]")
    shop.find(BUY)
    before = Order.objects.count()
    shop.run(f"const button = document.querySelector('{BUY}'); button.click(); button.click();")
    wait_until(lambda: Order.objects.count() > before)
    shop.open(LIST)
    assert Order.objects.count() == before + 1


@pytest.mark.parametrize("language", ["en", "ar"])
def test_the_pages_of_a_new_order_fit_a_phone(shop: Browser, language: str) -> None:
    shop.speak(language)
    shop.resize(360, 800)
    shop.open(f"{LIST}add/")
    shop.find("[name=card]")
    assert shop.overflow() == 0
    shop.choose("card", f"{PRODUCT} {TYPE}")
    shop.fill(quantity="2000")
    shop.press("[name=_save]")
    assert shop.overflow() == 0
    # Each amount is on one line, and within the window.
    amounts: list[Any] = shop.run(
        "return [...document.querySelectorAll('.giftcards-money')].map("
        " amount => amount.getBoundingClientRect()).map("
        " box => [box.height < 30, 0 <= box.left, box.right <= 360]);"
    )
    assert len(amounts) == 4
    assert all(map(all, amounts))
    assert shop.complaints() == []
