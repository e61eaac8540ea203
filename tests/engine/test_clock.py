"""Changes of the clock do not make the app give up, buy twice or delay any order."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pytest
from django.utils import timezone
from django_q.models import Schedule
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from giftcards.engine import outbox
from giftcards.engine.clock import Clock
from giftcards.engine.gateway import Gateway
from giftcards.engine.loop import follow
from giftcards.engine.placing import send_now
from giftcards.engine.request_budget import Budget
from giftcards.engine.schedule import time_to_check
from giftcards.engine.sweep import check_now, sweep, watch
from giftcards.engine.task_queue import ensure_schedule
from giftcards.fulfilment import place_order
from giftcards.models import Lease, Order, ProviderState, RequestSlot, StatusChange
from giftcards.models.provider import this_machine
from giftcards.rules.purposes import Purpose
from giftcards.signals import order_status_changed
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import LINE, make_order
from tests.laws import examples
from tests.stage import (
    Log,
    Setter,
    ago,
    buy,
    buy_many,
    claim_to_send,
    fresh,
    hold_lease,
    in_threads,
    messages,
    out_of_service,
    posts,
    prove_key,
    provider_state,
    receiving,
    record_order,
    run_sweep,
    slots_in_use,
    statuses,
    wait_until,
)
from tests.wall import Wall

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_settings")]

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
AHEAD = [10 * MINUTE, HOUR, DAY]
BACK = [-seconds for seconds in AHEAD]


@pytest.fixture
def _settings(set_conf: Setter, shorten: Setter) -> None:
    set_conf(REQUESTS_PER_MINUTE=120)
    shorten(proof_of_absence=100)


class Looks:
    """A callable that looks at the orders, in one process or in a new process each time."""

    def __init__(self, *, is_one_process: bool) -> None:
        self._is_one_process = is_one_process
        self._gateway: Gateway | None = None

    def __call__(self) -> None:
        if self._gateway is None or not self._is_one_process:
            self.close()
            self._gateway = Gateway()
        sweep(self._gateway)

    def close(self) -> None:
        if self._gateway is not None:
            self._gateway.close()


@pytest.fixture(params=[True, False], ids=["one process", "several processes"])
def look(request: pytest.FixtureRequest) -> Iterator[Looks]:
    looks = Looks(is_one_process=request.param)
    yield looks
    looks.close()


def make_due() -> None:
    Order.objects.filter(due_at__isnull=False).update(due_at=timezone.now())


@pytest.mark.parametrize("seconds", [*AHEAD, *BACK])
class TestLostOrders:
    """Placing answers that were lost before the clock was set."""

    def test_a_lost_order_that_was_bought_is_found_after_the_clock_was_set(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        order = buy(type_id="SIM_LOST")
        look()
        Order.objects.filter(pk=order.pk).update(absent_since=timezone.now())
        wall.step(seconds)
        for _time in range(3):
            make_due()
            look()
        assert statuses() == ["FULFILLED"]
        assert posts(simulator) == 1

    def test_a_lost_order_is_not_declared_absent_early_because_the_clock_was_set(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        wall.drive(simulator)
        look()
        buy(type_id="SIM_DROP")
        make_due()
        look()
        wall.step(seconds)
        for _time in range(4):
            wall.let_pass(20)
            make_due()
            look()
            assert statuses() == ["UNCONFIRMED"]
        assert posts(simulator) == 1

    def test_a_clock_set_ahead_does_not_keep_an_absent_order_from_being_resent(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        wall.drive(simulator)
        look()
        buy(type_id="SIM_DROP")
        wall.step(seconds)
        for _time in range(3):
            wall.let_pass(60)
            make_due()
            look()
        # After a step back, the order may have been sent at either of two times.
        assert posts(simulator) == (2 if seconds > 0 else 1)


class TestWrongClock:
    """Orders that were sent while the clock was wrong, so the search looks at the wrong time."""

    @pytest.mark.parametrize("seconds", [HOUR, DAY, -HOUR, -DAY])
    @pytest.mark.parametrize("is_corrected", [False, True], ids=["still wrong", "corrected"])
    def test_an_order_sent_under_a_wrong_clock_is_never_bought_again(
        self,
        seconds: float,
        is_corrected: bool,
        look: Looks,
        wall: Wall,
        simulator: Simulator,
        caplog: Log,
    ) -> None:
        wall.drive(simulator)
        wall.step(seconds)
        look()
        buy(type_id="SIM_LOST")
        if is_corrected:
            wall.step(-seconds)
        for _time in range(5):
            wall.let_pass(100 if seconds < 0 else 12 * HOUR)
            make_due()
            look()
        assert statuses() == ["UNCONFIRMED"]
        assert posts(simulator) == 1
        assert any(
            "cannot prove that the order was not placed" in text for text in messages(caplog)
        )

    def test_a_lost_order_at_the_same_wall_time_as_another_is_not_taken_for_absent(
        self, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        """The list shows the other order, which was sent an hour before, at the same clock time."""
        wall.drive(simulator)
        buy(type_id="SIM_NEVER")
        look()
        wall.let_pass(HOUR)
        wall.step(-HOUR)
        look()
        buy(type_id="SIM_LOST")
        for _time in range(4):
            wall.let_pass(100)
            make_due()
            look()
        assert Order.objects.filter(status=Status.UNCONFIRMED).count() == 1
        assert posts(simulator) == 2


@pytest.mark.parametrize("seconds", [*AHEAD, *BACK])
class TestGivingUp:
    def test_a_waiting_order_is_sent_and_not_given_up_after_the_clock_was_set(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        with out_of_service(simulator):
            look()
            order = record_order(**LINE)
            wall.step(seconds)
            look()
            assert statuses() == ["PENDING"]
        wall.let_pass(5 * MINUTE)
        look()
        assert fresh(order).status in {"HANDLING", "FULFILLED"}

    def test_an_open_order_is_not_late_before_it_waited_whatever_the_clock_says(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        wall.drive(simulator)
        buy_many(simulator, 1, type_id="SIM_NEVER")
        look()
        wall.step(seconds)
        for _minute in range(4):
            look()
            assert statuses() == ["HANDLING"]
            wall.let_pass(MINUTE)
        if seconds > 0:
            wall.let_pass(2 * MINUTE)
            look()
            assert statuses() == ["DELAYED"]

    def test_a_late_order_is_watched_for_its_full_time_though_the_clock_was_set(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        [order] = buy_many(simulator, 1, type_id="SIM_NEVER")
        order.move(Status.DELAYED, source=StatusChange.Source.CLOCK)
        Order.objects.update(accepted_at=ago(71 * HOUR))
        look()
        wall.step(seconds)
        make_due()
        look()
        assert fresh(order).due_at is not None
        assert not order.needs_attention


class TestRealTime:
    """Time counts if it has passed on both clocks, as it does while all processes are down."""

    def test_an_order_that_could_not_be_sent_for_a_real_hour_is_given_up(
        self, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        with out_of_service(simulator):
            look()
            record_order(**LINE)
            wall.let_pass(HOUR + MINUTE)
            look()
        assert statuses() == ["REJECTED"]

    def test_an_order_that_was_not_bought_is_sent_again_after_real_time_has_passed(
        self, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        wall.drive(simulator)
        buy(type_id="SIM_DROP")
        wall.let_pass(MINUTE)
        make_due()
        look()
        wall.let_pass(HOUR / 2)
        make_due()
        look()
        # The sweep after the one that declares it absent sends it.
        look()
        assert posts(simulator) == 2

    def test_an_open_order_becomes_late_after_real_time_has_passed(
        self, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        wall.drive(simulator)
        buy_many(simulator, 1, type_id="SIM_NEVER")
        look()
        wall.let_pass(HOUR)
        look()
        assert statuses() == ["DELAYED"]

    def test_the_clock_after_a_reboot_is_believed(
        self, wall: Wall, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a reboot, there is nothing to compare the clock with."""
        with Gateway() as gateway:
            gateway.flush()
        wall.step(DAY)
        monkeypatch.setattr("giftcards.engine.clock._MACHINE", "after the reboot")
        assert Clock().long_ago(timedelta(hours=1)) > timezone.now() - timedelta(
            hours=1, seconds=60
        )

    def test_the_clock_after_a_reboot_is_not_believed_if_the_last_sweep_lies_ahead(
        self, wall: Wall, monkeypatch: pytest.MonkeyPatch, simulator: Simulator
    ) -> None:
        with Gateway() as gateway:
            gateway.flush()
        order = record_order(**LINE)
        wall.step(-600)
        monkeypatch.setattr("giftcards.engine.clock._MACHINE", "after the reboot")
        run_sweep()
        # The size of the step is uncertain by the time that has passed since the last sweep.
        wall.let_pass(MINUTE)
        run_sweep()
        assert fresh(order).status == "FULFILLED"


@pytest.mark.parametrize("seconds", BACK)
class TestSetBack:
    """After the clock was set back, nothing waits until it shows the old time again."""

    def test_requests_go_on_within_one_window_after_the_clock_was_set_back(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator, set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=2)
        look()
        first, second = record_order(**LINE), record_order(**LINE)
        look()
        wall.step(seconds)
        wall.let_pass(30)
        look()
        assert statuses() == ["HANDLING", "PENDING"]
        assert slots_in_use() == 2
        wall.let_pass(71)
        look()
        wall.let_pass(71)
        look()
        for order in (first, second):
            assert fresh(order).provider_order_id
        assert posts(simulator) == 2

    def test_orders_are_sent_at_once_after_the_clock_was_set_back(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        look()
        record_order(**LINE)
        wall.step(seconds)
        place_order(**LINE)
        look()
        assert posts(simulator) == 2

    def test_open_orders_are_checked_at_their_pace_after_the_clock_was_set_back(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        buy_many(simulator, 1, type_id="SIM_NEVER")
        look()
        before = Order.objects.get().checked_at
        wall.step(seconds)
        wall.let_pass(6)
        look()
        checked_at = Order.objects.get().checked_at
        assert checked_at < before
        assert checked_at > ago(60)

    def test_claims_and_leases_of_dead_processes_expire_though_the_clock_went_back(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        buy_many(simulator, 1)
        claimed_until = timezone.now() + timedelta(seconds=15)
        Order.objects.update(claim="dead", claimed_until=claimed_until)
        dead = make_order(Status.PLACING, claim="dead", claimed_until=claimed_until)
        for name in (Lease.LOOP, Lease.OUTBOX, Lease.KEY_PROBE):
            hold_lease(name, until=claimed_until, token="dead")
        wall.step(seconds)
        wall.let_pass(20)
        assert follow(seconds=5).settled == 1
        assert fresh(dead).status == "UNCONFIRMED"
        assert not StatusChange.objects.filter(announced_at=None).exists()

    def test_a_pause_lasts_no_longer_because_the_clock_was_set_back(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        look()
        until = timezone.now() + timedelta(seconds=60)
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="", until=until)
        record_order(**LINE)
        wall.step(seconds)
        wall.let_pass(30)
        look()
        assert statuses() == ["PENDING"]
        wall.let_pass(31)
        look()
        assert posts(simulator) == 1

    @pytest.mark.parametrize("reason", ["outage", "rate", "access"])
    def test_a_pause_that_is_over_does_not_begin_again_after_the_clock_was_set_back(
        self, reason: str, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        look()
        until = timezone.now() + timedelta(seconds=20)
        ProviderState.objects.pause(ProviderState.Pause(reason), detail="", until=until)
        wall.let_pass(2 * MINUTE)
        wall.step(seconds)
        # The old end of the pause comes nearer, and passes once more.
        for number, left in enumerate((-seconds, 15 * MINUTE, 5 * MINUTE, 10), start=1):
            wall.let_pass(max((until - timezone.now()).total_seconds() - left, 0))
            record_order(**LINE)
            look()
            assert (posts(simulator), provider_state().paused_because) == (number, "")

    def test_an_outage_after_the_clock_was_set_back_pauses_one_machine_and_not_all(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        look()
        until = timezone.now() + timedelta(seconds=5)
        ProviderState.objects.pause(ProviderState.Pause.OUTAGE, detail="", until=until)
        ProviderState.objects.update(paused_by="another machine")
        wall.step(seconds)
        record_order(**LINE)
        look()
        simulator.outage = True
        record_order(**LINE)
        look()
        assert provider_state().paused_by == this_machine()

    def test_a_failed_announcement_is_repeated_after_the_clock_was_set_back(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        failures = [RuntimeError]

        def receive(**_named: Any) -> None:
            if failures:
                raise failures.pop()

        with receiving(order_status_changed, receive):
            look()
            make_order().move(Status.REJECTED, source=StatusChange.Source.STAFF)
            outbox.announce()
            wall.step(seconds)
            look()
            assert StatusChange.objects.filter(announced_at=None).count() == 1
            wall.let_pass(11)
            look()
            assert not StatusChange.objects.filter(announced_at=None).exists()

    def test_the_list_is_tried_again_after_the_clock_was_set_back(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        look()
        ProviderState.objects.update(list_usable_at=ago(-30))
        wall.step(seconds)
        with Gateway() as gateway:
            assert not gateway.is_list_useful
            wall.let_pass(31)
            assert gateway.is_list_useful

    def test_the_watchdog_runs_within_a_minute_after_the_clock_was_set_back(
        self, seconds: float, look: Looks, wall: Wall, simulator: Simulator
    ) -> None:
        look()
        ensure_schedule()
        Schedule.objects.update(next_run=timezone.now() + timedelta(minutes=1))
        wall.step(seconds)
        look()
        assert Schedule.objects.get().next_run <= timezone.now() + timedelta(minutes=1)

    def test_commands_do_not_wait_for_a_clock_that_was_set_back(
        self, seconds: float, wall: Wall, simulator: Simulator, set_conf: Setter
    ) -> None:
        set_conf(POLL_INTERVAL=0.2)
        with Gateway() as gateway:
            sweep(gateway)
            order = buy(gateway, type_id="SIM_NEVER")
            sweep(gateway)
            order = fresh(order)
            dead = make_order(
                Status.PLACING, claim="dead", claimed_until=timezone.now() + timedelta(seconds=1)
            )
            wall.step(seconds)
            began = time.monotonic()
            assert time_to_check(order, gateway) <= 0.2
            assert next(watch(order, gateway)).status == "HANDLING"
            wait_until(lambda: check_now(order, gateway).checked, seconds=5)
            assert send_now(record_order(**LINE), gateway).status == "HANDLING"
            assert send_now(dead, gateway).status == "PLACING"
            assert time.monotonic() - began < 60


@pytest.mark.parametrize("seconds", [-HOUR, -DAY])
class TestSetBackUnnoticed:
    """No worker has run before, so there is nothing to compare the clock with."""

    @pytest.fixture(autouse=True)
    def _settings(self, set_conf: Setter) -> None:
        set_conf(REQUESTS_PER_MINUTE=2)

    def test_an_order_is_sent_after_a_step_back_that_went_unnoticed(
        self, seconds: float, wall: Wall, simulator: Simulator
    ) -> None:
        record_order(**LINE)
        wall.step(seconds)
        run_sweep()
        assert posts(simulator) == 1

    def test_a_change_is_announced_after_a_step_back_that_went_unnoticed(
        self, seconds: float, wall: Wall, simulator: Simulator
    ) -> None:
        make_order().move(Status.REJECTED, source=StatusChange.Source.STAFF)
        StatusChange.objects.update(announce_at=timezone.now() + timedelta(minutes=1))
        wall.step(seconds)
        run_sweep()
        assert not StatusChange.objects.filter(announced_at=None).exists()

    def test_requests_go_on_after_one_window_if_a_step_back_went_unnoticed(
        self, seconds: float, wall: Wall, simulator: Simulator
    ) -> None:
        Budget()
        RequestSlot.objects.update(until=timezone.now() + timedelta(seconds=70))
        record_order(**LINE)
        wall.step(seconds)
        for passes, sent in ((0, 0), (40, 0), (31, 1)):
            wall.let_pass(passes)
            with Gateway() as gateway:
                assert gateway.wait_for(Purpose.PLACING) <= 70
                sweep(gateway)
            assert posts(simulator) == sent

    def test_a_pause_is_over_after_a_step_back_that_went_unnoticed(
        self, seconds: float, wall: Wall, simulator: Simulator
    ) -> None:
        until = timezone.now() + timedelta(minutes=1)
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="", until=until)
        wall.step(seconds)
        for left in (DAY, 15 * MINUTE, 10):
            wall.let_pass(max((until - timezone.now()).total_seconds() - left, 0))
            with Gateway() as gateway:
                assert gateway.is_open
        assert provider_state().explain() == "In service."

    def test_an_unnoticed_step_back_makes_the_key_unproven_and_the_list_unread(
        self, seconds: float, wall: Wall, simulator: Simulator
    ) -> None:
        prove_key()
        ahead = timezone.now() + timedelta(minutes=1)
        ProviderState.objects.update(clock={})
        ProviderState.objects.update(list_read_at=ahead, list_usable_at=ahead, last_tick_at=ahead)
        wall.step(seconds)
        with Gateway() as gateway:
            assert not gateway.is_proven
            assert gateway.is_list_useful
            assert not gateway.is_list_read
        problem = provider_state().worker_problem(timezone.now())
        assert problem.startswith("Background work has stopped")


class TestSetAhead:
    def test_an_order_being_sent_is_not_taken_for_lost_when_the_clock_is_set_ahead(
        self, wall: Wall, simulator: Simulator
    ) -> None:
        with Gateway() as gateway:
            sweep(gateway)
            claim_to_send(record_order(**LINE))
            wall.step(HOUR)
            sweep(gateway)
            assert statuses() == ["PLACING"]
            wall.let_pass(50)
            sweep(gateway)
            assert statuses() == ["UNCONFIRMED"]

    def test_requests_of_the_last_minute_still_count_when_the_clock_is_set_ahead(
        self, wall: Wall, simulator: Simulator, set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=2)
        buy()
        assert slots_in_use() == 2
        wall.step(HOUR)
        with Gateway():
            assert slots_in_use() == 2
            wall.let_pass(71)
            assert slots_in_use() == 0


@pytest.fixture
def look_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that checks the clock of a machine."""

    def look_at(name: str) -> None:
        monkeypatch.setattr("giftcards.engine.clock._MACHINE", name)
        Clock()

    return look_at


class TestNoticing:
    def steps(self) -> list[float]:
        return [seconds for _before, seconds in provider_state().clock.get("steps", [])]

    @pytest.mark.parametrize("seconds", [-3, 3, HOUR, -DAY])
    def test_a_step_of_the_clock_is_recorded_and_logged_once(
        self, seconds: float, look: Looks, wall: Wall, caplog: Log
    ) -> None:
        look()
        wall.step(seconds)
        look()
        look()
        assert self.steps() == [pytest.approx(seconds, abs=0.1)]
        assert messages(caplog) == [f"The clock of this server was changed by {seconds:+.0f} s."]

    def test_small_corrections_and_time_that_passes_are_not_recorded_as_steps(
        self, look: Looks, wall: Wall
    ) -> None:
        for _second in range(10):
            look()
            wall.step(1)
        wall.let_pass(DAY)
        look()
        assert self.steps() == []

    def test_a_step_within_a_sweep_is_noticed_before_an_order_becomes_late(
        self, wall: Wall, simulator: Simulator
    ) -> None:
        buy_many(simulator, 1, type_id="SIM_NEVER")
        simulator.on_request = lambda _request: wall.step(HOUR)
        run_sweep()
        assert statuses() == ["HANDLING"]
        assert self.steps() == [pytest.approx(HOUR, abs=0.1)]

    def test_the_clock_of_each_machine_is_compared_with_itself(
        self, wall: Wall, look_at: Callable[[str], None]
    ) -> None:
        look_at("one")
        look_at("other")
        wall.step(HOUR)
        look_at("one")
        look_at("other")
        assert self.steps() == [pytest.approx(HOUR, abs=0.1)] * 2

    def test_forty_machines_do_not_forget_the_clocks_of_each_other(
        self, look_at: Callable[[str], None]
    ) -> None:
        versions = []
        for _round in range(2):
            for number in range(40):
                look_at(f"machine {number}")
            versions.append(provider_state().clock_version)
        assert versions == [40, 40]

    def test_a_pause_and_a_living_sender_outlast_the_same_step_on_two_machines(
        self, wall: Wall, look_at: Callable[[str], None]
    ) -> None:
        look_at("one")
        look_at("other")
        until = timezone.now() + timedelta(seconds=60)
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="", until=until)
        order = make_order(Status.PLACING, claimed_until=timezone.now() + timedelta(seconds=45))
        wall.step(HOUR)
        look_at("one")
        look_at("other")
        assert provider_state().is_paused(timezone.now())
        assert not fresh(order).is_lost(timezone.now())

    def test_of_many_steps_32_are_kept_with_the_same_sum(self, wall: Wall) -> None:
        clock = Clock()
        for _step in range(100):
            wall.step(HOUR)
            clock.long_ago(timedelta(0))
        assert len(self.steps()) == 32
        assert sum(self.steps()) == pytest.approx(100 * HOUR, abs=1)

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.usefixtures("shared_database")
    def test_concurrent_processes_record_a_step_of_the_clock_once(self, wall: Wall) -> None:
        Clock()
        wall.step(HOUR)
        assert in_threads(4, lambda: Clock() and None) == [None] * 4
        assert self.steps() == [pytest.approx(HOUR, abs=0.1)]

    @pytest.mark.django_db(transaction=True)
    def test_a_process_notices_a_step_by_the_times_that_another_process_left(
        self, child: Callable[..., subprocess.Popen[str]], simulator: Simulator, wall: Wall
    ) -> None:
        assert child("giftcards_poll").wait(60) == 0
        Clock()
        assert self.steps() == []
        wall.step(HOUR)
        Clock()
        assert self.steps() == [pytest.approx(HOUR, abs=0.1)]

    def test_comparing_a_clock_that_is_right_costs_no_query(
        self, django_assert_num_queries: Any
    ) -> None:
        clock = Clock()
        with django_assert_num_queries(0):
            clock.compare(clock._state)
            assert clock.long_ago(timedelta(hours=1)) <= ago(HOUR)

    def test_steps_are_noticed_where_times_have_no_zone(self, wall: Wall, settings: Any) -> None:
        settings.USE_TZ = False
        clock = Clock()
        wall.step(HOUR)
        assert clock.long_ago(timedelta(minutes=1)) < timezone.now() - timedelta(hours=1)
        assert self.steps() == [pytest.approx(HOUR, abs=0.1)]


PASSES = st.sampled_from([0.5, 30, 5_000])
STEPS_BETWEEN = st.sampled_from([0, 0, 3, -3, 4_000, -4_000, 90_000])


class Stored(NamedTuple):
    """A stored time, with the time lived and the change of the clock until then (in seconds)."""

    shown: datetime
    lived: float
    was_set: float


class TestAnyHistory:
    """Times that were stored between any number of changes of the clock."""

    @given(
        events=st.lists(st.tuples(PASSES, STEPS_BETWEEN), max_size=12),
        length=st.sampled_from([0, 60, 3_600, 40_000]),
    )
    @settings(
        max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_what_counts_as_long_ago_was_really_lived_through_despite_steps(
        self, events: list[tuple[float, float]], length: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ProviderState.objects.all().delete()
        lived = was_set = 0.0
        with monkeypatch.context() as patch:
            wall = Wall(patch)
            clock = Clock()
            times = [Stored(timezone.now(), lived, was_set)]
            for passes, step in events:
                wall.let_pass(passes)
                lived += passes
                times.append(Stored(timezone.now(), lived, was_set))
                wall.step(step)
                was_set += step
                cut_off = clock.long_ago(timedelta(seconds=length))
                times.append(Stored(timezone.now(), lived, was_set))
                for time_ in times:
                    assert time_.shown > cut_off or lived - time_.lived >= length - 1
                    spans = [span.total_seconds() for span in clock.set_since(time_.shown)]
                    assert pytest.approx(was_set - time_.was_set, abs=1) in spans
            # And once all of that is long ago, the cut-off is exact again.
            wall.let_pass(length + 100_000)
            cut_off = clock.long_ago(timedelta(seconds=length))
            assert cut_off >= timezone.now() - timedelta(seconds=length + 1)

    def test_without_a_step_long_ago_is_exactly_so_long_before_now(self) -> None:
        clock = Clock()
        before = timezone.now()
        cut_off: datetime = clock.long_ago(timedelta(hours=3))
        assert before <= cut_off + timedelta(hours=3) <= timezone.now()
