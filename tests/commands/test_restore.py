"""``giftcards_reconcile --after-restore``: orders bought after the dump are not bought again."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.approvals import approve_price
from giftcards.engine.gateway import Gateway
from giftcards.engine.loop import begin_tick, follow
from giftcards.engine.recovering import declare_absent
from giftcards.engine.resolving import Fit, compare, overall, release
from giftcards.engine.sweep import check_now
from giftcards.models import Lease, Order, StatusChange
from giftcards.rules.problems import Problem
from giftcards.rules.times import with_zone
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import make_guide_order, problems
from tests.conftest import Call
from tests.pages import hidden, order_page, read, sign_in
from tests.stage import (
    LINE,
    ago,
    history,
    hold_lease,
    lease,
    posts,
    provider_state,
    record_order,
    undone,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

STAFF = StatusChange.Source.STAFF


@pytest.fixture(autouse=True)
def quickly(set_conf: Callable[..., None], shorten: Callable[..., None]) -> None:
    set_conf(POLL_INTERVAL=0.1)
    shorten(request_timeout=20)


def work() -> None:
    """Run one tick and follow the orders once, as a worker does."""
    begin_tick()
    follow(seconds=20)


def after_restore(call: Call, *more: str) -> tuple[dict[str, Any], int]:
    outcome = call("giftcards_reconcile", "--after-restore", "--json", *more)
    return json.loads(outcome.out), outcome.code


def decide(order: Order, outcome: str) -> None:
    """Enter on the order's page what became of the order, as staff do."""
    boss = sign_in(superuser=True)
    url = order_page(order, "resolve")
    token = hidden(read(boss.get(url)))["state_token"]
    form = {"outcome": outcome, "provider_order_id": "", "is_sure": "on", "state_token": token}
    answer = boss.post(url, form)
    if outcome.startswith("adopt:"):
        seen = hidden(read(answer))["seen"]
        answer = boss.post(order_page(order, "adopt"), {"seen": seen})
    assert answer.status_code == 302


def state(order: Order) -> tuple[str, int]:
    order.refresh_from_db()
    return order.status, len(order.candidates)


ON_HOLD = (Status.UNCONFIRMED, 1)


class TestHolding:
    def test_orders_that_were_bought_after_the_dump_are_on_hold_and_never_bought_again(
        self, call: Call, simulator: Simulator
    ) -> None:
        bought = record_order(**LINE, reference="bought")
        other = record_order(**{**LINE, "type_id": "TEST_PARTIAL"}, reference="other")
        with undone():
            Order.objects.filter(pk=other.pk).delete()
            work()
            record_order(**{**LINE, "quantity": 1}, reference="placed-after-the-dump")
            work()
        assert posts(simulator) == 2
        out, err, code = call("giftcards_reconcile", "--after-restore")
        lines, orphans = out.splitlines()[:4], out.splitlines()[4:6]
        assert lines == [
            "1 order on hold until staff decide, because the provider may already have bought"
            " them.",
            "  bought",
            "0 orders found by the reference.",
            "1 order still to be sent.",
        ]
        assert orphans[0].startswith("2 orders at the provider since ")
        assert (err, code) == ("Some orders are unknown, different or unconfirmed.\n", 1)
        assert state(bought) == ON_HOLD
        [problem] = problems(bought)
        assert (problem.code, problem.parameters) == ("restored", {"count": 1})
        assert history(bought) == ["PLACING", "UNCONFIRMED"]
        # The order is not sent or searched for, neither by the worker nor when staff have it
        # checked.
        work()
        with Gateway() as gateway:
            check_now(bought, gateway)
        assert call("giftcards_reconcile").code == 1
        work()
        assert state(bought) == ON_HOLD
        assert other.status == Status.PENDING
        other.refresh_from_db()
        assert other.status == Status.PARTIALLY_FILLED
        assert posts(simulator) == 3

    def test_orders_are_found_if_the_clock_of_this_server_is_an_hour_behind(
        self, call: Call, simulator: Simulator
    ) -> None:
        simulator._time_zero += timedelta(hours=1)
        order = record_order(**LINE)
        with undone():
            work()
        assert after_restore(call)[0]["on_hold"] == [order.reference]
        assert state(order) == ON_HOLD

    @pytest.mark.parametrize("status", [Status.PLACING, Status.UNCONFIRMED])
    def test_orders_that_were_proven_absent_and_sent_again_after_the_dump_are_on_hold(
        self, call: Call, simulator: Simulator, status: Status
    ) -> None:
        order = record_order(**LINE)
        sent = {"sent_at": ago(5 * 3600), "created_at": ago(5 * 3600)}
        Order.objects.filter(pk=order.pk).update(
            status=status, due_at=None if status == Status.PLACING else ago(1), **sent
        )
        with undone():
            begin_tick()
            order.refresh_from_db()
            if status == Status.PLACING:
                order.move(Status.UNCONFIRMED, source=STAFF, due_at=timezone.now())
            assert declare_absent(order, send_again=True, source=STAFF)
            work()
            assert posts(simulator) == 1
        found, code = after_restore(call)
        assert (found["on_hold"], code) == ([order.reference], 1)
        assert state(order) == ON_HOLD
        work()
        assert (state(order), posts(simulator)) == (ON_HOLD, 1)

    def test_an_order_that_waited_for_a_price_and_was_bought_after_the_dump_is_on_hold(
        self, call: Call, simulator: Simulator
    ) -> None:
        order = record_order(**LINE, max_price=400)
        work()
        order.refresh_from_db()
        assert order.is_on_hold
        with undone():
            assert approve_price(order, 490, by="amina")
            work()
        assert after_restore(call)[0]["on_hold"] == [order.reference]
        assert state(order) == ON_HOLD

    @pytest.mark.parametrize("line", [{"quantity": 1}, {"type_id": "TEST_PARTIAL"}], ids=str)
    def test_orders_of_another_line_hold_nothing(
        self, call: Call, simulator: Simulator, line: dict[str, Any]
    ) -> None:
        with undone():
            record_order(**{**LINE, **line})
            work()
        order = record_order(**LINE)
        found, code = after_restore(call)
        assert (found["on_hold"], found["waiting"], code) == ([], 1, 1)
        assert state(order) == (Status.PENDING, 0)

    def test_an_order_that_was_recorded_long_after_the_purchase_is_not_on_hold(
        self, call: Call, simulator: Simulator
    ) -> None:
        with undone():
            record_order(**LINE)
            work()
        order = record_order(**LINE)
        Order.objects.filter(pk=order.pk).update(created_at=ago(-3 * 3600))
        assert after_restore(call)[0]["on_hold"] == []

    def test_a_person_is_offered_the_first_purchases_after_the_order(
        self, call: Call, simulator: Simulator, shorten: Callable[..., None]
    ) -> None:
        shorten(candidates=2)
        orders = [record_order(**LINE) for _order in range(3)]
        with undone():
            work()
        assert len(after_restore(call)[0]["on_hold"]) == 3
        first, second, _third = simulator.orders
        for order in orders:
            order.refresh_from_db()
            assert [row["id"] for row in order.candidates] == [first, second]
            assert problems(order)[0].parameters == {"count": 3}

    def test_a_second_run_finds_the_same(self, call: Call, simulator: Simulator) -> None:
        order = record_order(**LINE)
        with undone():
            work()
        first = after_restore(call)
        assert after_restore(call) == first
        assert history(order) == ["PLACING", "UNCONFIRMED"]

    def test_nothing_to_hold_is_done(self, call: Call, simulator: Simulator) -> None:
        record_order(**LINE)
        found, code = after_restore(call)
        assert found.pop("since")
        assert found == {
            "on_hold": [],
            "waiting": 1,
            "explained": 0,
            "unconfirmed": 0,
            "is_whole": True,
            "orphans": [],
            "changed": [],
        }
        assert code == 0


class TestReferences:
    @pytest.fixture(autouse=True)
    def sent(self, simulator: Simulator, set_conf: Callable[..., None]) -> None:
        set_conf(SEND_REFERENCE=True)
        simulator.references = "told"

    @pytest.mark.parametrize("status", [Status.PENDING, Status.UNCONFIRMED])
    def test_equal_orders_with_a_row_of_their_reference_are_adopted_at_once(
        self, call: Call, simulator: Simulator, status: Status
    ) -> None:
        orders = [record_order(**LINE, reference=name) for name in ("cart-1", "cart:2")]
        if status == Status.UNCONFIRMED:
            [reference, *_] = conf.keyring().sent_references("cart-1")
            sent = {"sent_at": ago(60), "due_at": ago(1), "provider_reference": reference}
            Order.objects.filter(pk=orders[0].pk).update(status=status, **sent)
        with undone():
            Order.objects.update(status=Status.PENDING, due_at=ago(1))
            work()
        waiting = record_order(**LINE, reference="cart-3")
        found, code = after_restore(call)
        assert (found["on_hold"], found["explained"], found["orphans"], code) == ([], 2, [], 0)
        for order, bought in zip(orders, simulator.orders.values(), strict=True):
            order.refresh_from_db()
            assert (order.provider_order_id, order.provider_reference, problems(order)) == (
                bought.id,
                bought.reference,
                [],
            )
        work()
        assert {state(order) for order in (*orders, waiting)} == {(Status.FULFILLED, 0)}
        assert posts(simulator) == 3

    @pytest.mark.parametrize(("is_known", "held"), [(True, []), (False, ["here"])])
    def test_rows_with_other_references_hold_an_order_unless_they_belong_to_another_order_here(
        self, call: Call, is_known: bool, held: list[str]
    ) -> None:
        with undone():
            other = record_order(**LINE, reference="placed-after-the-dump")
            work()
            other.refresh_from_db()
        record_order(**LINE, reference="here")
        if is_known:
            make_guide_order(**LINE, provider_reference=other.provider_reference)
        assert after_restore(call)[0]["on_hold"] == held

    def test_an_order_is_not_adopted_with_a_row_that_is_older_than_the_order(
        self, call: Call, simulator: Simulator
    ) -> None:
        order = record_order(**LINE, reference="cart-1")
        with undone():
            work()
        [bought] = simulator._orders.values()
        bought.created_at -= timedelta(minutes=2)
        found, _code = after_restore(call)
        assert (found["on_hold"], found["explained"]) == ([order.reference], 0)

    def test_of_two_purchases_with_one_reference_the_second_is_told(
        self, call: Call, simulator: Simulator
    ) -> None:
        order = record_order(**LINE, reference="cart-1")
        for _time in range(2):
            with undone():
                work()
        first, second = simulator.orders
        found, code = after_restore(call)
        [orphan] = found["orphans"]
        assert (orphan["id"], orphan["order"], code) == (second, "cart-1", 1)
        order.refresh_from_db()
        assert order.provider_order_id == first
        assert problems(order) == [Problem("bought_twice", {"provider_order_id": second})]


class TestDeciding:
    @pytest.fixture
    def held(self, call: Call, simulator: Simulator) -> Order:
        order = record_order(**LINE)
        with undone():
            work()
        after_restore(call)
        order.refresh_from_db()
        return order

    def test_a_person_says_which_it_is_and_it_settles(
        self, held: Order, simulator: Simulator
    ) -> None:
        [row] = held.candidates
        assert compare(held, row)["created_at"] is Fit.NOT_TOLD
        assert overall(compare(held, row)) is Fit.FITS
        decide(held, f"adopt:{row['id']}")
        work()
        assert state(held) == (Status.FULFILLED, 0)
        assert (held.provider_order_id, problems(held)) == (row["id"], [])
        assert posts(simulator) == 1

    def test_a_person_has_it_sent_again(self, held: Order, simulator: Simulator) -> None:
        decide(held, "send-again")
        work()
        assert state(held) == (Status.FULFILLED, 0)
        assert posts(simulator) == 2

    def test_one_that_is_released_waits_for_a_person_again(
        self, held: Order, simulator: Simulator
    ) -> None:
        simulator.delay = (60, 60)
        decide(held, f"adopt:{held.candidates[0]['id']}")
        held.refresh_from_db()
        assert release(held, by="amina")
        work()
        assert state(held) == (Status.UNCONFIRMED, 0)
        assert (held.due_at, posts(simulator)) == (None, 1)


class TestReading:
    def test_the_list_is_read_from_before_the_last_sign_of_a_worker(
        self, call: Call, simulator: Simulator
    ) -> None:
        begin_tick()
        last_tick_at = provider_state().last_tick_at
        assert last_tick_at
        expected = (with_zone(last_tick_at) - timedelta(hours=2)).isoformat()
        for _run in range(2):
            assert after_restore(call)[0]["since"] == expected

    def test_without_a_sign_it_is_read_from_before_the_oldest_order_that_waits(
        self, call: Call, simulator: Simulator
    ) -> None:
        order = record_order(**LINE)
        Order.objects.filter(pk=order.pk).update(created_at=ago(30 * 3600))
        order.refresh_from_db()
        expected = with_zone(order.created_at) - timedelta(hours=2)
        assert after_restore(call)[0]["since"] == expected.isoformat()

    def test_a_person_says_since_when(self, call: Call, simulator: Simulator) -> None:
        since = "2026-11-24T08:00:00+00:00"
        assert after_restore(call, "--since", since)[0]["since"] == since

    def test_a_list_that_cannot_be_read_is_no_leave_to_start(
        self, call: Call, simulator: Simulator
    ) -> None:
        record_order(**LINE)
        simulator.outage = True
        found, code = after_restore(call)
        assert (found["on_hold"], found["is_whole"], code) == ([], False, 1)


class TestWorkers:
    def test_nothing_is_done_beside_a_running_worker(
        self, call: Call, simulator: Simulator
    ) -> None:
        hold_lease(Lease.LOOP, until=ago(-5))
        out, err, code = call("giftcards_reconcile", "--after-restore")
        assert (out, code, simulator.requests) == ("", 2, [])
        assert err.startswith("A worker is running or was running a few seconds ago. Stop every")

    def test_no_worker_can_start_meanwhile(self, call: Call, simulator: Simulator) -> None:
        record_order(**LINE)
        with undone():
            work()
        tried = []

        def start_worker(execute: Any, sql: str, *args: Any) -> Any:
            if sql.startswith("UPDATE") and "candidates" in sql and not tried:
                tried.append(follow(seconds=0))
            return execute(sql, *args)

        with connection.execute_wrapper(start_worker):
            assert len(after_restore(call)[0]["on_hold"]) == 1
        assert tried == [None]
        assert lease(Lease.LOOP).until is None

    def test_it_stops_where_a_worker_has_taken_over(self, call: Call, simulator: Simulator) -> None:
        """The command was halted for longer than its lease, for example in a debugger."""
        orders = [record_order(**LINE) for _order in range(2)]
        with undone():
            work()

        def take_over(execute: Any, sql: str, *args: Any) -> Any:
            if sql.startswith("UPDATE") and "candidates" in sql:
                hold_lease(Lease.LOOP, until=ago(-5))
            return execute(sql, *args)

        with connection.execute_wrapper(take_over):
            found, code = after_restore(call)
        assert (found["on_hold"], found["is_whole"], code) == ([orders[0].reference], False, 1)
        assert state(orders[1]) == (Status.PENDING, 0)
        assert lease(Lease.LOOP).token == "other"
