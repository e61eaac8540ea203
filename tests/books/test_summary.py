"""The summary of the ledger: its sums, its discrepancies, and whether the books close."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from giftcards.books import summary
from giftcards.books.models import LedgerEntry
from giftcards.books.summary import Break, Discrepancies, Summary, find_gap, ledger_summary
from giftcards.rules.times import as_stored, day_of
from giftcards.statuses import Status
from tests.books.wire import NOON, at, ordered, partly_delivered
from tests.laws import examples

pytestmark = pytest.mark.django_db

DAY = day_of(NOON)
NEXT_DAY = DAY + timedelta(days=1)
# Seconds of a day.
A_DAY = 86_400


def enter(name: str, kind: str, amount: Any, seconds: float = 0, **values: Any) -> LedgerEntry:
    entry = build(name, kind, amount, seconds, **values)
    entry.save()
    return entry


def build(
    name: str,
    kind: str,
    amount: Any,
    seconds: float,
    *,
    before: Any = None,
    after: Any = None,
    **values: Any,
) -> LedgerEntry:
    return LedgerEntry(
        provider_id=name,
        type=kind,
        amount=Decimal(amount),
        time=at(seconds),
        balance_before=before,
        balance_after=after,
        **values,
    )


def build_chain(*amounts: Any, opening: Any = 0, times: Any = None) -> list[LedgerEntry]:
    """Return unsaved entries with consecutive balances, by default one second apart."""
    balance = Decimal(opening)
    entries = []
    for number, amount in enumerate(map(Decimal, amounts)):
        before, balance = balance, balance + amount
        seconds = times[number] if times else number
        kind = "DEPOSIT" if amount > 0 else "FLEXY"
        entry = build(f"e{number}", kind, amount, seconds, before=before, after=balance)
        entries.append(entry)
    return entries


def chain(*amounts: Any, **options: Any) -> list[LedgerEntry]:
    """Save and return the entries of :func:`build_chain`."""
    entries = build_chain(*amounts, **options)
    for entry in entries:
        entry.save()
    return entries


def closing(summary: Summary) -> tuple[Any, Any, Any, int]:
    return (summary.opening_balance, summary.closing_balance, summary.gap, len(summary.breaks))


class TestSums:
    def test_a_day_is_counted_and_added_up_by_kind(self) -> None:
        order = partly_delivered()
        enter("d", "DEPOSIT", 5000, before=0, after=5000)
        enter("c", "ORDER", -2450, 1, before=5000, after=2550, order=order)
        enter("r", "REFUND-ORDER", 980, 9, before=2550, after=3530, order=order, is_guess=True)
        enter("p", "OCPAY", 1100, 15, before=3530, after=4630, objid="OCPL-ABC123-XY12")
        enter("f", "FLEXY", "-500.10", 20, before=4630, after="4129.90")
        enter("b", "REFUND-FLEXY", "500.10", 21, before="4129.90", after=4630)
        assert ledger_summary(DAY, DAY) == Summary(
            start=DAY,
            end=DAY,
            entries=6,
            matched=2,
            guessed=1,
            orders=Decimal(-2450),
            refunds=Decimal(980),
            payments=Decimal(1100),
            top_ups=Decimal(5000),
            other_services=Decimal(0),
            promised_not_credited=Discrepancies(),
            credited_not_promised=Discrepancies(),
            charged_unknown=Discrepancies(),
            ordered_not_charged=Discrepancies(),
            opening_balance=Decimal(0),
            closing_balance=Decimal(4630),
            gap=Decimal(0),
            breaks=(),
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
        assert ledger_summary(day, day + timedelta(days=1)).entries == 2

    def test_without_any_entry_nothing_is_known(self) -> None:
        summary = ledger_summary(DAY, DAY)
        assert (summary.entries, summary.total) == (0, 0)
        assert closing(summary) == (None, None, None, 0)

    def test_a_period_that_ends_before_it_starts_is_a_mistake(self) -> None:
        with pytest.raises(ValueError, match="ends before it starts"):
            ledger_summary(DAY, DAY - timedelta(days=1))

    def test_a_period_of_centuries_takes_no_longer_than_what_was_read(self) -> None:
        chain(5)
        assert ledger_summary(date(2, 1, 1), date(9998, 1, 1)).entries == 1


class TestOrders:
    def test_a_refund_that_lacks_is_named_with_what_lacks(self) -> None:
        lacking = partly_delivered(reference="cart-1", is_credited=False)
        halfway = partly_delivered(reference="cart-2", is_credited=False, finalized_at=at(20))
        partly_delivered(reference="cart-3", is_credited=True)
        partly_delivered(reference="cart-4", is_credited=False, finalized_at=at(86_400))
        enter("r", "REFUND-ORDER", 490, 21, order=halfway)
        found = ledger_summary(DAY, DAY).promised_not_credited
        assert (found.count, found.amount) == (2, Decimal(1470))
        expected = [(lacking.pk, "cart-1", Decimal(980)), (halfway.pk, "cart-2", Decimal(490))]
        assert [(one.key, one.reference, one.amount) for one in found.first] == expected

    def test_a_refund_of_no_order_and_one_too_much_are_named(self) -> None:
        order = partly_delivered(is_credited=False)
        enter("r0", "REFUND-ORDER", 980, 9, order=order)
        enter("r1", "REFUND-ORDER", 490, 11, order=order)
        enter("r2", "REFUND-ORDER", 490, 12)
        enter("r3", "REFUND-ORDER", 490, 86_400)
        found = ledger_summary(DAY, DAY).credited_not_promised
        assert (found.count, found.amount) == (2, Decimal(980))
        assert set(found.references) == {"r1", "r2"}

    def test_a_charge_of_no_order_is_named(self) -> None:
        enter("c0", "ORDER", -980, 1, order=partly_delivered())
        enter("c1", "ORDER", -490, 2)
        found = ledger_summary(DAY, DAY).charged_unknown
        assert (found.count, found.amount, found.references) == (1, Decimal(490), ("c1",))

    @pytest.mark.parametrize(("booked", "beyond"), [("2450", "0"), ("2450.01", "0.01")])
    def test_a_charge_beyond_the_price_of_its_order_is_named(
        self, booked: str, beyond: str
    ) -> None:
        enter("c0", "ORDER", f"-{booked}", 1, order=partly_delivered())
        assert ledger_summary(DAY, DAY).charged_unknown.amount == Decimal(beyond)

    def test_an_open_order_may_still_cost_something_else(self) -> None:
        order = ordered(Status.HANDLING, price_per_card=None, price_at_placing=490)
        enter("c0", "ORDER", -2500, 1, order=order)
        assert not ledger_summary(DAY, DAY).charged_unknown.count

    def test_all_are_counted_and_the_first_are_listed(self) -> None:
        for number in range(25):
            enter(f"c{number:02}", "ORDER", "-0.01", number)
        found = ledger_summary(DAY, DAY).charged_unknown
        assert (found.count, found.amount) == (25, Decimal("0.25"))
        assert found.references == tuple(f"c{number:02}" for number in range(20))


class TestBalances:
    def test_the_books_close_from_period_to_period(self) -> None:
        chain(1000, -300, -0.5, 20, times=[0, 1, A_DAY, A_DAY + 1])
        assert closing(ledger_summary(DAY, DAY)) == (0, 700, 0, 0)
        assert closing(ledger_summary(NEXT_DAY, NEXT_DAY)) == (700, Decimal("719.5"), 0, 0)
        assert closing(ledger_summary(DAY, NEXT_DAY)) == (0, Decimal("719.5"), 0, 0)

    def test_a_missing_entry_is_a_gap_and_its_day_is_named(self) -> None:
        entries = chain(1000, -300, -200, -100)
        entries[2].delete()
        summary = ledger_summary(DAY, DAY)
        assert closing(summary) == (0, 400, -200, 1)
        assert summary.breaks == (Break(DAY, Decimal(-200)),)

    def test_an_entry_missing_between_two_periods_belongs_to_the_second(self) -> None:
        entries = chain(1000, -300, -100, times=[0, A_DAY, A_DAY + 1])
        entries[1].delete()
        assert closing(ledger_summary(DAY, DAY)) == (0, 1000, 0, 0)
        assert closing(ledger_summary(NEXT_DAY, NEXT_DAY)) == (1000, 600, -300, 1)

    def test_an_entry_missing_on_a_day_without_others_belongs_to_the_next_day_with_some(
        self,
    ) -> None:
        entries = chain(1000, -300, -100, times=[-2 * A_DAY, -A_DAY, A_DAY])
        entries[1].delete()
        summary = ledger_summary(DAY - timedelta(days=2), NEXT_DAY)
        assert summary.breaks == (Break(NEXT_DAY, Decimal(-300)),)
        assert closing(ledger_summary(DAY, DAY)) == (1000, 1000, 0, 0)

    def test_missing_entries_that_make_up_for_each_other_are_told_if_they_are_of_two_days(
        self,
    ) -> None:
        times = [0, 1, 2, A_DAY, A_DAY + 1, A_DAY + 2]
        entries = chain(1000, -300, -100, -5, 300, -5, times=times)
        for number in (1, 4):
            entries[number].delete()
        summary = ledger_summary(DAY, NEXT_DAY)
        assert closing(summary) == (0, 890, 0, 2)
        assert summary.breaks == (Break(DAY, Decimal(-300)), Break(NEXT_DAY, Decimal(300)))
        assert summary.breaks_amount == 600

    def test_missing_entries_that_make_up_for_each_other_within_a_day_are_not_noticed(self) -> None:
        entries = chain(1000, -300, -100, 300, -5)
        for number in (1, 3):
            entries[number].delete()
        assert closing(ledger_summary(DAY, DAY)) == (0, 895, 0, 0)

    def test_without_balances_the_gap_is_unknown(self) -> None:
        enter("a", "DEPOSIT", 10)
        assert closing(ledger_summary(DAY, DAY)) == (None, None, None, 0)

    def test_entries_without_balances_between_others_close_the_books_all_the_same(self) -> None:
        entries = chain(1000, -300, -200, -100)
        LedgerEntry.objects.filter(pk=entries[2].pk).update(balance_before=None, balance_after=None)
        assert closing(ledger_summary(DAY, DAY)) == (0, 400, 0, 0)

    def test_a_last_balance_that_was_not_told_is_taken_from_the_next_entry(self) -> None:
        entries = chain(1000, -300, -200, times=[0, 1, A_DAY])
        LedgerEntry.objects.filter(pk=entries[1].pk).update(balance_before=None, balance_after=None)
        assert closing(ledger_summary(DAY, DAY)) == (0, 700, 0, 0)
        entries[2].delete()
        assert closing(ledger_summary(DAY, DAY)) == (0, None, None, 0)

    def test_a_day_whose_last_balance_was_not_told_is_judged_with_the_next(self) -> None:
        entries = chain(1000, -300, -200, -50, -5, times=[0, 1, 2, A_DAY, A_DAY + 1])
        untold = LedgerEntry.objects.filter(pk__in=[entries[2].pk, entries[3].pk])
        untold.update(balance_before=None, balance_after=None)
        assert closing(ledger_summary(DAY, NEXT_DAY)) == (0, 445, 0, 0)
        entries[1].delete()
        assert ledger_summary(DAY, NEXT_DAY).breaks == (Break(NEXT_DAY, Decimal(-300)),)

    def test_a_balance_that_contradicts_its_amount_is_a_gap(self) -> None:
        enter("a", "DEPOSIT", 10, before=0, after=11)
        assert closing(ledger_summary(DAY, DAY)) == (0, 11, 1, 1)

    def test_of_one_balance_the_other_follows(self) -> None:
        enter("a", "DEPOSIT", 10, after=15)
        enter("b", "FLEXY", -3, 1, before=15)
        assert closing(ledger_summary(DAY, DAY)) == (5, 12, 0, 0)

    def test_nothing_is_known_of_a_period_before_the_first_entry(self) -> None:
        chain(1000, opening=5)
        yesterday = DAY - timedelta(days=1)
        assert closing(ledger_summary(yesterday, yesterday)) == (None, 5, None, 0)


def book_all(steps: list[tuple[float, Any, Any]]) -> None:
    """Enter one entry for each step: seconds after noon, balance before, balance after.

    If the balance after is ``None``, the provider reports neither balance, and the amount is -10.
    """
    for number, (seconds, before, after) in enumerate(steps):
        told = {} if after is None else {"before": before, "after": after}
        amount = -10 if after is None else after - before
        enter(f"s{number}", "SERVICE", amount, seconds, **told)


class TestMoments:
    """Entries that share one moment, so that their sequence is unknown."""

    # The booked entries, and what the summary finds in them.
    TOLD: ClassVar = {
        "chain": ([(0, 70, 60), (0, 100, 70), (0, 60, 90)], (100, 90, 0, 0)),
        "first circle": ([(0, 150, 100), (0, 100, 150), (1, 100, 90)], (100, 90, 0, 0)),
        "last circle": ([(0, 100, 90), (1, 150, 90), (1, 90, 150)], (100, 90, 0, 0)),
        "circles around one entry": (
            [(0, 7, 8), (0, 8, 7), (1, 8, 9), (1, 9, 8), (2, 8, 5), (3, 5, 6), (3, 6, 5)],
            (8, 5, 0, 0),
        ),
        "circle alone": ([(0, 150, 100), (0, 100, 150)], (None, None, None, 0)),
        "an entry of nothing": ([(0, 100, 100)], (100, 100, 0, 0)),
        "circle in a break": ([(0, 5, 4), (1, 5, 6), (1, 6, 5), (2, 5, 3)], (5, 3, 1, 1)),
        "one of the first untold": (
            [(0, 100, None), (0, 90, 80), (1, 80, 70)],
            (None, 70, None, 0),
        ),
        "first circle before an untold one": (
            [(0, 90, 80), (0, 80, 90), (1, 90, None), (2, 80, 70)],
            (None, 70, None, 0),
        ),
        "one of the last untold": (
            [(0, 100, 90), (1, 90, 80), (1, 80, None)],
            (100, None, None, 0),
        ),
        "last circle after an untold one": (
            [(0, 100, 90), (1, 90, None), (2, 80, 85), (2, 85, 80)],
            (100, None, None, 0),
        ),
        "missing in the middle": (
            [(0, 100, 90), (1, 90, 80), (1, 70, 60), (2, 60, 50)],
            (100, 50, -10, 1),
        ),
        "missing among the last": ([(0, 100, 90), (1, 90, 80), (1, 70, 60)], (100, None, None, 0)),
        "missing among the last of the day": (
            [(0, 100, 90), (1, 90, 80), (1, 70, 60), (A_DAY, 60, 50)],
            (100, 60, -10, 1),
        ),
    }

    @pytest.mark.parametrize(("steps", "found"), TOLD.values(), ids=TOLD)
    def test_what_they_tell(
        self, steps: list[tuple[float, Any, Any]], found: tuple[Any, ...]
    ) -> None:
        book_all(steps)
        assert closing(ledger_summary(DAY, DAY)) == found

    def test_a_circle_before_a_period_has_the_balance_of_the_entry_before_it(self) -> None:
        book_all([(0, 100, 90), (1, 90, 150), (1, 150, 90), (A_DAY, 80, 70)])
        assert closing(ledger_summary(NEXT_DAY, NEXT_DAY)) == (90, 70, -10, 1)

    def test_more_entries_than_are_read_at_once_are_judged_with_the_next_day(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(summary, "NEAR", 3)
        book_all([(0, 100, 99), (1, 97, 96), (1, 98, 97), (1, 99, 98), (A_DAY, 96, 95)])
        assert closing(ledger_summary(DAY, DAY)) == (100, 96, 0, 0)
        assert closing(ledger_summary(NEXT_DAY, NEXT_DAY)) == (96, 95, 0, 0)

    # The amounts within a second. They are so small that the same balance occurs more than once.
    AMOUNTS = st.lists(st.integers(-5, 5).filter(bool), min_size=1, max_size=6)
    # For each of three days, the amounts of its seconds.
    DAYS = st.lists(st.lists(AMOUNTS, min_size=2, max_size=4), min_size=3, max_size=3)

    def book_days(self, days: list[list[list[int]]], chance: random.Random) -> list[Decimal]:
        """Book the day before and ``days`` in random order; return the balances between days."""
        amounts, times, left = [100], [-A_DAY], [Decimal(100)]
        for number, moments in enumerate(days):
            for second, moment in enumerate(moments):
                amounts += moment
                times += [number * A_DAY + second] * len(moment)
            left.append(Decimal(sum(amounts)))
        entries = build_chain(*amounts, times=times)
        chance.shuffle(entries)
        LedgerEntry.objects.bulk_create(entries)
        return left

    @settings(
        max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(days=DAYS, chance=st.randoms(use_true_random=False))
    def test_in_whatever_order_they_are_shown_the_books_close(
        self, days: list[list[list[int]]], chance: random.Random
    ) -> None:
        LedgerEntry.objects.all().delete()
        left = self.book_days(days, chance)
        enter("later", "DEPOSIT", 3, 3 * A_DAY, before=left[-1], after=left[-1] + 3)
        ends = [DAY + timedelta(days=number) for number in range(-1, 3)]
        for (first, before), (last, after) in combinations(zip(ends, left, strict=True), 2):
            found = ledger_summary(first + timedelta(days=1), last)
            assert closing(found) == (before, after, 0, 0)

    @settings(
        max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        days=DAYS,
        chance=st.randoms(use_true_random=False),
        lost=st.sets(st.integers(0, 11), min_size=1),
        is_end=st.booleans(),
    )
    def test_entries_that_are_missing_are_a_gap_of_their_sum_on_their_day(
        self, days: list[list[list[int]]], chance: random.Random, lost: set[int], is_end: bool
    ) -> None:
        LedgerEntry.objects.all().delete()
        # The last entry of a day has a second of its own.
        left = self.book_days([[*day, [1]] for day in days], chance)
        last = len(days[0])
        entries = LedgerEntry.objects.filter(time__lte=at(last))
        if is_end:
            # All entries from a certain second onwards are missing.
            gone = list(entries.filter(time__gte=at(min(1 + min(lost), last))))
        else:
            middle = entries.filter(time__gt=at(0), time__lt=at(last)).order_by("pk")
            gone = [entry for number, entry in enumerate(middle) if number in lost]
        total = sum((entry.amount for entry in gone), Decimal(0))
        entries.filter(pk__in=[entry.pk for entry in gone]).delete()
        found = ledger_summary(DAY, DAY + timedelta(days=2))
        assert (found.opening_balance, found.closing_balance) == (left[0], left[-1])
        assert found.gap == total
        assert found.breaks == ((Break(NEXT_DAY if is_end else DAY, total),) if total else ())


class TestRepeatedHour:
    """The autumn hour that is stored twice without ``USE_TZ``: 2 to 3 o'clock in this zone."""

    BEGIN = datetime(2026, 10, 25, 0, 0, tzinfo=UTC)
    NIGHT = date(2026, 10, 25)

    @pytest.fixture(autouse=True)
    def _without_zones(self, settings: Any) -> None:
        settings.TIME_ZONE = "Europe/Paris"
        settings.USE_TZ = False

    def chain(self, *minutes: int, but: int | None = None) -> None:
        """Save linked entries of 10, 20, 30 and so on, at these minutes after 2 o'clock.

        The entry at minute ``but`` is left out.
        """
        balance = Decimal(1_000)
        entries = []
        for number, after in enumerate(minutes, 1):
            before, balance = balance, balance + 10 * number
            entry = build(f"e{number}", "DEPOSIT", 10 * number, 0, before=before, after=balance)
            entry.time = as_stored(self.BEGIN + timedelta(minutes=after))
            entries += [entry] * (after != but)
        LedgerEntry.objects.bulk_create(entries)

    def test_its_entries_make_no_false_breaks(self) -> None:
        self.chain(-30, 0, 20, 20, 59, 60, 75, 80, 119, 120, 180)
        shown = [entry.time.hour for entry in LedgerEntry.objects.order_by("pk")]
        assert shown == [1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 4]
        assert closing(ledger_summary(self.NIGHT, self.NIGHT)) == (1_000, 1_660, 0, 0)
        gap, breaks = find_gap(self.NIGHT, self.NIGHT)
        assert gap == 0
        assert breaks == ()

    def test_an_entry_that_is_missing_there_is_still_a_break(self) -> None:
        self.chain(-30, 0, 20, 59, 60, 75, 119, 120, but=60)
        found = ledger_summary(self.NIGHT, self.NIGHT)
        assert closing(found) == (1_000, 1_360, 50, 1)
        assert found.breaks == (Break(self.NIGHT, Decimal(50)),)

    def test_the_balance_before_a_day_is_found_beyond_it(self) -> None:
        self.chain(5, 50, 65, 70, 24 * 60)
        found = ledger_summary(self.NIGHT + timedelta(days=1), self.NIGHT + timedelta(days=1))
        assert closing(found) == (1_100, 1_150, 0, 0)

    def test_an_hour_that_is_skipped_in_spring_changes_nothing(self) -> None:
        self.BEGIN = datetime(2026, 3, 29, 0, 59, tzinfo=UTC)
        self.chain(0, 1, 30)
        shown = [entry.time.hour for entry in LedgerEntry.objects.order_by("pk")]
        assert shown == [1, 3, 3]
        assert closing(ledger_summary(date(2026, 3, 29), date(2026, 3, 29))) == (1_000, 1_060, 0, 0)

    @given(st.lists(st.integers(-90, 210), min_size=1, max_size=25).map(sorted))
    @settings(
        max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_whenever_the_entries_are_the_books_close(self, minutes: list[int]) -> None:
        LedgerEntry.objects.all().delete()
        self.chain(*minutes)
        count = len(minutes)
        total = 5 * count * (count + 1)
        assert closing(ledger_summary(self.NIGHT, self.NIGHT)) == (1_000, 1_000 + total, 0, 0)
