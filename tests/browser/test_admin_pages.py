"""The staff's pages in a real browser: what can be seen, read and done there."""

from __future__ import annotations

import pytest

from giftcards.conf import conf
from giftcards.models import Order
from giftcards.provider.client import Client
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.browser.browser import Browser
from tests.builders import CARDS, PRODUCT, TYPE
from tests.pages import LIST, page_of

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

HEADINGS = [
    "name",
    "badge",
    "bought",
    "sold_to",
    "delivered",
    "cost",
    "credited_back",
    "owed",
    "when",
]
PHONE = (390, 844)


def test_logging_in_leads_to_the_list_of_orders(browser: Browser) -> None:
    browser.open(LIST)
    browser.fill(username="amina", password="correct horse")
    browser.press("[type=submit]")

    assert browser.texts("#result_list tbody th") == [
        f"web-{number} invoice-{number % 100}" for number in range(1044, 1034, -1)
    ]
    assert browser.complaints() == []


def test_badges_read_as_text_and_have_readable_colours(boss: Browser) -> None:
    boss.open(LIST)

    assert boss.texts("#result_list .field-badge") == [
        "Waiting to be sent",
        "In progress",
        "Partly delivered",
        "Delayed",
        "Unconfirmed ⚠ bought or not?",
        "Rejected",
        "Not delivered, credited back",
        "Delivered",
        "Delivered",
        "Waiting to be sent ⚠ costs too much",
    ]
    colours = boss.run(
        "return [...document.querySelectorAll('.giftcards-badge')].map(badge => {"
        " const style = getComputedStyle(badge);"
        " return [style.backgroundColor, style.color]; });"
    )
    assert len({ground for ground, _ in colours}) == len(Status) - 1  # nothing is being sent
    assert all(contrast(ground, letters) >= 4.5 for ground, letters in colours)
    assert boss.complaints() == []


def contrast(one: str, other: str) -> float:
    """The ratio of the WCAG between two colours like ``rgb(92, 102, 112)``."""

    def brightness(colour: str) -> float:
        shares = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
        linear = [
            share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
            for share in shares
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted([brightness(one), brightness(other)])
    return (lighter + 0.05) / (darker + 0.05)


def test_a_problem_that_is_ticked_off_leaves_the_page(boss: Browser) -> None:
    boss.open(page_of("web-1040"))
    problem = "The order was sent, and no usable answer came back: it may have been bought."
    assert boss.texts(".giftcards-problems strong") == [problem]

    boss.press(".giftcards-problems .giftcards-button")
    assert boss.texts(".giftcards-page .giftcards-warning") == [problem]
    boss.press(".submit-row input")

    assert boss.texts(".messagelist li") == ["Ticked off."]
    assert boss.texts("#giftcards-problems") == ["Problems"]
    assert boss.find_all(".giftcards-problems .giftcards-button") == []
    assert problem in boss.texts(".giftcards-timeline li")[-1]
    assert not Order.objects.needing_attention().filter(reference="web-1040").exists()
    assert boss.complaints() == []


def test_the_list_of_orders_fits_into_an_ordinary_window(boss: Browser) -> None:
    boss.open(LIST)

    assert (
        boss.run(
            "const box = document.querySelector('#changelist .results');"
            "return box.scrollWidth - box.clientWidth;"
        )
        == 0
    )


def test_the_page_of_an_order_explains_the_refund(boss: Browser) -> None:
    boss.open(LIST)
    boss.press(f"#result_list [href='{page_of('web-1042')}']")

    assert boss.texts(".giftcards-breakdown tr")[:5] == [
        "CALCULATION AMOUNT",
        "The provider",
        "Ordered 5 × 490 2,450 DA",
        "Cost 3 × 490 1,470 DA",
        "Credited back 2 × 490 980 DA",
    ]
    assert boss.texts(".giftcards-mask") == ["••••AAAA", "••••BBBB", "••••CCCC"]
    assert [line.split(maxsplit=4)[4] for line in boss.texts(".giftcards-timeline li")] == [
        "The order was recorded.",
        "The order was sent. Being sent",
        "The provider accepted the order. In progress",
        "The provider delivered 3 of 5 cards, and credited back the rest. Partly delivered",
    ]
    assert boss.complaints() == []


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
    assert boss.texts(".giftcards-breakdown td:last-child")[:3] == [
        "2 450 دج",
        "1 470 دج",
        "980 دج",
    ]
    # Digits stand under digits: the units of all amounts end at the same place.
    edges = boss.run(
        "return [...document.querySelectorAll('.giftcards-breakdown td:last-child span')]"
        ".map(figure => Math.round(figure.getBoundingClientRect().right))"
    )
    assert len(set(edges)) == 1
    when, what = boss.find_all(".giftcards-timeline li:last-child > span")
    assert when.rect["x"] > what.rect["x"]
    assert boss.complaints() == []


@pytest.mark.parametrize("language", ["en", "ar"])
def test_no_page_is_wider_than_a_phone(boss: Browser, language: str) -> None:
    boss.speak(language)
    boss.resize(*PHONE)
    addresses = [
        LIST,
        f"{LIST}add/",
        f"{LIST}find-card/",
        f"{LIST}report/",
        f"{LIST}report/?by=type",
        *(page_of(f"web-{number}") for number in (1037, 1040, 1042)),
        page_of("web-1040", "resolve"),
        page_of("web-1035", "price"),
    ]
    for address in addresses:
        boss.open(address)
        boss.find("#content")
        assert (address, boss.overflow()) == (address, 0)
    assert boss.complaints() == []


def test_an_order_can_be_found_by_the_code_of_a_card(boss: Browser) -> None:
    boss.open(LIST)
    boss.fill(secret=CARDS[1].value.lower().replace("-", ""))
    boss.press(".giftcards-search button")

    assert boss.texts("[aria-live] li") == ["web-1042, card 2"]
    assert boss.find("[name=secret]").get_attribute("value") == ""
    assert boss.path() == f"{LIST}find-order/"
    boss.follow("web-1042")
    assert boss.path() == page_of("web-1042")
    assert boss.complaints() == []


def test_an_order_can_be_checked_now_from_the_list(boss: Browser) -> None:
    boss.open(LIST)
    boss.find("tr:has(.giftcards-delayed) .action-select").click()
    boss.run("document.querySelector('[name=action]').value = 'check_now'")
    boss.press("[name=index]")

    assert boss.texts(".messagelist li") == ["1 order will be checked in a moment."]
    assert boss.complaints() == []


@pytest.mark.parametrize("language", ["en", "ar"])
def test_a_lost_order_can_be_compared_adopted_and_released(
    boss: Browser, simulator: Simulator, language: str
) -> None:
    with Client(base_url=conf.base_url, api_key=conf.api_key, timeout=5) as client:
        other = client.place(product_id=PRODUCT, type_id=TYPE, quantity=3)
    boss.speak(language)
    boss.resize(*PHONE)
    boss.open(page_of("web-1040"))
    boss.press(".giftcards-decide a")
    boss.find("[value=adopt-other]").click()
    boss.fill(provider_order_id=other)
    boss.find("[name=is_sure]").click()
    boss.press(".submit-row [type=submit]")

    # The provider does not tell its type: it has to be said twice.
    cells = boss.texts(".giftcards-comparison td > bdi")
    assert cells[2:6] == [f"PSN 500 DA {TYPE}", "", "3", "3"]
    for window in ((1280, 900), PHONE):
        boss.resize(*window)
        assert boss.overflow() == 0
    boss.find("[name=is_sure]").click()
    boss.press(".submit-row [type=submit]")
    order = Order.objects.get(reference="web-1040")
    assert (order.status, order.provider_order_id) == (Status.HANDLING, other)

    boss.press(".giftcards-decide [href$='/release/']")
    assert other in boss.texts("#content bdi")
    assert boss.overflow() == 0
    boss.find("[name=is_sure]").click()
    boss.press(".submit-row [type=submit]")
    assert len(boss.texts(".messagelist li")) == 1
    order.refresh_from_db()
    assert (order.status, order.provider_order_id) == (Status.UNCONFIRMED, None)
    assert boss.complaints() == []
