"""The staff's pages in a real browser: what can be seen, read and done there."""

from __future__ import annotations

import pytest

from tests.browser.browser import Browser
from tests.pages import LIST, page_of

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

HEADINGS = [
    "name", "badge", "bought", "sold_to", "delivered", "cost", "credited_back", "owed", "when",
]  # fmt: skip


def test_the_list_of_orders_fits_into_an_ordinary_window(boss: Browser) -> None:
    boss.open(LIST)
    assert (
        boss.run(
            "const box = document.querySelector('#changelist .results');"
            "return box.scrollWidth - box.clientWidth;"
        )
        == 0
    )


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
    # Digits stand under digits: the units of all amounts end at the same place.
    edges = boss.run(
        "return [...document.querySelectorAll('.giftcards-breakdown td:last-child span')]"
        ".map(figure => Math.round(figure.getBoundingClientRect().right))"
    )
    assert len(set(edges)) == 1
    when, what = boss.find_all(".giftcards-timeline li:last-child > span")
    assert when.rect["x"] > what.rect["x"]
    assert boss.complaints() == []
