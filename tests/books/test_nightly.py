"""The ledger is read automatically once a night, in parts, without delaying orders."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import responses
from django.utils import timezone

from giftcards import tasks
from giftcards.books.models import LedgerEntry
from giftcards.books.reading import next_night, read_if_due
from giftcards.engine import background
from giftcards.models import Lease, ProviderState
from giftcards.rules.times import day_of
from giftcards.simulator import Denomination, Product, Simulator
from giftcards.statuses import Status
from tests.books.wire import NOON, URL, Books, at, ledger_state, note_ledger, ordered, read
from tests.builders import make_order
from tests.stage import ago, hold_lease, messages, refuse_key, spend_budget

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


@pytest.fixture
def due(books: Books) -> Books:
    """Entries on several pages and days, and a reading that is due."""
    ordered(Status.REJECTED, created_at=at(-2 * 86_400), accepted_at=None)
    for day in range(2):
        for number in range(150):
            books.book("DEPOSIT", 1, at(number - day * 86_400), name=f"{day}-{number}")
    ProviderState.objects.current()
    note_ledger(due_at=ago(1))
    return books


def always() -> bool:
    return True


def never() -> bool:
    return False


def is_put_off_to_the_night() -> bool:
    """Return True if the next reading is between two and five o'clock in the coming night."""
    due_at = timezone.localtime(ledger_state().due_at, timezone.get_default_timezone())
    return 2 <= due_at.hour < 5 and timedelta(0) < due_at - timezone.now() <= timedelta(days=1)


def test_the_ledger_comes_before_the_catalogue_of_which_something_is_always_due(
    simulator: Simulator, set_conf: Callable[..., None]
) -> None:
    set_conf(CATALOGUE_INTERVAL=3600, REQUESTS_PER_MINUTE=40)
    kinds = {"t": Denomination("T", Decimal(490))}
    simulator.catalogue = {f"p{number}": Product("P", "", kinds) for number in range(9)}
    note_ledger(due_at=ago(1))
    daily = max(background.lanes(), key=len)
    background.give_turns(daily, threading.Event(), lambda: True)
    asked = [request.path for request in simulator.requests]
    (ledger,) = (place for place, path in enumerate(asked) if "transactions" in path)
    assert ledger < asked.index("/v3/gift-cards/catalog")


@pytest.mark.parametrize(
    ("now", "night"),
    [
        ("2026-11-24T00:30+01:00", "2026-11-24T02:07+01:00"),
        ("2026-11-24T02:06+01:00", "2026-11-24T02:07+01:00"),
        ("2026-11-24T02:07+01:00", "2026-11-25T02:07+01:00"),
        ("2026-11-24T23:59+01:00", "2026-11-25T02:07+01:00"),
        # This is still the 24th in Algiers, but the 25th in Tokyo.
        ("2026-11-25T06:00+09:00", "2026-11-25T02:07+01:00"),
    ],
)
def test_the_next_night_is_that_of_the_site(settings: Any, now: str, night: str) -> None:
    settings.TIME_ZONE = "Africa/Algiers"
    assert next_night(datetime.fromisoformat(now), 7) == datetime.fromisoformat(night)


def test_a_new_shop_waits_for_its_first_night(books: Books) -> None:
    read_if_due(always)
    assert books.pages_shown == []
    assert is_put_off_to_the_night()


def test_a_reading_that_is_due_is_made_once_a_night(due: Books) -> None:
    read_if_due(always)
    assert LedgerEntry.objects.count() == 300
    assert is_put_off_to_the_night()
    due.pages_shown.clear()
    read_if_due(always)
    assert due.pages_shown == []


def test_while_orders_wait_each_call_makes_one_request_until_all_is_read(due: Books) -> None:
    calls = 0
    while not is_put_off_to_the_night():
        read_if_due(never)
        calls += 1
        assert len(due.pages_shown) == calls
    assert LedgerEntry.objects.count() == 300
    assert calls > 4


def test_without_room_in_the_budget_nothing_is_asked_and_it_stays_due(due: Books) -> None:
    spend_budget()
    read_if_due(always)
    assert due.pages_shown == []
    assert ledger_state().due_at <= timezone.now()


def test_another_process_that_reads_is_left_alone(due: Books) -> None:
    hold_lease("ledger", until=ago(-60))
    read_if_due(always)
    assert due.pages_shown == []


def test_after_failures_it_is_tried_again_later_and_later(
    due: Books, wire: responses.RequestsMock, caplog: pytest.LogCaptureFixture
) -> None:
    wire.replace(responses.GET, URL, status=500)
    pauses = []
    for _failure in range(8):
        note_ledger(due_at=ago(1))
        read_if_due(always)
        pauses.append(ledger_state().due_at - timezone.now())
    assert timedelta(minutes=1) < pauses[0] < timedelta(minutes=3)
    assert timedelta(minutes=59) < pauses[-1] < timedelta(minutes=76)
    assert messages(caplog)[0].startswith("The provider's ledger could not be read. The provider ")
    wire.remove(responses.GET, URL)
    due.open(wire)
    note_ledger(due_at=ago(1))
    read_if_due(always)
    assert is_put_off_to_the_night()
    assert ledger_state().failures == 0


def test_a_refused_key_is_not_tried(due: Books) -> None:
    refuse_key()
    read_if_due(always)
    assert due.pages_shown == []
    assert ledger_state().due_at > timezone.now()


def test_a_day_that_has_changed_is_logged(due: Books, caplog: pytest.LogCaptureFixture) -> None:
    read()
    due.book("DEPOSIT", 1, at(0), name="late")
    read_if_due(always)
    day = day_of(NOON)
    assert messages(caplog) == [
        f"The provider's ledger for {day} has changed. New or different entries: 1."
    ]


class TestTick:
    @pytest.fixture(autouse=True)
    def quickly(self, shorten: Callable[..., None], set_conf: Callable[..., None]) -> None:
        set_conf(POLL_INTERVAL=0.1)
        shorten(task_seconds=0.5)

    def test_a_tick_reads_what_is_due_after_following_the_orders(self, due: Books) -> None:
        assert tasks.tick() == "0 sent, 0 checked, 0 settled, 0 failed"
        assert LedgerEntry.objects.count() == 300

    def test_a_sweep_reads_nothing(self, due: Books) -> None:
        tasks.sweep()
        assert due.pages_shown == []

    @pytest.mark.parametrize(("seconds", "is_whole"), [(0, False), (10, True)])
    def test_a_tick_gives_way_to_an_order_that_nobody_follows_once_its_share_is_used(
        self, due: Books, shorten: Callable[..., None], seconds: float, is_whole: bool
    ) -> None:
        shorten(chores_seconds=seconds)
        due.on_page = lambda _page: make_order()
        tasks.tick()
        assert (len(due.pages_shown) > 1) == (LedgerEntry.objects.count() == 300) == is_whole

    def test_a_tick_goes_on_while_another_process_follows_the_orders(self, due: Books) -> None:
        def place(_page: int) -> None:
            make_order()
            hold_lease(Lease.LOOP, until=ago(-60))

        due.on_page = place
        tasks.tick()
        assert LedgerEntry.objects.count() == 300
