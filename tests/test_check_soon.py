"""Early checks: an order is checked before its time, but only once and within all limits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from django_q.models import OrmQ

from giftcards import tasks
from giftcards.engine.recording import record_answers, record_failures
from giftcards.exceptions import NotFound
from giftcards.fulfilment import check_soon
from giftcards.models import Lease, Order
from giftcards.rules.problems import Problem
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import answer, claim, make_order
from tests.stage import (
    Setter,
    ago,
    buy_many,
    checks,
    hold_lease,
    in_threads,
    lists,
    refuse_key,
    run_sweep,
    spend_budget,
    statuses,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

HOUR = 3600.0
# The times of an order: how many seconds ago they were, by column.
Waits = dict[str, float | None]


def waiting(status: Status = Status.DELAYED, **waits: float | None) -> Order:
    """Return an order whose times are this many seconds in the past; `None` stands for no time."""
    times = {name: None if span is None else ago(span) for name, span in waits.items()}
    return make_order(status, reference="cart-1", **times)


def due_in(order: Order) -> float | None:
    """Return the seconds until the order is due."""
    order.refresh_from_db()
    return order.due_at and (order.due_at - timezone.now()).total_seconds()


@pytest.mark.parametrize(
    ("status", "waits"),
    [
        (Status.HANDLING, {"due_at": -30}),
        (Status.DELAYED, {"due_at": -HOUR}),
        (Status.DELAYED, {"due_at": -HOUR, "checked_at": 5}),
        # The order is no longer watched.
        (Status.DELAYED, {"due_at": None, "checked_at": HOUR}),
        # The process that was checking it has died.
        (Status.DELAYED, {"due_at": -HOUR, "claimed_until": 1}),
        # These were written before the clock was set back.
        (Status.DELAYED, {"due_at": -HOUR, "checked_at": -HOUR}),
        (Status.DELAYED, {"due_at": -HOUR, "check_wanted_at": -HOUR}),
        (Status.DELAYED, {"due_at": -HOUR, "claimed_until": -HOUR}),
    ],
    ids=str,
)
def test_an_order_at_the_provider_is_due_at_once(status: Status, waits: Waits) -> None:
    order = waiting(status, **waits)
    assert check_soon("cart-1")
    assert due_in(order) == pytest.approx(0, abs=4)


@pytest.mark.parametrize(
    ("status", "waits"),
    [
        *((status, {"due_at": None}) for status in Status if status not in {"HANDLING", "DELAYED"}),
        (Status.PENDING, {"due_at": -30}),
        (Status.UNCONFIRMED, {"due_at": -30}),
        (Status.PLACING, {"due_at": None, "claimed_until": -30}),
        (Status.HANDLING, {"due_at": -3, "checked_at": 2}),
        (Status.DELAYED, {"due_at": -HOUR, "checked_at": 2}),
        (Status.DELAYED, {"due_at": -HOUR, "check_wanted_at": 2}),
    ],
    ids=str,
)
def test_an_order_that_cannot_be_asked_about_or_just_was_is_left_alone(
    status: Status, waits: Waits
) -> None:
    waiting(status, **waits)
    before = Order.objects.values().get()
    assert not check_soon("cart-1")
    assert not check_soon("cart-2")
    assert Order.objects.values().get() == before


def test_an_order_that_is_due_already_keeps_its_place_in_the_queue() -> None:
    order = waiting(due_at=60)
    due_at = order.due_at
    assert check_soon("cart-1")
    order.refresh_from_db()
    assert order.due_at == due_at


@pytest.mark.django_db(transaction=True)
class TestWorker:
    def tasks(self) -> list[str]:
        return [task.task["func"] for task in OrmQ.objects.all()]

    def test_a_worker_is_woken_once_the_transaction_commits(self) -> None:
        waiting(due_at=-HOUR)
        with transaction.atomic():
            assert check_soon("cart-1")
            assert self.tasks() == []
        assert self.tasks() == ["giftcards.tasks.sweep"]

    def test_a_worker_is_left_alone_while_it_runs_and_when_there_is_nothing_to_do(self) -> None:
        waiting(due_at=-HOUR)
        hold_lease(Lease.LOOP, until=ago(-30))
        assert check_soon("cart-1")
        Lease.objects.revoke(Lease.LOOP)
        assert not check_soon("cart-1")
        assert self.tasks() == []

    def test_one_of_two_customers_who_ask_at_once_is_heard(self, shared_database: str) -> None:
        waiting(due_at=-HOUR)
        assert sorted(in_threads(2, lambda: check_soon("cart-1"))) == [False, True]


class TestRequests:
    def late(self, simulator: Simulator, **line: Any) -> Order:
        """Return an order that is checked every hour and is not due for a while."""
        [order] = buy_many(simulator, 1, **line)
        Order.objects.update(
            reference="cart-1", status="DELAYED", accepted_at=ago(HOUR), due_at=ago(-HOUR)
        )
        return order

    def test_the_task_checks_a_late_order_before_its_time(self, simulator: Simulator) -> None:
        self.late(simulator)
        tasks.sweep()
        assert statuses() == ["DELAYED"]
        check_soon("cart-1")
        assert checks(simulator) == []
        tasks.sweep()
        assert statuses() == ["FULFILLED"]

    def test_an_order_that_is_still_open_is_late_for_its_pause_again(
        self, simulator: Simulator
    ) -> None:
        order = self.late(simulator, type_id="SIM_NEVER")
        check_soon("cart-1")
        run_sweep()
        assert due_in(order) == pytest.approx(HOUR, abs=30)

    @pytest.mark.parametrize("is_known", [True, False])
    def test_an_order_is_asked_about_once_in_five_seconds_whatever_the_answer(
        self, is_known: bool, simulator: Simulator
    ) -> None:
        order = self.late(simulator, type_id="SIM_NEVER")
        if not is_known:
            Order.objects.update(provider_order_id="unknown", checked_at=ago(HOUR))
        for _time in range(3):
            check_soon("cart-1")
            run_sweep()
        assert len(checks(simulator)) == 1
        Order.objects.exclude(checked_at=None).update(checked_at=ago(5))
        Order.objects.update(check_wanted_at=ago(5))
        check_soon("cart-1")
        run_sweep()
        assert len(checks(simulator)) == 2
        assert (due_in(order) or 0) > 60

    @pytest.mark.parametrize("prevent", [spend_budget, refuse_key])
    def test_a_pause_of_all_calls_and_the_budget_come_first(
        self, prevent: Callable[[], None], simulator: Simulator
    ) -> None:
        order = self.late(simulator)
        prevent()
        assert check_soon("cart-1")
        run_sweep()
        assert simulator.requests == []
        assert (due_in(order) or 0) <= 0

    def test_orders_that_the_list_shows_share_one_page(
        self, simulator: Simulator, set_conf: Setter
    ) -> None:
        set_conf(POLL_INTERVAL=60)
        orders = buy_many(simulator, 8, type_id="SIM_NEVER")
        Order.objects.update(checked_at=ago(10), due_at=ago(-50))
        references = [order.reference for order in orders]
        for _time in range(2):
            assert check_soon(references[0])
            assert check_soon(references[1])
            run_sweep()
            # The page of the list has answered for all orders.
            assert [check_soon(reference) for reference in references] == [False] * 8
            Order.objects.update(checked_at=ago(10), check_wanted_at=None)
        assert lists(simulator) == 2
        assert len(checks(simulator)) <= 2


Recorded = Callable[[Order, datetime], object]


def found_open(order: Order, now: datetime) -> None:
    record_answers([(order, answer())], now=now)


def found_odd(order: Order, now: datetime) -> None:
    odd = answer("LOST", [Problem("status_unknown", {"status": "LOST"})])
    record_answers([(order, odd)], now=now)


def found_nothing(order: Order, now: datetime) -> None:
    record_failures([(order, NotFound("unknown"))], now=now)


@pytest.mark.parametrize("recorded", [found_open, found_odd, found_nothing])
class TestRaces:
    def checked(self, recorded: Recorded, meanwhile: Callable[[], object]) -> float | None:
        """Check an order that was accepted an hour ago; return the seconds until it is due."""
        order = waiting(accepted_at=HOUR, checked_at=HOUR, due_at=0)
        now = timezone.now()
        [held] = claim(order)
        meanwhile()
        recorded(held, now)
        return due_in(order)

    def test_an_order_that_is_wanted_while_it_is_checked_is_checked_once_more(
        self, recorded: Recorded
    ) -> None:
        def want() -> None:
            assert check_soon("cart-1")
            assert not check_soon("cart-1")

        assert self.checked(recorded, want) == pytest.approx(5, abs=4)
        [held] = claim(Order.objects.get())
        recorded(held, timezone.now())
        assert due_in(held) == pytest.approx(HOUR, abs=30)

    @pytest.mark.parametrize("wanted", [1, -HOUR])
    def test_what_was_wanted_before_or_by_a_clock_that_was_ahead_is_no_reason(
        self, wanted: float, recorded: Recorded
    ) -> None:
        def was_wanted() -> None:
            Order.objects.update(check_wanted_at=ago(wanted))

        assert self.checked(recorded, was_wanted) == pytest.approx(HOUR, abs=30)


def test_the_check_of_a_dead_process_is_made_by_the_next_one(simulator: Simulator) -> None:
    [order] = buy_many(simulator, 1)
    Order.objects.update(status="DELAYED", reference="cart-1")
    claim(order)
    assert check_soon("cart-1")
    run_sweep()
    assert statuses() == ["DELAYED"]
    Order.objects.update(claimed_until=ago(1))
    run_sweep()
    assert statuses() == ["FULFILLED"]
