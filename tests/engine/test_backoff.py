"""Pauses double with each failure, up to the longest one."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from giftcards.engine.backoff import backoff

SECOND = timedelta(seconds=1)
pauses = st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=400))
failures = st.integers(min_value=1, max_value=2**31)


def test_pauses_double_up_to_the_longest() -> None:
    found = [
        backoff(n, first_pause=10 * SECOND, max_pause=60 * SECOND) / SECOND for n in range(1, 6)
    ]
    assert found == [10, 20, 40, 60, 60]


def test_zero_failures_give_the_pause_of_the_first_failure() -> None:
    assert backoff(0, first_pause=10 * SECOND, max_pause=60 * SECOND) == 10 * SECOND


@given(failures, pauses, pauses)
def test_each_pause_is_twice_the_one_before_or_the_longest(
    failures: int, first: timedelta, longest: timedelta
) -> None:
    pause = backoff(failures, first_pause=first, max_pause=longest)
    following = backoff(failures + 1, first_pause=first, max_pause=longest)
    assert backoff(1, first_pause=first, max_pause=longest) == min(first, longest)
    assert following == min(2 * pause, longest)


@given(failures, pauses, pauses, st.floats(min_value=0, max_value=2))
def test_jitter_lengthens_a_pause_by_at_most_its_share(
    failures: int, first: timedelta, longest: timedelta, jitter: float
) -> None:
    plain = backoff(failures, first_pause=first, max_pause=longest)
    assert plain <= backoff(failures, first_pause=first, max_pause=longest, jitter=jitter)
    assert backoff(failures, first_pause=first, max_pause=longest, jitter=jitter) <= plain * (
        1 + jitter
    )


def test_jitter_spreads_the_pauses() -> None:
    found = {backoff(9, first_pause=SECOND, max_pause=60 * SECOND, jitter=0.25) for _ in range(20)}
    assert len(found) > 1
