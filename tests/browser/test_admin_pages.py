"""The staff's pages in a real browser: what can be seen, read and done there."""

from __future__ import annotations

import pytest

from giftcards.models import Order
from giftcards.statuses import Status
from tests.browser.browser import Browser
from tests.builders import CARDS, PRODUCT, TYPE

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

LIST = "/admin/giftcards/order/"
HEADINGS = ["reference", "badge", "delivered", "charged", "refunded", "age"]
PHONE = (390, 844)


def page_of(reference: str) -> str:
    return f"{LIST}{Order.objects.get(reference=reference).pk}/change/"


def test_logging_in_leads_to_the_list(browser: Browser) -> None:
    browser.open("/")
    browser.fill(username="amina", password="correct horse")
    browser.press("[type=submit]")

    assert browser.texts("#result_list tbody th") == [
        f"web-{number}" for number in range(1044, 1035, -1)
    ]
    assert browser.complaints() == []


def test_badges_read_as_text_and_are_coloured(boss: Browser) -> None:
    boss.open(LIST)

    assert boss.texts("#result_list .field-badge") == [
        "Waiting to be sent",
        "In progress",
        "Partially filled",
        "Delayed",
        "Unconfirmed ⚠",
        "Rejected",
        "Refunded",
        "Fulfilled",
        "Fulfilled",
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


def test_list_fits_into_an_ordinary_window(boss: Browser) -> None:
    boss.open(LIST)

    assert (
        boss.run(
            "const box = document.querySelector('#changelist .results');"
            "return box.scrollWidth - box.clientWidth;"
        )
        == 0
    )


def test_an_order_s_page_explains_the_refund(boss: Browser) -> None:
    boss.open(LIST)
    boss.follow("web-1042")

    assert boss.texts(".giftcards-breakdown tr") == [
        "CARDS AMOUNT",
        "Ordered 5 2,450.00 DZD",
        "Delivered and charged 3 1,470.00 DZD",
        "Not delivered and refunded 2 980.00 DZD",
    ]
    assert boss.texts(".giftcards-mask") == ["••••••••"] * 3
    assert [line.split(maxsplit=4)[4] for line in boss.texts(".giftcards-timeline li")] == [
        "Recorded",
        "Waiting to be sent Being sent Sending",
        "Being sent In progress Sending",
        "In progress Partially filled Answer of the provider",
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
    assert boss.texts("#result_list .field-badge")[2] == "منفَّذ جزئيًا"
    assert boss.texts("#result_list .field-delivered")[2] == "3 من 5"

    boss.open(page_of("web-1042"))
    label, cards, amount = boss.find_all(".giftcards-breakdown thead th")
    assert label.rect["x"] > cards.rect["x"] > amount.rect["x"]
    assert boss.texts(".giftcards-breakdown tbody tr") == [
        "المطلوب 5 2450,00 DZD",
        "مُسلَّم ومخصوم 3 1470,00 DZD",
        "غير مُسلَّم ومسترد 2 980,00 DZD",
    ]
    line = ".giftcards-timeline li:last-child"
    old, new = boss.find_all(f"{line} .giftcards-badge")
    assert old.rect["x"] > new.rect["x"]
    assert (
        boss.run(
            f"const arrow = document.querySelector('{line} .giftcards-arrow');"
            "return getComputedStyle(arrow, '::before').content;"
        )
        == '"←"'
    )
    assert boss.complaints() == []


@pytest.mark.parametrize("language", ["en", "ar"])
def test_no_page_is_wider_than_a_phone(boss: Browser, language: str) -> None:
    boss.speak(language)
    boss.resize(*PHONE)
    addresses = [
        LIST,
        f"{LIST}add/",
        f"{LIST}find-card/",
        *(page_of(f"web-{number}") for number in (1037, 1040, 1042)),
        page_of("web-1040").replace("/change/", "/resolve/"),
    ]
    for address in addresses:
        boss.open(address)
        boss.find("#content")
        assert (address, boss.overflow()) == (address, 0)
    assert boss.complaints() == []


def test_placing_an_order(boss: Browser) -> None:
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

    assert boss.texts(".messagelist li") == ["The order “web-1045” was added successfully."]
    assert boss.texts(".field-badge .giftcards-badge") == ["Waiting to be sent"]
    order = Order.objects.get(reference="web-1045")
    assert (order.quantity, order.status) == (2, Status.PENDING)
    assert boss.driver.current_url.endswith(page_of("web-1045"))
    assert boss.complaints() == []


def test_finding_an_order_by_a_code(boss: Browser) -> None:
    boss.open(LIST)
    boss.follow("FIND BY CODE")
    boss.fill(code=CARDS[1].value.lower().replace("-", ""))
    boss.press(".submit-row [type=submit]")

    assert boss.texts("[aria-live] li") == ["web-1042, card 2"]
    assert boss.find("[name=code]").get_attribute("value") == ""
    assert boss.driver.current_url == f"{boss.site}{LIST}find-card/"
    boss.follow("web-1042")
    assert boss.driver.current_url.endswith(page_of("web-1042"))
    assert boss.complaints() == []


def test_checking_an_order_now(boss: Browser) -> None:
    boss.open(LIST)
    boss.find("tr:has(.giftcards-delayed) .action-select").click()
    boss.run("document.querySelector('[name=action]').value = 'check_now'")
    boss.press("[name=index]")

    assert boss.texts(".messagelist li") == [
        "1 order will be checked as soon as the worker gets to it."
    ]
    assert boss.complaints() == []
