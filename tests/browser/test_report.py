"""The report in a real browser: the layout of its chart and table, on a phone and on paper."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from typing import Any

import pytest

from giftcards.statuses import Status
from tests.browser.browser import Browser
from tests.builders import make_guide_order
from tests.pages import LIST

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

ADDRESS = f"{LIST}report/?from=2025-11-01&to=2025-11-30&by="
DESKTOP, PHONE = (1280, 800), (360, 740)


@pytest.fixture
def report(boss: Browser) -> Browser:
    """Return a browser for a month with a large gain on day 2 and a loss at the end."""
    for day, price, quantity in ((2, "1234567.50", 5), (17, "550", 20), (29, "1.01", 300)):
        make_guide_order(
            Status.FULFILLED,
            quantity=quantity,
            fulfilled_amount=490 * quantity,
            sale_price=Decimal(price),
            finalized_at=datetime(2025, 11, day, 12, tzinfo=UTC),
            type_name=f"PSN {day}",
        )
    return boss


def boxes(browser: Browser, part: str) -> Any:
    """Return the edges of the chart's elements that match ``part``, in document order."""
    return browser.run(
        "const chart = document.querySelector('.giftcards-chart');"
        "return [...chart.querySelectorAll(arguments[0])].map(element => {"
        " const {left, right, top, bottom} = element.getBoundingClientRect();"
        " return {left, right, top, bottom}; });",
        part,
    )


def test_the_report_fits_a_desktop_and_on_a_phone_only_its_table_scrolls(report: Browser) -> None:
    for language, by in product(("en", "fr", "ar"), ("day", "type")):
        report.speak(language)
        report.resize(*DESKTOP)
        report.open(f"{ADDRESS}{by}")
        assert (report.overflow(), hidden_part(report)) == (0, 0), (language, by)
        if by == "day":
            assert_columns_stand_in_their_box_from_left_to_right(report)
        report.resize(*PHONE)
        assert report.overflow() == 0, (language, by)
        assert hidden_part(report) > 100, (language, by)
        assert_only_the_table_scrolls(report)
    assert report.complaints() == []


def assert_columns_stand_in_their_box_from_left_to_right(report: Browser) -> None:
    [plot] = boxes(report, ".giftcards-plot")
    drawn = boxes(report, ".giftcards-plot rect")
    assert len(drawn) == 3
    assert [each["left"] for each in drawn] == sorted(each["left"] for each in drawn)
    for each in drawn:
        assert plot["left"] - 1 <= each["left"] < each["right"] <= plot["right"] + 1
        assert plot["top"] - 1 <= each["top"] <= each["bottom"] <= plot["bottom"] + 1


def hidden_part(browser: Browser) -> Any:
    """Return the width in pixels of the part of the table that is out of sight."""
    return browser.run(
        "const region = document.querySelector('.giftcards-scroll');"
        "return region.scrollWidth - region.clientWidth;"
    )


def assert_only_the_table_scrolls(report: Browser) -> None:
    """Check that nothing else is cut off, and that the table can be focused and scrolled."""
    cut = report.run(
        "return [...document.querySelectorAll("
        " '.giftcards-key-figures dd, .giftcards-amounts, .giftcards-bar-amount')].filter("
        " element => {"
        " const {left, right} = element.getBoundingClientRect();"
        " return left < 0 || right > innerWidth || element.scrollWidth > element.clientWidth + 1"
        "  && getComputedStyle(element).display !== 'inline'; }).map(each => each.textContent);"
    )
    assert cut == []
    # The name of a row stays in sight beside its last figure.
    moved = report.run(
        "const region = document.querySelector('.giftcards-scroll');"
        "region.focus();"
        "region.scrollLeft = getComputedStyle(region).direction === 'rtl' ? -9999 : 9999;"
        "const name = region.querySelector('tbody th').getBoundingClientRect();"
        "return [document.activeElement === region, region.scrollLeft !== 0,"
        " 0 <= name.left && name.right <= innerWidth];"
    )
    assert moved == [True, True, True]


def test_on_paper_there_is_the_report_and_no_form(report: Browser) -> None:
    report.open(f"{ADDRESS}day")
    with report.on_paper("dark"):
        seen = report.run(
            "return ['#header', '#nav-sidebar', '.breadcrumbs', '.giftcards-period',"
            " '.giftcards-downloads', '.giftcards-key-figures', '.giftcards-chart',"
            " '.giftcards-report-table thead'].filter("
            " selector => document.querySelector(selector)?.getClientRects().length);"
        )
        ink = report.run("return getComputedStyle(document.querySelector('h1')).color")
    assert seen == [".giftcards-key-figures", ".giftcards-chart", ".giftcards-report-table thead"]
    assert ink == "rgb(0, 0, 0)"
