"""The request quota: never more than the limit in a minute of the provider, and hardly less."""

from __future__ import annotations

import heapq
import itertools
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from giftcards.conf import conf
from giftcards.engine.request_budget import Budget, Shares, Slot
from giftcards.engine.tuning import tuning
from giftcards.models import RequestSlot
from giftcards.rules.purposes import Purpose
from tests.laws import examples
from tests.stage import Setter, in_threads, slots_in_use, spend_budget

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

LIMITS = st.integers(1, 2_000)
INTERVALS = st.floats(0.1, 300)
# The number of requests that a reading of the list makes after its first page.
FURTHER = st.integers(0, 20)
QUESTIONS = [
    Purpose.LISTING,
    Purpose.PAGES,
    Purpose.SEARCHING,
    Purpose.CHECKING,
    Purpose.CHECKING_LATE,
    Purpose.PRICING,
    Purpose.PAYING,
]


def shares(limit: int = 120, poll_interval: float = 5) -> Shares:
    return Shares.of(limit=limit, poll_interval=poll_interval)


def free_for(budget: Budget, purpose: Purpose, *, has_list: bool = True, questions: int = 0) -> int:
    """Make requests for ``purpose`` until no slot is left for them; return their number."""
    take = partial(budget.take, purpose, has_list=has_list, questions=questions)
    return len(list(iter(take, None)))


class TestShares:
    @given(LIMITS, INTERVALS)
    def test_every_request_slot_belongs_to_one_share_and_at_least_half_of_them_are_common(
        self, limit: int, poll_interval: float
    ) -> None:
        parts = shares(limit, poll_interval)
        assert [*parts.listing, *parts.late, *parts.common] == list(range(limit))
        assert len(parts.common) >= limit / 2

    @pytest.mark.parametrize(
        ("limit", "poll_interval", "listing", "late"),
        [
            (120, 5, 12, 1), (120, 1, 30, 1), (120, 7, 9, 1), (600, 5, 12, 1), (30, 90, 1, 1),
            (29, 5, 7, 0), (4, 5, 1, 0), (3, 5, 0, 0), (1, 5, 0, 0),
        ],
    )  # fmt: skip
    def test_the_list_has_a_slot_per_interval_up_to_a_quarter_and_late_orders_one(
        self, limit: int, poll_interval: float, listing: int, late: int
    ) -> None:
        parts = shares(limit, poll_interval)
        assert (len(parts.listing), len(parts.late)) == (listing, late)

    @given(LIMITS, INTERVALS, st.booleans(), FURTHER, st.sampled_from(Purpose))
    def test_every_purpose_has_a_request_slot_that_it_may_use(
        self, limit: int, poll_interval: float, has_list: bool, further: int, purpose: Purpose
    ) -> None:
        parts = shares(limit, poll_interval)
        pools = parts.pools(purpose, has_list=has_list, questions=further)
        assert any(len(numbers) > left for numbers, left in pools)

    @given(LIMITS, INTERVALS, FURTHER)
    def test_placing_leaves_what_readings_take_of_the_common_slots_a_quarter_at_most(
        self, limit: int, poll_interval: float, further: int
    ) -> None:
        parts = shares(limit, poll_interval)
        [(placing, left)] = parts.pools(Purpose.PLACING, has_list=True, questions=further)
        (rest, kept), (wanted, none_left) = parts.pools(
            Purpose.PAGES, has_list=True, questions=further
        )
        assert [*wanted, *placing] == list(parts.common)
        assert len(wanted) == min(further * len(parts.listing), len(parts.common) // 4)
        assert (left, none_left, rest) == (0, 0, placing)
        # The other purposes leave an eighth of the rest to placing, as before.
        assert kept >= len(placing) // 8
        for purpose in QUESTIONS:
            assert (placing, 0) not in parts.pools(purpose, has_list=True, questions=further) or (
                len(placing) == 1
            )

    @given(LIMITS, INTERVALS, st.booleans())
    def test_placing_may_use_all_common_slots_and_no_others(
        self, limit: int, poll_interval: float, has_list: bool
    ) -> None:
        parts = shares(limit, poll_interval)
        assert parts.pools(Purpose.PLACING, has_list=has_list) == [(parts.common, 0)]

    @given(st.integers(2, 2_000), INTERVALS, st.booleans(), st.sampled_from(QUESTIONS))
    def test_questions_leave_at_least_an_eighth_of_the_common_slots_to_placing(
        self, limit: int, poll_interval: float, has_list: bool, purpose: Purpose
    ) -> None:
        parts = shares(limit, poll_interval)
        left = dict(parts.pools(purpose, has_list=has_list))[parts.common]
        assert left >= max(len(parts.common) // 8, 1)

    @given(LIMITS, INTERVALS, FURTHER)
    def test_slots_of_the_list_are_its_first_pages_and_half_of_them_the_search_for_lost_orders(
        self, limit: int, poll_interval: float, further: int
    ) -> None:
        parts = shares(limit, poll_interval)
        for purpose in set(Purpose) - {Purpose.LISTING}:
            pools = parts.pools(purpose, has_list=True, questions=further)
            kept = [(numbers, left) for numbers, left in pools if set(numbers) & {*parts.listing}]
            searches = purpose == Purpose.SEARCHING and parts.listing
            assert kept == ([(parts.listing, len(parts.listing) // 2)] if searches else [])

    @given(LIMITS, INTERVALS)
    def test_slots_of_an_unread_list_go_to_checks_half_of_them_to_late_orders(
        self, limit: int, poll_interval: float
    ) -> None:
        parts = shares(limit, poll_interval)
        late, fresh = (
            {n for numbers, _ in parts.pools(purpose, has_list=False) for n in numbers}
            & set(parts.listing)
            for purpose in (Purpose.CHECKING_LATE, Purpose.CHECKING)
        )
        assert late | fresh == set(parts.listing)
        assert late.isdisjoint(fresh)
        assert 0 <= len(fresh) - len(late) <= 1

    @given(LIMITS, INTERVALS, st.booleans())
    def test_the_catalogue_has_a_tenth_of_the_slots_at_most_and_none_that_is_set_aside(
        self, limit: int, poll_interval: float, has_list: bool
    ) -> None:
        parts = shares(limit, poll_interval)
        [(numbers, left)] = parts.pools(Purpose.BACKGROUND, has_list=has_list)
        assert len(numbers) == max(limit // 10, 1)
        assert left == 0
        assert set(numbers) <= set(parts.common)

    @given(st.integers(30, 2_000), INTERVALS, st.booleans())
    def test_the_slot_for_late_orders_is_used_by_payments_and_nothing_else(
        self, limit: int, poll_interval: float, has_list: bool
    ) -> None:
        parts = shares(limit, poll_interval)
        users = [
            purpose
            for purpose in Purpose
            if (parts.late, 0) in parts.pools(purpose, has_list=has_list)
        ]
        assert users == [Purpose.CHECKING_LATE, Purpose.PAYING]

    @pytest.mark.parametrize(
        ("limit", "purpose", "has_list", "questions", "pools"),
        [
            # Of 40 slots, the list has 10 and late orders have one. The other 29 are common, and 7
            # of these are for readings.
            (40, Purpose.PLACING, True, 0, [(11, 40, 0)]),
            (40, Purpose.PLACING, True, 1, [(18, 40, 0)]),
            (40, Purpose.LISTING, True, 1, [(0, 10, 0), (18, 40, 2)]),
            (40, Purpose.PAGES, True, 1, [(18, 40, 2), (11, 18, 0)]),
            (40, Purpose.SEARCHING, True, 1, [(18, 40, 2), (0, 10, 5)]),
            (40, Purpose.CHECKING, True, 1, [(11, 18, 3), (18, 40, 2)]),
            (40, Purpose.CHECKING, False, 1, [(11, 18, 3), (18, 40, 2), (5, 10, 0)]),
            (40, Purpose.CHECKING_LATE, True, 1, [(10, 11, 0), (0, 0, 0), (18, 40, 2)]),
            (40, Purpose.CHECKING_LATE, False, 1, [(10, 11, 0), (0, 5, 0), (18, 40, 2)]),
            (40, Purpose.PRICING, True, 0, [(11, 40, 14)]),
            (40, Purpose.PAYING, True, 0, [(11, 40, 14), (10, 11, 0)]),
            (40, Purpose.BACKGROUND, True, 1, [(36, 40, 0)]),
            # Single checks leave half of the reserved slots to pages only if readings need more
            # than these. Of 120 slots, 26 are reserved.
            (120, Purpose.CHECKING, True, 1, [(13, 25, 0), (25, 120, 11)]),
            (120, Purpose.CHECKING, True, 3, [(13, 39, 13), (39, 120, 10)]),
            (108, Purpose.CHECKING, True, 2, [(13, 36, 11), (36, 108, 9)]),
            (109, Purpose.CHECKING, True, 2, [(13, 37, 0), (37, 109, 9)]),
        ],
    )
    def test_each_purpose_takes_its_slots_in_turn_and_leaves_some_of_them_free(
        self,
        limit: int,
        purpose: Purpose,
        has_list: bool,
        questions: int,
        pools: list[tuple[int, int, int]],
    ) -> None:
        found = shares(limit).pools(purpose, has_list=has_list, questions=questions)
        assert found == [(range(first, end), left) for first, end, left in pools]


class TestTaking:
    @pytest.mark.parametrize(
        ("purpose", "has_list", "count"),
        [
            # Of 40 slots, the list has 10 and late orders have one. The other 29 are common.
            (Purpose.PLACING, True, 29),
            (Purpose.PLACING, False, 29),
            (Purpose.LISTING, True, 10 + 26),
            (Purpose.PAGES, True, 26),
            (Purpose.SEARCHING, True, 26 + 5),
            (Purpose.CHECKING, True, 26),
            (Purpose.CHECKING, False, 26 + 5),
            (Purpose.CHECKING_LATE, True, 26 + 1),
            (Purpose.CHECKING_LATE, False, 26 + 5 + 1),
            (Purpose.PRICING, True, 3),
            (Purpose.PAYING, True, 15 + 1),
        ],
    )
    def test_each_purpose_gets_its_share_of_a_minute_and_no_more(
        self, purpose: Purpose, has_list: bool, count: int, set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=40, POLL_INTERVAL=5)
        assert free_for(Budget(), purpose, has_list=has_list) == count
        assert slots_in_use() == count

    @pytest.mark.parametrize("purpose", [Purpose.CHECKING_LATE, Purpose.PAYING])
    def test_the_list_late_orders_and_payments_have_slots_left_when_placing_used_the_rest(
        self, purpose: Purpose, set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=40, POLL_INTERVAL=5)
        budget = Budget()
        free_for(budget, Purpose.PLACING)
        assert free_for(budget, Purpose.CHECKING) == 0
        assert free_for(budget, Purpose.LISTING) == 10
        assert free_for(budget, purpose) == 1

    @pytest.mark.parametrize("purpose", Purpose)
    def test_with_a_limit_of_one_any_purpose_that_comes_first_gets_the_slot(
        self, purpose: Purpose, set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=1)
        assert free_for(Budget(), purpose) == 1
        assert Budget().take(Purpose.PLACING, has_list=False) is None

    def test_a_request_that_was_not_made_gives_its_slot_back_for_the_next_one(self) -> None:
        spend_budget(but=1)
        budget = Budget()
        for _request in range(2):
            slot = budget.take(Purpose.PLACING, has_list=True)
            assert budget.take(Purpose.PLACING, has_list=True) is None
            budget.give_back(slot)

    def test_two_processes_share_one_request_budget(self, set_conf: Setter) -> None:
        set_conf(REQUESTS_PER_MINUTE=8, POLL_INTERVAL=60)
        one, other = Budget(), Budget()
        for budget in (one, other, one, other, one, other, one):
            assert budget.take(Purpose.PLACING, has_list=True) is not None
        assert free_for(one, Purpose.PLACING) == free_for(other, Purpose.PLACING) == 0

    @pytest.mark.parametrize(
        ("limit", "poll_interval", "questions", "fresh", "spent"),
        [
            # The numbers are the share of one reading, and the common slots except an eighth.
            (120, 5, 0, 1 + 107 - 13, 1),
            (120, 5, 1, 1 + 95 - 11, 1),
            (120, 5, 2, 2 + 83 - 10, 2),
            (120, 5, 3, 2 + 81 - 10, 2),
            # If there is one reading a minute, it has all slots that are reserved for readings.
            (12, 60, 2, 2 + 9 - 1, 2),
            # The list has no slots of its own here.
            (3, 5, 1, 1 + 3 - 1, 1),
        ],
    )
    def test_a_reading_takes_its_share_of_pages_and_what_placing_does_not_need(
        self,
        limit: int,
        poll_interval: float,
        questions: int,
        fresh: int,
        spent: int,
        set_conf: Setter,
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=limit, POLL_INTERVAL=poll_interval)
        budget = Budget()
        assert budget.pages_at_once(questions) == fresh
        placed = budget.free_for_placing(questions)
        assert free_for(budget, Purpose.PLACING, questions=questions) == placed
        assert (budget.free_for_placing(questions), budget.pages_at_once(questions)) == (0, spent)

    @pytest.mark.django_db(transaction=True)
    def test_concurrent_processes_never_take_the_same_request_slot(
        self, shared_database: str, set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=20, POLL_INTERVAL=60)
        Budget()

        def take() -> list[Slot | None]:
            budget = Budget()
            return [budget.take(Purpose.PLACING, has_list=True) for _request in range(6)]

        taken = [slot.number for slots in in_threads(4, take) for slot in slots if slot]
        assert len(taken) == len(set(taken)) == slots_in_use() <= 19
        # A thread may lose all the slots that it looked at to other threads. The rest stay free for
        # it.
        assert len(taken) + free_for(Budget(), Purpose.PLACING) == 19


class Clock:
    """A stand-in for ``timezone.now``, set in seconds since the beginning."""

    _BEGAN = datetime(2024, 1, 1, tzinfo=UTC)

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return self._BEGAN + timedelta(seconds=self.seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timezone, "now", clock.now)
    return clock


class TestGivingWay:
    """Requests that can wait, while others need the slots."""

    @pytest.mark.parametrize(
        ("limit", "lately", "before", "pricing", "background"),
        [
            # Of 40 slots 29 are common: 14 of them have to be free.
            (40, 0, 15, False, True),
            (40, 0, 16, False, False),
            (40, 0, 14, True, True),
            # Of 41 slots, 30 are common. Three requests in ten seconds are a pace of 18 a minute.
            (41, 3, 0, True, True),
            (41, 4, 0, False, False),
            (41, 3, 13, False, False),
        ],
    )
    def test_prices_and_the_catalogue_are_asked_for_while_half_is_free_and_the_pace_is_low(
        self,
        limit: int,
        lately: int,
        before: int,
        pricing: bool,
        background: bool,
        clock: Clock,
        set_conf: Setter,
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=limit, POLL_INTERVAL=5)
        budget = Budget()
        common = shares(limit).common
        for numbers, seconds in ((common[:lately], 51), (common[lately : lately + before], 50)):
            until = clock.now() + timedelta(seconds=seconds)
            RequestSlot.objects.among(numbers).update(until=until)
        for purpose, is_made in ((Purpose.BACKGROUND, background), (Purpose.PRICING, pricing)):
            slot = budget.take(purpose, has_list=True)
            assert (slot is not None) is is_made
            if slot:
                budget.give_back(slot)


class TestFreeing:
    """A slot is free again when the provider no longer counts its request."""

    @pytest.fixture
    def budget(self, clock: Clock, set_conf: Setter, shorten: Setter) -> Budget:
        set_conf(REQUESTS_PER_MINUTE=1)
        shorten(request_timeout=20)
        return Budget()

    def can_take(self, budget: Budget) -> bool:
        return budget.take(Purpose.PLACING, has_list=True) is not None

    def test_a_slot_is_free_again_a_minute_after_the_answer(
        self, budget: Budget, clock: Clock
    ) -> None:
        slot = budget.take(Purpose.PLACING, has_list=False)
        clock.seconds = 2
        budget.finish(slot)
        clock.seconds = 61.9
        assert not self.can_take(budget)
        clock.seconds = 62
        assert self.can_take(budget)

    def test_a_slot_of_a_dead_process_is_free_a_minute_after_its_longest_request(
        self, budget: Budget, clock: Clock
    ) -> None:
        assert self.can_take(budget)
        for clock.seconds in (60, 79.9):
            assert not self.can_take(budget)
        clock.seconds = 80
        assert self.can_take(budget)

    def test_a_very_late_answer_does_not_free_the_slot_of_the_next_request(
        self, budget: Budget, clock: Clock
    ) -> None:
        slot = budget.take(Purpose.PLACING, has_list=False)
        clock.seconds = 80
        assert self.can_take(budget)
        for end in (budget.finish, budget.give_back):
            end(slot)
            clock.seconds += 79
            assert not self.can_take(budget)
            clock.seconds -= 79

    def test_a_slot_that_is_given_back_frees_no_other_of_the_same_moment(
        self, clock: Clock, set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=3)
        budget = Budget()
        first, *_others = [budget.take(Purpose.PLACING, has_list=True) for _request in range(3)]
        budget.give_back(first)
        assert slots_in_use() == 2


class TestWaiting:
    @pytest.mark.parametrize(
        ("questions", "seconds"),
        [
            (0, 0),
            # The 7 slots that are free are reserved for readings.
            (1, 30),
        ],
    )
    def test_placing_waits_for_a_slot_that_no_reading_needs(
        self, questions: int, seconds: float, clock: Clock, set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=40, POLL_INTERVAL=5)
        budget = Budget()
        until = clock.now() + timedelta(seconds=30)
        RequestSlot.objects.among(range(18, 40)).update(until=until)
        wait = budget.wait_for(Purpose.PLACING, has_list=True, questions=questions)
        assert wait == seconds

    def test_without_any_slot_a_request_waits_for_a_minute(self) -> None:
        budget = Budget()
        RequestSlot.objects.all().delete()
        assert budget.wait_for(Purpose.PLACING, has_list=True) == 60

    @given(data=st.data(), limit=st.integers(1, 50), has_list=st.booleans())
    @settings(
        max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_a_request_can_be_made_when_the_announced_wait_is_over_and_not_before(
        self, data: st.DataObject, limit: int, has_list: bool, clock: Clock, set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=limit, POLL_INTERVAL=data.draw(st.integers(1, 30)))
        clock.seconds = 0
        RequestSlot.objects.all().delete()
        budget = Budget()
        for slot in RequestSlot.objects.all():
            slot.until = clock.now() + timedelta(seconds=data.draw(st.integers(-5, 60)))
            slot.save()
        # The two purposes that are left out also depend on the pace.
        for purpose in set(Purpose) - {Purpose.PRICING, Purpose.BACKGROUND}:
            clock.seconds = 0
            wait = budget.wait_for(purpose, has_list=has_list)
            assert 0 <= wait <= 60
            if wait:
                clock.seconds = wait - 0.001
                assert budget.take(purpose, has_list=has_list) is None
            clock.seconds = wait
            slot = budget.take(purpose, has_list=has_list)
            budget.give_back(slot)


class Shop:
    """Processes that make requests, and the provider that counts them, in simulated time.

    The provider counts a request at a random moment between its sending and its answer, which takes
    up to ``latency`` seconds. A process that dies leaves its slot as it is, and is replaced.
    """

    def __init__(
        self, clock: Clock, *, latency: float, death: float = 0, seed: int = 0, questions: int = 0
    ) -> None:
        self._clock = clock
        self._latency = latency
        self._death = death
        self._random = random.Random(seed)
        self._questions = questions
        # The times at which requests were counted.
        self.counted: list[float] = []

    def run(self, *purposes: Purpose, seconds: float, pause: float = 0) -> None:
        """Run a process for each of ``purposes``, with pauses of up to ``pause`` after requests."""
        self.run_all([self._process(purpose, pause) for purpose in purposes], seconds=seconds)

    def run_all(self, processes: Sequence[Iterator[float]], *, seconds: float) -> None:
        agenda = [(0.0, number, process) for number, process in enumerate(processes)]
        while agenda[0][0] < seconds:
            self._clock.seconds, number, process = agenda[0]
            heapq.heapreplace(agenda, (self._clock.seconds + next(process), number, process))

    def _process(self, purpose: Purpose, pause: float) -> Iterator[float]:
        """Yield how long each step takes, in seconds."""
        budget = Budget()
        while True:
            slot = budget.take(purpose, has_list=True, questions=self._questions)
            if slot is None:
                # These are refused while the pace is high, which the waiting time does not include.
                least = 1.0 if purpose in {Purpose.PRICING, Purpose.BACKGROUND} else 0.001
                wait = budget.wait_for(purpose, has_list=True, questions=self._questions)
                yield max(wait, least)
            elif self._random.random() < self._death:
                self._count(within=tuning.request_timeout)
                budget = Budget()
            else:
                latency = self._random.uniform(0.5, 1) * self._latency
                self._count(within=latency)
                yield latency
                budget.finish(slot)
                yield self._random.uniform(0, pause)

    def place(self) -> Iterator[float]:
        """Return a process that sends an order whenever the budget allows it."""
        return self._process(Purpose.PLACING, 0)

    def read_list(self, read: list[tuple[float, int]]) -> Iterator[float]:
        """Read the list in every interval, and note the times and the numbers of pages."""
        budget = Budget()
        for number in itertools.count():
            yield max(number * conf.poll_interval - self._clock.seconds, 0)
            pages = 0
            for purpose in [Purpose.LISTING, *[Purpose.PAGES] * self._questions]:
                if slot := budget.take(purpose, has_list=True, questions=self._questions):
                    self._count(within=self._latency)
                    yield self._latency
                    budget.finish(slot)
                    pages += 1
            read.append((self._clock.seconds, pages))

    def _count(self, *, within: float) -> None:
        self.counted.append(self._clock.seconds + self._random.uniform(0, within))

    def most_in_a_minute(self) -> int:
        # Stored times are rounded to microseconds.
        minute, times = 60 - 1e-5, sorted(self.counted)
        return max(bisect_left(times, at + minute) - first for first, at in enumerate(times))


class TestWindow:
    @given(
        limit=st.integers(1, 40),
        latency=st.floats(0, 2),
        pause=st.floats(0, 3),
        death=st.sampled_from([0, 0.05, 0.5]),
        purposes=st.lists(st.sampled_from(Purpose), min_size=1, max_size=6),
        seed=st.integers(0, 2**32),
    )
    @settings(
        max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_the_provider_never_counts_more_requests_in_a_minute_than_the_limit(
        self,
        limit: int,
        latency: float,
        pause: float,
        death: float,
        purposes: list[Purpose],
        seed: int,
        clock: Clock,
        set_conf: Setter,
        shorten: Setter,
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=limit)
        shorten(request_timeout=5)
        RequestSlot.objects.all().delete()
        clock.seconds = 0
        shop = Shop(clock, latency=latency, death=death, seed=seed)
        shop.run(*purposes, seconds=130, pause=pause)
        assert shop.most_in_a_minute() <= limit

    @pytest.mark.parametrize("limit", [30, 120])
    def test_under_full_demand_nearly_all_of_the_request_budget_is_used(
        self, limit: int, clock: Clock, set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=limit)
        shop = Shop(clock, latency=0.15)
        demand = [Purpose.PLACING, Purpose.LISTING, Purpose.CHECKING_LATE]
        shop.run(*demand, seconds=185)
        # The first minute, in which the shop starts, does not count.
        used = len([at for at in shop.counted if 60 <= at < 180]) / 2
        assert 0.95 * limit <= used <= limit

    @pytest.mark.parametrize(
        ("limit", "further", "placed"),
        [(120, 0, 107), (120, 1, 95), (120, 2, 83), (60, 0, 47), (60, 1, 36)],
    )
    def test_under_a_backlog_the_list_is_read_every_interval_with_the_pages_it_takes(
        self, limit: int, further: int, placed: int, clock: Clock, set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=limit, POLL_INTERVAL=5.2)
        shop = Shop(clock, latency=0.15, questions=further)
        read: list[tuple[float, int]] = []
        # Two processes send, so that every slot is taken as soon as it is free.
        shop.run_all([shop.place(), shop.place(), shop.read_list(read)], seconds=185)
        gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(read)]
        assert max(gaps) < 6
        # Readings get at most a quarter of the common slots, for example 11 of 47 for 12 readings.
        missed = sum(pages < 1 + further for _at, pages in read)
        assert missed <= len(read) * max(0, 1 - (limit - 13) // 4 / (12 * further or 1)) + 1
        sent = (len(shop.counted) - sum(pages for _at, pages in read)) / 3
        assert placed - 3 <= sent <= placed + placed / 3
        assert shop.most_in_a_minute() <= limit
