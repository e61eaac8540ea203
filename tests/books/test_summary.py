"""What the ledger adds up to, what does not fit, and whether the books close."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from giftcards.books.models import LedgerEntry
from giftcards.books.summary import Discrepancies, Summary, find_gap, summarise
from giftcards.models import Order
from giftcards.models.times import as_stored, begin_of, day_of
from giftcards.statuses import Status
from tests.books.wire import NOON, at, ordered
from tests.laws import examples

pytestmark = pytest.mark.django_db

DAY = day_of(NOON)


def enter(
    name: str,
    kind: str,
    amount: Any,
    seconds: float = 0,
    *,
    before: Any = None,
    after: Any = None,
    **values: Any,
) -> LedgerEntry:
    return LedgerEntry.objects.create(
        provider_id=name,
        type=kind,
        amount=Decimal(amount),
        time=at(seconds),
        balance_before=before,
        balance_after=after,
        **values,
    )


def chain(*amounts: Any, opening: Any = 0, times: Any = None) -> list[LedgerEntry]:
    """Entries that follow from each other, a second apart if no times are given."""
    balance = Decimal(opening)
    entries = []
    for number, amount in enumerate(map(Decimal, amounts)):
        before, balance = balance, balance + amount
        seconds = times[number] if times else number
        kind = "DEPOSIT" if amount > 0 else "FLEXY"
        entry = enter(f"e{number}", kind, amount, seconds, before=before, after=balance)
        entries.append(entry)
    return entries


def closing(summary: Summary) -> tuple[Any, Any, Any, int]:
    return (
        summary.opening_balance,
        summary.closing_balance,
        summary.gap,
        summary.breaks.count,
    )


def partly_delivered(**values: Any) -> Order:
    """980 DA of 2450 DA are promised back."""
    return ordered(
        status=Status.PARTIALLY_FILLED,
        fulfilled_amount=1470,
        **{"settled_at": at(10), **values},
    )


class TestSums:
    def test_a_day_is_counted_and_added_up_by_kind(self) -> None:
        order = partly_delivered()
        enter("d", "DEPOSIT", 5000, before=0, after=5000)
        enter("c", "ORDER", -2450, 1, before=5000, after=2550, order=order)
        enter("r", "REFUND-ORDER", 980, 9, before=2550, after=3530, order=order, is_guess=True)
        enter("f", "FLEXY", "-500.10", 20, before=3530, after="3029.90")
        enter("b", "REFUND-FLEXY", "500.10", 21, before="3029.90", after=3530)
        assert summarise(DAY, DAY) == Summary(
            start=DAY,
            end=DAY,
            entries=5,
            matched=2,
            guessed=1,
            orders=Decimal(-2450),
            refunds=Decimal(980),
            top_ups=Decimal(5000),
            other_services=Decimal(0),
            promised_not_credited=Discrepancies(),
            credited_not_promised=Discrepancies(),
            charged_unknown=Discrepancies(),
            ordered_not_charged=Discrepancies(),
            opening_balance=Decimal(0),
            closing_balance=Decimal(3530),
            gap=Decimal(0),
            breaks=Discrepancies(),
        )

    def test_a_period_has_both_its_days_in_the_time_zone_of_the_site(self, settings: Any) -> None:
        settings.TIME_ZONE = "Africa/Algiers"
        day = date(2026, 11, 24)
        for name, moment in (
            ("before", "2026-11-23T22:59:59+00:00"),
            ("first", "2026-11-23T23:00:00+00:00"),
            ("last", "2026-11-25T22:59:59+00:00"),
            ("after", "2026-11-25T23:00:00+00:00"),
        ):
            seconds = (datetime.fromisoformat(moment) - NOON).total_seconds()
            enter(name, "DEPOSIT", 1, seconds)
        assert summarise(day, day + timedelta(days=1)).entries == 2

    def test_without_any_entry_nothing_is_known(self) -> None:
        summary = summarise(DAY, DAY)
        assert (summary.entries, summary.total) == (0, 0)
        assert closing(summary) == (None, None, None, 0)

    def test_a_period_that_ends_before_it_starts_is_a_mistake(self) -> None:
        with pytest.raises(ValueError, match="ends before it starts"):
            summarise(DAY, DAY - timedelta(days=1))

    def test_a_period_of_centuries_takes_no_longer_than_what_was_read(self) -> None:
        chain(5)
        assert summarise(date(2, 1, 1), date(9998, 1, 1)).entries == 1


class TestOrders:
    def test_a_refund_that_lacks_is_named_with_what_lacks(self) -> None:
        lacking = partly_delivered(reference="cart-1", is_credited=False)
        halfway = partly_delivered(reference="cart-2", is_credited=False, settled_at=at(20))
        partly_delivered(reference="cart-3", is_credited=True)
        partly_delivered(reference="cart-4", is_credited=False, settled_at=at(86_400))
        enter("r", "REFUND-ORDER", 490, 21, order=halfway)
        found = summarise(DAY, DAY).promised_not_credited
        assert (found.count, found.amount) == (2, Decimal(1470))
        assert [(one.key, one.reference, one.amount) for one in found.first] == [
            (lacking.pk, "cart-1", Decimal(980)),
            (halfway.pk, "cart-2", Decimal(490)),
        ]

    def test_a_refund_of_no_order_and_one_too_much_are_named(self) -> None:
        order = partly_delivered(is_credited=False)
        enter("r0", "REFUND-ORDER", 980, 9, order=order)
        enter("r1", "REFUND-ORDER", 490, 11, order=order)
        enter("r2", "REFUND-ORDER", 490, 12)
        enter("r3", "REFUND-ORDER", 490, 86_400)
        found = summarise(DAY, DAY).credited_not_promised
        assert (found.count, found.amount) == (2, Decimal(980))
        assert set(found.references) == {"r1", "r2"}

    def test_a_charge_of_no_order_is_named(self) -> None:
        enter("c0", "ORDER", -980, 1, order=partly_delivered())
        enter("c1", "ORDER", -490, 2)
        found = summarise(DAY, DAY).charged_unknown
        assert (found.count, found.amount, found.references) == (1, Decimal(490), ("c1",))

    @pytest.mark.parametrize(("booked", "beyond"), [("2450", "0"), ("2450.01", "0.01")])
    def test_a_charge_beyond_the_price_of_its_order_is_named(
        self, booked: str, beyond: str
    ) -> None:
        enter("c0", "ORDER", f"-{booked}", 1, order=partly_delivered())
        assert summarise(DAY, DAY).charged_unknown.amount == Decimal(beyond)

    def test_an_open_order_may_still_cost_something_else(self) -> None:
        order = ordered(Status.HANDLING, price_per_card=None, price_at_placing=490)
        enter("c0", "ORDER", -2500, 1, order=order)
        assert not summarise(DAY, DAY).charged_unknown.count

    def test_all_are_counted_and_the_first_are_listed(self) -> None:
        for number in range(25):
            enter(f"c{number:02}", "ORDER", "-0.01", number)
        found = summarise(DAY, DAY).charged_unknown
        assert (found.count, found.amount) == (25, Decimal("0.25"))
        assert found.references == tuple(f"c{number:02}" for number in range(20))


class TestBalances:
    def test_the_books_close_from_period_to_period(self) -> None:
        chain(1000, -300, -0.5, 20, times=[0, 1, 86_400, 86_401])
        assert closing(summarise(DAY, DAY)) == (0, 700, 0, 0)
        tomorrow = DAY + timedelta(days=1)
        assert closing(summarise(tomorrow, tomorrow)) == (700, Decimal("719.5"), 0, 0)
        assert closing(summarise(DAY, tomorrow)) == (0, Decimal("719.5"), 0, 0)

    def test_entries_of_one_millisecond_are_joined_by_their_balances(self) -> None:
        # Whatever order they are stored in; the balance comes back to where it was twice.
        amounts = [1000, -490, 490, -490, -490, 980, -200]
        chain(*amounts, times=[0] * 7)
        rows = list(LedgerEntry.objects.values("type", "amount", "balance_before", "balance_after"))
        LedgerEntry.objects.all().delete()
        random.Random(7).shuffle(rows)
        for number, row in enumerate(rows):
            LedgerEntry.objects.create(provider_id=f"s{number}", time=NOON, **row)
        assert closing(summarise(DAY, DAY)) == (0, 800, 0, 0)

    def test_a_missing_entry_is_a_gap_and_a_break_where_it_was(self) -> None:
        entries = chain(1000, -300, -200, -100)
        entries[2].delete()
        summary = summarise(DAY, DAY)
        assert closing(summary) == (0, 400, -200, 1)
        assert summary.breaks.references == ("e3",)
        assert summary.breaks.amount == 200

    def test_an_entry_missing_between_two_periods_belongs_to_the_second(self) -> None:
        entries = chain(1000, -300, -100, times=[0, 86_400, 86_401])
        entries[1].delete()
        tomorrow = DAY + timedelta(days=1)
        assert closing(summarise(DAY, DAY)) == (0, 1000, 0, 0)
        assert closing(summarise(tomorrow, tomorrow)) == (1000, 600, -300, 1)

    def test_missing_entries_that_make_up_for_each_other_are_breaks_without_a_gap(self) -> None:
        entries = chain(1000, -300, -100, 300, -5)
        for number in (1, 3):
            entries[number].delete()
        assert closing(summarise(DAY, DAY)) == (0, 895, 0, 2)

    def test_without_balances_the_gap_is_unknown(self) -> None:
        enter("a", "DEPOSIT", 10)
        assert closing(summarise(DAY, DAY)) == (None, None, None, 0)

    def test_entries_without_balances_between_others_close_the_books_all_the_same(self) -> None:
        entries = chain(1000, -300, -200, -100)
        LedgerEntry.objects.filter(pk=entries[2].pk).update(balance_before=None, balance_after=None)
        assert closing(summarise(DAY, DAY)) == (0, 400, 0, 0)

    def test_a_last_balance_that_was_not_told_is_taken_from_the_next_entry(self) -> None:
        entries = chain(1000, -300, -200, times=[0, 1, 86_400])
        LedgerEntry.objects.filter(pk=entries[1].pk).update(balance_before=None, balance_after=None)
        assert closing(summarise(DAY, DAY)) == (0, 700, 0, 0)
        entries[2].delete()
        assert closing(summarise(DAY, DAY)) == (0, None, None, 0)

    def test_a_balance_that_contradicts_its_amount_is_a_gap(self) -> None:
        enter("a", "DEPOSIT", 10, before=0, after=11)
        assert closing(summarise(DAY, DAY)) == (0, 11, 1, 0)

    @settings(
        max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        amounts=st.lists(st.integers(-5, 5).filter(bool), min_size=2, max_size=12),
        chance=st.randoms(use_true_random=False),
        lost=st.sets(st.integers(1, 10)),
    )
    def test_a_gap_is_what_is_missing_to_the_centime(
        self, amounts: list[int], chance: random.Random, lost: set[int]
    ) -> None:
        LedgerEntry.objects.all().delete()
        # Amounts so small that balances come back, at moments of their own.
        moments = sorted(chance.sample(range(50), len(amounts)))
        entries = chain(*amounts, opening=100, times=moments)
        gone = [entry for number, entry in enumerate(entries[:-1]) if number in lost]
        for entry in gone:
            entry.delete()
        summary = summarise(DAY, DAY)
        assert summary.gap == sum(entry.amount for entry in gone)
        assert (summary.opening_balance, summary.closing_balance) == (100, 100 + sum(amounts))
        assert summary.breaks.amount >= abs(summary.gap)

    @settings(
        max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        amounts=st.lists(st.integers(-5, 5).filter(bool), min_size=1, max_size=15),
        chance=st.randoms(use_true_random=False),
    )
    def test_whatever_happens_in_one_moment_the_books_close(
        self, amounts: list[int], chance: random.Random
    ) -> None:
        LedgerEntry.objects.all().delete()
        entries = chain(
            *amounts, opening=100, times=sorted(chance.choices(range(3), k=len(amounts)))
        )
        LedgerEntry.objects.all().delete()
        chance.shuffle(entries)
        for entry in entries:
            entry.pk = None
            entry.save(force_insert=True)
        summary = summarise(DAY, DAY)
        assert (summary.gap, summary.breaks.count) == (0, 0)
        # So do those of the day after, which begins with what this one has left.
        tomorrow = DAY + timedelta(days=1)
        left = 100 + sum(amounts)
        enter("later", "DEPOSIT", 3, 86_400, before=left, after=left + 3)
        assert closing(summarise(DAY, tomorrow))[1:] == (left + 3, 0, 0)
        assert closing(summarise(tomorrow, tomorrow)) == (left, left + 3, 0, 0)


def test_a_day_is_the_time_between_two_midnights() -> None:
    assert all(
        begin_of(second) - begin_of(first) >= timedelta(hours=23)
        for first, second in pairwise(DAY + timedelta(days=number) for number in range(400))
    )
    assert day_of(timezone.now()) >= DAY


class TestRepeatedHour:
    """Where ``USE_TZ`` is off, an hour of autumn is stored twice: 2 to 3 o'clock here."""

    BEGIN = datetime(2026, 10, 25, 0, 0, tzinfo=UTC)
    NIGHT = date(2026, 10, 25)

    @pytest.fixture(autouse=True)
    def _without_zones(self, settings: Any) -> None:
        settings.TIME_ZONE = "Europe/Paris"
        settings.USE_TZ = False

    def chain(self, *minutes: int, but: int | None = None) -> None:
        """Entries of 10, 20, 30 and so on that follow from each other, so long after 2 o'clock."""
        balance = Decimal(1_000)
        for number, after in enumerate(minutes, 1):
            before, balance = balance, balance + 10 * number
            if after != but:
                LedgerEntry.objects.create(
                    provider_id=f"e{number}",
                    type="DEPOSIT",
                    amount=10 * number,
                    time=as_stored(self.BEGIN + timedelta(minutes=after)),
                    balance_before=before,
                    balance_after=balance,
                )

    def test_its_entries_make_no_false_breaks(self) -> None:
        self.chain(-30, 0, 20, 20, 59, 60, 75, 80, 119, 120, 180)
        shown = [entry.time.hour for entry in LedgerEntry.objects.order_by("pk")]
        assert shown == [1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 4]
        assert closing(summarise(self.NIGHT, self.NIGHT)) == (1_000, 1_660, 0, 0)
        gap, breaks = find_gap(self.NIGHT, self.NIGHT)
        assert (gap, breaks.count) == (0, 0)

    def test_an_entry_that_is_missing_there_is_still_a_break(self) -> None:
        self.chain(-30, 0, 20, 59, 60, 75, 119, 120, but=60)
        found = summarise(self.NIGHT, self.NIGHT)
        assert closing(found) == (1_000, 1_360, 50, 1)
        assert found.breaks.amount == 50

    def test_the_balance_before_a_day_is_found_beyond_it(self) -> None:
        self.chain(5, 50, 65, 70, 24 * 60)
        found = summarise(self.NIGHT + timedelta(days=1), self.NIGHT + timedelta(days=1))
        assert closing(found) == (1_100, 1_150, 0, 0)

    def test_an_hour_that_is_skipped_in_spring_changes_nothing(self) -> None:
        self.BEGIN = datetime(2026, 3, 29, 0, 59, tzinfo=UTC)
        self.chain(0, 1, 30)
        shown = [entry.time.hour for entry in LedgerEntry.objects.order_by("pk")]
        assert shown == [1, 3, 3]
        assert closing(summarise(date(2026, 3, 29), date(2026, 3, 29))) == (1_000, 1_060, 0, 0)

    @given(st.lists(st.integers(-90, 210), min_size=1, max_size=25).map(sorted))
    @settings(
        max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_whenever_the_entries_are_the_books_close(self, minutes: list[int]) -> None:
        LedgerEntry.objects.all().delete()
        self.chain(*minutes)
        count = len(minutes)
        total = 5 * count * (count + 1)
        assert closing(summarise(self.NIGHT, self.NIGHT)) == (1_000, 1_000 + total, 0, 0)
