"""``REORDER_MISSING``: a rule reorders missing cards, which are owed if they do not come."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from giftcards.engine.approvals import end_waits, put_on_hold_for_price, send_at_once
from giftcards.engine.loop import is_work_left
from giftcards.engine.recording import record_changes
from giftcards.engine.reordering import reorder_of
from giftcards.fulfilment import approve_price, cancel_order, place_order, reorder_missing
from giftcards.models import ApiKey, Lease, Order, ProductPrices, ProviderState, StatusChange
from giftcards.rules.problems import Problem
from giftcards.settlement import customer_breakdown
from giftcards.signals import order_finalized
from giftcards.simulator import Simulator
from giftcards.statuses import Review, Status
from giftcards.tasks import tick
from giftcards.watch.conditions import CONDITIONS, Standing
from tests.builders import (
    CARDS,
    PARTIAL,
    PRICE,
    PRODUCT,
    REFUNDED,
    answer,
    details,
    make_guide_order,
    make_order,
    problems,
    settle,
)
from tests.stage import ago, failing, fresh, in_threads, messages, posts, receiving, run_sweep
from tests.wall import Wall

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

SOLD = {"sale_price": Decimal(550)}
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture(autouse=True)
def rule(set_conf: Callable[..., None]) -> None:
    set_conf(REORDER_MISSING={"times": 2, "hours": 6})


def again(order: Order) -> Order:
    """Return the reorder of ``order``."""
    found = reorder_of(order)
    assert found is not None
    return found


def short(**values: Any) -> Order:
    """Return the waiting reorder of an order of which 3 of 5 cards came."""
    return again(settle("web-1042", PARTIAL, **{**SOLD, **values}))


def buy(kind: str, quantity: int = 5, **values: Any) -> Order:
    line = {"product_id": PRODUCT, "type_id": kind, "quantity": quantity}
    order = place_order(**{**line, **SOLD, **values})
    for _sweep in range(2):
        run_sweep()
    order.refresh_from_db()
    return order


def its_turn(order: Order, **values: Any) -> Order:
    """End the waiting time. A worker looks at the order, which settles if it can."""
    Order.objects.filter(pk=order.pk).update(**{"send_after": ago(1), **values})
    for _sweep in range(2):
        run_sweep()
    order.refresh_from_db()
    return order


def ahead(moment: Any) -> timedelta:
    """Return the time until ``moment``, in whole minutes."""
    return timedelta(minutes=round((moment - timezone.now()) / MINUTE))


class TestOrdering:
    @pytest.mark.parametrize(
        ("kind", "status", "missing"),
        [
            ("TEST_PARTIAL", "PARTIALLY_FILLED", 3),
            ("TEST_REFUND", "REFUNDED", 5),
            ("SIM_REJECT", "REJECTED", 5),
        ],
    )
    def test_missing_cards_are_ordered_again_and_wait_for_their_turn(
        self, kind: str, status: str, missing: int, simulator: Simulator
    ) -> None:
        order = buy(kind, customer_email="amina@example.com", group="cart-7")
        new = again(order)
        assert (order.status, new.line) == (status, (PRODUCT, kind, missing))
        assert (new.customer_email, new.group) == ("amina@example.com", "cart-7")
        assert (new.status, new.is_waiting, problems(new)) == ("PENDING", True, [])
        assert (new.sale_amount, new.price_ceiling) == (missing * 550, 550)
        # No money is owed for this order any more.
        assert (order.reordered_amount, order.open_amount) == (missing * 550, 0)
        trace = order.acknowledgements.get()
        expected = ("reordered_by_rule", {"order": new.reference}, "")
        assert (trace.code, trace.parameters, trace.by) == expected
        assert str(Problem(trace.code, trace.parameters)) == (
            f"The app ordered the missing cards again automatically (order {new.reference})."
        )

    @pytest.mark.usefixtures("simulator")
    def test_whoever_is_told_that_an_order_is_final_finds_the_new_order(self) -> None:
        found = []

        def look(order: Order, **_named: Any) -> None:
            found.append((order.reordered_amount, again(order).quantity))

        with receiving(order_finalized, look):
            buy("TEST_PARTIAL")
            buy("SIM_REJECT")
        assert found == [(1650, 3), (2750, 5)]

    @pytest.mark.parametrize("setting", [None, {"times": 2, "hours": 6}])
    def test_without_the_rule_or_missing_cards_nothing_is_ordered_again(
        self, setting: Any, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(REORDER_MISSING=setting)
        order = buy("type_001" if setting else "TEST_PARTIAL")
        assert order.is_final
        assert Order.objects.get() == order

    def test_an_order_that_waits_for_its_turn_costs_nothing_and_alarms_nobody(
        self, simulator: Simulator
    ) -> None:
        new = again(buy("TEST_PARTIAL"))
        simulator.forget_requests()
        Order.objects.filter(pk=new.pk).update(queued_at=ago(100_000), created_at=ago(100_000))
        Lease.objects.filter(name=Lease.ON_HOLD_PRICES).delete()
        ProductPrices.objects.all().delete()
        assert not is_work_left()
        tick()
        assert {request.path for request in simulator.requests} <= {"/v3/account/balance"}
        assert (fresh(new).is_waiting, new.needs_attention) == (True, False)
        standing = Standing()
        assert not CONDITIONS["queue"].judge(standing)
        assert not CONDITIONS["attention"].judge(standing)

    def test_an_order_is_sent_in_its_turn_and_has_the_time_of_any_other_to_be_sent(
        self, simulator: Simulator
    ) -> None:
        new = its_turn(again(buy("TEST_PARTIAL")), type_id="type_001", queued_at=ago(100_000))
        assert (new.status, new.fulfilled_quantity, new.send_after) == ("FULFILLED", 3, None)
        assert (posts(simulator), reorder_of(new)) == (2, None)

    def test_no_dinar_is_lost_and_no_card_is_bought_too_much_along_a_chain(
        self, simulator: Simulator
    ) -> None:
        order = buy("TEST_PARTIAL", 7, sale_price=None, sale_amount=Decimal(5000))
        second = its_turn(again(order))
        third = its_turn(again(second))
        chain = [order, second, third]
        assert [each.quantity for each in chain] == [7, 4, 2]
        assert [each.fulfilled_quantity for each in chain] == [3, 2, 1]
        parts = [customer_breakdown(Order.objects.get(pk=each.pk)) for each in chain]
        assert [part.open_amount > 0 for part in parts if part] == [False, False, True]
        kept = sum(part.kept_amount for part in parts if part)
        assert kept + parts[-1].open_amount == 5000  # type: ignore[union-attr]
        assert reorder_of(third) is None
        assert posts(simulator) == 3

    def test_an_order_whose_cards_are_ordered_again_settles_once_though_that_fails(
        self, simulator: Simulator, caplog: pytest.LogCaptureFixture
    ) -> None:
        order = place_order(product_id=PRODUCT, type_id="TEST_REFUND", quantity=2, **SOLD)
        with failing("INSERT", "giftcards_acknowledgement"):
            for _sweep in range(2):
                run_sweep()
        order.refresh_from_db()
        assert (order.status, order.open_amount, reorder_of(order)) == ("REFUNDED", 1100, None)
        assert messages(caplog) == [
            f"The missing cards of order {order.reference} are not ordered again: OperationalError"
        ]

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.usefixtures("simulator")
    def test_an_order_is_not_final_before_the_database_has_kept_both(self) -> None:
        """A deadlock in MariaDB also rolls back the whole transaction."""
        order = place_order(product_id=PRODUCT, type_id="TEST_REFUND", quantity=2, **SOLD)
        with failing("INSERT", "giftcards_acknowledgement"), failing("ROLLBACK TO"):
            for _sweep in range(2):
                run_sweep()
        assert (fresh(order).status, reorder_of(order)) == ("HANDLING", None)
        Order.objects.update(due_at=ago(1))
        run_sweep()
        assert (fresh(order).status, again(order).quantity) == ("REFUNDED", 2)


class TestTurns:
    @pytest.mark.parametrize(
        ("times", "hours", "waits"),
        [
            # The first reorder comes soon, and the others are spread over the hours.
            (1, 6, [10]),
            (2, 6, [10, 180]),
            (3, 6, [10, 120, 180]),
            (3, 0.4, [6, 8, 12]),
        ],
    )
    @pytest.mark.usefixtures("simulator")
    def test_the_orders_of_a_chain_wait_so_many_minutes_one_after_the_other(
        self, times: int, hours: float, waits: list[int], set_conf: Callable[..., None]
    ) -> None:
        set_conf(REORDER_MISSING={"times": times, "hours": hours})
        order, found = buy("TEST_REFUND"), []
        ends = set()
        while (new := reorder_of(order)) is not None:
            found.append(ahead(new.send_after) / MINUTE)
            ends.add(new.send_before)
            order = its_turn(new)
        assert found == waits
        # All of them end at the same time.
        [end] = ends
        assert ahead(end) == timedelta(hours=hours)

    def test_a_person_who_orders_again_begins_anew(self, simulator: Simulator) -> None:
        order = buy("TEST_REFUND")
        for _time in range(2):
            order = its_turn(again(order))
        assert reorder_of(order) is None
        theirs = reorder_missing(order, by="amina")
        assert (theirs.send_after, theirs.send_before) == (None, None)
        for _sweep in range(2):
            run_sweep()
        new = again(theirs)
        assert (ahead(new.send_after), ahead(new.send_before)) == (10 * MINUTE, 6 * HOUR)

    def test_after_the_rule_was_taken_away_orders_that_wait_are_sent_and_no_others_made(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        new = again(buy("TEST_PARTIAL"))
        set_conf(REORDER_MISSING=None)
        new = its_turn(new)
        assert (new.status, reorder_of(new)) == ("PARTIALLY_FILLED", None)

    @pytest.mark.usefixtures("simulator")
    def test_waits_are_not_longer_because_the_clock_was_set_back(self, wall: Wall) -> None:
        new = again(buy("TEST_PARTIAL"))
        wall.step(-2 * 3600)
        run_sweep()
        assert (ahead(fresh(new).send_after), ahead(new.send_before)) == (10 * MINUTE, 6 * HOUR)

    @pytest.mark.parametrize(
        ("column", "status"), [("send_after", "PARTIALLY_FILLED"), ("send_before", "REJECTED")]
    )
    @pytest.mark.usefixtures("simulator")
    def test_a_time_that_no_order_waits_for_counts_as_past(self, column: str, status: str) -> None:
        """The time was written while the clock was wrong, before all processes stopped."""
        new = again(buy("TEST_PARTIAL"))
        values = {"send_after": ago(-60), column: ago(-73 * 3600)}
        assert its_turn(new, **values).status == status


class TestCeiling:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"max_price": 500}, 500),
            ({"max_price": 500, "approved_price": 700}, 500),
            ({"sale_amount": 2750}, 550),
            ({"approved_price": 495}, 495),
            ({}, PRICE),
        ],
    )
    def test_a_card_may_cost_what_it_might_cost_before_or_else_what_it_cost(
        self, given: dict[str, Any], expected: Decimal
    ) -> None:
        order = settle("web-1042", REFUNDED, **given)
        assert again(order).price_ceiling == expected

    def test_nothing_is_ordered_at_any_price(self, simulator: Simulator) -> None:
        """If the provider refused the order, the cost of a card is unknown."""
        order = buy("SIM_REJECT", sale_price=None)
        assert (order.status, reorder_of(order)) == ("REJECTED", None)

    def test_a_card_that_costs_more_by_then_waits_and_is_given_up_when_the_hours_are_over(
        self, simulator: Simulator, caplog: pytest.LogCaptureFixture
    ) -> None:
        new = again(buy("TEST_PARTIAL"))
        simulator.price_factor = 100
        ProductPrices.objects.all().delete()
        new = its_turn(new)
        assert [problem.code for problem in problems(new)] == ["price_above"]
        caplog.clear()
        new = its_turn(new, send_after=None, send_before=ago(1))
        assert (new.status, new.open_amount, reorder_of(new)) == ("REJECTED", 1650, None)
        change = new.changes.get()
        assert change.source == "clock"
        assert details(change) == [Problem("reorder_expired")]
        assert messages(caplog) == [
            f"Order {new.reference} is REJECTED. The order was an automatic reorder of missing"
            " cards. It was rejected because it could not be sent within the time that the shop"
            " allows. Nothing was bought."
        ]
        assert posts(simulator) == 1

    @pytest.mark.parametrize("ends_by", ["price falls", "approved"])
    def test_a_card_that_cost_more_is_bought_once_its_price_is_right(
        self, ends_by: str, simulator: Simulator
    ) -> None:
        new = again(buy("TEST_PARTIAL"))
        simulator.price_factor = 100
        ProductPrices.objects.all().delete()
        new = its_turn(new, type_id="type_001")
        assert new.is_on_hold
        if ends_by == "approved":
            assert approve_price(new, 49_000, by="amina")
        else:
            simulator.price_factor = 1
            ProductPrices.objects.update(asked_at=ago(61))
            Lease.objects.filter(name=Lease.ON_HOLD_PRICES).delete()
            tick()
        run_sweep()
        assert fresh(new).status == "FULFILLED"

    def test_an_order_that_could_not_be_sent_in_its_turn_for_too_long_is_owed(
        self, simulator: Simulator
    ) -> None:
        new = again(buy("TEST_PARTIAL"))
        simulator.outage = True
        ProductPrices.objects.all().delete()
        assert its_turn(new).due_at is not None
        ProviderState.objects.update(pause="", paused_until=None)
        Order.objects.filter(pk=new.pk).update(due_at=ago(1), queued_at=ago(4000))
        run_sweep()
        assert (fresh(new).status, new.open_amount, reorder_of(new)) == ("REJECTED", 1650, None)

    def test_a_worker_that_was_down_for_the_hours_buys_nothing(self, simulator: Simulator) -> None:
        new = again(buy("TEST_PARTIAL"))
        new = its_turn(new, send_before=ago(1))
        assert (new.status, posts(simulator)) == ("REJECTED", 1)


class TestNotByRule:
    @pytest.mark.parametrize("held_for", ["price", "review"])
    def test_what_staff_have_cancelled_is_not_ordered_again(
        self, held_for: str, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        if held_for == "review":
            set_conf(REVIEW_ORDER="tests.engine.test_reordering.object_to")
        order = buy("TEST_REFUND", max_price=100)
        assert order.is_on_hold
        assert cancel_order(order, by="amina")
        assert (fresh(order).status, reorder_of(order)) == ("REJECTED", None)

    def test_what_was_given_up_is_not_ordered_again(self, simulator: Simulator) -> None:
        order = make_order(queued_at=ago(4000), **SOLD)
        run_sweep()
        assert (fresh(order).status, reorder_of(order)) == ("REJECTED", None)

    def test_an_order_that_settles_with_a_problem_is_left_to_a_person(self) -> None:
        odd = answer(
            "PARTIALLY_FILLED",
            quantity=5,
            fulfilled_quantity=3,
            fulfilled_amount=None,
            price_per_card=PRICE,
            cards=CARDS[:3],
        )
        order = settle("web-1042", odd, **SOLD)
        assert (order.status, order.needs_attention) == ("PARTIALLY_FILLED", True)
        assert (order.open_amount, reorder_of(order)) == (1100, None)

    def test_cards_of_the_sandbox_are_not_bought_with_a_real_key(
        self, simulator: Simulator
    ) -> None:
        new = again(buy("TEST_PARTIAL"))
        assert new.environment == "SANDBOX"
        simulator.key_type = "PRODUCTION"
        ApiKey.objects.update(environment="PRODUCTION")
        new = its_turn(new)
        assert [problem.code for problem in problems(new)] == ["other_environment"]
        assert posts(simulator) == 1

    def test_the_missing_cards_of_an_order_that_passed_its_review_are_not_reviewed(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        new = again(buy("TEST_PARTIAL"))
        set_conf(REVIEW_ORDER="tests.engine.test_reordering.object_to")
        new = its_turn(new, type_id="type_001")
        assert (new.status, new.review) == ("FULFILLED", Review.APPROVED)


def object_to(_order: Order) -> str:
    """A rule of the shop that objects."""
    return "Third order today"


def tell_late(new: Order, cards: int) -> Order:
    """Let the provider send ``cards`` cards in total for the order that ``new`` repeats."""
    old = Order.objects.get(pk=new.repeats_id)
    told = answer("FULFILLED", fulfilled_quantity=cards, cards=CARDS[:cards])
    record_changes([(old, told)], now=timezone.now())
    assert fresh(old).needs_attention
    return old


class TestCardsThatCameAfterAll:
    def test_cards_that_may_have_come_are_not_bought_before_somebody_has_looked(
        self, simulator: Simulator
    ) -> None:
        new = short()
        old = tell_late(new, 4)
        for _time in range(2):
            new = its_turn(new)
            expected = (True, 10 * MINUTE, 0)
            assert (new.is_waiting, ahead(new.send_after), posts(simulator)) == expected
        for problem in problems(old):
            old.acknowledge(problem, by="amina")
        # One of the two missing cards has come.
        new = its_turn(new)
        assert (new.is_waiting, posts(simulator)) == (True, 0)
        new = its_turn(new, send_before=ago(1))
        assert (new.status, new.open_amount) == ("REJECTED", 1100)

    @pytest.mark.usefixtures("simulator")
    def test_cards_that_have_not_come_are_bought_once_the_problem_is_acknowledged(self) -> None:
        new = short()
        old = Order.objects.get(pk=new.repeats_id)
        assert old.dispute(by="amina", cards=[1])
        assert its_turn(new).is_waiting
        for problem in problems(old):
            old.acknowledge(problem, by="amina")
        assert its_turn(new).status == "FULFILLED"

    def test_an_approved_price_does_not_buy_cards_that_may_have_come(
        self, simulator: Simulator
    ) -> None:
        new = short()
        assert send_at_once(new, by="amina")
        put_on_hold_for_price(new, price=Decimal(600), ceiling=Decimal(550))
        tell_late(new, 5)
        assert approve_price(new, 600, by="amina")
        run_sweep()
        assert (fresh(new).is_waiting, posts(simulator)) == (True, 0)


class TestStaff:
    def test_staff_who_order_again_get_the_order_that_waits(self, simulator: Simulator) -> None:
        new = short()
        old = Order.objects.get(pk=new.repeats_id)
        assert reorder_missing(old, by="amina") == new
        assert old.acknowledgements.count() == 1

    def test_staff_stop_an_order_that_waits_and_the_money_is_owed(
        self, simulator: Simulator
    ) -> None:
        new = short()
        assert cancel_order(new, by="amina")
        assert (fresh(new).status, new.open_amount, reorder_of(new)) == ("REJECTED", 1100, None)
        run_sweep()
        assert posts(simulator) == 0

    def test_staff_have_an_order_sent_before_its_turn(self, simulator: Simulator) -> None:
        new = short()
        decision = send_at_once(new, by="amina")
        assert str(decision) == "amina sent the order without waiting any longer."
        trace = new.acknowledgements.get()
        assert (trace.code, trace.by) == ("staff_hurried", "amina")
        assert not send_at_once(new, by="karim")
        for _sweep in range(2):
            run_sweep()
        assert fresh(new).status == "FULFILLED"

    @pytest.mark.parametrize("status", [Status.PENDING, Status.PLACING, Status.HANDLING])
    def test_an_order_that_does_not_wait_is_not_hurried(self, status: Status) -> None:
        assert not send_at_once(make_order(status), by="amina")

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("is_over", [False, True])
    @pytest.mark.usefixtures("simulator", "shared_database")
    def test_of_a_person_and_a_worker_at_the_same_moment_one_decides(self, is_over: bool) -> None:
        new = short()
        moment = "send_before" if is_over else "send_after"
        Order.objects.filter(pk=new.pk).update(**{moment: ago(1)})
        work: list[Callable[[], object]] = [
            lambda: cancel_order(Order.objects.get(pk=new.pk), by="amina"),
            partial(end_waits, Order.objects.all()),
        ] * 2
        in_threads(4, lambda: work.pop()())
        assert not fresh(new).is_on_hold
        changes = list(StatusChange.objects.filter(order=new).values_list("source", flat=True))
        # Even if a worker released the order first, staff could still cancel it.
        assert changes in ([["staff"]] if not is_over else [["clock"], ["staff"]])
        assert (new.status == "REJECTED") == bool(changes)


@pytest.mark.parametrize("sold", [{}, SOLD])
def test_a_manual_order_and_one_by_rule_move_the_same_money(
    sold: dict[str, Any], set_conf: Callable[..., None]
) -> None:
    columns = ("quantity", "sale_price", "sale_amount")
    by_rule = again(settle("web-1", PARTIAL, **sold))
    set_conf(REORDER_MISSING=None)
    by_hand = reorder_missing(make_guide_order(Status.PARTIALLY_FILLED, **sold), by="amina")
    assert [getattr(by_rule, name) for name in columns] == [
        getattr(by_hand, name) for name in columns
    ]
