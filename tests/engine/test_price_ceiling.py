"""Price limits: if a card costs more, nothing is bought before staff have decided."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import requests
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from django_q.models import OrmQ

from giftcards.catalogue import quote
from giftcards.engine.approvals import approve_price, cancel_order, release_fallen
from giftcards.engine.gateway import Gateway
from giftcards.engine.loop import is_work_left
from giftcards.engine.placing import send
from giftcards.engine.sweep import check_now
from giftcards.fulfilment import place_order
from giftcards.models import Lease, Order, ProductPrices, ProductType, ProviderState, StatusChange
from giftcards.rules.problems import Problem
from giftcards.simulator import Denomination, Product, Simulator
from giftcards.statuses import Status
from giftcards.tasks import tick
from tests.builders import make_offer, make_order, problems
from tests.conftest import Call
from tests.stage import (
    LINE,
    PLACE,
    PROVIDER,
    PSN,
    Log,
    Wire,
    ago,
    buy_many,
    end_pause,
    fresh,
    history,
    in_threads,
    messages,
    posts,
    prove_key,
    refill_budget,
    run_sweep,
    spend_budget,
    statuses,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

URL = f"{PROVIDER}/v3/gift-cards/checkProduct/{PSN}"
ACCEPTED = {"success": True, "data": {"orderId": "A1"}}
ABOVE = Problem("price_above", {"price": "49000.00", "ceiling": "550.00"})


def held(simulator: Simulator, **values: Any) -> Order:
    """Return an order on hold whose cards cost a hundred times as much as usual."""
    simulator.price_factor = 100
    order = place_order(**{**LINE, "sale_price": 550, **values})
    run_sweep()
    assert fresh(order).is_on_hold
    return order


def prices_of(*prices: object) -> dict[str, Any]:
    types = [{"id": "type_001", "price": price} for price in prices]
    return {"success": True, "data": {"types": types}}


def test_the_ceiling_of_an_order_is_that_of_its_columns() -> None:
    order = Order(**LINE, sale_price=550)
    assert order.price_ceiling == 550
    order.max_price = Decimal(500)
    assert order.price_ceiling == 500
    order.approved_price = Decimal(600)
    assert order.price_ceiling == 600


class TestSending:
    @pytest.mark.parametrize("ceiling", ["sale_price", "max_price"])
    @pytest.mark.parametrize(
        ("price", "limit", "is_sent"),
        [
            (490, Decimal(490), True),
            (490, Decimal("490.01"), True),
            (490, Decimal("489.99"), False),
            (Decimal("490.01"), Decimal(490), False),
            (0, Decimal(0), True),
        ],
    )
    def test_an_order_is_sent_up_to_its_price_ceiling_and_put_on_hold_above_it(
        self, ceiling: str, price: Any, limit: Decimal, is_sent: bool, wire: Any
    ) -> None:
        wire.replace("GET", URL, json=prices_of(float(price)))
        wire.post(PLACE, json=ACCEPTED)
        order = place_order(**LINE, **{ceiling: limit})
        run_sweep()
        assert fresh(order).status == ("HANDLING" if is_sent else "PENDING")
        assert order.is_on_hold is not is_sent
        wire.assert_call_count(PLACE, int(is_sent))

    def test_after_a_purchase_at_another_price_the_next_order_is_put_on_hold(
        self, simulator: Simulator
    ) -> None:
        make_offer()
        with Gateway() as other_process:
            assert other_process.prices.required_price(PSN, "type_001") == 490
            simulator.price_factor = 2
            order = place_order(**LINE, sale_price=550)
            run_sweep()
            order.refresh_from_db()
            assert (order.status, order.price_per_card) == ("FULFILLED", 980)
            assert [problem.code for problem in problems(order)] == ["price_changed"]
            # A worker reads the product again, so that the shelf shows the new price.
            assert ProductType.objects.earliest("pk").product.asked_at is None
            assert other_process.prices.required_price(PSN, "type_001") == 980
        later = place_order(**{**LINE, "reference": "later", "sale_price": 550})
        run_sweep()
        assert fresh(later).is_on_hold

    @pytest.mark.parametrize("sold", [{"sale_price": 470}, {"sale_amount": 940}])
    @pytest.mark.parametrize(
        ("accepted_loss", "cost", "is_sent"),
        [(0, 490, False), (19, 490, False), (20, 490, True), (20, 490.01, False)],
    )
    def test_an_order_below_its_cost_is_sent_up_to_the_loss_that_the_owner_accepts(
        self, sold: dict[str, Any], accepted_loss: int, cost: float, is_sent: bool, wire: Any
    ) -> None:
        make_offer(product_id=PSN, accepted_loss=accepted_loss)
        wire.replace("GET", URL, json=prices_of(cost))
        wire.post(PLACE, json=ACCEPTED)
        order = place_order(**{**LINE, "quantity": 2}, **sold)
        # A loss that the owner accepts later applies only to later orders.
        ProductType.objects.update(accepted_loss=1_000)
        run_sweep()
        assert fresh(order).status == ("HANDLING" if is_sent else "PENDING")
        wire.assert_call_count(PLACE, int(is_sent))

    def test_an_order_at_a_hundred_times_its_price_is_on_hold_for_a_person(
        self, simulator: Simulator, caplog: Log
    ) -> None:
        simulator.price_factor = 100
        order = place_order(**LINE, reference="cart-1", sale_price=550)
        run_sweep()
        assert problems(order) == [ABOVE]
        assert (fresh(order).status, order.due_at, history(order)) == ("PENDING", None, [])
        assert order.needs_attention
        assert posts(simulator) == 0
        assert messages(caplog) == [
            "Order cart-1 is on hold. A card costs 49000.00 at the provider, but your limit is"
            " 550.00. The order is waiting for a decision."
        ]

    def test_an_order_on_hold_waits_without_requests_time_limit_or_work_for_the_loop(
        self, simulator: Simulator
    ) -> None:
        order = held(simulator)
        Order.objects.update(queued_at=ago(100_000), created_at=ago(100_000))
        simulator.forget_requests()
        assert not is_work_left()
        for _sweep in range(2):
            run_sweep()
        with Gateway() as gateway:
            check_now(order, gateway)
        assert simulator.requests == []
        assert (fresh(order).is_on_hold, problems(order)) == (True, [ABOVE])
        assert "0 sent" in tick()

    def test_orders_within_their_ceiling_are_sent_in_a_sweep_that_holds_others(
        self, simulator: Simulator
    ) -> None:
        lines: list[dict[str, Any]] = [
            {"sale_price": 550},
            {"max_price": 550, "product_id": "unknown"},
            {"max_price": 550, "type_id": "unknown"},
            {},
            {"max_price": 49_000},
            {"max_price": 48_999},
        ]
        simulator.price_factor = 100
        for line in lines:
            place_order(**LINE | line)
        run_sweep()
        expected = ["PENDING", "PENDING", "PENDING", "FULFILLED", "FULFILLED", "PENDING"]
        assert statuses() == expected

    def test_an_order_that_is_sent_again_is_compared_with_its_ceiling_again(
        self, simulator: Simulator
    ) -> None:
        order = make_order(sale_price=550, queued_at=timezone.now())
        order.move(Status.PLACING, source=StatusChange.Source.PLACING, due_at=None)
        order.move(Status.PENDING, source=StatusChange.Source.PLACING, due_at=ago(1))
        simulator.price_factor = 2
        run_sweep()
        assert posts(simulator) == 0
        assert fresh(order).is_on_hold

    def test_two_processes_that_send_one_order_above_its_ceiling_hold_it_once(
        self, simulator: Simulator, caplog: Log
    ) -> None:
        simulator.price_factor = 100
        place_order(**LINE, sale_price=550)
        one, other = Order.objects.get(), Order.objects.get()
        with Gateway() as gateway:
            assert send(one, gateway)
            assert send(other, gateway)
        assert len(messages(caplog)) == 1
        assert problems(one) == [ABOVE]

    def test_a_process_that_read_an_order_before_it_was_on_hold_does_not_send_it(
        self, simulator: Simulator
    ) -> None:
        place_order(**LINE, sale_price=550)
        slow = Order.objects.get()
        with Gateway() as gateway:
            # The slow process has the price from before the rise.
            assert gateway.prices.required_price(PSN, "type_001") == 490
            ProductPrices.objects.all().delete()
            simulator.price_factor = 100
            run_sweep()
            assert send(slow, gateway)
        assert posts(simulator) == 0
        assert Order.objects.get().is_on_hold

    def test_a_process_that_read_an_order_with_a_higher_ceiling_does_not_send_it(
        self, simulator: Simulator
    ) -> None:
        held(simulator)
        approve_price(Order.objects.get(), 49_000, by="amina")
        slow = Order.objects.get()
        Order.objects.update(due_at=None)
        approve_price(Order.objects.get(), 500, by="amina")
        with Gateway() as gateway:
            assert send(slow, gateway)
        assert posts(simulator) == 0


def questions(simulator: Simulator) -> int:
    """Return the number of requests for the price of a product."""
    return sum("checkProduct" in request.path for request in simulator.requests)


def know_price(simulator: Simulator, *, seconds: float, factor: int = 100) -> None:
    """Store a price from ``seconds`` ago that is ``factor`` times what the provider says now."""
    simulator.price_factor = factor
    with Gateway() as gateway:
        gateway.prices.required_price(PSN, "type_001")
    ProductPrices.objects.update(asked_at=ago(seconds))
    simulator.price_factor = 1
    simulator.forget_requests()


class TestCurrentPrice:
    """Only the current price can put an order on hold, not a price that is known from before."""

    @pytest.mark.parametrize("seconds", [11, 590])
    @pytest.mark.parametrize("ceiling", ["sale_price", "max_price", "approved"])
    def test_orders_above_the_price_known_from_before_are_sent_at_the_price_of_now(
        self, seconds: float, ceiling: str, simulator: Simulator
    ) -> None:
        know_price(simulator, seconds=seconds)
        values = {ceiling.replace("approved", "sale_price"): 550}
        orders = [place_order(**LINE, **values) for _order in range(2)]
        if ceiling == "approved":
            Order.objects.update(approved_price=550, queued_at=ago(600))
        run_sweep()
        for order in orders:
            order.refresh_from_db()
            assert (order.status, order.problems, order.price_at_placing) == ("FULFILLED", [], 490)
        assert questions(simulator) == 1

    def test_many_orders_above_their_ceiling_are_put_on_hold_by_one_more_question(
        self, simulator: Simulator
    ) -> None:
        know_price(simulator, seconds=60)
        simulator.price_factor = 100
        for _order in range(5):
            place_order(**LINE, sale_price=550)
        run_sweep()
        assert [order.is_on_hold for order in Order.objects.all()] == [True] * 5
        assert questions(simulator) == 1

    def test_without_a_slot_no_order_is_put_on_hold_by_the_price_known_from_before(
        self, simulator: Simulator
    ) -> None:
        know_price(simulator, seconds=60)
        order = place_order(**LINE, sale_price=550)
        spend_budget()
        run_sweep()
        assert (fresh(order).is_on_hold, problems(order), questions(simulator)) == (False, [], 0)
        refill_budget()
        run_sweep()
        assert fresh(order).status == "FULFILLED"


def make_product(simulator: Simulator, product_id: str) -> None:
    types = {"type_001": Denomination("A card", Decimal(490))}
    product = Product(product_id, "DZ", types)
    simulator.catalogue = {**simulator.catalogue, product_id: product}


def forget_turn() -> None:
    """Make it time again to request the prices of orders on hold."""
    Lease.objects.filter(name=Lease.ON_HOLD_PRICES).delete()
    ProductPrices.objects.update(asked_at=ago(61))


class TestFallenPrice:
    """An order on hold continues once its price is known to be at its price limit, or below."""

    FELL = Problem("price_fell", {"price": "490.00", "ceiling": "550.00"})

    def test_orders_on_hold_go_on_when_the_price_is_asked_for_another_order(
        self, simulator: Simulator
    ) -> None:
        orders = [held(simulator), held(simulator, sale_price=490), held(simulator, sale_price=489)]
        Order.objects.update(queued_at=ago(100_000), failures=3)
        simulator.price_factor = 1
        ProductPrices.objects.update(asked_at=ago(11))
        simulator.forget_requests()
        orders.append(place_order(**LINE, sale_price=550))
        for _sweep in range(2):
            run_sweep()
        assert statuses() == [*["FULFILLED"] * 2, "PENDING", "FULFILLED"]
        assert fresh(orders[2]).is_on_hold
        assert (questions(simulator), posts(simulator)) == (1, 3)

    def test_an_order_on_hold_goes_on_with_the_tick_and_says_so_in_its_timeline(
        self, simulator: Simulator
    ) -> None:
        order = held(simulator)
        simulator.price_factor = 1
        forget_turn()
        tick()
        order.refresh_from_db()
        assert (order.status, order.problems, order.approved_price) == ("FULFILLED", [], None)
        trace = order.acknowledgements.get()
        assert (trace.by, Problem(trace.code, trace.parameters)) == ("", self.FELL)
        assert self.FELL.text == (
            "The price of a card fell to 490.00. The price is now within the limit of 550.00, so"
            " the order continued automatically."
        )

    def test_what_any_process_was_told_lets_orders_on_hold_go_on_without_another_question(
        self, simulator: Simulator
    ) -> None:
        order = held(simulator)
        simulator.price_factor = 1
        quote(PSN, "type_001", max_age=0)
        simulator.forget_requests()
        tick()
        assert (fresh(order).status, questions(simulator)) == ("FULFILLED", 0)

    @pytest.mark.parametrize("lines", [{"type_id": "type_003"}, {"sale_price": 489}])
    def test_an_order_whose_own_price_has_not_fallen_stays_on_hold(
        self, lines: dict[str, Any], simulator: Simulator
    ) -> None:
        order = held(simulator, **lines)
        simulator.price_factor = 1
        forget_turn()
        tick()
        assert fresh(order).is_on_hold
        assert posts(simulator) == 0

    def test_an_order_that_waits_for_a_person_for_another_reason_stays_on_hold(
        self, simulator: Simulator
    ) -> None:
        order = make_order(sale_price=550, due_at=None, problems=[Problem("not_sent")])
        for _time in range(2):
            forget_turn()
            tick()
        assert (fresh(order).is_on_hold, posts(simulator)) == (True, 0)

    def test_the_prices_of_orders_on_hold_are_asked_for_at_a_bounded_rate(
        self, simulator: Simulator
    ) -> None:
        simulator.price_factor = 100
        for number in range(7):
            make_product(simulator, f"p{number}")
            make_order(product_id=f"p{number}", sale_price=550, due_at=None, problems=[ABOVE])
        prove_key()  # otherwise the question for the balance may try it alone
        forget_turn()
        simulator.forget_requests()
        for _tick in range(3):
            tick()
        assert questions(simulator) == 5
        # In the end, each order gets its turn.
        simulator.price_factor = 1
        for _tick in range(100):
            if not Order.objects.on_hold().exists():
                break
            forget_turn()
            tick()
        assert set(statuses()) == {"FULFILLED"}

    def test_the_prices_of_orders_on_hold_wait_while_the_budget_is_short(
        self, simulator: Simulator
    ) -> None:
        order = held(simulator)
        simulator.price_factor = 1
        forget_turn()
        simulator.forget_requests()
        spend_budget(but=10)
        tick()
        assert simulator.requests == []
        refill_budget()
        forget_turn()
        tick()
        assert fresh(order).status == "FULFILLED"

    def test_a_shop_that_holds_no_order_asks_for_no_price(self, simulator: Simulator) -> None:
        know_price(simulator, seconds=61)
        make_order(Status.DELAYED, due_at=None)
        tick()
        assert questions(simulator) == 0

    def test_an_order_that_a_person_cancelled_stays_rejected(self, simulator: Simulator) -> None:
        order = held(simulator)
        cancel_order(order, by="amina")
        simulator.price_factor = 1
        forget_turn()
        tick()
        assert (fresh(order).status, posts(simulator)) == ("REJECTED", 0)

    def test_an_order_above_the_price_that_a_person_approved_goes_on_at_that_price(
        self, simulator: Simulator
    ) -> None:
        order = held(simulator)
        approve_price(order, 500, by="amina")
        run_sweep()
        assert fresh(order).is_on_hold
        simulator.price_factor = 1
        forget_turn()
        tick()
        assert (fresh(order).status, order.approved_price) == ("FULFILLED", 500)

    @pytest.mark.django_db(transaction=True)
    def test_of_a_person_and_a_fallen_price_at_the_same_moment_one_decides(
        self, simulator: Simulator, shared_database: str
    ) -> None:
        order = held(simulator)
        work: list[Callable[[], object]] = [
            lambda: approve_price(Order.objects.get(pk=order.pk), 600, by="amina"),
            lambda: release_fallen(PSN, {"type_001": Decimal(490)}),
        ] * 2
        in_threads(4, lambda: work.pop()())
        order.refresh_from_db()
        traces = order.acknowledgements.count() + order.changes.count()
        assert (traces, order.is_on_hold) == (1, False)


class TestUnknownPrice:
    """An order with a price limit is not sent before the price is known. The app tries again."""

    @pytest.fixture(
        params=["no such product", "not listed", "unreadable", "negative", "outage", "no answer"]
    )
    def trouble(self, request: pytest.FixtureRequest, wire: Wire) -> str:
        answers: dict[str, dict[str, Any]] = {
            "no such product": {
                "status": 404,
                "json": {"success": False, "error": {"code": "NOT_FOUND", "message": "No."}},
            },
            "not listed": {"json": {"success": True, "data": {"types": []}}},
            "unreadable": {"json": prices_of("soon")},
            "negative": {"json": prices_of(-490)},
            "outage": {"status": 503, "body": ""},
            "no answer": {"body": requests.ConnectionError("reset")},
        }
        wire.post(PLACE, json=ACCEPTED)
        wire.replace("GET", URL, **answers[request.param])
        return str(request.param)

    def test_an_order_with_an_unknown_price_is_sent_once_the_price_is_known(
        self, trouble: str, wire: Wire
    ) -> None:
        order = place_order(**LINE, max_price=500)
        run_sweep()
        assert (fresh(order).status, order.failures) == ("PENDING", 1)
        assert timedelta(0) < order.due_at - timezone.now() < timedelta(seconds=7)
        is_away = trouble in {"outage", "no answer"}
        codes = [problem.code for problem in problems(order)]
        assert codes == ([] if is_away else ["price_unknown"])
        assert is_work_left()
        wire.assert_call_count(PLACE, 0)
        wire.replace("GET", URL, json=prices_of(490))
        ProviderState.objects.update(pause="", paused_until=None)
        Order.objects.update(due_at=ago(1))
        run_sweep()
        assert (fresh(order).status, order.problems) == ("HANDLING", [])

    def test_pauses_grow_while_the_price_of_an_order_stays_unknown(self, trouble: str) -> None:
        order = place_order(**LINE, max_price=500)
        for least in (4, 8, 16, 32):
            Order.objects.update(due_at=ago(1))
            ProviderState.objects.update(pause="", paused_until=None)
            run_sweep()
            assert fresh(order).due_at - timezone.now() > timedelta(seconds=least - 1)
        assert order.failures == 4

    @pytest.mark.usefixtures("trouble")
    def test_an_order_is_given_up_if_its_price_stays_unknown_for_too_long(self) -> None:
        order = place_order(**LINE, max_price=500)
        run_sweep()
        Order.objects.update(due_at=ago(1), queued_at=ago(4000))
        run_sweep()
        assert (fresh(order).status, history(order)) == ("REJECTED", ["REJECTED"])

    @pytest.mark.usefixtures("trouble", "wire")
    def test_an_order_without_a_ceiling_is_sent_though_its_price_is_unknown(self) -> None:
        order = place_order(**LINE)
        run_sweep()
        assert fresh(order).status == "HANDLING"

    def test_many_orders_of_one_product_ask_for_an_unknown_price_once(
        self, trouble: str, wire: Wire
    ) -> None:
        for _order in range(5):
            place_order(**LINE, max_price=500)
        run_sweep()
        assert {order.failures for order in Order.objects.all()} == {1}
        # A broken connection is tried twice.
        assert len(wire.calls) <= 2


class TestAway:
    """An outage of the provider is one condition, not a problem of each order."""

    def place_many(self, simulator: Simulator) -> list[Order]:
        for number in range(3):
            make_product(simulator, f"p{number}")
        return [
            place_order(**{**LINE, "product_id": f"p{number % 3}"}, sale_price=550)
            for number in range(9)
        ]

    @pytest.mark.parametrize("is_listening", [True, False])
    def test_in_an_outage_no_order_needs_a_person_because_its_price_is_unknown(
        self, is_listening: bool, simulator: Simulator, call: Call
    ) -> None:
        # The provider was available until a moment ago.
        buy_many(simulator, 1)
        run_sweep()
        orders = self.place_many(simulator)
        if is_listening:
            simulator.outage = True
        else:
            simulator.stop()
        for _sweep in range(6):
            Order.objects.filter(status="PENDING").update(due_at=ago(1))
            end_pause()
            run_sweep()
            assert not Order.objects.needing_attention().exists()
            # Time passes, and other processes have not recorded a success either.
            ProviderState.objects.update(succeeded_at=F("succeeded_at") - timedelta(seconds=60))
        assert call("giftcards_status", "--fail-on", "attention", "-v0").code == 0
        away = call("giftcards_status", "--fail-on", "paused,provider_failing", "-v0")
        assert (away.code, "needs attention" in away.err) == (1, False)
        simulator.outage = False
        if not is_listening:
            simulator.start()
        Order.objects.filter(status="PENDING").update(due_at=ago(1))
        end_pause()
        for _sweep in range(2):
            run_sweep()
        for order in orders:
            assert (fresh(order).status, order.problems) == ("FULFILLED", [])
            assert [entry for change in order.changes.all() for entry in change.details] == []

    def test_a_person_looks_at_a_price_that_is_not_told_while_the_provider_answers_others(
        self, wire: Wire
    ) -> None:
        wire.get(URL.replace(PSN, "broken"), status=500, body="")
        wire.post(PLACE, status=503, json={"success": False, "error": {"code": "TRY_LATER"}})
        order = place_order(**{**LINE, "product_id": "broken"}, sale_price=550)
        found = []
        for _time in range(6):
            Order.objects.update(due_at=ago(1))
            ProviderState.objects.update(succeeded_at=timezone.now(), pause="", paused_until=None)
            run_sweep()
            found.append([problem.code for problem in problems(order)])
        assert found == [[]] * 4 + [["price_unknown"]] * 2


class TestTypesForTests:
    """``TEST_REFUND`` and ``TEST_PARTIAL``, which the sandbox need not list."""

    def place(self, simulator: Simulator, type_id: str, **values: Any) -> Order:
        order = place_order(**{**LINE, "type_id": type_id, "sale_price": 550, **values})
        run_sweep()
        return fresh(order)

    @pytest.mark.parametrize(
        ("type_id", "status"),
        [("TEST_REFUND", Status.REFUNDED), ("TEST_PARTIAL", Status.PARTIALLY_FILLED)],
    )
    def test_an_unlisted_type_for_tests_is_sent_with_a_sandbox_key(
        self, type_id: str, status: Status, simulator: Simulator
    ) -> None:
        simulator.lists_test_types = False
        order = self.place(simulator, type_id)
        assert (order.status, order.problems, order.price_at_placing) == (status, [], None)
        assert posts(simulator) == 1

    @pytest.mark.parametrize(
        ("key_type", "type_id", "product_id"),
        [
            ("PRODUCTION", "TEST_REFUND", PSN),
            ("", "TEST_REFUND", PSN),
            ("TEST", "TEST_REFUND", PSN),
            ("SANDBOX", "type_999", PSN),
            ("SANDBOX", "test_refund", PSN),
            ("SANDBOX", "TEST_REFUND", "unknown"),
        ],
    )
    def test_any_other_unlisted_type_waits_for_its_price(
        self, key_type: Any, type_id: str, product_id: str, simulator: Simulator
    ) -> None:
        simulator.key_type, simulator.lists_test_types = key_type, False
        order = self.place(simulator, type_id, product_id=product_id)
        assert [problem.code for problem in problems(order)] == ["price_unknown"]
        assert posts(simulator) == 0

    def test_a_listed_type_for_tests_is_on_hold_above_its_ceiling(
        self, simulator: Simulator
    ) -> None:
        order = self.place(simulator, "TEST_REFUND", sale_price=489)
        assert order.is_on_hold
        assert posts(simulator) == 0

    @pytest.mark.parametrize("price", [None, "soon", -490])
    def test_a_type_for_tests_that_is_listed_without_a_price_waits_for_it(
        self, price: object, wire: Wire
    ) -> None:
        types = [{"id": "TEST_REFUND", "price": price}]
        wire.replace("GET", URL, json={"success": True, "data": {"types": types}})
        key = {"apiKey": {"type": "SANDBOX", "scope": "READ-WRITE"}}
        wire.get(f"{PROVIDER}/v3/validate", json={"success": True, "data": key})
        order = place_order(**{**LINE, "type_id": "TEST_REFUND"}, sale_price=550)
        run_sweep()
        assert [problem.code for problem in problems(order)] == ["price_unknown"]


class TestBudget:
    @pytest.mark.usefixtures("simulator")
    def test_asking_for_a_required_price_may_take_the_slots_of_placing(self) -> None:
        order = place_order(**LINE, max_price=500)
        spend_budget(but=2)
        run_sweep()
        assert fresh(order).status == "HANDLING"

    @pytest.mark.usefixtures("simulator")
    def test_an_order_whose_price_cannot_be_asked_for_stays_without_a_problem(self) -> None:
        order = place_order(**LINE, max_price=500)
        spend_budget()
        run_sweep()
        assert problems(order) == []
        refill_budget()
        run_sweep()
        assert fresh(order).status == "FULFILLED"


@pytest.mark.django_db(transaction=True)
class TestApproving:
    def test_an_order_on_hold_is_sent_at_the_approved_price_and_says_who_approved_it(
        self, simulator: Simulator
    ) -> None:
        order = held(simulator)
        Order.objects.update(queued_at=ago(100_000))
        OrmQ.objects.all().delete()
        assert approve_price(fresh(order), Decimal(49_000), by="amina")
        trace = order.acknowledgements.get()
        assert (trace.by, Problem(trace.code, trace.parameters).text) == (
            "amina",
            "amina approved a price of 49000.00 per card instead of 550.00.",
        )
        assert problems(order) == []
        assert (fresh(order).approved_price, order.price_ceiling) == (49_000, 49_000)
        run_sweep()
        assert (fresh(order).status, order.price_per_card) == ("FULFILLED", 49_000)
        assert posts(simulator) == 1

    def test_approving_a_price_wakes_the_worker_after_the_commit(
        self, simulator: Simulator
    ) -> None:
        order = held(simulator)
        OrmQ.objects.all().delete()
        Lease.objects.all().delete()
        with transaction.atomic():
            assert approve_price(order, 49_000, by="amina")
            assert not OrmQ.objects.exists()
        assert OrmQ.objects.count() == 1

    @pytest.mark.parametrize("is_price_known_from_before", [True, False])
    def test_an_order_that_costs_more_than_approved_is_on_hold_again(
        self, is_price_known_from_before: bool, simulator: Simulator
    ) -> None:
        order = held(simulator)
        simulator.price_factor = 200
        if not is_price_known_from_before:
            ProductPrices.objects.all().delete()
        assert approve_price(order, 49_000, by="amina")
        run_sweep()
        assert posts(simulator) == 0
        assert problems(order) == [
            Problem("price_above", {"price": "98000.00", "ceiling": "49000.00"})
        ]

    def test_the_price_of_an_approved_order_is_asked_for_once_while_no_slot_is_free_to_place_it(
        self, simulator: Simulator
    ) -> None:
        order = held(simulator)
        assert approve_price(order, 49_000, by="amina")
        ProductPrices.objects.update(asked_at=ago(60))
        Order.objects.update(queued_at=ago(30))
        simulator.forget_requests()
        for _slot in range(2):
            spend_budget(but=1)
            run_sweep()
        assert fresh(order).status == "HANDLING"
        assert questions(simulator) == 1

    def test_an_order_with_an_ordinary_ceiling_uses_the_price_that_is_known(
        self, simulator: Simulator
    ) -> None:
        with Gateway() as gateway:
            gateway.prices.required_price(PSN, "type_001")
        simulator.forget_requests()
        for _order in range(2):
            place_order(**LINE, max_price=500, sale_price=550)
        run_sweep()
        assert (posts(simulator), questions(simulator)) == (2, 0)

    def test_of_two_decisions_about_an_order_on_hold_the_first_approval_counts(
        self, simulator: Simulator
    ) -> None:
        order = held(simulator)
        stale = Order.objects.get()
        assert approve_price(order, 49_000, by="amina")
        assert not approve_price(stale, 60_000, by="karim")
        assert not approve_price(order, 60_000, by="karim")
        assert (fresh(order).approved_price, order.status) == (49_000, "PENDING")
        assert order.acknowledgements.count() == 1

    @pytest.mark.usefixtures("shared_database")
    def test_of_four_concurrent_approvals_of_a_price_one_counts(self, simulator: Simulator) -> None:
        pk = held(simulator).pk
        orders = [Order.objects.get(pk=pk) for _person in range(4)]
        done = in_threads(4, lambda: approve_price(orders.pop(), 49_000, by="amina"))
        assert sorted(map(bool, done)) == [False, False, False, True]

    @pytest.mark.parametrize("status", [Status.PENDING, Status.PLACING, Status.HANDLING])
    def test_deciding_about_an_order_that_is_not_on_hold_changes_nothing(
        self, status: Status
    ) -> None:
        order = make_order(status)
        assert not approve_price(order, 49_000, by="amina")
        assert (fresh(order).status, order.approved_price) == (status, None)
        assert not order.acknowledgements.exists()

    def test_a_slow_process_does_not_hold_an_order_again_after_its_approval(
        self, simulator: Simulator
    ) -> None:
        simulator.price_factor = 100
        place_order(**LINE, sale_price=550)
        slow = Order.objects.get()
        run_sweep()
        assert approve_price(Order.objects.get(), 49_000, by="amina")
        with Gateway() as gateway:
            send(slow, gateway)
        order = Order.objects.get()
        assert (order.is_on_hold, order.problems) == (False, [])

    @pytest.mark.parametrize("price", [-1, Decimal("1.005"), 490.0, "490", True, Decimal("NaN")])
    def test_approving_an_impossible_price_is_refused(
        self, price: Any, simulator: Simulator
    ) -> None:
        order = held(simulator)
        with pytest.raises(ValidationError):
            approve_price(order, price, by="amina")
        assert fresh(order).is_on_hold
