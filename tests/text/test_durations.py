"""Durations in words: the plural forms of each language, and the unit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import translation

from giftcards.text.display import distance_text, duration_text

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("language", "minutes", "text"),
    [
        ("en", 0, "less than a minute"),
        ("en", 1, "1 minute"),
        ("en", 2, "2 minutes"),
        ("fr", 0, "moins d’une minute"),
        ("fr", 1, "1 minute"),
        ("fr", 59, "59 minutes"),
        ("ar", 0, "أقل من دقيقة"),
        ("ar", 1, "دقيقة واحدة"),
        ("ar", 2, "دقيقتين"),
        ("ar", 3, "3 دقائق"),
        ("ar", 11, "11 دقيقة"),
    ],
)
def test_minutes_have_the_plural_form_of_the_language(
    language: str, minutes: int, text: str
) -> None:
    with translation.override(language):
        assert duration_text(timedelta(minutes=minutes, seconds=59)) == text


@pytest.mark.parametrize(
    ("span", "english", "arabic"),
    [
        (timedelta(hours=1), "1 hour", "ساعة واحدة"),
        (timedelta(hours=23, minutes=59), "23 hours", "23 ساعة"),
        (2 * DAY, "2 days", "يومين"),
        (7 * DAY, "1 week", "أسبوع واحد"),
        (29 * DAY, "4 weeks", "4 أسابيع"),
        (60 * DAY, "2 months", "شهرين"),
        (364 * DAY, "12 months", "12 شهرًا"),
        (100 * 365 * DAY, "100 years", "100 سنة"),
    ],
)
def test_a_length_is_told_in_its_largest_unit(span: timedelta, english: str, arabic: str) -> None:
    with translation.override("en"):
        assert duration_text(span) == english
    with translation.override("ar"):
        assert duration_text(span) == arabic


@pytest.mark.parametrize(
    ("language", "minutes", "text"),
    [
        ("en", -2, "2 minutes ago"),
        ("en", 0, "in less than a minute"),
        ("fr", -2, "il y a 2 minutes"),
        ("fr", 2, "dans 2 minutes"),
        ("ar", -2, "منذ دقيقتين"),
        ("ar", 2, "بعد دقيقتين"),
    ],
)
def test_a_moment_is_told_by_its_distance(language: str, minutes: int, text: str) -> None:
    with translation.override(language):
        assert distance_text(NOON + timedelta(minutes=minutes), NOON) == text
