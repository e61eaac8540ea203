"""Cards are held for customers while they pay: the last one is sold once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import ValidationError
from django.db import OperationalError, connection, transaction
from django.http import HttpRequest
from django.test import RequestFactory
from django.utils import timezone

from giftcards.catalogue import check_offer, hold, holder_of, keep_current, offers, release
from giftcards.exceptions import NotForSale, ReferenceConflict
from giftcards.fulfilment import place_order
from giftcards.models import Hold, Order, ProviderState, new_reference
from tests.builders import PRODUCT, TYPE, make_offer
from tests.stage import ago, in_threads
from tests.wall import Wall

pytest_plugins = ["tests.stage_fixtures"]

CARD = {"product_id": PRODUCT, "type_id": TYPE}


@pytest.fixture
def offer() -> None:
    """Ten cards are for sale."""
    make_offer()


def held(reference: str, quantity: int = 1, **values: Any) -> bool:
    """True if the cards could be held."""
    try:
        hold(reference=reference, quantity=quantity, **{**CARD, **values})
    except NotForSale:
        return False
    return True


def visit(address: str, *, user: Any = None) -> HttpRequest:
    """A request of a guest with a new session, or of ``user``."""
    request = RequestFactory().get("/", REMOTE_ADDR=address)
    request.user = user or AnonymousUser()
    request.session = SessionStore()
    return request


def amina() -> Any:
    return get_user_model().objects.create(username="amina")


def available() -> list[int | None]:
    return [offer.available for offer in offers()]


@pytest.mark.django_db
class TestHolding:
    def test_held_cards_are_not_available_to_others(self, offer: None) -> None:
        begin = timezone.now()
        kept = hold(reference="cart-1", quantity=4, **CARD)
        assert available() == [6]
        assert (kept.quantity, kept.price) == (4, Decimal(490))
        assert timedelta(minutes=20) <= kept.until - begin < timedelta(minutes=21)
        assert held("cart-2", 6)
        assert not held("cart-3")

    def test_the_least_stock_is_not_held(self, offer: None, set_conf: Callable[..., None]) -> None:
        set_conf(LEAST_STOCK=4)
        assert held("cart-1", 4)
        assert available() == [2]
        assert not held("cart-2", 3)
        assert held("cart-2", 2)
        assert available() == []

    @pytest.mark.parametrize("how", ["released", "over", "placed", "clock set back"])
    def test_a_hold_ends(self, offer: None, how: str) -> None:
        hold(reference="cart-1", quantity=4, **CARD)
        match how:
            case "released":
                release("cart-1")
            case "over":
                Hold.objects.update(until=ago(3_601))
            case "clock set back":
                Hold.objects.update(until=timezone.now() + timedelta(days=30))
            case _:
                place_order(reference="cart-1", quantity=4, **CARD)
        # The order takes them instead.
        assert available() == [6 if how == "placed" else 10]
        keep_current(lambda: True)
        assert Hold.objects.exists() is (how == "placed")

    def test_an_order_that_is_rolled_back_leaves_the_hold(self, offer: None) -> None:
        hold(reference="cart-1", quantity=4, **CARD)
        with transaction.atomic():
            place_order(reference="cart-1", quantity=4, **CARD)
            transaction.set_rollback(True)
        assert available() == [6]
        assert Hold.objects.exists()

    def test_the_same_reference_prolongs_the_hold_and_changes_its_line(self, offer: None) -> None:
        first = hold(reference="cart-1", quantity=8, minutes=1, **CARD)
        second = hold(reference="cart-1", quantity=8, **CARD)
        assert (second.pk, second.until > first.until) == (first.pk, True)
        assert held("cart-1", 10)
        assert available() == []
        assert held("cart-1", 3)
        assert available() == [7]

    def test_a_hold_lasts_three_times_its_first_length_in_all_and_then_rests_for_an_hour(
        self, offer: None, wall: Wall
    ) -> None:
        begin = timezone.now()
        minutes = 0
        while held("cart-1", minutes=20):
            assert Hold.objects.get().until <= begin + timedelta(minutes=60, seconds=30)
            wall.let_pass(300)
            minutes += 5
        # The customer has tried each five minutes.
        assert minutes == 60
        assert held("cart-2", 10)
        with pytest.raises(NotForSale) as refused:
            hold(reference="cart-1", quantity=1, **CARD)
        assert refused.value.code in {"held_too_long", "out_of_stock"}
        wall.let_pass(3_600)
        assert held("cart-1")

    def test_the_time_between_two_holds_of_a_reference_does_not_count(self, wall: Wall) -> None:
        make_offer()
        for _try in range(3):
            assert held("cart-1", minutes=5)
            wall.let_pass(600)
        assert not held("cart-1", minutes=5)
        release("cart-1")
        assert held("cart-1", minutes=5)

    @pytest.mark.parametrize(
        ("before", "wanted", "code"),
        [
            ([2], 3, None),
            ([2], 4, "held_too_many"),
            ([1, 1], 1, None),
            ([1, 1, 1], 1, "held_too_many"),
            ([], 6, "held_too_many"),
        ],
    )
    def test_one_holder_has_so_many_cards_and_holds_at_most(
        self, set_conf: Callable[..., None], before: list[int], wanted: int, code: str | None
    ) -> None:
        set_conf(CARDS_PER_HOLDER=5, HOLDS_PER_HOLDER=3)
        make_offer(stock=100)
        for number, quantity in enumerate(before):
            hold(reference=f"cart-{number}", quantity=quantity, holder="user 1", **CARD)
        with nullcontext() if code is None else pytest.raises(NotForSale) as refused:
            hold(reference="cart-9", quantity=wanted, holder="user 1", **CARD)
        assert code == (refused and refused.value.code)
        # What others have, and what is over or placed, does not count.
        assert held("cart-8", 5, holder="user 2")
        assert held("cart-7", 50)
        place_order(reference="cart-0", quantity=2, **CARD)
        Hold.objects.exclude(reference="cart-0").update(until=ago(1))
        assert held("cart-9", 5, holder="user 1")
        # Nobody reads there who it is.
        assert not Hold.objects.filter(holder__contains="user").exists()

    @pytest.mark.parametrize(
        ("address", "others", "code"),
        [
            # One card for each guest.
            ("41.100.0.1", ["41.100.0.1"] * 29, None),
            ("41.100.0.1", ["41.100.0.1"] * 30, "network_busy"),
            ("41.100.0.1", ["41.100.0.2"] * 30, None),
            ("41.100.0.1", ["::ffff:41.100.0.1"] * 30, "network_busy"),
            ("2a01:e35::1", [f"2a01:e35::{number:x}:2" for number in range(29)], None),
            ("2a01:e35::1", [f"2a01:e35::{number:x}:2" for number in range(30)], "network_busy"),
            ("2a01:e35::1", [f"2a01:e35:0:{number:x}::1" for number in range(1, 31)], None),
            ("", ["unix:"] * 30, "network_busy"),
        ],
        ids=[
            *("carrier with room", "carrier in full", "another address", "address in IPv6"),
            *("subscriber with room", "subscriber in full", "other subscribers", "no address"),
        ],
    )
    def test_the_guests_of_a_network_have_ten_times_as_many_cards_and_holds(
        self, set_conf: Callable[..., None], address: str, others: list[str], code: str | None
    ) -> None:
        set_conf(CARDS_PER_HOLDER=9, HOLDS_PER_HOLDER=3)
        make_offer(stock=100)
        for number, other in enumerate(others):
            assert held(f"cart-{number}", holder=holder_of(visit(other)))
        with nullcontext() if code is None else pytest.raises(NotForSale) as refused:
            hold(reference="cart", quantity=1, holder=holder_of(visit(address)), **CARD)
        assert code == (refused and refused.value.code)
        if refused:
            assert refused.value.for_customer == (
                "Too many cards are kept for visitors with the same internet connection as yours."
                " Please try again in a few minutes."
            )
            text = "With these, the guests of one network would hold 31 cards in 31 holds."
            assert str(refused.value).endswith(text)
        # An account is not a guest, wherever it is used.
        assert held("cart-of-account", 9, holder=holder_of(visit(address, user=amina())))
        # Nobody reads there from where they came.
        assert not Hold.objects.filter(network__contains=".").exists()

    def test_guests_of_a_network_have_ten_times_the_cards(
        self, set_conf: Callable[..., None]
    ) -> None:
        set_conf(CARDS_PER_HOLDER=5)
        make_offer(stock=100)
        codes = []
        for number in range(11):
            try:
                guest = holder_of(visit("41.100.0.1"))
                hold(reference=f"cart-{number}", quantity=5, holder=guest, **CARD)
            except NotForSale as error:
                codes.append((number, error.code))
        assert codes == [(10, "network_busy")]
        # The same cart is held anew, or changed.
        assert held("cart-0", 5, holder=holder_of(visit("41.100.0.1")))

    def test_one_guest_has_as_many_cards_as_an_account_and_is_known_by_the_session(
        self, offer: None, set_conf: Callable[..., None]
    ) -> None:
        set_conf(CARDS_PER_HOLDER=3)
        request = visit("41.100.0.1")
        assert held("cart-1", 2, holder=holder_of(request))
        # With the same browser at home.
        again = visit("41.200.0.9")
        again.session = request.session
        with pytest.raises(NotForSale) as refused:
            hold(reference="cart-2", quantity=2, holder=holder_of(again), **CARD)
        assert refused.value.code == "held_too_many"
        assert held("cart-2", 2, holder=holder_of(visit("41.100.0.1")))

    def test_a_larger_hold_that_is_refused_leaves_the_smaller_one(self, offer: None) -> None:
        hold(reference="cart-1", quantity=8, **CARD)
        assert not held("cart-1", 11)
        assert available() == [2]

    def test_an_order_that_was_placed_is_not_held_again(self, offer: None) -> None:
        place_order(reference="cart-1", quantity=4, **CARD)
        with pytest.raises(ReferenceConflict):
            hold(reference="cart-1", quantity=4, **CARD)

    def test_cards_of_unknown_stock_can_be_held(self) -> None:
        make_offer(stock=None)
        assert held("cart-1", 2_000)

    def test_holds_count_against_the_balance_whatever_they_are_for(self, offer: None) -> None:
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
    def test_what_cannot_be_ordered_is_not_held(self, offer: None, values: dict[str, Any]) -> None:
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
        self, offer: None
    ) -> None:
        hold(reference="cart-1", quantity=3, **CARD)
        with ThreadPoolExecutor(1) as thread:
            with transaction.atomic():
                place_order(reference="cart-1", quantity=3, **CARD)
                late = thread.submit(in_threads, 1, lambda: held("cart-1", 3))
                if connection.vendor != "sqlite":  # there, it waits for the order
                    assert late.result() == [True]
            late.result()
        assert available() == [7]

    def test_of_twenty_buyers_ten_get_the_ten_cards(self, offer: None) -> None:
        got = in_threads(20, lambda: held(new_reference()))
        assert sum(got) == Hold.objects.count() == 10
        assert available() == []

    def test_buyers_who_pay_at_once_order_no_more_cards_than_there_are(self, offer: None) -> None:
        def buy() -> bool:
            reference = new_reference()
            if not held(reference):
                return False
            place_order(reference=reference, quantity=1, **CARD)
            return True

        assert sum(in_threads(20, buy)) == Order.objects.count() == 10
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
