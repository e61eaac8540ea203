"""Later answers about settled orders: differences are shown once, and cards are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext

from giftcards.engine.gateway import Gateway
from giftcards.engine.recording import compare_rows, record_answers, record_changes
from giftcards.engine.sweep import check_settled, sweep
from giftcards.exceptions import NotFound
from giftcards.models import Card, Order
from giftcards.provider.answers import OrderAnswer
from giftcards.rules.problems import Problem
from giftcards.settlement import customer_breakdown, record_refund
from giftcards.statuses import Status
from tests.builders import (
    CARDS,
    FULFILLED,
    LINE,
    PARTIAL,
    PRICE,
    answer,
    claim,
    make_guide_order,
    make_order,
    problems,
    surplus,
)
from tests.stage import (
    CODE,
    LIST,
    PROVIDER,
    Log,
    Wire,
    ago,
    failing,
    fresh,
    list_page,
    list_row,
    messages,
    run_sweep,
    settled_answer,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

NOW = datetime.fromisoformat("2025-10-29T01:00:00+00:00")
MORE = [
    Problem("contradicted", {"status": "FULFILLED", "delivered": 5, "ordered": 5}),
    Problem(
        "figure_changed", {"field": "fulfilled_amount", "amount": "2450.00", "expected": "1470.00"}
    ),
    Problem("late_cards", {"received": 5, "announced": 3}),
]


def settle(given_answer: OrderAnswer = PARTIAL, **values: Any) -> Order:
    """Return an order that this answer has settled."""
    [held] = claim(make_guide_order(reference="order-1", **values))
    assert record_answers([(held, given_answer)], now=NOW) == 1
    return Order.objects.get(pk=held.pk)


def see(order: Order, told: OrderAnswer, *, times: int = 1, **options: bool) -> Order:
    """Record an answer about a settled order, and return the order as stored."""
    for _ in range(times):
        record_changes([(Order.objects.get(pk=order.pk), told)], now=NOW, **options)
    return Order.objects.get(pk=order.pk)


def codes(order: Order) -> list[str]:
    return [card.value for card in order.cards.order_by("position")]


class TestDifferences:
    def test_two_more_cards_after_settling_are_kept_and_the_status_stays(self, caplog: Log) -> None:
        order = settle()
        caplog.clear()
        after = see(order, FULFILLED, times=3)
        expected = ("PARTIALLY_FILLED", 3, 1470)
        assert (after.status, after.fulfilled_quantity, after.fulfilled_amount) == expected
        assert after.finalized_at == order.finalized_at
        assert problems(after) == MORE
        assert codes(after) == [card.value for card in CARDS]
        assert not [row for row in Card.objects.all() if CARDS[4].value in row.sealed]
        # Each difference is logged once.
        assert messages(caplog) == [f"Order order-1 is PARTIALLY_FILLED: {text}" for text in MORE]

    def test_staff_are_told_of_cards_that_come_after_the_customer_was_paid_back(self) -> None:
        order = settle(sale_price=600)
        record_refund(order, amount=1200, reference="R1")
        after = see(order, FULFILLED)
        assert (problems(after), after.needs_attention) == (MORE, True)
        breakdown = customer_breakdown(after)
        assert breakdown is not None
        assert (breakdown.open_amount, after.open_amount) == (0, 0)

    def test_a_difference_that_was_acknowledged_stays_so_until_another_comes(self) -> None:
        order = see(settle(), FULFILLED)
        for problem in MORE:
            assert order.acknowledge(problem, by="amina")
        assert see(order, FULFILLED).open_problems == []
        after = see(order, dataclasses.replace(FULFILLED, price_per_card=Decimal(500)))
        price = {"field": "price_per_card", "amount": "500.00", "expected": "490.00"}
        assert after.open_problems == [Problem("figure_changed", price)]

    def test_other_codes_of_the_same_number_are_seen_by_a_thorough_comparison(self) -> None:
        order = settle()
        told = dataclasses.replace(PARTIAL, cards=CARDS[1:4])
        assert codes(see(order, told)) == [card.value for card in CARDS[:3]]
        after = see(order, told, is_thorough=True)
        assert codes(after) == [card.value for card in CARDS[:4]]
        assert problems(after) == [surplus(4, 3)]

    def test_a_late_card_in_place_of_a_surplus_card_is_kept(self) -> None:
        order = see(settle(), dataclasses.replace(PARTIAL, cards=CARDS[:4]))
        after = see(order, dataclasses.replace(PARTIAL, cards=(*CARDS[:3], CARDS[4])))
        assert codes(after) == [card.value for card in CARDS]
        assert surplus(5, 3) in problems(after)

    def test_an_answer_about_another_line_after_settling_is_only_shown(self) -> None:
        told = dataclasses.replace(FULFILLED, type_id="type_002")
        for is_thorough in (False, True):
            after = see(settle(), told, is_thorough=is_thorough)
            assert problems(after) == [Problem("line_differs", {"field": "type"})]
            assert len(codes(after)) == 3
            Card.objects.all().delete()
            Order.objects.all().delete()

    @pytest.mark.parametrize(
        ("before", "told"),
        [
            (PARTIAL, PARTIAL),
            (PARTIAL, answer("HANDLING")),
            (PARTIAL, answer("PARTIALLY_FILLED")),
            # This difference was recorded before.
            (FULFILLED, FULFILLED),
        ],
    )
    def test_answers_without_a_new_difference_cost_no_query_after_settling(
        self, before: OrderAnswer, told: OrderAnswer, django_assert_num_queries: Any
    ) -> None:
        order = see(settle(), before)
        with django_assert_num_queries(0):
            record_changes([(order, told)] * 100, now=NOW)

    def test_a_difference_that_cannot_be_recorded_keeps_no_other_back(self, caplog: Log) -> None:
        first = settle()
        Order.objects.update(reference="order-0")
        second = settle()
        caplog.clear()
        error = DatabaseError("CANARY-CODE-1234")
        with failing("UPDATE", error=error, when=lambda _, params: params[-1] == first.pk):
            record_changes([(first, FULFILLED), (second, FULFILLED)], now=NOW)
        assert problems(second) == MORE
        assert problems(first) == []
        assert messages(caplog)[0] == (
            "The provider's answer about order order-1 could not be recorded: DatabaseError"
        )


def follow_three() -> list[Order]:
    """Return three orders, for which reading the list is worthwhile."""
    return [make_order(Status.HANDLING, sent_at=ago(9), due_at=ago(1)) for _ in range(3)]


OPEN = {"status": "HANDLING", "cards": [], "fulfilled_quantity": 0, "fulfilled_amount": 0}


class TestInPassing:
    """Rows of settled orders on pages that are read for other orders."""

    def test_a_change_of_a_settled_order_is_seen_without_another_request(self, wire: Wire) -> None:
        done = make_order(
            Status.FULFILLED, sent_at=ago(10), fulfilled_amount=980, price_per_card=PRICE
        )
        open_orders = follow_three()
        gone = {"status": "REFUNDED", "cards": [], "fulfilled_quantity": 0, "fulfilled_amount": 0}
        rows = [list_row(order, **OPEN) for order in open_orders]
        wire.get(LIST, json=list_page(list_row(done, **gone), *rows))
        for _ in range(2):
            Order.objects.filter(finalized_at=None).update(due_at=ago(1))
            assert run_sweep().checked == 3
        assert [
            call for call in wire.calls if f"/{done.provider_order_id}" in call.request.url
        ] == []
        assert fresh(done).status == "FULFILLED"
        assert [problem.code for problem in problems(done)] == ["contradicted", "figure_changed"]

    @pytest.mark.parametrize("is_changed", [False, True])
    def test_comparing_any_number_of_settled_orders_costs_one_query(
        self, is_changed: bool, wire: Wire
    ) -> None:
        def count(settled: int) -> int:
            Card.objects.all().delete()
            Order.objects.all().delete()
            known = {"fulfilled_amount": 980, "price_per_card": PRICE, "sent_at": ago(10)}
            done = [make_order(Status.FULFILLED, **known) for _ in range(settled)]
            told = {"price_per_card": 500} if is_changed else {}
            rows = [list_row(order, **told) for order in done]
            rows += [list_row(order, **OPEN) for order in follow_three()]
            wire.replace("GET", LIST, json=list_page(*rows))
            for _ in range(2):
                Order.objects.filter(finalized_at=None).update(due_at=ago(1))
                # In the second run, the difference is already on record.
                with Gateway() as gateway, CaptureQueriesContext(connection) as queries:
                    sweep(gateway)
            return len(queries)

        wire.get(LIST, json=list_page())
        assert count(9) == count(1)

    def test_a_sweep_of_some_orders_leaves_other_settled_orders_alone(self, wire: Wire) -> None:
        done = make_order(Status.FULFILLED, sent_at=ago(10), fulfilled_amount=980)
        rows = [list_row(order, **OPEN) for order in follow_three()]
        wire.get(LIST, json=list_page(list_row(done, fulfilled_amount=1), *rows))
        run_sweep(Order.objects.exclude(pk=done.pk))
        assert problems(done) == []


class TestOnRequest:
    def test_a_settled_order_is_compared_card_by_card_on_request(self, wire: Wire) -> None:
        done = make_order(Status.FULFILLED, fulfilled_amount=980, price_per_card=PRICE)
        url = f"{PROVIDER}/v3/gift-cards/check-order/{done.provider_order_id}"
        wire.get(url, json=settled_answer(done))
        with Gateway() as gateway:
            assert check_settled(done, gateway)
        assert problems(done) == []
        assert codes(done) == [f"{CODE}-0", f"{CODE}-1"]

    def test_checking_a_settled_order_that_the_provider_does_not_know_raises(
        self, wire: Wire
    ) -> None:
        done = make_order(Status.FULFILLED)
        url = f"{PROVIDER}/v3/gift-cards/check-order/{done.provider_order_id}"
        wire.get(url, status=404, json={"success": False, "error": {"code": "NOT_FOUND"}})
        with Gateway() as gateway, pytest.raises(NotFound):
            check_settled(done, gateway)

    def test_comparing_rows_returns_settled_orders_with_open_differences(self) -> None:
        order, same = settle(), make_order(Status.FULFILLED, provider_order_id="A7")
        make_order(Status.HANDLING, provider_order_id="A8")
        rows = {name: answer("FULFILLED", provider_id=name, **LINE) for name in ("A7", "A8", "A9")}
        rows[str(order.provider_order_id)] = FULFILLED
        assert compare_rows(rows) == [order]
        assert problems(order) == MORE
        # Differences count until they are acknowledged.
        assert compare_rows(rows) == [order]
        for problem in MORE:
            order.acknowledge(problem, by="amina")
        assert compare_rows(rows) == []
        # The order is not returned for a different problem either, which has nothing to do with the
        # rows.
        Order.objects.filter(pk=order.pk).update(
            **order.problem_columns(new=[Problem("price_unknown")])
        )
        assert compare_rows(rows) == []
        assert problems(same) == []


def test_poll_and_reconcile_compare_settled_orders(call: Callable[..., Any], wire: Wire) -> None:
    done = make_order(
        Status.PARTIALLY_FILLED,
        sent_at=ago(10),
        fulfilled_amount=490,
        price_per_card=PRICE,
        reference="cart-1",
    )
    url = f"{PROVIDER}/v3/gift-cards/check-order/{done.provider_order_id}"
    wire.get(url, json=settled_answer(done))
    wire.get(LIST, json=list_page(list_row(done)))
    out, _err, code = call("giftcards_reconcile")
    assert "1 settled order is different at the provider and needs attention.\n  cart-1\n" in out
    assert code == 1
    assert len(codes(done)) == 2
    Order.objects.filter(pk=done.pk).update(problems=[], needs_attention=False)
    out, _err, code = call("giftcards_poll", "--reference", "cart-1")
    assert (
        "attention   contradicted: After the order had settled, the provider reported it as" in out
    )
    assert code == 0
    assert [p.code for p in problems(done)] == ["contradicted", "figure_changed", "late_cards"]
    assert CODE not in out
