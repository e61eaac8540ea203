"""Reading the ledger, with any changes to its pages and any number of interruptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import responses
from django.utils import timezone

from giftcards.books.models import LedgerEntry
from giftcards.books.reading import LedgerReading, read_ledger
from giftcards.engine.gateway import Gateway, Stopped
from giftcards.models import Order, ProviderState
from giftcards.rules.times import begin_of, day_of
from giftcards.simulator import Simulator
from tests.books.wire import NOON, URL, Books, at, ledger_state, note_ledger, ordered, read
from tests.stage import ago, buy_many, hold_lease, in_threads, lease, run_sweep, spend_budget

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

DAY = day_of(NOON)


def fill(books: Books, count: int, *, start: float = 0) -> None:
    """Book ``count`` top-ups, one per second, each with its own ID and amount."""
    for number in range(count):
        name = f"{start:g}-{number}"
        books.book("DEPOSIT", 100 + number, at(start + number), name=name)


def total() -> Decimal:
    return sum(LedgerEntry.objects.values_list("amount", flat=True), Decimal(0))


def true_total(books: Books) -> int:
    return sum(booked["amount"] for booked in books.rows)


class TestPages:
    def test_all_pages_of_a_day_are_read(self, books: Books) -> None:
        fill(books, 250)
        assert read(DAY) == LedgerReading(start=DAY, rows=250, new=250, is_whole=True)
        assert total() == true_total(books)
        entry = LedgerEntry.objects.get(provider_id="0-7")
        assert (entry.type, entry.amount, entry.time) == ("DEPOSIT", 107, at(7))

    def test_pages_that_shift_while_they_are_read_repeat_rows_and_lose_none(
        self, books: Books
    ) -> None:
        fill(books, 250)
        # Each page begins with the last three rows of the previous page, and loses its own last
        # three.
        books.change_page = lambda page, rows: (
            [books.rows[250 - (page - 1) * 100 + number] for number in range(3)] + rows[:97]
            if page > 1
            else rows
        )
        first = read(DAY)
        assert first.rows > first.new
        books.change_page = lambda _page, rows: rows
        assert read(DAY).is_whole
        assert total() == true_total(books)

    def test_a_row_that_moved_to_an_earlier_page_is_found_by_counting(self, books: Books) -> None:
        fill(books, 150)
        passes: Counter[int] = Counter()

        def lose_one_once(page: int, rows: list[Any]) -> list[Any]:
            passes[page] += 1
            return rows[1:] if page == 2 and passes[page] == 1 else rows

        books.change_page = lose_one_once
        assert read(DAY).new == 150
        assert total() == true_total(books)

    @pytest.mark.parametrize("told", [0, 1, 99, 251, 10_000, None])
    def test_what_the_provider_counts_is_not_believed(self, books: Books, told: int | None) -> None:
        fill(books, 200)
        books.change_count = lambda count: told if count else 0
        reading = read(DAY)
        assert (reading.new, reading.is_whole) == (200, True)
        assert reading.not_shown == max((told or 0) - 200, 0)

    @pytest.mark.parametrize("told", [500, None])
    def test_a_provider_that_ignores_the_page_is_not_asked_for_ever(
        self, books: Books, told: int | None
    ) -> None:
        fill(books, 100)
        books.change_page = lambda _page, _rows: books.rows[:100]
        books.change_count = lambda _count: told
        assert read(DAY).new == 100
        assert len(books.pages_shown) < 20

    @pytest.mark.parametrize("told", [50_000, None])
    def test_pages_that_come_in_turn_again_and_again_are_not_asked_for_ever(
        self, books: Books, told: int | None
    ) -> None:
        fill(books, 150)
        halves = books.rows[:100], books.rows[100:]
        books.change_page = lambda page, _rows: halves[(page - 1) % 2]
        books.change_count = lambda _count: told
        self.limit(books)
        assert read(DAY).new == 150

    @pytest.mark.parametrize("told", [200, None])
    def test_pages_of_which_nothing_can_be_read_are_not_asked_for_ever(
        self, books: Books, told: int | None
    ) -> None:
        books.change_page = lambda _page, _rows: [{"type": "DEPOSIT"}] * 100
        books.change_count = lambda _count: told
        self.limit(books)
        assert read(DAY).is_whole

    def test_a_page_of_which_nothing_can_be_read_is_not_the_last_if_more_are_counted(
        self, books: Books
    ) -> None:
        fill(books, 150)
        books.change_page = lambda page, rows: rows if page == 2 else [{"type": "DEPOSIT"}] * 100
        assert read(DAY).new == 50

    def limit(self, books: Books) -> None:
        def fail(_page: int) -> None:
            assert len(books.pages_shown) < 20

        books.on_page = fail

    def test_a_page_that_ends_early_is_not_the_last_if_more_are_counted(self, books: Books) -> None:
        fill(books, 250)
        books.change_page = lambda page, rows: rows[:10] if page == 1 else rows
        assert read(DAY).not_shown == 90
        books.change_page = lambda _page, rows: rows
        read(DAY)
        assert total() == true_total(books)

    def test_a_provider_that_shows_whole_days_hides_nothing(self, books: Books) -> None:
        fill(books, 5)
        fill(books, 5, start=-86_400)
        books.change_page = lambda page, _rows: books.rows if page == 1 else []
        books.change_count = lambda _count: 10
        reading = read(DAY)
        assert (reading.new, reading.not_shown) == (10, 0)

    def test_unreadable_rows_are_counted_and_spoil_nothing(self, books: Books) -> None:
        fill(books, 3)
        books.book("DEPOSIT", "much", at(4), name="bad")
        assert read(DAY) == LedgerReading(start=DAY, rows=3, new=3, unreadable=1, is_whole=True)


class TestRowsWithoutAnId:
    def test_equal_rows_of_a_page_are_several(self, books: Books) -> None:
        for _number in range(3):
            books.book("FLEXY", 500, at(0))
        read(DAY)
        assert LedgerEntry.objects.count() == 3
        assert total() == -1500

    def test_a_row_that_comes_again_is_one(self, books: Books) -> None:
        for number in range(150):
            books.book("FLEXY", 100 + number, at(number))
        # The last row of the first page also begins the second page.
        books.change_page = lambda page, rows: rows if page == 1 else [books.rows[50], *rows]
        read(DAY)
        assert read(DAY).new == 0
        assert LedgerEntry.objects.count() == 150

    def test_balances_tell_rows_apart(self, books: Books) -> None:
        books.book("FLEXY", 500, at(0), oldBalance=2000, newBalance=1500)
        read(DAY)
        books.book("FLEXY", 500, at(0), oldBalance=1500, newBalance=1000)
        assert read(DAY).new == 1
        assert total() == -1000


class TestDays:
    def test_the_first_reading_begins_with_the_day_of_the_first_order(self, books: Books) -> None:
        ordered(created_at=at(-5 * 86_400))
        books.book("DEPOSIT", 1, at(-5 * 86_400 - 6 * 3600), name="same-day")
        books.book("DEPOSIT", 1, at(-7 * 86_400), name="before")
        reading = read()
        assert reading.start == day_of(at(-5 * 86_400))
        assert [entry.provider_id for entry in LedgerEntry.objects.all()] == ["same-day"]
        assert timezone.now() - ledger_state().read_until < timedelta(minutes=1)

    def test_a_shop_without_orders_begins_today(self, books: Books) -> None:
        assert read() == LedgerReading(start=day_of(timezone.now()), is_whole=True)

    def test_entries_that_come_late_are_found_and_their_day_is_named(self, books: Books) -> None:
        ordered(created_at=at(-5 * 86_400))
        fill(books, 3)
        assert read().changed_days == {}
        books.book("DEPOSIT", 1, at(1), name="late")
        books.book("DEPOSIT", 1, at(-86_400), name="later")
        books.book("DEPOSIT", 1, timezone.now(), name="new")
        reading = read()
        assert reading.changed_days == {DAY - timedelta(days=1): 1, DAY: 1}
        assert reading.start == day_of(timezone.now()) - timedelta(days=3)
        assert read().changed_days == {}

    def test_older_days_are_read_again_only_if_that_is_asked_for(self, books: Books) -> None:
        ordered(created_at=at(-9 * 86_400))
        read()
        books.book("DEPOSIT", 1, at(-8 * 86_400), name="late")
        assert read().new == 0
        assert read(DAY - timedelta(days=8)).changed_days == {DAY - timedelta(days=8): 1}

    def test_reading_again_from_a_day_skips_nothing_that_was_never_read(self, books: Books) -> None:
        ordered(created_at=at(-9 * 86_400))
        read()
        until = at(-6 * 86_400)
        note_ledger(read_until=until)
        books.book("DEPOSIT", 1, at(-4 * 86_400), name="unread")
        assert read(DAY).new == 1

    def test_long_times_without_entries_take_few_requests(self, books: Books) -> None:
        fill(books, 1)
        ordered(created_at=at(-3 * 365 * 86_400))
        assert read().new == 1
        assert len(books.pages_shown) < 20


class Killed(BaseException):
    """The end of a process in the middle of its work."""


class TestInterrupted:
    def test_a_reading_that_is_killed_goes_on_with_the_page_where_it_was(
        self, books: Books
    ) -> None:
        fill(books, 250)

        def die(page: int) -> None:
            if page == 3:
                raise Killed

        books.on_page = die
        with pytest.raises(Killed):
            read(DAY)
        assert LedgerEntry.objects.count() == 200
        books.on_page = lambda _page: None
        books.pages_shown.clear()
        assert read().is_whole
        assert books.pages_shown[0] == 3
        assert total() == true_total(books)
        assert ledger_state().place == {}

    def test_a_failure_of_the_provider_ends_the_reading_and_loses_nothing(
        self, books: Books, wire: responses.RequestsMock
    ) -> None:
        ordered(created_at=at(-86_400))
        fill(books, 1)
        wire.replace(responses.GET, URL, status=500)
        reading = read()
        assert not reading.is_whole
        assert reading.trouble.startswith("The provider gave no usable answer (HTTP 500")
        assert ledger_state().read_until is None
        wire.remove(responses.GET, URL)
        books.open(wire)
        assert read().is_whole
        assert total() == true_total(books)

    def test_a_reading_in_parts_comes_to_the_same(self, books: Books) -> None:
        ordered(created_at=at(-4 * 86_400))
        for day in range(5):
            fill(books, 130, start=-day * 86_400)
        parts = 0
        while not read(should_continue=lambda: False).is_whole:
            parts += 1
        assert parts > 8
        assert total() == true_total(books)

    def test_a_place_ahead_of_the_clock_is_forgotten(self, books: Books) -> None:
        ProviderState.objects.current()
        ahead = timezone.now() + timedelta(days=400)
        place = {name: ahead.isoformat() for name in ("start", "until", "end")}
        note_ledger(place={**place, "page": 7, "passes": 1, "new": 0}, read_until=ahead)
        fill(books, 1)
        assert read().new == 1
        assert ledger_state().read_until <= timezone.now()


class TestTogether:
    def test_a_second_process_waits_for_the_first(self, books: Books) -> None:
        hold_lease("ledger", until=ago(-60))
        waits: list[LedgerReading] = []

        def give_up(reading: LedgerReading) -> None:
            waits.append(reading)
            raise Stopped("Enough.")

        with Gateway() as gateway:
            reading = read_ledger(gateway, on_wait=give_up)
        assert reading == LedgerReading(trouble="Enough.")
        assert len(waits) == 1
        assert lease("ledger").token == "other"

    def test_a_process_whose_lease_was_taken_writes_nothing_more(self, books: Books) -> None:
        fill(books, 150)

        def take_over(page: int) -> None:
            if page == 2:
                hold_lease("ledger", until=ago(-60))

        books.on_page = take_over
        reading = read(DAY)
        assert (reading.new, reading.trouble) == (100, "Another process is now reading the ledger.")
        assert LedgerEntry.objects.count() == 100
        assert lease("ledger").token == "other"

    @pytest.mark.django_db(transaction=True)
    def test_two_processes_at_once_read_each_entry_once(
        self, simulator: Simulator, shared_database: str, shorten: Callable[..., None]
    ) -> None:
        shorten(lease_poll=0.05)
        buy_many(simulator, 3, type_id="TEST_PARTIAL")
        run_sweep()

        def read_patiently() -> LedgerReading:
            with Gateway() as gateway:
                return read_ledger(gateway, on_wait=lambda _reading: None)

        readings = in_threads(2, read_patiently)
        assert sorted(reading.new for reading in readings) == [0, 7]
        assert all(reading.is_whole for reading in readings)
        assert LedgerEntry.objects.filter(order=None).count() == 1
        assert set(Order.objects.values_list("is_credited", flat=True)) == {True}

    def test_the_lease_is_kept_while_it_waits(
        self, books: Books, shorten: Callable[..., None]
    ) -> None:
        shorten(background_wait=0.01)
        spend_budget()
        waits = 0

        def lose(_reading: LedgerReading) -> None:
            nonlocal waits
            waits += 1
            assert waits == 1
            assert lease("ledger").until > timezone.now() + timedelta(seconds=100)
            hold_lease("ledger", until=ago(-60))

        with Gateway() as gateway:
            reading = read_ledger(gateway, on_wait=lose)
        assert reading.trouble == "Another process is now reading the ledger."

    def test_it_waits_while_orders_need_the_budget(self, books: Books) -> None:
        spend_budget()

        def give_up(reading: LedgerReading) -> None:
            assert not reading.is_paused
            raise Stopped

        with Gateway() as gateway:
            assert not read_ledger(gateway, on_wait=give_up).is_whole
        assert books.pages_shown == []


def test_days_begin_at_midnight_of_the_site(settings: Any) -> None:
    settings.TIME_ZONE = "Africa/Algiers"
    assert begin_of(DAY).isoformat() == f"{DAY}T00:00:00+01:00"
    with timezone.override("America/New_York"):
        assert begin_of(DAY).isoformat() == f"{DAY}T00:00:00+01:00"
        assert day_of(begin_of(DAY)) == DAY
