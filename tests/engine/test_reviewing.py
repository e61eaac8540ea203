"""``REVIEW_ORDER``: an order that the shop's own rule objects to waits for staff."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.utils.functional import lazystr
from django_q.models import OrmQ

from giftcards.engine.approvals import put_on_hold_for_review, release_fallen
from giftcards.engine.gateway import Gateway
from giftcards.engine.loop import is_work_left
from giftcards.engine.placing import send
from giftcards.engine.sweep import check_now
from giftcards.fulfilment import (
    approve_price,
    approve_review,
    cancel_order,
    place_order,
    reorder_missing,
)
from giftcards.models import Lease, Order, ProductPrices
from giftcards.rules.problems import Problem
from giftcards.simulator import Simulator
from giftcards.statuses import Review, Status
from giftcards.tasks import tick
from tests.builders import make_guide_order, make_order, problems
from tests.conftest import Call
from tests.stage import CODE, LINE, PSN, ago, fresh, history, in_threads, messages, posts, run_sweep

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

HERE = "tests.engine.test_reviewing"
REASON = "Third order of c1@example.com today"
WANTED = Problem("review_wanted", {"objection": REASON})


class Rule:
    """The shop's rule: its next answer, a hook, and the orders that it was asked about."""

    def __init__(self) -> None:
        self.says: Any = None
        self.meanwhile: Callable[[], object] = lambda: None
        self.asked: list[str] = []

    def __call__(self, order: Order) -> Any:
        self.asked.append(order.reference)
        self.meanwhile()
        if isinstance(self.says, BaseException):
            raise self.says
        return self.says


rule = Rule()


async def slowly(_order: Order) -> None:
    """A coroutine function as a rule, which the app does not await."""


def doubled(order: Order) -> None:
    """A rule that changes the order."""
    order.quantity *= 2


@pytest.fixture(autouse=True)
def shop(set_conf: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Rule:
    set_conf(REVIEW_ORDER=f"{HERE}.rule")
    monkeypatch.setattr(f"{HERE}.rule", Rule())
    return rule


def held(**values: Any) -> Order:
    """Place an order that the rule objects to, and return it."""
    rule.says = REASON
    order = place_order(**LINE, **values)
    run_sweep()
    assert problems(order) == [WANTED]
    assert (fresh(order).is_on_hold, order.review) == (True, Review.WANTED)
    return order


def paths(simulator: Simulator) -> list[str]:
    return [request.path for request in simulator.requests]


class TestAsking:
    def test_an_order_without_an_objection_is_sent(self, simulator: Simulator, shop: Rule) -> None:
        order = place_order(**LINE)
        assert shop.asked == []  # not in the request of the customer
        run_sweep()
        order.refresh_from_db()
        assert (order.status, order.review, shop.asked) == ("FULFILLED", "", [order.reference])

    @pytest.mark.parametrize(
        ("says", "shown"),
        [
            (REASON, REASON),
            (lazystr("Première commande"), "Première commande"),
            ("  طلب كبير \n\t(50 000 دج) ", "طلب كبير (50 000 دج)"),
            ("a\0b\u202ec\u2028d\ud800", "abc d"),
            ("x" * 201, "x" * 199 + "…"),
        ],
    )
    def test_an_objection_holds_the_order_and_is_kept_as_one_plain_line(
        self, says: Any, shown: str, simulator: Simulator, shop: Rule
    ) -> None:
        shop.says = says
        order = place_order(**LINE)
        run_sweep()
        assert problems(order) == [Problem("review_wanted", {"objection": shown})]
        assert (fresh(order).status, order.due_at, order.review) == ("PENDING", None, Review.WANTED)
        assert order.needs_attention
        assert paths(simulator) == []

    @pytest.mark.usefixtures("simulator")
    def test_the_objection_is_not_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        order = held()
        assert messages(caplog) == [f"Order {order.reference} is on hold for review."]

    def test_without_the_setting_nobody_is_asked(
        self, simulator: Simulator, shop: Rule, set_conf: Callable[..., None]
    ) -> None:
        set_conf(REVIEW_ORDER=None)
        order = place_order(**LINE)
        run_sweep()
        assert (fresh(order).status, shop.asked) == ("FULFILLED", [])

    def test_a_rule_that_changes_its_order_changes_nothing(
        self, simulator: Simulator, shop: Rule, set_conf: Callable[..., None]
    ) -> None:
        set_conf(REVIEW_ORDER=f"{HERE}.doubled")
        order = place_order(**LINE)
        run_sweep()
        order.refresh_from_db()
        [bought] = simulator.orders.values()
        assert (bought.quantity, order.quantity) == (2, 2)

    def test_an_order_placed_by_the_command_is_on_hold(
        self, call: Call, simulator: Simulator, shop: Rule
    ) -> None:
        shop.says = REASON
        outcome = call("giftcards_place", PSN, "type_001", "2", "--wait")
        assert (outcome.code, posts(simulator)) == (1, 0)
        assert WANTED.text in outcome.err


class TestFailing:
    """If the rule fails, the order is not sent; it is retried, and later put on hold."""

    @pytest.fixture(
        params=["raises", "", " \n", 5, True, b"no", ["no"], "not there", "no function", "async"]
    )
    def failure(
        self, request: pytest.FixtureRequest, shop: Rule, set_conf: Callable[..., None]
    ) -> str:
        """Make the rule fail in one way, and return the text that reports the failure."""
        match request.param:
            case "raises":
                shop.says = ValueError(f"no such customer: {CODE}")
                return "ValueError"
            case "not there":
                set_conf(REVIEW_ORDER="tests.gone.rule")
                return "ModuleNotFoundError"
            case "no function":
                set_conf(REVIEW_ORDER=f"{HERE}.REASON")
                return "TypeError"
            case "async":
                set_conf(REVIEW_ORDER=f"{HERE}.slowly")
                return "returned coroutine instead of a reason"
        shop.says = request.param
        return f"returned {type(request.param).__name__} instead of a reason"

    @pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
    def test_an_order_is_postponed_and_after_a_minute_somebody_is_told(
        self,
        failure: str,
        simulator: Simulator,
        shop: Rule,
        set_conf: Callable[..., None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        order = place_order(**LINE)
        found = []
        for failures in range(1, 7):
            run_sweep()
            found.append([problem.code for problem in problems(order)])
            assert fresh(order).due_at > ago(0)
            assert (order.status, order.failures, order.review) == ("PENDING", failures, "")
            Order.objects.update(due_at=ago(1))
        assert found == [[]] * 4 + [["review_failed"]] * 2
        assert [problem.hint for problem in problems(order)] == [
            "The rule is the function in the REVIEW_ORDER setting. The log shows where the"
            " function failed."
            f" Technical detail: {failure}."
        ]
        assert posts(simulator) == 0
        assert CODE not in caplog.text
        assert CODE not in str(order.problems)
        shop.says = None
        set_conf(REVIEW_ORDER=f"{HERE}.rule")
        run_sweep()
        assert (fresh(order).status, order.problems) == ("FULFILLED", [])

    def test_the_log_says_where_the_rule_failed(
        self, simulator: Simulator, shop: Rule, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.says = KeyError("vip")
        order = place_order(**LINE)
        run_sweep()
        [line] = messages(caplog)
        assert line.startswith(f"REVIEW_ORDER failed for order {order.reference}: KeyError at ")
        assert "test_reviewing.py:" in line

    def test_other_orders_are_sent_meanwhile(self, simulator: Simulator, shop: Rule) -> None:
        shop.says = ValueError()
        first = place_order(**LINE)
        run_sweep()
        shop.says = None
        second = place_order(**LINE)
        run_sweep()
        statuses = [Order.objects.get(pk=order.pk).status for order in (first, second)]
        assert statuses == ["PENDING", "FULFILLED"]

    def test_a_rule_that_takes_all_the_time_of_a_task_does_not_hold_up_the_next_one(
        self, simulator: Simulator, shop: Rule
    ) -> None:
        """This is how django-q2 ends a task that exceeds its time limit."""
        shop.says = SystemExit("Task exceeded maximum timeout value (90 seconds)")
        order = place_order(**LINE)
        with pytest.raises(SystemExit):
            run_sweep()
        assert (fresh(order).status, order.failures) == ("PENDING", 1)
        shop.says = None
        later = place_order(**LINE)
        run_sweep()
        assert shop.asked == [order.reference, later.reference]

    @pytest.mark.parametrize("failures", [1, 4, 5])
    def test_an_order_whose_rule_fails_until_send_timeout_is_on_hold_for_a_person(
        self, failures: int, simulator: Simulator, shop: Rule, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.says = ValueError(f"no such customer: {CODE}")
        order = place_order(**LINE)
        Order.objects.update(queued_at=ago(3599), failures=failures - 1)
        run_sweep()
        assert [problem.code for problem in problems(order)] == ["review_failed"]
        Order.objects.update(due_at=ago(1), queued_at=ago(3601))
        run_sweep()
        objection = "The REVIEW_ORDER rule keeps failing: ValueError"
        assert problems(order) == [Problem("review_wanted", {"objection": objection})]
        assert (fresh(order).is_on_hold, order.review) == (True, Review.WANTED)
        assert posts(simulator) == 0
        assert CODE not in caplog.text
        shop.says = None
        assert approve_review(order, by="amina")
        run_sweep()
        assert (fresh(order).status, shop.asked) == ("FULFILLED", [order.reference])

    @pytest.mark.usefixtures("simulator")
    def test_an_order_whose_rule_failed_once_before_the_worker_was_away_is_given_up(
        self, shop: Rule
    ) -> None:
        shop.says = ValueError()
        order = place_order(**LINE)
        run_sweep()
        Order.objects.update(due_at=ago(1), queued_at=ago(4000))
        run_sweep()
        assert (fresh(order).status, history(order)) == ("REJECTED", ["REJECTED"])


class TestOnHold:
    def test_an_order_waits_for_its_review_without_requests_or_time_limit(
        self, simulator: Simulator
    ) -> None:
        order = held(sale_price=550)
        assert not is_work_left()
        Order.objects.update(queued_at=ago(100_000), created_at=ago(100_000))
        Lease.objects.filter(name=Lease.ON_HOLD_PRICES).delete()
        for _time in range(2):
            tick()
        with Gateway() as gateway:
            check_now(order, gateway)
        assert problems(order) == [WANTED]
        assert not [path for path in paths(simulator) if "checkProduct" in path]
        assert posts(simulator) == 0

    @pytest.mark.parametrize("amount", ["sale_price", "max_price"])
    def test_a_fallen_price_does_not_release_an_order_that_waits_for_review(
        self, amount: str, simulator: Simulator
    ) -> None:
        order = held(**{amount: 550})
        release_fallen(PSN, {"type_001": Decimal(1)})
        assert problems(order) == [WANTED]
        assert order.acknowledgements.count() == 0

    def test_an_order_stays_on_hold_when_the_setting_is_taken_away(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        order = held()
        set_conf(REVIEW_ORDER=None)
        tick()
        assert problems(order) == [WANTED]
        assert approve_review(order, by="amina")


class TestApproving:
    @pytest.mark.usefixtures("simulator")
    def test_an_approved_order_is_sent_and_the_rule_is_not_asked_again(self, shop: Rule) -> None:
        order = held()
        Order.objects.update(queued_at=ago(100_000))
        OrmQ.objects.all().delete()
        assert approve_review(fresh(order), by="amina")
        run_sweep()
        assert (fresh(order).status, order.review) == ("FULFILLED", Review.APPROVED)
        assert shop.asked == [order.reference]

    @pytest.mark.usefixtures("simulator")
    def test_the_timeline_says_who_approved_the_order_and_why_it_was_on_hold(self) -> None:
        order = held()
        decision = approve_review(order, by="amina")
        trace = order.acknowledgements.get()
        assert (trace.by, Problem(trace.code, trace.parameters)) == ("amina", decision)
        assert str(decision) == (
            f"amina approved the order. Reason why it was on hold: “{REASON}”."
        )

    def test_an_approved_order_can_still_cost_too_much_and_is_then_on_hold_for_its_price(
        self, simulator: Simulator, shop: Rule
    ) -> None:
        order = held(sale_price=550)
        simulator.price_factor = 100
        assert approve_review(order, by="amina")
        run_sweep()
        assert [problem.code for problem in problems(order)] == ["price_above"]
        assert fresh(order).is_on_hold
        assert not approve_review(order, by="karim")
        simulator.price_factor = 1
        ProductPrices.objects.update(asked_at=ago(61))
        Lease.objects.filter(name=Lease.ON_HOLD_PRICES).delete()
        tick()
        assert (fresh(order).status, shop.asked) == ("FULFILLED", [order.reference])

    def test_an_approved_price_is_no_approved_review(
        self, simulator: Simulator, shop: Rule
    ) -> None:
        simulator.price_factor = 100
        order = place_order(**LINE, sale_price=550)
        run_sweep()
        assert approve_price(fresh(order), 49_000, by="amina")
        shop.says = REASON
        run_sweep()
        assert problems(order) == [WANTED]
        assert not approve_price(fresh(order), 49_000, by="amina")
        assert approve_review(order, by="amina")
        run_sweep()
        assert (fresh(order).status, order.price_per_card) == ("FULFILLED", 49_000)

    @pytest.mark.parametrize("status", [Status.PENDING, Status.PLACING, Status.HANDLING])
    def test_approving_an_order_that_is_not_on_hold_changes_nothing(self, status: Status) -> None:
        order = make_order(status)
        assert not approve_review(order, by="amina")
        assert (fresh(order).status, order.review) == (status, "")
        assert not order.acknowledgements.exists()

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.usefixtures("simulator", "shared_database")
    def test_of_four_concurrent_decisions_about_a_review_one_counts(self) -> None:
        order = held()

        def decide() -> object:
            return approve_review(Order.objects.get(pk=order.pk), by="amina")

        assert sorted(map(bool, in_threads(4, decide))) == [False, False, False, True]
        order.refresh_from_db()
        traces = order.acknowledgements.count() + order.changes.count()
        assert (traces, order.is_on_hold) == (1, False)


class TestMeanwhile:
    """Another process decides while the rule is asked, or between its answer and the claim."""

    @pytest.mark.parametrize("says", [None, REASON])
    @pytest.mark.parametrize("decision", [cancel_order, approve_review])
    def test_what_a_person_decides_meanwhile_counts(
        self, says: str | None, decision: Any, simulator: Simulator, shop: Rule
    ) -> None:
        order = place_order(**LINE)

        def decide() -> None:
            put_on_hold_for_review(Order.objects.get(pk=order.pk), objection=REASON)
            assert decision(Order.objects.get(pk=order.pk), by="amina")

        shop.meanwhile, shop.says = decide, says
        with Gateway() as gateway:
            send(order, gateway)
        order = Order.objects.get(pk=order.pk)
        assert not order.is_on_hold
        if decision is cancel_order:
            assert (order.status, posts(simulator)) == ("REJECTED", 0)
        else:
            assert order.review == Review.APPROVED

    def test_an_order_that_is_on_hold_meanwhile_is_not_sent(
        self, simulator: Simulator, shop: Rule
    ) -> None:
        order = place_order(**LINE)
        shop.meanwhile = lambda: put_on_hold_for_review(
            Order.objects.get(pk=order.pk), objection=REASON
        )
        with Gateway() as gateway:
            assert send(order, gateway)
        assert posts(simulator) == 0
        assert problems(order) == [WANTED]

    def test_two_processes_that_are_told_of_an_objection_hold_the_order_once(
        self, simulator: Simulator, shop: Rule, caplog: pytest.LogCaptureFixture
    ) -> None:
        place_order(**LINE)
        shop.says = REASON
        one, other = Order.objects.get(), Order.objects.get()
        with Gateway() as gateway:
            assert send(one, gateway)
            assert send(other, gateway)
        assert len(messages(caplog)) == 1
        assert problems(one) == [WANTED]


class TestRepeated:
    """Orders for missing cards."""

    @pytest.mark.parametrize("status", [Status.PARTIALLY_FILLED, Status.REFUNDED, Status.REJECTED])
    @pytest.mark.parametrize("review", ["", Review.APPROVED])
    def test_the_rule_is_not_asked_about_the_missing_cards_of_an_order_that_passed(
        self, status: Status, review: str, simulator: Simulator, shop: Rule
    ) -> None:
        new = reorder_missing(make_guide_order(status, review=review), by="amina")
        shop.says = REASON
        run_sweep()
        assert (fresh(new).status, shop.asked) == ("FULFILLED", [])

    def test_the_rule_is_asked_about_the_cards_of_an_order_that_was_cancelled_after_a_review(
        self, simulator: Simulator, shop: Rule
    ) -> None:
        order = held()
        assert cancel_order(order, by="amina")
        new = reorder_missing(order, by="the shop")
        run_sweep()
        assert problems(new) == [WANTED]
        assert posts(simulator) == 0
