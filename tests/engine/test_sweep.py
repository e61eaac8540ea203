"""Sweeps over due orders, the isolation of one order's problems, and the loop."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db.models.signals import post_init
from django.utils import timezone

from giftcards.books.conditions import money_in_open_orders
from giftcards.engine.balance import BalanceReader
from giftcards.engine.checking import BATCH
from giftcards.engine.gateway import Gateway
from giftcards.engine.schedule import time_to_check
from giftcards.engine.sweep import Swept, check_now, sweep, watch
from giftcards.exceptions import AccessDenied, ProviderError, RateLimited
from giftcards.models import ApiKey, Order, ProviderState
from giftcards.refunds import refund_breakdown
from giftcards.signals import order_finalized
from giftcards.simulator import Request, Simulator
from giftcards.statuses import Status
from tests.builders import PRICE, make_order, problems
from tests.stage import (
    CODE,
    LINE,
    LIST,
    PLACE,
    PROVIDER,
    PSN,
    Log,
    Setter,
    Wire,
    ago,
    buy,
    buy_many,
    check_url,
    checks,
    fresh,
    history,
    in_threads,
    list_page,
    list_row,
    lists,
    messages,
    own_key,
    posts,
    receiving,
    record_order,
    refill_budget,
    run_sweep,
    settled_answer,
    spend_budget,
    statuses,
    wait_until,
    without_list,
    wrong_calls,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


class TestSweep:
    def test_a_sweep_sends_and_checks_what_is_due(self, simulator: Simulator) -> None:
        for type_id in ("type_001", "TEST_PARTIAL", "TEST_REFUND", "SIM_NEVER", "SIM_LOST"):
            record_order(**LINE | {"type_id": type_id}, reference=None)
        assert run_sweep() == Swept(sent=4, checked=4, settled=3, failed=1)
        expected = ["FULFILLED", "PARTIALLY_FILLED", "REFUNDED", "HANDLING", "UNCONFIRMED"]
        assert statuses() == expected
        cards = [order.cards.count() for order in Order.objects.order_by("pk")]
        assert cards == [2, 1, 0, 0, 0]
        assert run_sweep() == Swept()

    def test_an_order_placed_during_the_checks_of_a_sweep_is_sent_first(
        self, simulator: Simulator, shorten: Setter
    ) -> None:
        shorten(sweep_renewal=0, page_size=20)
        buy_many(simulator, 46, type_id="SIM_NEVER")
        refill_budget()

        def should_continue() -> bool:
            if len(simulator.requests) == 1 and Order.objects.count() == 46:
                record_order(**LINE, reference=None)
            return True

        assert run_sweep(should_continue=should_continue) == Swept(sent=1, checked=46)
        paths = [request.path.rpartition("/")[2] for request in simulator.requests]
        assert paths == ["list", LINE["product_id"], "placeOrder", "list", "list"]

    def test_slow_placing_does_not_keep_a_sweep_from_checking(
        self, simulator: Simulator, shorten: Setter
    ) -> None:
        shorten(shortest_sending=0.2)
        buy_many(simulator, 1)
        for _ in range(9):
            record_order(**LINE, reference=None)

        def be_slow(request: Request) -> None:
            if request.method == "POST":
                time.sleep(0.15)

        simulator.on_request = be_slow
        done = run_sweep()
        assert 1 <= done.sent < 9
        assert done.settled == 1 + done.sent

    def test_an_overdue_order_that_could_not_be_checked_is_not_late_yet(
        self, simulator: Simulator
    ) -> None:
        """The sweep was cut short, so the next sweep checks the order first."""
        buy_many(simulator, 1)
        Order.objects.update(accepted_at=ago(301))
        assert run_sweep(should_continue=lambda: False) == Swept(postponed=1)
        assert statuses() == ["HANDLING"]
        assert run_sweep() == Swept(checked=1, settled=1)

    def test_a_sweep_sends_nothing_while_it_tries_the_key(
        self, simulator: Simulator, shorten: Setter
    ) -> None:
        shorten(sweep_renewal=0, polling_pulse=0.05)
        buy_many(simulator, 1)
        ApiKey.objects.doubt()
        others = threading.Semaphore(0)
        came_meanwhile: list[bool] = []

        def hold(request: Request) -> None:
            if len(simulator.requests) == 1:
                came_meanwhile.append(others.acquire(timeout=0.5))
            else:
                others.release()

        def should_continue() -> bool:
            if simulator.requests and Order.objects.count() == 1:
                record_order(**LINE, reference=None)
            return True

        simulator.on_request = hold
        assert run_sweep(should_continue=should_continue).checked == 1
        assert came_meanwhile == [False]

    def test_an_overdue_order_that_another_process_checks_is_left_to_it(
        self, simulator: Simulator
    ) -> None:
        buy_many(simulator, 1)
        Order.objects.update(accepted_at=ago(301), claim="x")

        def should_continue() -> bool:
            Order.objects.update(claimed_until=ago(-60), due_at=ago(-60))
            return True

        assert run_sweep(should_continue=should_continue).checked == 0
        assert statuses() == ["HANDLING"]

    def test_a_sweep_renews_its_claims_while_it_checks(
        self, simulator: Simulator, shorten: Setter
    ) -> None:
        shorten(sweep_renewal=0)
        buy_many(simulator, 12, type_id="SIM_NEVER")
        without_list()
        left: list[float] = []

        def should_continue() -> bool:
            claimed = Order.objects.exclude(claimed_until=None)
            ends = claimed.values_list("claimed_until", flat=True)
            left.extend((at - timezone.now()).total_seconds() for at in ends if at)
            claimed.update(claimed_until=ago(-1))
            return True

        assert run_sweep(should_continue=should_continue) == Swept(checked=12)
        # At each call, the remaining claims had been renewed and had their full time left.
        assert len(left) >= 2 * 12
        assert min(left) > 10

    @pytest.mark.usefixtures("simulator")
    def test_a_sweep_during_a_pause_still_counts_as_a_sign_of_the_worker(self) -> None:
        with Gateway() as gateway:
            gateway.record_outcome(AccessDenied("No.", status=401))
            began = timezone.now()
            assert sweep(gateway) == Swept(is_paused=True)
        state = ProviderState.objects.get()
        assert began <= state.swept_at
        assert state.worker_problem(timezone.now()) == ""
        assert (state.paused_because, state.succeeded_at) == ("access", None)

    def test_a_sweep_reads_only_a_slice_of_a_long_queue(self, simulator: Simulator) -> None:
        Order.objects.bulk_create(Order(**LINE) for _ in range(250))
        with Gateway() as gateway:
            gateway.record_outcome(AccessDenied("No.", status=401))
            made: list[Order] = []

            def count(instance: Order, **_: Any) -> None:
                made.append(instance)

            with receiving(post_init, count, sender=Order):
                sweep(gateway)
        assert len(made) == 100

    def test_a_sweep_of_some_orders_leaves_the_others_alone(self, simulator: Simulator) -> None:
        _first, second = buy_many(simulator, 2)
        assert run_sweep(Order.objects.filter(pk=second.pk)).settled == 1
        assert statuses() == ["HANDLING", "FULFILLED"]

    def test_a_sweep_records_when_it_ran_and_when_a_call_succeeded(
        self, simulator: Simulator
    ) -> None:
        buy_many(simulator, 1)
        ProviderState.objects.update(swept_at=None, succeeded_at=None)
        began = timezone.now()
        run_sweep()
        state = ProviderState.objects.get()
        assert began <= state.swept_at <= state.succeeded_at <= timezone.now()  # type: ignore[operator]

    def test_a_sweep_checks_fresh_orders_before_late_ones(self, simulator: Simulator) -> None:
        late, *_fresh = buy_many(simulator, BATCH + 1, type_id="SIM_NEVER")
        Order.objects.filter(pk=late.pk).update(
            status=Status.DELAYED, accepted_at=ago(400), due_at=ago(99)
        )
        assert run_sweep().checked == BATCH + 1
        assert checks(simulator)[-1] == late.provider_order_id

    def test_a_sweep_announces_the_changes_that_it_made(self, simulator: Simulator) -> None:
        told: list[str] = []

        def receiver(order: Order, **kwargs: Any) -> None:
            told.append(order.reference)

        [order] = buy_many(simulator, 1)
        with receiving(order_finalized, receiver):
            run_sweep()
        assert told == [order.reference]
        assert not order.changes.filter(announced_at=None).exists()

    def test_a_sweep_stops_between_requests_and_frees_the_other_orders(
        self, simulator: Simulator
    ) -> None:
        orders = buy_many(simulator, 12)
        without_list()
        deadline = iter([True] * 4)
        done = run_sweep(should_continue=lambda: next(deadline, False))
        assert 0 < done.checked < 12
        assert done.settled == done.checked == len(checks(simulator))
        # The other orders are free for the next sweep.
        assert Order.objects.filter(status="HANDLING", claimed_until=None).count() == (
            len(orders) - done.checked
        )
        assert run_sweep().settled == 12 - done.checked

    def test_sweeps_check_each_order_once_in_batches(self, simulator: Simulator) -> None:
        count = 2 * BATCH + 5
        buy_many(simulator, count, type_id="SIM_NEVER")
        without_list()
        assert run_sweep() == Swept(checked=BATCH, postponed=BATCH + 5)
        assert run_sweep() == Swept(checked=BATCH, postponed=5)
        assert run_sweep() == Swept(checked=5)
        assert sorted(checks(simulator)) == sorted(simulator.orders)

    def test_an_order_is_sent_between_two_batches_of_checks(self, simulator: Simulator) -> None:
        buy_many(simulator, BATCH + 5, type_id="SIM_NEVER")
        without_list()
        run_sweep()
        record_order(**LINE | {"type_id": "SIM_NEVER"}, reference=None)
        assert run_sweep() == Swept(sent=1, checked=6)
        asked = [request.method for request in simulator.requests]
        # The price is read and the order is sent before the six remaining checks.
        assert asked.index("POST") == BATCH + 1

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.usefixtures("shared_database")
    def test_concurrent_sweeps_check_and_settle_each_order_once(self, simulator: Simulator) -> None:
        orders = buy_many(simulator, 12)
        without_list()
        assert sum(done.settled for done in in_threads(3, run_sweep)) == 12
        assert sorted(checks(simulator)) == sorted(simulator.orders)
        for order in orders:
            assert history(order) == ["PLACING", "HANDLING", "FULFILLED"]
            assert order.cards.count() == 2


# One answer for each problem; all others are rows of tests/faults.
GARBAGE: list[tuple[dict[str, Any], str]] = [
    ({"json": {"success": True, "data": {}}}, "status_missing"),
    ({"json": {"success": True, "data": {"status": "CANCELLED"}}}, "status_unknown"),
    ({"json": {"success": True, "data": {"status": "FULFILLED"}}}, "not_whole"),
    (
        {"json": {"success": True, "data": {"status": "FULFILLED", "cards": CODE}}},
        "cards_not_listed",
    ),
    (
        {"json": {"success": True, "data": {"status": "FULFILLED", "cards": [None, 7, {}]}}},
        "cards_unreadable",
    ),
    ({"json": {"success": False, "error": {"code": "NOT_FOUND"}}, "status": 404}, "not_known"),
    ({"json": {"success": False, "error": {"code": "GONE"}}, "status": 410}, "answer_refused"),
    # These are no problems of the order itself, because an outage affects all orders.
    ({"body": f"<html>{CODE}</html>", "status": 404}, ""),
    ({"body": f'{{"success": true, "data": {{"status": "FULFILLED", "cards": ["{CODE}'}, ""),
    ({"body": ConnectionResetError(104, "reset")}, ""),
    # This is not an HTTP error, but an error in the client.
    ({"body": AssertionError(CODE)}, "answer_unprocessable"),
]


class TestFiguresThatNoColumnHolds:
    """The order settles with its cards; the amount is unknown, and staff are asked about it."""

    @pytest.mark.parametrize("field", ["price_per_card", "fulfilled_amount"])
    @pytest.mark.parametrize(
        "told", [0.333, 490.005, 1e15, 10**30, 1e300, "0,333", "soon", [490], True]
    )
    @pytest.mark.parametrize("is_listed", [False, True])
    def test_an_order_settles_at_once_without_the_amount(
        self, field: str, told: Any, is_listed: bool, wire: Wire
    ) -> None:
        price = {"price_per_card": PRICE, "is_only_listed": is_listed}
        order = make_order(Status.HANDLING, sent_at=ago(5), **price)
        wire.get(LIST, json=list_page(list_row(order, **{field: told})))
        wire.get(check_url(order), json=settled_answer(order, **{field: told}))
        run_sweep()
        assert (fresh(order).status, order.cards.count()) == ("FULFILLED", 2)
        known = {"price_per_card": Decimal(490), "fulfilled_amount": Decimal(980)}
        for name, amount in known.items():
            assert getattr(order, name) == (None if name == field else amount)
        assert ("figure_unreadable", field) in [
            (problem.code, problem.parameters["field"]) for problem in problems(order)
        ]
        breakdown = refund_breakdown(order)
        assert (breakdown.refunded_amount, breakdown.is_consistent) == (0, True)

    def test_the_largest_amounts_that_are_read_disturb_nothing_when_they_are_added_up(
        self, wire: Wire
    ) -> None:
        """The amounts come from a wrong price of 2,000 cards and from a day with many orders."""
        huge = 9_999_999_999.98
        prices = [{"id": "type_001", "price": huge}]
        answer = {"success": True, "data": {"types": prices}}
        wire.replace("GET", f"{PROVIDER}/v3/gift-cards/checkProduct/{PSN}", json=answer)
        poor = {"success": False, "error": {"code": "INSUFFICIENT_BALANCE", "message": "No."}}
        wire.post(PLACE, json=poor, status=403)
        balance = {"success": True, "data": {"balance": huge}}
        wire.get(f"{PROVIDER}/v3/account/balance", json=balance)
        for _order in range(101):
            make_order(Status.FULFILLED, fulfilled_amount=Decimal("9999999999.98"))
        order = buy(quantity=2_000)
        assert order.status == "REJECTED"
        reader = BalanceReader()
        for due in (None, ago(1)):
            ProviderState.objects.update(balance_due_at=due)
            reader.look_after()
            reader.close(seconds=20)
            assert buy(quantity=2_000).status == "REJECTED"
        money_in_open_orders()
        assert ProviderState.objects.get().balance == Decimal("9999999999.98")
        assert ProviderState.objects.get().spent_lately == Decimal("999999999999.99")


class TestManyOpenOrders:
    """More orders than one sweep claims.

    The tests count requests and orders, not time.
    """

    @pytest.mark.parametrize("type_id", ["type_001", "SIM_NEVER"])
    def test_every_order_that_a_page_shows_is_checked_by_it(
        self, type_id: str, simulator: Simulator, shorten: Setter
    ) -> None:
        shorten(sweep_orders=10, page_size=20)
        orders = buy_many(simulator, 50, type_id=type_id)
        settled = 50 * (type_id == "type_001")
        assert run_sweep() == Swept(checked=50, settled=settled)
        assert (lists(simulator), len(simulator.requests)) == (3, 3)
        for order in orders:
            assert (fresh(order).claimed_until, order.cards.count()) == (None, 2 * bool(settled))

    def test_an_order_on_a_page_that_another_process_has_claimed_is_left_to_it(
        self, simulator: Simulator, shorten: Setter
    ) -> None:
        shorten(sweep_orders=10)
        orders = buy_many(simulator, 30)
        theirs = Order.objects.filter(pk__in=[order.pk for order in orders[20:]])
        theirs.update(claim="other", claimed_until=ago(-60))
        assert run_sweep().checked == 20
        assert set(theirs.values_list("status", "claim")) == {("HANDLING", "other")}

    def test_an_order_not_claimed_whose_row_is_incomplete_is_left_for_later(
        self, wire: Wire, shorten: Setter
    ) -> None:
        shorten(sweep_orders=3)
        made = [make_order(Status.HANDLING, sent_at=ago(9), due_at=ago(1)) for _ in range(5)]
        rows = [list_row(order) for order in made]
        rows[4]["cards"] = []
        wire.get(LIST, json=list_page(*rows))
        assert run_sweep() == Swept(checked=4, settled=4)
        assert (fresh(made[4]).status, made[4].claimed_until) == ("HANDLING", None)

    def test_many_fresh_orders_do_not_keep_late_ones_from_being_checked(
        self, simulator: Simulator, shorten: Setter
    ) -> None:
        shorten(sweep_orders=50)
        late = buy_many(simulator, 10, type_id="SIM_NEVER")
        Order.objects.update(status=Status.DELAYED, due_at=ago(1))
        buy_many(simulator, 60, type_id="SIM_NEVER")
        without_list()
        run_sweep()
        ids = {order.provider_order_id for order in late}
        asked = [order_id in ids for order_id in checks(simulator)]
        assert (asked.count(False), asked.count(True)) == (BATCH, 5)


class TestOneOrdersTrouble:
    @pytest.mark.parametrize(("answer", "problem"), GARBAGE)
    def test_an_unusable_answer_is_a_problem_of_its_order_and_stops_no_other(
        self, answer: dict[str, Any], problem: str, wire: Wire, caplog: Log
    ) -> None:
        before, poor, after = (make_order(Status.HANDLING) for _order in range(3))
        # Both spellings are answered, because a 404 for `poor` makes the client try the other one.
        for order in (before, poor, after):
            told = answer if order == poor else {"json": settled_answer(order)}
            for spelling in ("check-order", "checkOrder"):
                wire.get(check_url(order).replace("check-order", spelling), **told)
        began = timezone.now()
        done = run_sweep()
        assert (done.checked, done.settled, done.is_paused) == (3, 2, False)
        assert statuses() == ["FULFILLED", "HANDLING", "FULFILLED"]
        poor.refresh_from_db()
        found = [held.code for held in problems(poor)]
        assert (problem in found) if problem else (found == [])
        assert poor.claimed_until is None
        assert timedelta(seconds=5) <= poor.due_at - began <= timedelta(seconds=7)
        assert CODE not in caplog.text + str(poor.problems) + str(vars(ProviderState.objects.get()))


class TestRefusedKey:
    def test_a_sweep_with_a_refused_key_makes_one_request(
        self, simulator: Simulator, caplog: Log
    ) -> None:
        buy_many(simulator, 30)
        simulator.keys = ["another"]
        caplog.clear()
        assert run_sweep() == Swept(postponed=30, is_paused=True)
        for _sweep in range(3):
            assert run_sweep() == Swept(is_paused=True)
        assert len(simulator.requests) == 1
        [message] = messages(caplog)
        assert message.startswith(
            "The provider refused the API key (INVALID_ACCESS_TOKEN, 4 attempts left)."
        )
        assert message.endswith(
            "All requests to the provider are paused until the key in the settings changes or you"
            " run `manage.py giftcards_poll --resume`."
        )
        # The orders only have to wait. The order that was being checked has no problem.
        assert set(statuses()) == {"HANDLING"}
        assert not Order.objects.needing_attention().exists()
        assert not Order.objects.exclude(claimed_until=None).exists()

    def test_a_sweep_with_a_refused_key_asks_for_one_price_and_sends_nothing(
        self, simulator: Simulator
    ) -> None:
        buy_many(simulator, 5)
        for _order in range(3):
            make_order()
        simulator.keys = ["another"]
        assert run_sweep() == Swept(postponed=5, is_paused=True)
        [request] = simulator.requests
        assert "checkProduct" in request.path
        assert statuses() == ["HANDLING"] * 5 + ["PENDING"] * 3

    def test_a_sweep_makes_no_request_after_placing_with_a_refused_key(
        self, simulator: Simulator
    ) -> None:
        """No price is requested here, because too little of the quota is left."""
        buy_many(simulator, 5)
        for _order in range(3):
            make_order()
        simulator.keys = ["another"]
        # Price requests leave half of the quota for placing orders.
        spend_budget(but=2)
        assert run_sweep() == Swept(failed=1, postponed=5, is_paused=True)
        assert (posts(simulator), len(simulator.requests)) == (1, 1)

    @pytest.mark.parametrize("error", [AccessDenied("No."), RateLimited("Slower.")])
    def test_a_sweep_under_way_stops_when_another_process_is_refused_or_limited(
        self, error: ProviderError, simulator: Simulator, shorten: Setter
    ) -> None:
        shorten(sweep_renewal=0)
        buy_many(simulator, 30)
        without_list()

        def should_continue() -> bool:
            if len(simulator.requests) >= 10:
                other.record_outcome(error)
            return True

        with Gateway() as other:
            done = run_sweep(should_continue=should_continue)
        assert (done.is_paused, done.failed) == (True, 0)
        assert 10 <= done.checked == len(simulator.requests) <= 16
        assert done.postponed == 30 - done.checked

    def test_a_key_revoked_during_a_sweep_causes_at_most_four_wrong_calls(
        self, simulator: Simulator
    ) -> None:
        buy_many(simulator, 30)
        without_list()

        def revoke(request: Request) -> None:
            if len(simulator.requests) >= 10:
                simulator.keys = ["another"]

        simulator.on_request = revoke
        done = run_sweep()
        assert done.is_paused
        assert done.settled >= 7
        for _sweep in range(3):
            run_sweep()
        assert 1 <= wrong_calls(simulator) <= 4
        assert own_key().is_refused
        assert not Order.objects.exclude(claimed_until=None).exists()

    def test_an_unproven_key_is_tried_by_one_thread_alone(self, simulator: Simulator) -> None:
        """The app checks several orders at a time only after the key is known to be valid."""
        buy_many(simulator, 12, type_id="SIM_NEVER")
        without_list()
        ApiKey.objects.doubt()
        others = threading.Semaphore(0)
        came_meanwhile: list[bool] = []

        def hold(request: Request) -> None:
            if len(simulator.requests) == 1:
                came_meanwhile.append(others.acquire(timeout=0.2))
            else:
                others.release()

        simulator.on_request = hold
        assert run_sweep().checked == 12
        assert came_meanwhile == [False]


class TestTooManyRequests:
    def test_too_many_requests_pause_every_sweep_until_the_pause_is_over(
        self, simulator: Simulator, caplog: Log
    ) -> None:
        buy_many(simulator, 30)
        without_list()
        simulator.rate_limit = 10
        caplog.clear()
        done = run_sweep()
        assert done.is_paused
        assert done.settled == 10
        assert len(simulator.requests) <= 14  # those that were under way
        asked = len(simulator.requests)
        run_sweep()
        assert len(simulator.requests) == asked
        [message] = messages(caplog)
        assert message.startswith(
            "Too many requests were sent to the provider (RATE_LIMIT_EXCEEDED)."
        )
        simulator.rate_limit = 0
        ProviderState.objects.update(paused_until=ago(1))
        Order.objects.update(due_at=ago(1))
        assert run_sweep() == Swept(checked=20, settled=20)


class TestDelayed:
    def test_an_order_that_has_not_settled_in_time_becomes_delayed(
        self, simulator: Simulator
    ) -> None:
        almost, overdue = buy_many(simulator, 2, type_id="SIM_NEVER")
        Order.objects.filter(pk=almost.pk).update(accepted_at=ago(290))
        Order.objects.filter(pk=overdue.pk).update(accepted_at=ago(300.5))
        began = timezone.now()
        run_sweep()
        assert statuses() == ["HANDLING", "DELAYED"]
        assert not fresh(overdue).is_final
        assert problems(overdue) == []
        assert began <= overdue.due_at - timedelta(minutes=1) <= timezone.now()
        change = overdue.changes.last()
        assert (change.from_status, change.source) == ("HANDLING", "clock")
        assert change.announced_at is not None

    def test_an_order_becomes_delayed_though_no_call_can_be_made(
        self, simulator: Simulator
    ) -> None:
        buy_many(simulator, 1)
        Order.objects.update(accepted_at=ago(301))
        simulator.keys = ["another"]
        assert run_sweep().is_paused
        assert statuses() == ["DELAYED"]


class TestCheckNow:
    @pytest.mark.parametrize("status", ["HANDLING", "DELAYED"])
    def test_check_now_checks_an_order_whether_it_is_due_or_not(
        self, status: str, simulator: Simulator
    ) -> None:
        order, other = buy_many(simulator, 2)
        Order.objects.update(status=status, due_at=None if status == "DELAYED" else ago(-9))
        with Gateway() as gateway:
            assert check_now(order, gateway) == Swept(checked=1, settled=1)
        assert fresh(other).status == status

    def test_check_now_sends_a_pending_order(self, simulator: Simulator) -> None:
        order = make_order(due_at=ago(-99))
        with Gateway() as gateway:
            assert check_now(order, gateway) == Swept(sent=1, checked=1, settled=1)

    def test_check_now_checks_an_order_once_an_interval(self, simulator: Simulator) -> None:
        [order] = buy_many(simulator, 1, type_id="SIM_NEVER")
        with Gateway() as gateway:
            assert time_to_check(order, gateway) == 0
            began = time.monotonic()
            assert check_now(order, gateway) == Swept(checked=1)
            order.refresh_from_db()
            left = time_to_check(order, gateway)
            assert 5 - (time.monotonic() - began) <= left <= 5
            assert check_now(order, gateway) == Swept()
            Order.objects.update(checked_at=ago(5))
            assert check_now(order, gateway) == Swept(checked=1)

    @pytest.mark.parametrize(
        "status", ["UNCONFIRMED", "REJECTED", "FULFILLED", "PLACING", "HANDLING"]
    )
    def test_check_now_asks_nothing_about_an_order_not_followed_or_claimed_by_another_process(
        self, status: str, simulator: Simulator
    ) -> None:
        order = make_order(Status(status), claim="x", claimed_until=ago(-60))
        with Gateway() as gateway:
            assert check_now(order, gateway) == Swept()
        assert simulator.requests == []


class TestWatch:
    def test_watching_does_not_wait_for_a_pause_longer_than_the_watch(
        self, simulator: Simulator
    ) -> None:
        [order] = buy_many(simulator, 1)
        with Gateway() as gateway:
            gateway.record_outcome(AccessDenied("Blocked.", status=403, code="IP_BLOCKED"))
        assert self.follow(order) == ["HANDLING"]

    def follow(self, order: Order) -> list[str]:
        with Gateway() as gateway:
            return [seen.status for seen in watch(order, gateway)]

    def test_watching_shows_an_order_until_it_has_settled(
        self, simulator: Simulator, set_conf: Setter
    ) -> None:
        set_conf(POLL_INTERVAL=0.1)
        [order] = buy_many(simulator, 1, type_id="SIM_NEVER")

        def settle(request: Request) -> None:
            if len(checks(simulator)) == 3:
                simulator.settle(checks(simulator)[0], delivered=2)

        simulator.on_request = settle
        assert self.follow(order) == ["HANDLING"] * 3 + ["FULFILLED"]

    @pytest.mark.parametrize(
        ("origin", "type_id", "status"),
        [
            ("REFUNDED", "type_001", "REFUNDED"),
            ("PENDING", "SIM_LOST", "UNCONFIRMED"),
            ("PENDING", "SIM_REJECT", "REJECTED"),
        ],
    )
    def test_watching_shows_a_final_lost_or_rejected_order_once(
        self, origin: str, type_id: str, status: str, simulator: Simulator
    ) -> None:
        assert self.follow(make_order(Status(origin), type_id=type_id)) == [status]

    def test_watching_ends_when_the_order_is_delayed(
        self, simulator: Simulator, set_conf: Setter
    ) -> None:
        set_conf(POLL_INTERVAL=0.1, POLL_TIMEOUT=1)
        [order] = buy_many(simulator, 1, type_id="SIM_NEVER")
        Order.objects.update(accepted_at=ago(0.5))
        seen = self.follow(order)
        assert seen[-1] == "DELAYED"
        assert set(seen[:-1]) == {"HANDLING"}

    def test_a_watch_that_a_busy_machine_kept_waiting_looks_once_more(
        self, simulator: Simulator, set_conf: Setter
    ) -> None:
        set_conf(POLL_INTERVAL=0.1, POLL_TIMEOUT=1)
        [order] = buy_many(simulator, 1, type_id="SIM_NEVER")
        Order.objects.update(accepted_at=ago(-60))
        with Gateway() as gateway:
            seen = watch(order, gateway)
            assert next(seen).status == "HANDLING"
            since = time.monotonic()
            wait_until(lambda: time.monotonic() - since > 1.2)
            Order.objects.update(accepted_at=ago(2))
            assert [order.status for order in seen] == ["DELAYED"]

    def test_watching_ends_when_the_key_is_refused(self, simulator: Simulator) -> None:
        [order] = buy_many(simulator, 1)
        simulator.keys = ["another"]
        assert self.follow(order) == ["HANDLING"]
        assert len(simulator.requests) == 1

    def test_watching_lasts_no_longer_than_the_timeout(
        self, simulator: Simulator, set_conf: Setter
    ) -> None:
        """Another process holds the claim on the order during the whole test."""
        set_conf(POLL_INTERVAL=0.1, POLL_TIMEOUT=1)
        [order] = buy_many(simulator, 1)
        Order.objects.update(claim="x", claimed_until=ago(-60))
        began = time.monotonic()
        assert set(self.follow(order)) == {"HANDLING"}
        assert 1 < time.monotonic() - began < 10
        assert simulator.requests == []


class TestSwept:
    def test_results_of_sweeps_add_up(self) -> None:
        first = Swept(sent=1, checked=2, settled=3, failed=4, postponed=5, is_paused=True)
        # Postponed orders are not added up: they are still postponed, or were handled later.
        twice = Swept(sent=2, checked=4, settled=6, failed=8, postponed=5, is_paused=True)
        assert first + first == twice
        assert (first + Swept()).postponed == 0
        assert (first + Swept()).is_paused is False
        assert json.loads(json.dumps(asdict(first))) == {
            "sent": 1,
            "checked": 2,
            "settled": 3,
            "failed": 4,
            "postponed": 5,
            "is_paused": True,
        }

    def test_the_result_of_a_sweep_says_what_was_done(self) -> None:
        assert str(Swept(1, 2, 3, 4)) == "1 sent, 2 checked, 3 settled, 4 failed"
        assert str(Swept(1, 2, 3, 4, 5)) == ("1 sent, 2 checked, 3 settled, 4 failed, 5 postponed")
        assert str(Swept(is_paused=True)) == "0 sent, 0 checked, 0 settled, 0 failed; paused"
