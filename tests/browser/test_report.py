"""The report in a real browser: where its pictures are drawn, on a phone and on paper."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from giftcards.statuses import Status
from tests.browser.browser import Browser
from tests.builders import make_guide_order
from tests.pages import LIST

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

ADDRESS = f"{LIST}report/?from=2025-11-01&to=2025-11-30&by="
PHONE = (360, 740)


@pytest.fixture
def report(boss: Browser) -> Browser:
    """A month with a large gain on its second day and a loss on its last but one."""
    for day, price, quantity in ((2, "1234567.50", 5), (17, "550", 20), (29, "1.01", 300)):
        make_guide_order(
            Status.FULFILLED,
            quantity=quantity,
            fulfilled_amount=490 * quantity,
            sale_price=Decimal(price),
            settled_at=datetime(2025, 11, day, 12, tzinfo=UTC),
            type_name=f"PSN {day}",
        )
    return boss


def boxes(browser: Browser, picture: str, part: str) -> Any:
    """The edges of the elements ``part`` of a picture, in the order in which they are written."""
    return browser.run(
        "const chart = document.getElementById(arguments[0]).closest('figure');"
        "return [...chart.querySelectorAll(arguments[1])].map(element => {"
        " const {left, right, top, bottom} = element.getBoundingClientRect();"
        " return {left, right, top, bottom}; });",
        f"giftcards-chart-{picture}",
        part,
    )


@pytest.mark.parametrize("language", ["en", "ar"])
def test_columns_stand_in_their_box_from_left_to_right(report: Browser, language: str) -> None:
    report.speak(language)
    report.open(f"{ADDRESS}day")

    for picture in ("cards", "customers", "provider"):
        [plot] = boxes(report, picture, ".giftcards-plot")
        drawn = boxes(report, picture, ".giftcards-plot rect")
        assert len(drawn) == 3
        assert [each["left"] for each in drawn] == sorted(each["left"] for each in drawn)
        for each in drawn:
            assert plot["left"] - 1 <= each["left"] < each["right"] <= plot["right"] + 1
            assert plot["top"] - 1 <= each["top"] <= each["bottom"] <= plot["bottom"] + 1
    assert report.complaints() == []


@pytest.mark.parametrize("language", ["en", "fr", "ar"])
@pytest.mark.parametrize("by", ["day", "type"])
def test_no_amount_is_cut_on_a_phone(report: Browser, language: str, by: str) -> None:
    report.speak(language)
    report.resize(*PHONE)
    report.open(f"{ADDRESS}{by}")

    assert report.overflow() == 0
    cut = report.run(
        "return [...document.querySelectorAll("
        " '.giftcards-report-table td, .giftcards-key-figures dd, .giftcards-amounts,"
        " .giftcards-bar-amount, figcaption')].filter(element => {"
        " const {left, right} = element.getBoundingClientRect();"
        " return left < 0 || right > innerWidth || element.scrollWidth > element.clientWidth + 1"
        "  && getComputedStyle(element).display !== 'inline'; }).map(each => each.textContent);"
    )
    assert cut == []
    # Each cell names its column, because no heading stands above it.
    named = report.run(
        "const cell = document.querySelector('.giftcards-report-table td');"
        "return getComputedStyle(cell, '::before').content;"
    )
    assert len(named) > 2
    assert report.complaints() == []


def test_on_paper_there_is_the_report_and_no_form(report: Browser) -> None:
    report.open(f"{ADDRESS}day")
    emulate = "Emulation.setEmulatedMedia"
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    report.driver.execute_cdp_cmd(emulate, {"media": "print", "features": dark})
    try:
        seen = report.run(
            "return ['#header', '#nav-sidebar', '.breadcrumbs', '.giftcards-period',"
            " '.giftcards-downloads', '.giftcards-key-figures', '.giftcards-chart',"
            " '.giftcards-report-table thead'].filter("
            " selector => document.querySelector(selector)?.getClientRects().length);"
        )
        ink = report.run("return getComputedStyle(document.querySelector('h1')).color")
    finally:
        report.driver.execute_cdp_cmd(emulate, {"media": "", "features": []})
    assert seen == [".giftcards-key-figures", ".giftcards-chart", ".giftcards-report-table thead"]
    assert ink == "rgb(0, 0, 0)"


def test_the_list_leads_to_the_report_and_a_day_of_it_back_to_its_orders(report: Browser) -> None:
    report.open(LIST)
    report.follow("REPORT")
    report.run(
        "document.querySelector('[name=from]').value = '2025-11-01';"
        "document.querySelector('[name=to]').value = '2025-11-30';"
    )
    report.press(".giftcards-period button")
    report.press(".giftcards-report-table tbody a")

    assert len(report.texts("#result_list tbody tr")) == 1
    assert report.complaints() == []
