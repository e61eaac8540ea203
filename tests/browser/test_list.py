"""The list of orders in a browser: on a phone, and with figures that are easy to compare."""

from __future__ import annotations

from decimal import Decimal

import pytest
from selenium.webdriver.common.keys import Keys

from giftcards.models import Order
from tests.browser.browser import Browser
from tests.pages import LIST, page_of

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

DESKTOP = (1280, 900)
PHONES = [(360, 780), (390, 844)]
AMOUNTS = ("cost", "credited_back", "owed")
HEADINGS = [
    "name", "badge", "bought", "sold_to", "delivered", "cost", "credited_back", "owed", "when",
]  # fmt: skip

# Returns the amounts that are partly off the screen, cut off by an ancestor, or broken into two
# lines.
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
# Returns where the whole part of each figure ends. The rest is as wide as the decimals.
_ENDS = """
return [...document.querySelectorAll(`.field-${arguments[0]} > .giftcards-money > span`)]
.map(figure => {
    const range = document.createRange(), text = figure.firstChild;
    const whole = figure.matches('.giftcards-exact') ? text.length - 3 : text.length;
    range.setStart(text, 0); range.setEnd(text, whole);
    return range.getBoundingClientRect().right;
});
"""
# Returns the width of the hidden part of the list.
_HIDDEN = """
const box = document.querySelector('#changelist .results');
return box.scrollWidth - box.clientWidth;
"""

# Returns the texts of the orders that fit completely into the first screen.
_WHOLE_ROWS = """
return [...document.querySelectorAll('#result_list tbody tr')]
.filter(row => row.getBoundingClientRect().bottom <= innerHeight)
.map(row => row.textContent);
"""


def test_large_amounts_are_whole_and_their_digits_stand_under_digits(boss: Browser) -> None:
    Order.objects.filter(reference="web-1042").update(
        price_per_card=Decimal("12250.55"),
        fulfilled_amount=Decimal("36751.65"),
        sale_price=Decimal("99999999.99"),
        sale_amount=Decimal("499999999.95"),
    )
    for language in ("en", "fr", "ar"):
        boss.speak(language)
        boss.resize(*DESKTOP)
        boss.open(LIST)
        boss.find("#result_list .giftcards-money")
        assert len(boss.find_all("#result_list .giftcards-money")) == 14
        for column in AMOUNTS:
            ends = boss.run(_ENDS, column)
            assert len(ends) >= 4
            assert max(ends) - min(ends) < 2, (language, column)
        assert boss.run(_HIDDEN) == 0
        assert boss.run(_CUT) == []
        for size in PHONES:
            boss.resize(*size)
            assert (boss.run(_CUT), boss.overflow()) == ([], 0), (language, size)
    # The check must detect an amount that is cut off.
    boss.run("document.querySelector('.results').style.width = '60px'")
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


def test_four_orders_fit_a_phone_and_what_is_done_with_them_comes_once_one_is_chosen(
    boss: Browser,
) -> None:
    boss.resize(390, 800)
    for language in ("en", "fr", "ar"):
        boss.speak(language)
        boss.open(LIST)
        assert len(boss.run(_WHOLE_ROWS)) >= 4, language
    [actions] = boss.find_all("#changelist .actions")
    assert not actions.is_displayed()
    boss.find("#result_list .action-select").click()
    assert actions.is_displayed()


def test_filters_are_opened_and_chosen_by_keyboard(boss: Browser) -> None:
    boss.resize(*PHONES[0])
    boss.open(LIST)
    assert not boss.find_all(".giftcards-filter-groups a")[0].is_displayed()
    boss.find(".giftcards-filters summary").send_keys(Keys.ENTER)
    boss.find(".giftcards-filter-groups [href='?attention=needed']").send_keys(Keys.ENTER)
    assert boss.texts(".giftcards-chosen li") == ["To do Needs attention ✕", "Clear all filters"]
    assert boss.texts("#result_list .field-name") == ["web-1040 invoice-40", "web-1035 invoice-35"]
    assert not boss.find_all(".giftcards-filter-groups a")[0].is_displayed()
    assert boss.overflow() == 0
    boss.press(".giftcards-chosen a")
    assert len(boss.find_all("#result_list .field-name")) == 10


def test_pages_are_mirrored_in_arabic(boss: Browser) -> None:
    boss.open(LIST)
    ltr = [boss.left_of(f"thead .column-{name}") for name in HEADINGS]
    boss.speak("ar")
    boss.open(LIST)
    assert boss.run("return document.documentElement.dir") == "rtl"
    rtl = [boss.left_of(f"thead .column-{name}") for name in HEADINGS]
    assert ltr == sorted(ltr)
    assert rtl == sorted(rtl, reverse=True)
    assert boss.texts("#result_list .field-badge")[2] == "مُسلَّم جزئيًا"
    assert boss.texts("#result_list .field-delivered")[2] == "3 من 5"
    boss.open(page_of("web-1042"))
    label, arithmetic, amount = boss.find_all(".giftcards-breakdown thead :is(th, td)")
    assert label.rect["x"] > arithmetic.rect["x"] > amount.rect["x"]
    expected = ["2 450 دج", "1 470 دج", "980 دج"]
    assert boss.texts(".giftcards-breakdown td:last-child")[:3] == expected
    # The digits are aligned: the units of all amounts end at the same horizontal position.
    edges = boss.run(
        "return [...document.querySelectorAll('.giftcards-breakdown td:last-child span')]"
        ".map(figure => Math.round(figure.getBoundingClientRect().right))"
    )
    assert len(set(edges)) == 1
    when, what = boss.find_all(".giftcards-timeline li:last-child > span")
    assert when.rect["x"] > what.rect["x"]
    assert boss.complaints() == []
