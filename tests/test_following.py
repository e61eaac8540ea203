"""Following: sweeps over what is due, one order's trouble kept to itself, and the loop."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import responses
from django.utils import timezone

from giftcards.asking import BATCH, MAX_IN_FLIGHT
from giftcards.exceptions import AccessDenied
from giftcards.following import Swept, check_now, sweep, time_to_check, watch
from giftcards.fulfilment import record_order
from giftcards.gateway import Gateway
from giftcards.loop import is_work_left
from giftcards.models import Order, OrderQuerySet, ProviderState
from giftcards.signals import order_settled
from giftcards.simulator import Request, Simulator
from giftcards.statuses import Status
from tests.engine import (
    CODE,
    LINE,
    ago,
    buy_many,
    check_url,
    checks,
    end_pause,
    history,
    in_threads,
    make_order,
    messages,
    settled_answer,
    statuses,
    without_list,
)

pytest_plugins = ["tests.engine_fixtures"]
pytestmark = pytest.mark.django_db


def run_sweep(orders: OrderQuerySet | None = None, **options: Any) -> Swept:
    with Gateway() as gateway:
        return sweep(gateway, orders, **options)


class TestSweep:
    def test_sends_and_checks_what_is_due(self, simulator: Simulator) -> None:
        for type_id in ("type_001", "TEST_PARTIAL", "TEST_REFUND", "SIM_NEVER", "SIM_LOST"):
            record_order(**LINE | {"type_id": type_id}, reference=None)
        assert run_sweep() == Swept(sent=4, checked=4, settled=3, failed=1)
        assert statuses() == [
            "FULFILLED",
            "PARTIALLY_FILLED",
            "REFUNDED",
            "HANDLING",
            "UNCONFIRMED",
        ]
        cards = [order.cards.count() for order in Order.objects.order_by("pk")]
        assert cards == [2, 1, 0, 0, 0]
        assert run_sweep() == Swept()

    def test_every_interval(self, simulator: Simulator, set_conf: Callable[..., None]) -> None:
        set_conf(POLL_INTERVAL=7)
        [order] = buy_many(simulator, 1, type_id="SIM_NEVER")
        began = timezone.now()
        run_sweep()
        order.refresh_from_db()
        assert order.status == "HANDLING"
        assert order.due_at is not None
        assert began <= order.due_at - timedelta(seconds=7) <= timezone.now()
        assert order.checked_at == order.due_at - timedelta(seconds=7)

    @pytest.mark.parametrize(("name", "value"), [("_HEARTBEAT", 0), ("_SMALL_BUDGET", 9_999)])
    def test_sends_first_what_comes_while_it_asks(
        self, name: str, value: int, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(f"giftcards.following.{name}", value)
        buy_many(simulator, 230, type_id="SIM_NEVER")

        def go_on() -> bool:
            if len(simulator.requests) == 1 and Order.objects.count() == 230:
                record_order(**LINE, reference=None)
            return True

        assert run_sweep(go_on=go_on) == Swept(sent=1, checked=230)
        paths = [request.path.rpartition("/")[2] for request in simulator.requests]
        assert paths == ["list", LINE["product_id"], "placeOrder", "list", "list"]

    def test_slow_placing_keeps_nobody_from_being_asked_about(
        self, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("giftcards.following._SENDING", 0.2)
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

    def test_what_was_not_asked_about_is_not_late_yet(self, simulator: Simulator) -> None:
        """The sweep was cut short: the next one asks first."""
        buy_many(simulator, 1)
        Order.objects.update(accepted_at=ago(301))
        assert run_sweep(go_on=lambda: False) == Swept(postponed=1)
        assert statuses() == ["HANDLING"]
        assert run_sweep() == Swept(checked=1, settled=1)

    def test_nothing_is_sent_while_the_key_is_tried(
        self, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("giftcards.following._HEARTBEAT", 0)
        monkeypatch.setattr("giftcards.asking._HEARTBEAT", 0.05)
        buy_many(simulator, 1)
        ProviderState.objects.update(proven_key="")
        others = threading.Semaphore(0)
        came_meanwhile: list[bool] = []

        def hold(request: Request) -> None:
            if len(simulator.requests) == 1:
                came_meanwhile.append(others.acquire(timeout=0.5))
            else:
                others.release()

        def go_on() -> bool:
            if simulator.requests and Order.objects.count() == 1:
                record_order(**LINE, reference=None)
            return True

        simulator.on_request = hold
        assert run_sweep(go_on=go_on).checked == 1
        assert came_meanwhile == [False]

    def test_an_overdue_order_that_another_process_asks_about_is_left_to_it(
        self, simulator: Simulator
    ) -> None:
        buy_many(simulator, 1)
        Order.objects.update(accepted_at=ago(301), claim="x")

        def go_on() -> bool:
            Order.objects.update(claimed_until=ago(-60), due_at=ago(-60))
            return True

        assert run_sweep(go_on=go_on).checked == 0
        assert statuses() == ["HANDLING"]

    def test_renews_its_claims_while_it_asks(
        self, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("giftcards.following._HEARTBEAT", 0)
        buy_many(simulator, 12, type_id="SIM_NEVER")
        without_list()
        left: list[float] = []

        def go_on() -> bool:
            claimed = Order.objects.exclude(claimed_until=None)
            ends = claimed.values_list("claimed_until", flat=True)
            left.extend((at - timezone.now()).total_seconds() for at in ends if at)
            claimed.update(claimed_until=ago(-1))
            return True

        assert run_sweep(go_on=go_on) == Swept(checked=12)
        # Each time that it was asked, what is still claimed had its full time before it.
        assert len(left) >= 2 * 12
        assert min(left) > 10

    def test_a_pause_is_no_worker_that_is_down(self, simulator: Simulator) -> None:
        with Gateway() as gateway:
            gateway.heard(AccessDenied("No.", status=401))
            began = timezone.now()
            assert sweep(gateway) == Swept(is_paused=True)
        state = ProviderState.objects.get()
        assert state.swept_at is not None
        assert began <= state.swept_at
        assert state.worker_problem(timezone.now()) == ""
        assert (state.pause, state.succeeded_at) == ("access", None)

    def test_only_of_some(self, simulator: Simulator) -> None:
        _first, second = buy_many(simulator, 2)
        assert run_sweep(Order.objects.filter(pk=second.pk)).settled == 1
        assert statuses() == ["HANDLING", "FULFILLED"]

    def test_says_when_it_was_and_how_it_went(self, simulator: Simulator) -> None:
        buy_many(simulator, 1)
        ProviderState.objects.update(swept_at=None, succeeded_at=None)
        began = timezone.now()
        run_sweep()
        state = ProviderState.objects.get()
        assert began <= state.swept_at <= state.succeeded_at <= timezone.now()  # type: ignore[operator]

    def test_fresh_orders_come_before_late_ones(self, simulator: Simulator) -> None:
        late, *_fresh = buy_many(simulator, BATCH + 1, type_id="SIM_NEVER")
        Order.objects.filter(pk=late.pk).update(
            status=Status.DELAYED, accepted_at=ago(400), due_at=ago(99)
        )
        assert run_sweep().checked == BATCH + 1
        assert checks(simulator)[-1] == late.provider_order_id

    def test_announces_what_has_changed(self, simulator: Simulator) -> None:
        told: list[str] = []

        def receiver(order: Order, **kwargs: Any) -> None:
            told.append(order.reference)

        [order] = buy_many(simulator, 1)
        order_settled.connect(receiver)
        try:
            run_sweep()
        finally:
            order_settled.disconnect(receiver)
        assert told == [order.reference]
        assert not order.changes.filter(announced_at=None).exists()

    def test_stops_between_requests(self, simulator: Simulator) -> None:
        orders = buy_many(simulator, 12)
        without_list()
        deadline = iter([True] * 4)
        done = run_sweep(go_on=lambda: next(deadline, False))
        assert 0 < done.checked < 12
        assert done.settled == done.checked == len(checks(simulator))
        # The others are free for whoever comes next.
        assert Order.objects.filter(status="HANDLING", claimed_until=None).count() == (
            len(orders) - done.checked
        )
        assert run_sweep().settled == 12 - done.checked

    def test_asks_about_each_order_once(self, simulator: Simulator) -> None:
        """A sweep takes no more than a batch; the next one goes on with those left."""
        count = 2 * BATCH + 5
        buy_many(simulator, count, type_id="SIM_NEVER")
        without_list()
        assert run_sweep() == Swept(checked=BATCH, postponed=BATCH + 5)
        assert run_sweep() == Swept(checked=BATCH, postponed=5)
        assert run_sweep() == Swept(checked=5)
        assert sorted(checks(simulator)) == sorted(simulator.orders)

    def test_sends_between_the_batches(self, simulator: Simulator) -> None:
        """An order that comes while many are asked about need not wait for all of them."""
        buy_many(simulator, BATCH + 5, type_id="SIM_NEVER")
        without_list()
        run_sweep()
        record_order(**LINE | {"type_id": "SIM_NEVER"}, reference=None)
        assert run_sweep() == Swept(sent=1, checked=6)
        asked = [request.method for request in simulator.requests]
        # Its price, itself, and only then the six that are left.
        assert asked.index("POST") == BATCH + 1

    @pytest.mark.django_db(transaction=True)
    def test_two_at_once_ask_once(self, simulator: Simulator, shared_database: str) -> None:
        buy_many(simulator, 30, type_id="SIM_NEVER")
        without_list()
        assert sum(done.checked for done in in_threads(3, run_sweep)) == 30
        assert sorted(checks(simulator)) == sorted(simulator.orders)

    @pytest.mark.django_db(transaction=True)
    def test_two_at_once_settle_once(self, simulator: Simulator, shared_database: str) -> None:
        orders = buy_many(simulator, 12)
        assert sum(done.settled for done in in_threads(3, run_sweep)) == 12
        for order in orders:
            assert history(order) == ["PLACING", "HANDLING", "FULFILLED"]
            assert order.cards.count() == 2


GARBAGE: list[tuple[dict[str, Any], str]] = [
    ({"json": {"success": True, "data": {}}}, "The answer has no status that can be read."),
    (
        {"json": {"success": True, "data": {"status": None}}},
        "The answer has no status that can be read.",
    ),
    ({"json": {"success": True, "data": {"status": "CANCELLED"}}}, "not known: CANCELLED."),
    ({"json": {"success": True, "data": {"status": "fulfilled"}}}, "not known: fulfilled."),
    (
        {"json": {"success": True, "data": {"status": 7}}},
        "The answer has no status that can be read.",
    ),
    ({"json": {"success": True, "data": {"status": "FULFILLED"}}}, "and sent 0 that can be read."),
    (
        {"json": {"success": True, "data": {"status": "FULFILLED", "cards": CODE}}},
        "cards is not a list.",
    ),
    (
        {"json": {"success": True, "data": {"status": "FULFILLED", "cards": [None, 7, {}]}}},
        "3 of 3 cards without a usable value.",
    ),
    ({"json": {"success": False, "error": {"code": "NOT_FOUND"}}, "status": 404}, "does not know"),
    ({"json": {"success": False, "error": {"code": "GONE"}}, "status": 410}, "refuses to answer"),
    # Nothing about the order itself: an outage is everybody's.
    ({"body": f"<html>{CODE}</html>"}, ""),
    ({"body": f"<html>{CODE}</html>", "status": 404}, ""),
    ({"body": f'{{"success": true, "data": {{"status": "FULFILLED", "cards": ["{CODE}'}, ""),
    ({"body": ""}, ""),
    ({"body": "null"}, ""),
    ({"json": {"success": True, "data": None}}, ""),
    ({"json": {"success": False, "error": {"code": "INTERNAL_ERROR"}}, "status": 500}, ""),
    ({"json": {"success": False, "error": {"code": "AUTH_UNAVAILABLE"}}, "status": 503}, ""),
    ({"body": ConnectionResetError(104, "reset")}, ""),
    # Not even an error of HTTP: a client that is broken.
    ({"body": AssertionError(CODE)}, "cannot be processed (AssertionError)."),
]


class TestOneOrdersTrouble:
    @pytest.mark.parametrize(("answer", "problem"), GARBAGE)
    def test_is_recorded_and_stops_nobody_else(
        self,
        answer: dict[str, Any],
        problem: str,
        wire: responses.RequestsMock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        before, poor, after = (make_order(Status.HANDLING) for _order in range(3))
        for spelling in ("check-order", "checkOrder"):
            wire.get(check_url(poor).replace("check-order", spelling), **answer)
        for order in (before, after):
            wire.get(check_url(order), json=settled_answer(order))
        began = timezone.now()
        done = run_sweep()
        assert (done.checked, done.settled, done.is_paused) == (3, 2, False)
        assert statuses() == ["FULFILLED", "HANDLING", "FULFILLED"]
        poor.refresh_from_db()
        assert problem in poor.problem
        assert bool(poor.problem) == bool(problem)
        assert poor.claimed_until is None
        assert poor.due_at is not None
        assert timedelta(seconds=5) <= poor.due_at - began <= timedelta(seconds=7)
        assert CODE not in caplog.text + poor.problem + str(vars(ProviderState.objects.get()))

    def test_is_over_once_the_answer_is_whole(self, wire: responses.RequestsMock) -> None:
        order = make_order(Status.HANDLING)
        wire.get(check_url(order), json=settled_answer(order, cards=[]))
        wire.get(check_url(order), body="<html>")
        wire.get(check_url(order), json=settled_answer(order))
        for _sweep in range(3):
            Order.objects.update(due_at=ago(1))
            run_sweep()
            end_pause()
        order.refresh_from_db()
        assert (order.status, order.problem, order.failures) == ("FULFILLED", "", 0)

    def test_failures_are_asked_about_later_each_time(self, simulator: Simulator) -> None:
        [order] = buy_many(simulator, 1)
        simulator.outage = True
        pauses = []
        for _sweep in range(5):
            began = timezone.now()
            Order.objects.update(due_at=began)
            assert run_sweep() == Swept(checked=1, failed=1, is_paused=True)
            end_pause()
            order.refresh_from_db()
            assert order.due_at is not None
            pauses.append((order.due_at - began).total_seconds())
        for pause, least in zip(pauses, [5, 10, 20, 30, 30], strict=True):
            assert least <= pause <= least * 1.25 + 1
        simulator.outage = False
        Order.objects.update(due_at=ago(1))
        assert run_sweep().settled == 1


class TestRefusedKey:
    def test_one_question_is_enough(
        self, simulator: Simulator, caplog: pytest.LogCaptureFixture
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
            "Every call to the provider is stopped until the key in the settings changes or you"
            " run `manage.py giftcards_poll --resume`."
        )
        # Nobody is worse off than late, and the order that was asked about is not to blame.
        assert set(statuses()) == {"HANDLING"}
        assert not Order.objects.exclude(problem="").exists()
        assert not Order.objects.exclude(claimed_until=None).exists()

    def test_nor_is_anything_asked_after_a_failed_order(self, simulator: Simulator) -> None:
        buy_many(simulator, 5)
        for _order in range(3):
            make_order()
        simulator.keys = ["another"]
        assert run_sweep() == Swept(failed=1, postponed=5, is_paused=True)
        assert len(simulator.requests) == 1

    def test_revoked_while_four_are_under_way(self, simulator: Simulator) -> None:
        buy_many(simulator, 30)
        without_list()

        def revoke(request: Request) -> None:
            if len(simulator.requests) == 10:
                simulator.keys = ["another"]

        simulator.on_request = revoke
        done = run_sweep()
        assert done.is_paused
        assert done.settled >= 7
        for _sweep in range(3):
            run_sweep()
        assert 1 <= [request.key_ok for request in simulator.requests].count(False) <= 4
        assert ProviderState.objects.get().pause == "access"
        assert not Order.objects.exclude(claimed_until=None).exists()

    def test_another_key_ends_the_pause(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        buy_many(simulator, 5)
        simulator.keys = ["another"]
        run_sweep()
        Order.objects.update(due_at=ago(1))
        set_conf(API_KEY="another")
        assert run_sweep() == Swept(checked=5, settled=5)
        assert ProviderState.objects.get().pause == ""

    def test_another_wrong_key_costs_one_question(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        buy_many(simulator, 9)
        simulator.keys = ["another"]
        run_sweep()
        set_conf(API_KEY="wrong-as-well")
        run_sweep()
        run_sweep()
        assert len(simulator.requests) == 2

    def test_of_many_threads_one_asks(self, simulator: Simulator) -> None:
        """Several at a time only once the key is known to be good."""
        buy_many(simulator, 12, type_id="SIM_NEVER")
        without_list()
        ProviderState.objects.update(proven_key="")
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
    def test_pauses_everything(
        self, simulator: Simulator, caplog: pytest.LogCaptureFixture
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
        assert message.startswith("The provider has been asked too often (RATE_LIMIT_EXCEEDED).")
        simulator.rate_limit = 0
        ProviderState.objects.update(paused_until=ago(1))
        Order.objects.update(due_at=ago(1))
        assert run_sweep() == Swept(checked=20, settled=20)

    @pytest.mark.parametrize(
        ("retry_after", "seconds"),
        [("7", 7), ("86400", 900), ("soon", 60), ("-5", 60), (None, 60)],
    )
    def test_for_as_long_as_asked(
        self, retry_after: str | None, seconds: int, wire: responses.RequestsMock
    ) -> None:
        order = make_order(Status.HANDLING)
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        wire.get(check_url(order), status=429, body="<html>", headers=headers)
        began = timezone.now()
        assert run_sweep() == Swept(checked=1, failed=1, is_paused=True)
        until = ProviderState.objects.get().paused_until
        assert until is not None
        assert began <= until - timedelta(seconds=seconds) <= timezone.now()
        order.refresh_from_db()
        assert (order.status, order.problem) == ("HANDLING", "")


@pytest.mark.parametrize("spelling", ["check-order", "checkOrder"])
def test_both_spellings(spelling: Any, simulator: Simulator) -> None:
    simulator.spelling = spelling
    buy_many(simulator, 6)
    without_list()
    assert run_sweep().settled == 6
    asked = [request.path.split("/")[3] for request in simulator.requests]
    # The seed's spelling is tried first, by those that are under way at once.
    wrong = len(asked) - 6
    assert 0 <= wrong <= MAX_IN_FLIGHT
    assert bool(wrong) == (spelling == "checkOrder")
    assert asked.count(spelling) == 6
    assert ProviderState.objects.get().check_path == spelling


class TestDelayed:
    def test_after_the_timeout(self, simulator: Simulator) -> None:
        almost, overdue = buy_many(simulator, 2, type_id="SIM_NEVER")
        Order.objects.filter(pk=almost.pk).update(accepted_at=ago(290))
        Order.objects.filter(pk=overdue.pk).update(accepted_at=ago(300.5))
        began = timezone.now()
        run_sweep()
        assert statuses() == ["HANDLING", "DELAYED"]
        overdue.refresh_from_db()
        assert not overdue.is_final
        assert overdue.problem == ""
        assert overdue.due_at is not None
        assert began <= overdue.due_at - timedelta(minutes=1) <= timezone.now()
        change = overdue.changes.last()
        assert change is not None
        assert (change.from_status, change.source) == ("HANDLING", "clock")
        assert change.announced_at is not None

    def test_the_timeout_is_a_setting(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(POLL_TIMEOUT=20)
        buy_many(simulator, 1, type_id="SIM_NEVER")
        Order.objects.update(accepted_at=ago(21))
        run_sweep()
        assert statuses() == ["DELAYED"]

    def test_also_while_nobody_may_be_asked(self, simulator: Simulator) -> None:
        buy_many(simulator, 1)
        Order.objects.update(accepted_at=ago(301))
        simulator.keys = ["another"]
        assert run_sweep().is_paused
        assert statuses() == ["DELAYED"]

    def test_an_answer_in_the_last_moment_counts(self, simulator: Simulator) -> None:
        buy_many(simulator, 1)
        Order.objects.update(accepted_at=ago(301))
        run_sweep()
        assert statuses() == ["FULFILLED"]

    @pytest.mark.parametrize(
        ("late_minutes", "pause_minutes"),
        [(0.1, 1), (0.9, 1), (1.5, 1), (3, 3), (6, 10), (14, 10), (16, 60), (600, 60)],
    )
    def test_is_watched_slowly(
        self, late_minutes: float, pause_minutes: int, simulator: Simulator
    ) -> None:
        [order] = buy_many(simulator, 1, type_id="SIM_NEVER")
        Order.objects.update(status=Status.DELAYED, accepted_at=ago(300 + 60 * late_minutes))
        began = timezone.now()
        assert run_sweep().checked == 1
        order.refresh_from_db()
        assert order.due_at is not None
        assert began <= order.due_at - timedelta(minutes=pause_minutes) <= timezone.now()
        assert not is_work_left()

    @pytest.mark.parametrize("type_id", ["SIM_NEVER", "TEST_PARTIAL"])
    def test_the_watch_ends(
        self, type_id: str, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(LATE_WATCH_HOURS=2)
        [order] = buy_many(simulator, 1, type_id=type_id)
        Order.objects.update(status=Status.DELAYED, accepted_at=ago(2 * 3600 + 1))
        run_sweep()
        order.refresh_from_db()
        assert order.due_at is None
        if type_id == "TEST_PARTIAL":  # the last question was worth it
            assert (order.status, order.problem) == ("PARTIALLY_FILLED", "")
        else:
            assert order.status == "DELAYED"
            assert order.problem == (
                "The late watch has ended and the order has not settled: ask the provider."
            )
        assert run_sweep() == Swept()

    @pytest.mark.parametrize(
        ("type_id", "status", "cards", "charged"),
        [
            ("type_001", "FULFILLED", 2, 980),
            ("TEST_PARTIAL", "PARTIALLY_FILLED", 1, 490),
            ("TEST_REFUND", "REFUNDED", 0, 0),
        ],
    )
    def test_settles_like_any_other(
        self, type_id: str, status: str, cards: int, charged: int, simulator: Simulator
    ) -> None:
        [order] = buy_many(simulator, 1, type_id=type_id)
        Order.objects.update(status=Status.DELAYED, accepted_at=ago(3600))
        assert run_sweep().settled == 1
        order.refresh_from_db()
        assert (order.status, order.cards.count()) == (status, cards)
        assert order.fulfilled_amount == Decimal(charged)
        assert order.due_at is None


class TestCheckNow:
    @pytest.mark.parametrize("status", ["HANDLING", "DELAYED"])
    def test_whether_it_is_due_or_not(self, status: str, simulator: Simulator) -> None:
        [order] = buy_many(simulator, 1)
        Order.objects.update(status=status, due_at=None if status == "DELAYED" else ago(-9))
        with Gateway() as gateway:
            assert check_now(order, gateway) == Swept(checked=1, settled=1)

    def test_sends(self, simulator: Simulator) -> None:
        order = make_order(due_at=ago(-99))
        with Gateway() as gateway:
            assert check_now(order, gateway) == Swept(sent=1, checked=1, settled=1)

    def test_once_an_interval(self, simulator: Simulator) -> None:
        [order] = buy_many(simulator, 1, type_id="SIM_NEVER")
        with Gateway() as gateway:
            assert time_to_check(order, gateway) == 0
            assert check_now(order, gateway) == Swept(checked=1)
            order.refresh_from_db()
            assert 4 < time_to_check(order, gateway) <= 5
            assert check_now(order, gateway) == Swept()
            Order.objects.update(checked_at=ago(5))
            assert check_now(order, gateway) == Swept(checked=1)

    def test_leaves_the_others_alone(self, simulator: Simulator) -> None:
        order, _other = buy_many(simulator, 2)
        with Gateway() as gateway:
            check_now(order, gateway)
        assert statuses() == ["FULFILLED", "HANDLING"]

    def test_not_while_another_process_is_at_it(self, simulator: Simulator) -> None:
        [order] = buy_many(simulator, 1)
        Order.objects.update(claim="x", claimed_until=ago(-60))
        with Gateway() as gateway:
            assert check_now(order, gateway) == Swept()
        assert simulator.requests == []

    @pytest.mark.parametrize("status", ["UNCONFIRMED", "REJECTED", "FULFILLED", "PLACING"])
    def test_nothing_to_ask(self, status: str, simulator: Simulator) -> None:
        order = make_order(Status(status), claimed_until=ago(-60))
        with Gateway() as gateway:
            assert check_now(order, gateway) == Swept()
        assert simulator.requests == []


class TestWatch:
    def follow(self, order: Order) -> list[str]:
        with Gateway() as gateway:
            return [seen.status for seen in watch(order, gateway)]

    def test_to_the_end(self, simulator: Simulator, set_conf: Callable[..., None]) -> None:
        set_conf(POLL_INTERVAL=0.1)
        [order] = buy_many(simulator, 1, type_id="SIM_NEVER")

        def settle(request: Request) -> None:
            if len(checks(simulator)) == 3:
                simulator.settle(checks(simulator)[0], delivered=2)

        simulator.on_request = settle
        assert self.follow(order) == ["HANDLING"] * 3 + ["FULFILLED"]

    def test_a_final_order_once(self, simulator: Simulator) -> None:
        assert self.follow(make_order(Status.REFUNDED)) == ["REFUNDED"]

    @pytest.mark.parametrize(
        ("type_id", "status"), [("SIM_LOST", "UNCONFIRMED"), ("SIM_REJECT", "REJECTED")]
    )
    def test_an_order_with_which_nothing_more_will_happen(
        self, type_id: str, status: str, simulator: Simulator
    ) -> None:
        assert self.follow(make_order(type_id=type_id)) == [status]

    def test_until_it_is_delayed(self, simulator: Simulator, set_conf: Callable[..., None]) -> None:
        set_conf(POLL_INTERVAL=0.1, POLL_TIMEOUT=1)
        [order] = buy_many(simulator, 1, type_id="SIM_NEVER")
        seen = self.follow(order)
        assert seen[-1] == "DELAYED"
        assert set(seen[:-1]) == {"HANDLING"}

    def test_until_the_key_is_refused(self, simulator: Simulator) -> None:
        [order] = buy_many(simulator, 1)
        simulator.keys = ["another"]
        assert self.follow(order) == ["HANDLING"]
        assert len(simulator.requests) == 1

    def test_no_longer_than_the_timeout(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        """Here another process has the order and does not let go of it."""
        set_conf(POLL_INTERVAL=0.1, POLL_TIMEOUT=1)
        [order] = buy_many(simulator, 1)
        Order.objects.update(claim="x", claimed_until=ago(-600))
        began = time.monotonic()
        assert set(self.follow(order)) == {"HANDLING"}
        assert 1 < time.monotonic() - began < 3
        assert simulator.requests == []


class TestSwept:
    def test_adds_up(self) -> None:
        first = Swept(sent=1, checked=2, settled=3, failed=4, postponed=5, is_paused=True)
        # What was postponed is postponed still, or was done later.
        twice = Swept(sent=2, checked=4, settled=6, failed=8, postponed=5, is_paused=True)
        assert first + first == twice
        assert (first + Swept()).postponed == 0
        assert (first + Swept()).is_paused is False
        assert json.loads(json.dumps(first.as_dict())) == {
            "sent": 1,
            "checked": 2,
            "settled": 3,
            "failed": 4,
            "postponed": 5,
            "is_paused": True,
        }

    def test_says_what_was_done(self) -> None:
        assert str(Swept(1, 2, 3, 4)) == "1 sent, 2 checked, 3 settled, 4 failed"
        assert str(Swept(1, 2, 3, 4, 5)) == ("1 sent, 2 checked, 3 settled, 4 failed, 5 postponed")
        assert str(Swept(is_paused=True)) == "0 sent, 0 checked, 0 settled, 0 failed; paused"
