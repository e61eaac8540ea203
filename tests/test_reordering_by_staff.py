"""Ordering the missing cards again: in one new order, linked both ways, even if asked twice."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django_q.models import OrmQ

from giftcards.conf import conf
from giftcards.engine.gateway import Gateway
from giftcards.engine.placing import send
from giftcards.engine.recording import record_changes
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.exceptions import ReorderError
from giftcards.fulfilment import place_order, reorder_missing
from giftcards.keys.keyring import key_fingerprint
from giftcards.models import ApiKey, Order
from giftcards.rules.problems import Problem
from giftcards.settlement import customer_breakdown
from giftcards.simulator import Simulator
from giftcards.statuses import FINAL, Status
from tests.builders import (
    CARDS,
    PRODUCT,
    TYPE,
    answer,
    build_guide_order,
    make_guide_order,
    problems,
)
from tests.stage import in_threads, posts

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

PARTIAL, REFUNDED, REJECTED = Status.PARTIALLY_FILLED, Status.REFUNDED, Status.REJECTED
CUSTOMER = {
    "group": "Facture n° 12",
    "metadata": {"cart": 7, "note": "عيد مبارك"},
    "customer_email": "amina@example.com",
    "customer_name": "آمنة بن علي",
    "customer_phone": "+213 555 01 02 03",
    "customer_language": "ar",
}


def settle(order: Order, status: Status, *, delivered: int = 0) -> Order:
    """Return the order as it is after the provider has settled it."""
    accepted = build_guide_order(status)
    names = ("provider_order_id", "accepted_at", "finalized_at", "due_at")
    values = {name: getattr(accepted, name) for name in names}
    Order.objects.filter(pk=order.pk).update(status=status, fulfilled_quantity=delivered, **values)
    return Order.objects.get(pk=order.pk)


def decisions(order: Order) -> list[tuple[str, dict[str, Any], str]]:
    return [(row.code, row.parameters, row.by) for row in order.acknowledgements.all()]


class TestNewOrder:
    def test_the_new_order_is_for_the_missing_cards_of_the_same_customer(self) -> None:
        names = {"product_name": "PSN", "type_name": "500 DA"}
        order = make_guide_order(PARTIAL, sale_price=Decimal(550), **CUSTOMER, **names)
        before = Order.objects.values().get()
        reorder_missing(order, by="amina")
        new = Order.objects.get(repeats=order)
        assert new.line == (PRODUCT, TYPE, 2)
        expected = CUSTOMER | names
        assert {name: getattr(new, name) for name in expected} == expected
        assert (new.status, new.fulfilled_quantity) == (Status.PENDING, 0)
        assert order.reordered_as == new
        # The original order only loses the transferred amount, and records who decided.
        gone = {"reordered_amount": Decimal("1100.00"), "open_amount": 0, "is_owing": False}
        assert Order.objects.values().get(pk=order.pk) == before | gone
        told = {"by": "amina", "order": new.reference}
        assert decisions(order) == [("staff_reordered", told, "amina")]
        text = f"amina ordered the missing cards again (order {new.reference})."
        assert str(Problem("staff_reordered", told)) == text
        assert not order.changes.exists()

    @pytest.mark.parametrize("status", [REFUNDED, REJECTED])
    def test_all_cards_are_ordered_again_if_none_came(self, status: Status) -> None:
        assert reorder_missing(make_guide_order(status), by="amina").quantity == 5

    def test_orders_again_and_again_belong_to_the_one_that_the_shop_placed(self) -> None:
        make_guide_order(PARTIAL)
        order = make_guide_order(PARTIAL, reference="shop-1")
        again = settle(reorder_missing(order, by="amina"), PARTIAL, delivered=1)
        third = reorder_missing(again, by="amina")
        assert (order.parts, again.parts) == ([order, again, third], [again, third])
        assert [each.original for each in order.parts] == [order] * 3
        owned = Order.objects.filter(reference="shop-1").with_reorders()
        assert set(owned) == {order, again, third}
        assert not Order.objects.none().with_reorders().exists()

    def test_the_new_order_has_a_reference_that_the_shop_has_not_made(self) -> None:
        """The shop may use cart-7-2 itself at any time, for the second line of a cart."""
        order = make_guide_order(PARTIAL, reference="cart-7")
        assert "cart-7" not in reorder_missing(order, by="amina").reference
        assert place_order(product_id="p", type_id="t", quantity=1, reference="cart-7-2").is_new

    def test_the_new_order_is_sent_by_the_worker(self, simulator: Simulator) -> None:
        new = reorder_missing(make_guide_order(PARTIAL), by="amina")
        with Gateway() as gateway:
            send(new, gateway)
        assert (new.status, posts(simulator)) == (Status.HANDLING, 1)


def use_key_of(environment: str) -> None:
    """Record the environment that the provider has reported for the API key in use."""
    ApiKey.objects.update_or_create(
        pk=key_fingerprint(conf.api_key), defaults={"environment": environment}
    )


class TestEnvironment:
    """A card of the sandbox is not replaced by a real one."""

    @pytest.mark.parametrize(
        ("theirs", "ours"), [("SANDBOX", "PRODUCTION"), ("PRODUCTION", "SANDBOX")]
    )
    def test_nothing_is_ordered_again_in_another_environment(self, theirs: str, ours: str) -> None:
        use_key_of(ours)
        order = make_guide_order(PARTIAL, environment=theirs)
        with pytest.raises(ReorderError, match=f"{theirs.title()}.*{ours.title()}"):
            reorder_missing(order, by="amina")
        assert Order.objects.count() == 1
        assert decisions(order) == []

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [("SANDBOX", "SANDBOX"), ("PRODUCTION", "PRODUCTION"), ("", "PRODUCTION"), ("SANDBOX", "")],
    )
    def test_an_environment_that_is_the_same_or_not_known_is_no_obstacle(
        self, theirs: str, ours: str
    ) -> None:
        use_key_of(ours)
        ApiKey.objects.create(pk="another", environment="PRODUCTION")
        assert reorder_missing(make_guide_order(PARTIAL, environment=theirs), by="amina").is_new

    @pytest.mark.parametrize("theirs", ["SANDBOX", "PRODUCTION"])
    def test_a_server_without_a_key_does_not_know_and_orders(
        self, theirs: str, set_conf: Callable[..., None]
    ) -> None:
        set_conf(API_KEY="")
        order = make_guide_order(PARTIAL, environment=theirs)
        assert reorder_missing(order, by="amina").is_new


def settle_late(order: Order, cards: int) -> None:
    """Let the provider deliver ``cards`` cards in all, and staff acknowledge the problems."""
    told = answer("FULFILLED", fulfilled_quantity=cards, cards=CARDS[:cards])
    record_changes([(order, told)], now=timezone.now())
    for problem in problems(order):
        order.acknowledge(problem, by="amina")
    order.refresh_from_db()


class TestLateCards:
    """Cards that came after the order had settled are not bought a second time."""

    @pytest.mark.parametrize(("came", "missing", "owed"), [(3, 2, 1100), (4, 1, 550)])
    def test_only_what_is_still_missing_is_ordered_again_and_paid_for(
        self, came: int, missing: int, owed: int
    ) -> None:
        order = make_guide_order(PARTIAL, sale_price=Decimal(550))
        store_cards([Arrival(order, CARDS[:3])])
        settle_late(order, came)
        new = reorder_missing(order, by="amina")
        assert (order.missing_quantity, new.quantity, new.sale_amount) == (missing, missing, owed)

    @pytest.mark.parametrize("status", [PARTIAL, REFUNDED])
    def test_nothing_is_ordered_again_once_all_cards_came(self, status: Status) -> None:
        order = make_guide_order(status)
        store_cards([Arrival(order, CARDS[: order.fulfilled_quantity])])
        settle_late(order, 5)
        with pytest.raises(ReorderError):
            reorder_missing(order, by="amina")
        assert Order.objects.count() == 1

    def test_surplus_cards_do_not_make_less_than_nothing_missing(self) -> None:
        order = make_guide_order(PARTIAL, quantity=4)
        store_cards([Arrival(order, CARDS)])
        assert order.missing_quantity == 0

    def test_a_card_that_was_counted_but_not_sent_is_not_missing(self) -> None:
        order = make_guide_order(PARTIAL)
        store_cards([Arrival(order, CARDS[:1])])
        assert order.missing_quantity == 2

    def test_a_centime_is_not_lost_or_made_by_cards_that_came_late(self) -> None:
        order = make_guide_order(PARTIAL, quantity=3, fulfilled_quantity=1, sale_amount=1000)
        store_cards([Arrival(order, CARDS[:2])])
        assert reorder_missing(order, by="amina").sale_amount == Decimal("333.33")


class TestMoney:
    @pytest.mark.parametrize(
        ("sold", "quantity", "delivered", "owed"),
        [
            ({"sale_price": Decimal(550)}, 5, 3, Decimal(1100)),
            ({"sale_amount": Decimal(1000)}, 3, 2, Decimal("333.33")),
            ({"sale_amount": Decimal(1000)}, 3, 1, Decimal("666.67")),
            (
                {"sale_price": Decimal("0.01"), "sale_amount": Decimal("0.05")},
                5,
                3,
                Decimal("0.02"),
            ),
            ({"sale_amount": Decimal(0)}, 5, 3, Decimal(0)),
            ({}, 5, 3, None),
        ],
    )
    def test_the_new_order_was_paid_what_the_old_one_owes(
        self, sold: dict[str, Any], quantity: int, delivered: int, owed: Decimal | None
    ) -> None:
        order = make_guide_order(PARTIAL, quantity=quantity, fulfilled_quantity=delivered, **sold)
        new = reorder_missing(order, by="amina")
        new.refresh_from_db()
        assert new.sale_amount == owed
        assert new.sale_price == sold.get("sale_price")

    def test_nothing_is_owed_twice_along_a_chain(self) -> None:
        """The customer's payment is kept or owed exactly once, whatever happened to each order."""
        first = make_guide_order(PARTIAL, sale_amount=Decimal(1000))
        second = settle(reorder_missing(first, by="amina"), REFUNDED)
        third = settle(reorder_missing(second, by="amina"), PARTIAL, delivered=1)
        chain = [customer_breakdown(order) for order in (first, second, third)]
        assert all(part is not None for part in chain)
        kept = sum(part.kept_amount for part in chain if part)
        assert [part.paid_amount for part in chain[1:] if part] == [
            part.owed_amount for part in chain[:-1] if part
        ]
        assert kept + chain[-1].owed_amount == Decimal(1000)  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("values", "said", "ceiling"),
        [
            ({"max_price": Decimal(500), "approved_price": Decimal(700)}, {}, 500),
            ({"max_price": Decimal(500), "sale_price": Decimal(550)}, {"max_price": 520}, 520),
            # An order that was approved at a price is not bought again at any price.
            ({"approved_price": Decimal(490)}, {}, 490),
            (
                {"quantity": 3, "fulfilled_quantity": 2, "sale_amount": 1000},
                {},
                Decimal("333.33"),
            ),
        ],
        ids=["as before", "as is said now", "as was approved", "as the customer has paid"],
    )
    def test_a_card_has_a_highest_price(
        self, values: dict[str, Any], said: dict[str, int], ceiling: Decimal
    ) -> None:
        new = reorder_missing(make_guide_order(PARTIAL, **values), by="amina", **said)
        assert (new.price_ceiling, new.approved_price) == (ceiling, None)

    @pytest.mark.parametrize("max_price", [-1, Decimal("0.001"), 1.5, "2", True])
    def test_an_invalid_highest_price_orders_nothing(self, max_price: Any) -> None:
        order = make_guide_order(PARTIAL)
        with pytest.raises(ValidationError) as caught:
            reorder_missing(order, by="amina", max_price=max_price)
        assert list(caught.value.message_dict) == ["max_price"]
        assert Order.objects.get() == order
        assert decisions(order) == []


class TestOnce:
    def test_repeating_an_order_again_returns_the_same_new_order(self) -> None:
        order = make_guide_order(PARTIAL)
        new = reorder_missing(order, by="amina")
        again = reorder_missing(order, by="karim", max_price=1)
        assert (again, again.max_price) == (new, None)
        assert (new.is_new, again.is_new) == (True, False)
        assert len(decisions(order)) == 1
        assert OrmQ.objects.count() <= 1

    def test_an_order_whose_repetition_failed_is_not_repeated_beside_it(self) -> None:
        order = make_guide_order(PARTIAL)
        new = settle(reorder_missing(order, by="amina"), REJECTED)
        assert reorder_missing(order, by="amina") == new

    def test_each_order_of_a_chain_is_repeated_once_for_what_it_misses_itself(self) -> None:
        first = make_guide_order(PARTIAL)
        second = settle(reorder_missing(first, by="amina"), PARTIAL, delivered=1)
        third = reorder_missing(second, by="amina")
        assert [order.quantity for order in (first, second, third)] == [5, 2, 1]
        assert (third.repeats, second.repeats) == (second, first)
        assert reorder_missing(second, by="amina") == third
        with pytest.raises(ReorderError):
            reorder_missing(third, by="amina")

    def test_a_new_order_is_taken_back_with_the_transaction_of_the_caller(self) -> None:
        order = make_guide_order(PARTIAL)
        with transaction.atomic():
            reorder_missing(order, by="amina")
            transaction.set_rollback(True)
        assert not Order.objects.filter(repeats=order).exists()
        assert reorder_missing(order, by="amina").is_new


class TestRefused:
    @pytest.mark.parametrize("status", [s for s in Status if s not in FINAL])
    def test_the_cards_of_an_open_order_are_not_missing(self, status: Status) -> None:
        order = make_guide_order(status)
        with pytest.raises(ReorderError, match="the order is still open"):
            reorder_missing(order, by="amina")
        assert Order.objects.count() == 1

    def test_a_delivered_order_misses_nothing(self) -> None:
        with pytest.raises(ReorderError, match="all of its cards have arrived"):
            reorder_missing(make_guide_order(Status.FULFILLED), by="amina")

    @pytest.mark.parametrize(
        "problem",
        [
            Problem("accepted_after_all", {"provider_order_id": "B2"}),
            Problem("late_cards", {"received": 5, "announced": 3}),
        ],
    )
    def test_cards_that_may_have_come_after_all_are_not_ordered_before_a_person_has_looked(
        self, problem: Problem
    ) -> None:
        order = make_guide_order(PARTIAL, problems=[problem])
        with pytest.raises(ReorderError, match="may have arrived after all"):
            reorder_missing(order, by="amina")
        assert order.acknowledge(problem, by="karim")
        assert reorder_missing(order, by="amina").quantity == 2

    def test_a_problem_that_came_after_the_order_was_read_counts(self) -> None:
        stale = make_guide_order(PARTIAL)
        problem = Problem("late_cards", {"received": 5, "announced": 3})
        Order.objects.filter(pk=stale.pk).update(**stale.problem_columns(new=[problem]))
        with pytest.raises(ReorderError):
            reorder_missing(stale, by="amina")

    def test_an_order_that_has_settled_since_it_was_read_is_repeated(self) -> None:
        order = make_guide_order()
        stale = Order.objects.get()
        settle(order, PARTIAL, delivered=3)
        assert reorder_missing(stale, by="amina").quantity == 2


@pytest.mark.django_db(transaction=True)
class TestConcurrent:
    def test_two_at_once_get_the_same_order_which_is_bought_once(
        self, shared_database: str, simulator: Simulator
    ) -> None:
        order = make_guide_order(PARTIAL, sale_price=Decimal(550))

        def repeat() -> tuple[int, bool]:
            new = reorder_missing(Order.objects.get(pk=order.pk), by="amina")
            return new.pk, new.is_new

        results = in_threads(6, repeat)

        new = Order.objects.get(repeats=order)
        assert sorted(results) == [(new.pk, False)] * 5 + [(new.pk, True)]
        assert len(decisions(order)) == 1
        with Gateway() as gateway:
            for copy in Order.objects.filter(status=Status.PENDING):
                send(copy, gateway)
        assert (Order.objects.count(), posts(simulator)) == (2, 1)
