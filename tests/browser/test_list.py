"""The list of orders in a real browser: on a phone, and with figures that can be compared."""

from __future__ import annotations

from decimal import Decimal

import pytest
from selenium.webdriver.common.keys import Keys

from giftcards.models import Order
from tests.browser.browser import Browser
from tests.pages import LIST

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PHONES = [(360, 780), (390, 844)]
AMOUNTS = ("cost", "credited_back", "owed")

# The amounts that are not whole on the screen, or not on one line. An ancestor may cut what does
# not fit.
_CUT = """
return [...document.querySelectorAll('#result_list .giftcards-money')].filter(amount => {
    const box = amount.getBoundingClientRect();
    if (box.width === 0 || box.height > 25) return true;
    for (let outer = amount.parentElement; outer; outer = outer.parentElement) {
        const frame = outer.getBoundingClientRect();
        const cuts = getComputedStyle(outer).overflowX !== 'visible';
        if (cuts && (box.left < frame.left - 1 || box.right > frame.right + 1)) return true;
    }
    return box.left < 0 || box.right > innerWidth;
}).map(amount => amount.textContent);
"""


@pytest.fixture
def _large_amounts(boss: Browser) -> None:
    row = Order.objects.filter(reference="web-1042")
    row.update(
        price_per_card=Decimal("12250.55"),
        fulfilled_amount=Decimal("36751.65"),
        sale_price=Decimal("99999999.99"),
    )


@pytest.mark.usefixtures("_large_amounts")
@pytest.mark.parametrize("language", ["en", "fr", "ar"])
def test_no_amount_is_cut_on_a_phone(boss: Browser, language: str) -> None:
    boss.speak(language)
    for size in PHONES:
        boss.resize(*size)
        boss.open(LIST)
        boss.find("#result_list .giftcards-money")
        assert len(boss.find_all("#result_list .giftcards-money")) == 15
        assert (boss.run(_CUT), boss.overflow()) == ([], 0), size
    # One that is cut would be noticed.
    boss.run("document.querySelector('.results').style.width = '120px'")
    assert boss.run(_CUT) != []


def test_each_line_of_an_order_explains_itself_on_a_phone(boss: Browser) -> None:
    boss.resize(*PHONES[0])
    boss.open(LIST)
    lines = boss.texts("#result_list tr:has(.giftcards-partially-filled) :is(th, td)")
    assert lines[1:8] == [
        "web-1042 invoice-42",
        "Partly delivered",
        "PlayStation Network PSN 500 DA",
        "أمينة بن علي",
        "3 of 5",
        "Cost 1,470 DA",
        "Credited back 980 DA",
    ]
    assert lines[8] == "Still owed 1,100 DA"
    assert not boss.find_all("#result_list thead")[0].is_displayed()


@pytest.mark.usefixtures("_large_amounts")
@pytest.mark.parametrize("language", ["en", "fr", "ar"])
def test_digits_stand_under_digits(boss: Browser, language: str) -> None:
    boss.speak(language)
    boss.open(LIST)
    boss.find("#result_list .giftcards-money")
    for column in AMOUNTS:
        # Where the whole part of each figure ends: what is left of it is as wide as its decimals.
        ends = boss.run(
            f"return [...document.querySelectorAll('.field-{column} > .giftcards-money > span')]"
            ".map(figure => {"
            " const range = document.createRange(), text = figure.firstChild;"
            " const whole = figure.matches('.giftcards-exact') ? text.length - 3 : text.length;"
            " range.setStart(text, 0); range.setEnd(text, whole);"
            " return range.getBoundingClientRect().right; });"
        )
        assert len(ends) >= 4
        assert max(ends) - min(ends) < 2, column
    assert boss.run(_CUT) == []


def test_filters_are_opened_and_chosen_by_keyboard(boss: Browser) -> None:
    boss.resize(*PHONES[0])
    boss.open(LIST)
    assert not boss.find_all(".giftcards-filter-groups a")[0].is_displayed()
    boss.find(".giftcards-filters summary").send_keys(Keys.ENTER)
    boss.find(".giftcards-filter-groups [href='?attention=needed']").send_keys(Keys.ENTER)
    assert boss.texts(".giftcards-chosen li") == ["To do Needs a person ✕", "Clear all filters"]
    assert boss.texts("#result_list .field-name") == ["web-1040 invoice-40", "web-1035 invoice-35"]
    assert not boss.find_all(".giftcards-filter-groups a")[0].is_displayed()
    assert boss.overflow() == 0
    boss.press(".giftcards-chosen a")
    assert len(boss.find_all("#result_list .field-name")) == 10
