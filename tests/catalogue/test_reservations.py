"""Cards are reserved for customers while they pay, so that the last card is sold only once."""

from __future__ import annotations

import itertools
import threading
import time
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

from giftcards.catalogue import check_offer, customer_of, keep_current, offers, release, reserve
from giftcards.exceptions import NotForSale, ReferenceConflict
from giftcards.fulfilment import place_order
from giftcards.models import Order, ProviderState, Reservation, new_reference
from tests.builders import PRODUCT, TYPE, make_offer, set_shelf
from tests.stage import ago, in_threads
from tests.wall import Wall

pytest_plugins = ["tests.stage_fixtures"]

CARD = {"product_id": PRODUCT, "type_id": TYPE}


@pytest.fixture
def offer() -> None:
    """Offer ten cards for sale."""
    make_offer()


def reserved(reference: str, quantity: int = 1, **values: Any) -> bool:
    """Return True if the cards could be reserved."""
    try:
        reserve(reference=reference, quantity=quantity, **{**CARD, **values})
    except NotForSale:
        return False
    return True


def visit(address: str, *, user: Any = None) -> HttpRequest:
    """Return a request of a guest with a new session, or of ``user``."""
    request = RequestFactory().get("/", REMOTE_ADDR=address)
    request.user = user or AnonymousUser()
    request.session = SessionStore()
    return request


def amina() -> Any:
    return get_user_model().objects.create(username="amina")


def available() -> list[int | None]:
    return [offer.available for offer in offers()]


@pytest.mark.django_db
class TestReserving:
    def test_reserved_cards_are_not_available_to_others(self, offer: None) -> None:
        begin = timezone.now()
        kept = reserve(reference="cart-1", quantity=4, **CARD)
        assert available() == [6]
        assert (kept.quantity, kept.cost) == (4, Decimal(490))
        assert timedelta(minutes=20) <= kept.until - begin < timedelta(minutes=21)
        assert reserved("cart-2", 6)
        assert not reserved("cart-3")

    def test_the_least_stock_is_not_reserved(self, offer: None) -> None:
        set_shelf(stock_buffer=4)
        assert reserved("cart-1", 4)
        assert available() == [2]
        assert not reserved("cart-2", 3)
        assert reserved("cart-2", 2)
        assert available() == []

    @pytest.mark.parametrize("how", ["released", "over", "placed", "clock set back"])
    def test_a_reservation_ends(self, offer: None, how: str) -> None:
        reserve(reference="cart-1", quantity=4, **CARD)
        match how:
            case "released":
                release("cart-1")
            case "over":
                Reservation.objects.update(until=ago(3_601))
            case "clock set back":
                Reservation.objects.update(until=timezone.now() + timedelta(days=30))
            case _:
                place_order(reference="cart-1", quantity=4, **CARD)
        # The order takes the cards instead of the reservation.
        assert available() == [6 if how == "placed" else 10]
        keep_current(lambda: True)
        assert Reservation.objects.exists() is (how == "placed")

    def test_an_order_that_is_rolled_back_leaves_the_reservation(self, offer: None) -> None:
        reserve(reference="cart-1", quantity=4, **CARD)
        with transaction.atomic():
            place_order(reference="cart-1", quantity=4, **CARD)
            transaction.set_rollback(True)
        assert available() == [6]
        assert Reservation.objects.exists()

    def test_the_same_reference_extends_a_reservation_and_changes_its_line(
        self, offer: None
    ) -> None:
        first = reserve(reference="cart-1", quantity=8, minutes=1, **CARD)
        second = reserve(reference="cart-1", quantity=8, **CARD)
        assert (second.pk, second.until > first.until) == (first.pk, True)
        assert reserved("cart-1", 10)
        assert available() == []
        assert reserved("cart-1", 3)
        assert available() == [7]

    def test_a_reservation_lasts_three_times_its_first_length_in_all_and_then_rests_for_an_hour(
        self, offer: None, wall: Wall
    ) -> None:
        begin = timezone.now()
        minutes = 0
        while reserved("cart-1", minutes=20):
            assert Reservation.objects.get().until <= begin + timedelta(minutes=60, seconds=30)
            wall.let_pass(300)
            minutes += 5
        # The customer has tried to extend it every five minutes.
        assert minutes == 60
        assert reserved("cart-2", 10)
        with pytest.raises(NotForSale) as refused:
            reserve(reference="cart-1", quantity=1, **CARD)
        assert refused.value.code in {"reserved_too_long", "out_of_stock"}
        wall.let_pass(3_600)
        assert reserved("cart-1")

    def test_the_time_between_reservations_of_a_reference_does_not_count(self, wall: Wall) -> None:
        make_offer()
        for _try in range(3):
            assert reserved("cart-1", minutes=5)
            wall.let_pass(600)
        assert not reserved("cart-1", minutes=5)
        release("cart-1")
        assert reserved("cart-1", minutes=5)

    @pytest.mark.parametrize(
        ("before", "wanted", "code"),
        [
            ([2], 3, None),
            ([2], 4, "too_many_reserved"),
            ([1, 1], 1, None),
            ([1, 1, 1], 1, "too_many_reserved"),
            ([], 6, "too_many_reserved"),
        ],
    )
    def test_one_customer_has_so_many_cards_and_reservations_at_most(
        self, shorten: Callable[..., None], before: list[int], wanted: int, code: str | None
    ) -> None:
        shorten(cards_of_customer=5, reservations_of_customer=3)
        make_offer(stock=100)
        for number, quantity in enumerate(before):
            reserve(reference=f"cart-{number}", quantity=quantity, customer="user 1", **CARD)
        with nullcontext() if code is None else pytest.raises(NotForSale) as refused:
            reserve(reference="cart-9", quantity=wanted, customer="user 1", **CARD)
        assert code == (refused and refused.value.code)
        # Reservations of other customers, expired reservations and placed orders do not count.
        assert reserved("cart-8", 5, customer="user 2")
        assert reserved("cart-7", 50)
        place_order(reference="cart-0", quantity=2, **CARD)
        Reservation.objects.exclude(reference="cart-0").update(until=ago(1))
        assert reserved("cart-9", 5, customer="user 1")
        # The stored value does not reveal who the customer is.
        assert not Reservation.objects.filter(customer__contains="user").exists()

    @pytest.mark.parametrize(
        ("address", "others", "code"),
        [
            # Each guest reserves one card.
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
    def test_the_guests_of_a_network_have_a_limit_of_their_own(
        self, shorten: Callable[..., None], address: str, others: list[str], code: str | None
    ) -> None:
        shorten(cards_of_customer=9, reservations_of_customer=3, customers_of_network=10)
        make_offer(stock=100)
        for number, other in enumerate(others):
            assert reserved(f"cart-{number}", customer=customer_of(visit(other)))
        with nullcontext() if code is None else pytest.raises(NotForSale) as refused:
            reserve(reference="cart", quantity=1, customer=customer_of(visit(address)), **CARD)
        assert code == (refused and refused.value.code)
        if refused:
            assert refused.value.for_customer == (
                "Too many cards are reserved for visitors with the same internet connection as"
                " yours. Please try again in a few minutes."
            )
            text = (
                "Including these cards, guests on the same network would have reserved 31 cards in"
                " 31 reservations."
            )
            assert str(refused.value).endswith(text)
        # An account does not count as a guest, wherever it is used.
        assert reserved("cart-of-account", 9, customer=customer_of(visit(address, user=amina())))
        # The stored value does not reveal the guest's network address.
        assert not Reservation.objects.filter(network__contains=".").exists()

    def test_guests_of_a_network_share_a_limit_of_cards(self, shorten: Callable[..., None]) -> None:
        shorten(cards_of_customer=5, customers_of_network=10)
        make_offer(stock=100)
        codes = []
        for number in range(11):
            try:
                guest = customer_of(visit("41.100.0.1"))
                reserve(reference=f"cart-{number}", quantity=5, customer=guest, **CARD)
            except NotForSale as error:
                codes.append((number, error.code))
        assert codes == [(10, "network_busy")]
        # A cart that is already reserved can be reserved again or changed.
        assert reserved("cart-0", 5, customer=customer_of(visit("41.100.0.1")))

    def test_one_guest_has_as_many_cards_as_an_account_and_is_known_by_the_session(
        self, offer: None, shorten: Callable[..., None]
    ) -> None:
        shorten(cards_of_customer=3)
        request = visit("41.100.0.1")
        assert reserved("cart-1", 2, customer=customer_of(request))
        # The customer uses the same browser at home.
        again = visit("41.200.0.9")
        again.session = request.session
        with pytest.raises(NotForSale) as refused:
            reserve(reference="cart-2", quantity=2, customer=customer_of(again), **CARD)
        assert refused.value.code == "too_many_reserved"
        assert reserved("cart-2", 2, customer=customer_of(visit("41.100.0.1")))

    def test_a_larger_reservation_that_is_refused_leaves_the_smaller_one(self, offer: None) -> None:
        reserve(reference="cart-1", quantity=8, **CARD)
        assert not reserved("cart-1", 11)
        assert available() == [2]

    def test_an_order_that_was_placed_is_not_reserved_again(self, offer: None) -> None:
        place_order(reference="cart-1", quantity=4, **CARD)
        with pytest.raises(ReferenceConflict):
            reserve(reference="cart-1", quantity=4, **CARD)

    def test_cards_of_unknown_stock_can_be_reserved(self) -> None:
        make_offer(stock=None)
        assert reserved("cart-1", 2_000)

    def test_reservations_of_any_type_count_against_the_balance(self, offer: None) -> None:
        make_offer("other", product_id="other")
        ProviderState.objects.current()
        ProviderState.objects.update(balance=1_500, balance_read_at=timezone.now())
        assert reserved("cart-1", 2)
        assert not reserved("cart-2", 2, product_id="other", type_id="other")
        assert reserved("cart-2", 1, product_id="other", type_id="other")
        check_offer(PRODUCT, TYPE, 2, reference="cart-1")

    @pytest.mark.parametrize("sold", [{"cost": None}, {"stock": 0}])
    def test_what_is_not_sold_is_not_reserved(self, sold: dict[str, Any]) -> None:
        make_offer(**sold)
        assert not reserved("cart-1")

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
    def test_what_cannot_be_ordered_is_not_reserved(
        self, offer: None, values: dict[str, Any]
    ) -> None:
        with pytest.raises(ValidationError):
            reserve(**{"reference": "cart-1", "quantity": 1, **CARD, **values})
        assert not Reservation.objects.exists()


REPEATABLE_READ = {
    "mysql": "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
}


@pytest.mark.usefixtures("shared_database")
class TestRace:
    @pytest.fixture(autouse=True)
    def patiently(self, shorten: Callable[..., None]) -> None:
        """Wait long enough that a busy machine cannot be the reason why somebody gets no card."""
        shorten(reservation_patience=60.0)

    def test_a_locked_sqlite_is_waited_for_briefly_and_the_customer_reads_why(
        self, offer: None, shorten: Callable[..., None]
    ) -> None:
        shorten(reservation_patience=0.2)
        is_locked, is_told = threading.Event(), threading.Event()

        def lock() -> None:
            with transaction.atomic():
                ProviderState.objects.update(balance=None)
                is_locked.set()
                assert is_told.wait(60)

        with ThreadPoolExecutor(1) as thread:
            other = thread.submit(in_threads, 1, lock)
            assert is_locked.wait(60)
            began_at = time.monotonic()
            try:
                reserve(reference="cart-1", quantity=1, **CARD)
            except NotForSale as error:
                told = (error.code, error.for_customer)
            else:
                told = None
            took = time.monotonic() - began_at
            is_told.set()
            other.result()
        if connection.vendor != "sqlite":  # there, only what is written is locked
            assert told is None
            return
        assert told == ("busy", "This card cannot be bought at the moment. Please try again later.")
        # The database's own time limit is 20 seconds.
        assert took < 10
        assert reserved("cart-1")

    def test_the_last_card_is_reserved_once_by_transactions_that_see_what_they_have_read_before(
        self,
    ) -> None:
        make_offer(stock=1)
        reserve(reference="cart-1", quantity=1, **CARD)
        release("cart-1")
        both_have_read = threading.Barrier(2 if connection.vendor in REPEATABLE_READ else 1)

        def take() -> bool:
            if connection.vendor in REPEATABLE_READ:
                with connection.cursor() as cursor:
                    cursor.execute(REPEATABLE_READ[connection.vendor])
            with transaction.atomic():
                assert available() == [1] or connection.vendor == "sqlite"
                both_have_read.wait()
                return reserved(new_reference())

        first, second = sorted(in_threads(2, take), key=lambda got: got is not True)
        assert first is True
        assert second is False or isinstance(second, OperationalError)
        assert available() == []

    def test_a_reservation_that_is_made_while_its_order_is_being_recorded_does_not_count_beside_it(
        self, offer: None
    ) -> None:
        reserve(reference="cart-1", quantity=3, **CARD)
        with ThreadPoolExecutor(1) as thread:
            with transaction.atomic():
                place_order(reference="cart-1", quantity=3, **CARD)
                late = thread.submit(in_threads, 1, lambda: reserved("cart-1", 3))
                if connection.vendor != "sqlite":  # there, it waits for the order
                    assert late.result() == [True]
            late.result()
        assert available() == [7]

    def test_of_twenty_buyers_ten_get_the_ten_cards(self, offer: None) -> None:
        got = in_threads(20, lambda: reserved(new_reference()))
        assert sum(got) == Reservation.objects.count() == 10
        assert available() == []

    def test_buyers_who_pay_at_once_order_no_more_cards_than_there_are(self, offer: None) -> None:
        def buy() -> bool:
            reference = new_reference()
            if not reserved(reference):
                return False
            place_order(reference=reference, quantity=1, **CARD)
            return True

        assert sum(in_threads(20, buy)) == Order.objects.count() == 10
        assert not Reservation.objects.current(timezone.now()).exists()

    def test_of_two_types_only_what_the_balance_covers_is_reserved(self) -> None:
        for number in range(2):
            make_offer(f"type-{number}", product_id=f"product-{number}")
        ProviderState.objects.current()
        ProviderState.objects.update(balance=490 * 7, balance_read_at=timezone.now())
        numbers = itertools.count()

        def take() -> bool:
            number = next(numbers) % 2
            return reserved(
                new_reference(), product_id=f"product-{number}", type_id=f"type-{number}"
            )

        got = in_threads(20, take)
        assert sum(got) == 7
