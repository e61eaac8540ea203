"""Cards are held for customers while they pay: the last one is sold once."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from giftcards.catalogue import check_offer, hold, keep_current, offers, release
from giftcards.exceptions import NotForSale, ReferenceConflict
from giftcards.fulfilment import place_order
from giftcards.models import Hold, Order, ProviderState, new_reference
from tests.builders import PRODUCT, TYPE, make_offer
from tests.stage import ago, in_threads

pytest_plugins = ["tests.stage_fixtures"]

CARD = {"product_id": PRODUCT, "type_id": TYPE}


def held(reference: str, quantity: int = 1, **values: Any) -> bool:
    """True if the cards could be held."""
    try:
        hold(reference=reference, quantity=quantity, **{**CARD, **values})
    except NotForSale:
        return False
    return True


def available() -> list[int | None]:
    return [offer.available for offer in offers()]


@pytest.mark.django_db
class TestHolding:
    def test_held_cards_are_not_available_to_others(self) -> None:
        make_offer()
        begin = timezone.now()
        kept = hold(reference="cart-1", quantity=4, **CARD)
        assert available() == [6]
        assert (kept.quantity, kept.price) == (4, Decimal(490))
        assert timedelta(minutes=20) <= kept.until - begin < timedelta(minutes=21)
        assert held("cart-2", 6)
        assert not held("cart-3")

    @pytest.mark.parametrize("how", ["released", "over", "placed", "clock set back"])
    def test_a_hold_ends(self, how: str) -> None:
        make_offer()
        hold(reference="cart-1", quantity=4, **CARD)
        match how:
            case "released":
                release("cart-1")
            case "over":
                Hold.objects.update(until=ago(1))
            case "clock set back":
                Hold.objects.update(until=timezone.now() + timedelta(days=30))
            case _:
                place_order(reference="cart-1", quantity=4, **CARD)
        # The order takes them instead.
        assert available() == [6 if how == "placed" else 10]
        keep_current(lambda: True)
        assert Hold.objects.exists() is (how == "placed")

    def test_an_order_that_is_rolled_back_leaves_the_hold(self) -> None:
        make_offer()
        hold(reference="cart-1", quantity=4, **CARD)
        with transaction.atomic():
            place_order(reference="cart-1", quantity=4, **CARD)
            transaction.set_rollback(True)
        assert available() == [6]
        assert Hold.objects.exists()

    def test_the_same_reference_prolongs_the_hold_and_changes_its_line(self) -> None:
        make_offer()
        first = hold(reference="cart-1", quantity=8, minutes=1, **CARD)
        second = hold(reference="cart-1", quantity=8, **CARD)
        assert (second.pk, second.until > first.until) == (first.pk, True)
        assert held("cart-1", 10)
        assert available() == []
        assert held("cart-1", 3)
        assert available() == [7]

    def test_a_larger_hold_that_is_refused_leaves_the_smaller_one(self) -> None:
        make_offer()
        hold(reference="cart-1", quantity=8, **CARD)
        assert not held("cart-1", 11)
        assert available() == [2]

    def test_an_order_that_was_placed_is_not_held_again(self) -> None:
        make_offer()
        place_order(reference="cart-1", quantity=4, **CARD)
        with pytest.raises(ReferenceConflict):
            hold(reference="cart-1", quantity=4, **CARD)

    def test_cards_of_unknown_stock_can_be_held(self) -> None:
        make_offer(stock=None)
        assert held("cart-1", 2_000)

    def test_holds_count_against_the_balance_whatever_they_are_for(self) -> None:
        make_offer()
        make_offer("other", product_id="other")
        ProviderState.objects.current()
        ProviderState.objects.update(balance=1_500, balance_read_at=timezone.now())
        assert held("cart-1", 2)
        assert not held("cart-2", 2, product_id="other", type_id="other")
        assert held("cart-2", 1, product_id="other", type_id="other")
        check_offer(PRODUCT, TYPE, 2, reference="cart-1")

    @pytest.mark.parametrize("sold", [{"price": None}, {"stock": 0}])
    def test_what_is_not_sold_is_not_held(self, sold: dict[str, Any]) -> None:
        make_offer(**sold)
        assert not held("cart-1")

    @pytest.mark.parametrize(
        "values",
        [
            {"quantity": 0},
            {"quantity": 2_001},
            {"quantity": "1"},
            {"reference": ""},
            {"reference": "cart 1"},
            {"reference": "x" * 101},
            {"product_id": ""},
            {"minutes": 0},
            {"minutes": -1},
            {"minutes": 1_441},
        ],
    )
    def test_what_cannot_be_ordered_is_not_held(self, values: dict[str, Any]) -> None:
        make_offer()
        with pytest.raises(ValidationError):
            hold(**{"reference": "cart-1", "quantity": 1, **CARD, **values})
        assert not Hold.objects.exists()


REPEATABLE_READ = {
    "mysql": "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
}


@pytest.mark.usefixtures("shared_database")
class TestRace:
    def test_the_last_card_is_held_once_by_transactions_that_see_what_they_have_read_before(
        self,
    ) -> None:
        make_offer(stock=1)
        hold(reference="cart-1", quantity=1, **CARD)
        release("cart-1")
        both_have_read = threading.Barrier(2 if connection.vendor in REPEATABLE_READ else 1)

        def take() -> bool:
            if connection.vendor in REPEATABLE_READ:
                with connection.cursor() as cursor:
                    cursor.execute(REPEATABLE_READ[connection.vendor])
            with transaction.atomic():
                assert available() == [1] or connection.vendor == "sqlite"
                both_have_read.wait()
                return held(new_reference())

        first, second = sorted(in_threads(2, take), key=lambda got: got is not True)
        assert first is True
        assert second is False or isinstance(second, OperationalError)
        assert available() == []

    def test_a_hold_that_is_made_while_its_order_is_being_recorded_does_not_count_beside_it(
        self,
    ) -> None:
        make_offer()
        hold(reference="cart-1", quantity=3, **CARD)
        with ThreadPoolExecutor(1) as thread:
            with transaction.atomic():
                place_order(reference="cart-1", quantity=3, **CARD)
                late = thread.submit(in_threads, 1, lambda: held("cart-1", 3))
                if connection.vendor != "sqlite":  # there, it waits for the order
                    assert late.result() == [True]
            late.result()
        assert available() == [7]

    def test_of_fifty_buyers_ten_get_the_ten_cards(self) -> None:
        make_offer()
        got = in_threads(50, lambda: held(new_reference()))
        assert sum(got) == Hold.objects.count() == 10
        assert available() == []

    def test_buyers_who_pay_at_once_order_no_more_cards_than_there_are(self) -> None:
        make_offer()

        def buy() -> bool:
            reference = new_reference()
            if not held(reference):
                return False
            place_order(reference=reference, quantity=1, **CARD)
            return True

        assert sum(in_threads(50, buy)) == Order.objects.count() == 10
        assert not Hold.objects.current(timezone.now()).exists()

    def test_of_two_types_only_what_the_balance_covers_is_held(self) -> None:
        for number in range(2):
            make_offer(f"type-{number}", product_id=f"product-{number}")
        ProviderState.objects.current()
        ProviderState.objects.update(balance=490 * 7, balance_read_at=timezone.now())
        numbers = itertools.count()

        def take() -> bool:
            number = next(numbers) % 2
            return held(new_reference(), product_id=f"product-{number}", type_id=f"type-{number}")

        got = in_threads(20, take)
        assert sum(got) == 7
