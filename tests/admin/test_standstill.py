"""The page of an open order gives a reason instead of a time at which nothing will happen."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from giftcards.admin.orders.summary import why_at_a_standstill
from giftcards.models import Order, ProviderState
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.pages import order_page, read, text
from tests.stage import refuse_key

pytestmark = pytest.mark.django_db

IN_AN_HOUR = timedelta(hours=1)


def works() -> None:
    ProviderState.objects.note_tick()


def pause() -> None:
    works()
    until = timezone.now() + timedelta(minutes=5)
    assert ProviderState.objects.pause(ProviderState.Pause.OUTAGE, detail="Away.", until=until)


def refuse() -> None:
    works()
    refuse_key()


def stop() -> None:
    works()
    long_ago = timezone.now() - IN_AN_HOUR
    ProviderState.objects.update(last_tick_at=long_ago, swept_at=long_ago)


PAUSED = (
    "Requests to the provider are paused. Orders are not sent or checked until the pause ends, "
)


@pytest.mark.parametrize(
    ("happens", "expected"),
    [
        (works, ""),
        (pause, PAUSED),
        (refuse, "Orders are not sent or checked until the provider accepts the shop's key again."),
        (stop, "Orders are not sent or checked until background work runs again."),
    ],
)
def test_an_open_order_says_when_it_is_checked_or_why_it_is_not(
    boss: Client, happens: Callable[[], None], expected: str
) -> None:
    happens()
    due_at = timezone.now() + IN_AN_HOUR
    order = make_guide_order(Status.DELAYED, due_at=due_at)
    shown = text(read(boss.get(order_page(order))))
    assert ("The app will check the order again automatically" in shown) == (not expected)
    assert expected in shown
    if expected == PAUSED:
        ends_at = timezone.localtime(ProviderState.objects.current().paused_until)
        assert f"{ends_at:%H:%M} at the earliest." in shown


@pytest.mark.parametrize(
    "values",
    [
        {"status": Status.FULFILLED},
        {"status": Status.PLACING},
        {"status": Status.PENDING, "due_at": None},
        {"status": Status.DELAYED, "due_at": None},
    ],
)
def test_an_order_that_is_not_due_asks_nothing_of_the_database(
    values: dict[str, Any], django_assert_num_queries: Any
) -> None:
    stop()
    order: Order = make_guide_order(**values)
    with django_assert_num_queries(0):
        assert why_at_a_standstill(order) == ""
