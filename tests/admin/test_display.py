"""Amounts and dates in each language, isolated from the text around them."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone, translation

from giftcards.text.display import (
    day_text,
    exact_moment,
    moment,
    moment_text,
    money,
    one_line,
    zoned_moment,
)
from tests.pages import plain, text


def read(amount: Decimal | int | None, language: str) -> str:
    with translation.override(language):
        shown = money(amount)
    return shown.replace("\xa0", " ")


@pytest.mark.parametrize(
    ("language", "whole", "exact", "sign"),
    [
        ("en", "1,470", "1,234,567.50", "DA"),
        ("fr", "1 470", "1 234 567,50", "DA"),
        ("ar", "1 470", "1 234 567,50", "دج"),
        ("ar-dz", "1.470", "1.234.567,50", "دج"),
    ],
)
def test_amounts_are_grouped_and_have_decimals_only_if_there_are_any(
    language: str, whole: str, exact: str, sign: str
) -> None:
    for amount in (Decimal("1470.00"), 1470):
        assert read(amount, language) == (
            f'<bdi class="giftcards-money"><span class="giftcards-whole" dir="ltr">{whole}</span>'
            f" {sign}</bdi>"
        )
    assert read(Decimal("1234567.5"), language) == (
        f'<bdi class="giftcards-money"><span class="giftcards-exact" dir="ltr">{exact}</span>'
        f" {sign}</bdi>"
    )


@pytest.mark.parametrize("language", ["en", "fr", "ar"])
def test_the_sign_of_a_negative_amount_stands_before_its_figure(language: str) -> None:
    assert ">-980</span>" in read(Decimal(-980), language)


def test_an_unknown_amount_is_not_zero() -> None:
    assert read(None, "en") == "unknown"
    assert ">0</span>" in read(Decimal(0), "en")


@pytest.mark.parametrize(
    ("language", "november", "august"),
    [
        ("en", "24 Nov 2025 23:59", "1 Aug 2025"),
        ("fr", "24 nov. 2025 à 23:59", "1er août 2025"),
        ("fr-dz", "24 nov. 2025 à 23:59", "1er août 2025"),
        ("ar", "24 نوفمبر 2025 23:59", "1 أوت 2025"),
        ("ar-dz", "24 نوفمبر 2025 23:59", "1 أوت 2025"),
    ],
)
def test_dates_are_written_as_in_algeria(
    settings: Any, language: str, november: str, august: str
) -> None:
    settings.TIME_ZONE = "Africa/Algiers"
    at = datetime(2025, 11, 24, 22, 59, 30, tzinfo=UTC)
    with translation.override(language):
        assert text(moment(at)) == november
        assert text(exact_moment(at)) == f"{november}:30"
        assert text(zoned_moment(at)) == f"{november}:30 (CET)"
        assert plain(moment_text(at)) == november
        assert plain(day_text(date(2025, 8, 1))) == august


def test_a_date_of_this_year_is_shown_without_it() -> None:
    assert str(timezone.localtime().year) not in text(moment(timezone.now()))


def test_dates_can_be_shown_where_times_have_no_zone(settings: Any) -> None:
    settings.USE_TZ = False
    settings.TIME_ZONE = "Africa/Algiers"
    assert text(moment(datetime(2025, 11, 24, 23, 59, 30))) == "24 Nov 2025 23:59"  # noqa: DTZ001


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (" We paid\n\tback 1\u00a0000,50\u00a0DA \n", "We paid back 1\u00a0000,50\u00a0DA"),
        ("1\u202f000\u202fDA\u2028more\u3000", "1\u202f000\u202fDA more"),
        ("\n", ""),
    ],
)
def test_a_text_on_one_line_keeps_the_spaces_at_which_no_line_breaks(given: str, line: str) -> None:
    assert one_line(given) == line
