"""Stored times in the future: how far ahead they may be. Times beyond this limit count as past."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from giftcards.models import Lease
from giftcards.rules.times import ahead, is_ahead, is_recent, past

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("seconds", "is_yet_to_come"),
    [(-86_400, False), (0, False), (0.1, True), (65, True), (65.1, False), (86_400, False)],
)
def test_a_time_farther_ahead_than_possible_counts_as_past(
    seconds: float, is_yet_to_come: bool
) -> None:
    assert is_ahead(after(seconds), NOW, max_distance=MINUTE) is is_yet_to_come
    Lease.objects.create(name="work", until=after(seconds))
    assert Lease.objects.filter(ahead("until", NOW, max_distance=MINUTE)).exists() is is_yet_to_come
    assert (
        Lease.objects.filter(past("until", NOW, max_distance=MINUTE)).exists() is not is_yet_to_come
    )


@pytest.mark.django_db
def test_a_missing_time_counts_as_past() -> None:
    Lease.objects.create(name="work", until=None)
    assert Lease.objects.filter(past("until", NOW, max_distance=MINUTE)).exists()
    assert not Lease.objects.filter(ahead("until", NOW, max_distance=MINUTE)).exists()


@pytest.mark.parametrize(
    ("seconds", "expected"), [(-60, False), (-59.9, True), (0, True), (5, True), (5.1, False)]
)
def test_a_time_is_recent_unless_it_is_a_minute_old_or_lies_ahead(
    seconds: float, expected: bool
) -> None:
    assert is_recent(after(seconds), NOW, period=MINUTE) is expected
