"""Which order an entry belongs to, and whether what was promised was credited."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import responses
from django.utils import timezone

from giftcards.books.models import LedgerEntry
from giftcards.models import ApiKey, Order, StatusChange
from giftcards.statuses import Status
from tests.books.wire import NOON, Books, at, matches, ordered, read
from tests.builders import make_order
from tests.stage import own_key, prove_key

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

DAY = NOON.date()


@pytest.fixture
def books(wire: responses.RequestsMock) -> Books:
    books = Books()
    books.open(wire)
    return books


def partly_delivered(reference: str, **values: Any) -> Order:
    """3 of 5 cards at 490 DA, settled ten seconds after it was sent: 980 DA are promised back."""
    values = {"settled_at": at(10), "fulfilled_amount": 1470, **values}
    return ordered(reference=reference, status=Status.PARTIALLY_FILLED, **values)


def is_credited(*orders: Order) -> list[bool | None]:
    return [Order.objects.get(pk=order.pk).is_credited for order in orders]


class TestByName:
    def test_an_entry_that_names_an_order_belongs_to_it(self, books: Books) -> None:
        order = partly_delivered("cart-1", provider_order_id="ab12", provider_alias="ab13")
        books.book("ORDER", 2450, at(0), name="c", objid="ab12")
        books.book("REFUND-ORDER", 980, at(9), name="r", objid="ab13")
        read()
        assert matches() == {"c": ("cart-1", False), "r": ("cart-1", False)}
        assert is_credited(order) == [True]

    def test_an_entry_of_somebody_elses_order_belongs_to_none(self, books: Books) -> None:
        ordered(reference="cart-1", provider_order_id="ab12")
        ordered(reference="cart-2", provider_order_id="ab14", sent_at=at(60))
        books.book("ORDER", 2450, at(0), name="c", objid="ab12")
        books.book("ORDER", 2450, at(60), name="foreign", objid="ff00")
        read()
        assert matches() == {"c": ("cart-1", False), "foreign": (None, False)}

    def test_what_is_charged_twice_belongs_to_the_order_once(self, books: Books) -> None:
        ordered(reference="cart-1", provider_order_id="ab12")
        for name in ("first", "second"):
            books.book("ORDER", 2450, at(0), name=name, objid="ab12")
        read()
        assert sorted(matches().values(), key=str) == [("cart-1", False), (None, False)]

    def test_a_charge_in_parts_belongs_to_the_order_up_to_its_price(self, books: Books) -> None:
        ordered(reference="cart-1", provider_order_id="ab12")
        for number in range(6):
            books.book("ORDER", 490, at(number), name=f"c{number}", objid="ab12")
        read()
        assert [order for order, _guess in matches().values()].count("cart-1") == 5

    def test_an_order_that_is_found_later_gets_its_entry_in_the_next_run(
        self, books: Books
    ) -> None:
        books.book("ORDER", 2450, at(0), name="c", objid="ab12")
        read(DAY)
        assert matches() == {"c": (None, False)}
        ordered(reference="cart-1", provider_order_id="ab12")
        read()
        assert matches() == {"c": ("cart-1", False)}


class TestByAmount:
    def test_an_entry_without_a_name_is_guessed_from_amount_and_time(self, books: Books) -> None:
        order = partly_delivered("cart-1")
        ordered(reference="cart-2", quantity=1, sent_at=at(2))
        books.book("ORDER", 2450, at(1), name="c")
        books.book("REFUND-ORDER", 980, at(9), name="r")
        read()
        assert matches() == {"c": ("cart-1", True), "r": ("cart-1", True)}
        assert is_credited(order) == [True]

    def test_a_price_at_placing_is_taken_where_none_is_known_better(self, books: Books) -> None:
        ordered(reference="cart-1", price_per_card=None, price_at_placing=490)
        books.book("ORDER", 2450, at(1), name="c")
        read()
        assert matches() == {"c": ("cart-1", True)}

    @pytest.mark.parametrize(("charges", "refunds"), [(2, 2), (1, 1), (3, 3)])
    def test_of_two_orders_of_the_same_amount_in_the_same_second_only_what_is_too_much_stays_open(
        self, books: Books, charges: int, refunds: int
    ) -> None:
        orders = [partly_delivered(f"cart-{number}") for number in range(2)]
        for number in range(charges):
            books.book("ORDER", 2450, at(1), name=f"c{number}")
        for number in range(refunds):
            books.book("REFUND-ORDER", 980, at(9), name=f"r{number}")
        read()
        for kind, count in (("ORDER", charges), ("REFUND-ORDER", refunds)):
            entries = LedgerEntry.objects.filter(type=kind)
            assert entries.filter(is_guess=True).count() == min(count, 2)
            assert entries.filter(order=None).count() == max(count - 2, 0)
        # One refund lacks, whichever it is.
        assert is_credited(*orders).count(False) == max(2 - refunds, 0)
        assert is_credited(*orders).count(True) == min(refunds, 2)

    def test_a_guess_gives_way_to_an_entry_that_names_the_order(self, books: Books) -> None:
        order = partly_delivered("cart-1", provider_order_id="ab12")
        books.book("ORDER", 2450, at(1), name="guess")
        books.book("REFUND-ORDER", 980, at(9), name="refund guess")
        books.rows[-1]["_id"] = "refund-guess"
        read()
        assert matches() == {"guess": ("cart-1", True), "refund-guess": ("cart-1", True)}
        books.book("ORDER", 2450, at(2), name="named", objid="ab12")
        books.book("REFUND-ORDER", 980, at(9), name="refund-named", objid="ab12")
        read()
        assert matches() == {
            "guess": (None, False),
            "named": ("cart-1", False),
            "refund-guess": (None, False),
            "refund-named": ("cart-1", False),
        }
        assert is_credited(order) == [True]

    def test_a_lost_order_gets_no_entry_until_it_is_found(self, books: Books) -> None:
        line = {"quantity": 5, "price_at_placing": 490}
        lost = make_order(Status.UNCONFIRMED, reference="lost", sent_at=at(0), **line)
        ordered(reference="cart-1", sent_at=at(2))
        for number in range(2):
            books.book("ORDER", 2450, at(number), name=f"c{number}")
        read()
        assert sorted(matches().values(), key=str) == [("cart-1", True), (None, False)]
        lost.move(
            Status.HANDLING,
            source=StatusChange.Source.RECOVERY,
            provider_order_id="ab12",
            accepted_at=at(400),
        )
        read()
        assert set(matches().values()) == {("cart-1", True), ("lost", True)}

    def test_a_refund_noticed_hours_later_is_found(self, books: Books) -> None:
        order = partly_delivered("cart-1", settled_at=at(3 * 3600))
        books.book("REFUND-ORDER", 980, at(9), name="r")
        read()
        assert matches() == {"r": ("cart-1", True)}
        assert is_credited(order) == [True]

    def test_names_that_are_no_orders_at_all_are_no_reason_not_to_guess(self, books: Books) -> None:
        ordered(reference="cart-1")
        books.book("ORDER", 2450, at(1), name="c", objid="transaction-17")
        read()
        assert matches() == {"c": ("cart-1", True)}


class TestCredited:
    def test_a_refund_that_never_came_is_missed_after_a_quarter_of_an_hour(
        self, books: Books
    ) -> None:
        old = partly_delivered("cart-1")
        now = timezone.now()
        fresh = partly_delivered("cart-2", settled_at=now - timedelta(minutes=14))
        nothing_promised = ordered(
            reference="cart-3", status=Status.FULFILLED, settled_at=at(10), fulfilled_amount=2450
        )
        read()
        assert is_credited(old, fresh, nothing_promised) == [False, None, None]

    def test_a_refund_in_parts_is_credited_once_it_is_whole(self, books: Books) -> None:
        order = partly_delivered("cart-1", provider_order_id="ab12")
        books.book("REFUND-ORDER", 490, at(9), name="r1", objid="ab12")
        read()
        assert is_credited(order) == [False]
        books.book("REFUND-ORDER", 490, at(11), name="r2", objid="ab12")
        read()
        assert is_credited(order) == [True]

    def test_more_than_was_promised_is_not_as_promised(self, books: Books) -> None:
        order = ordered(
            reference="cart-1",
            status=Status.FULFILLED,
            settled_at=at(10),
            provider_order_id="ab12",
            fulfilled_amount=2450,
        )
        books.book("REFUND-ORDER", 490, at(9), name="r1", objid="ab12")
        read()
        assert is_credited(order) == [False]

    def test_a_refund_of_an_unknown_amount_is_not_judged(self, books: Books) -> None:
        order = partly_delivered("cart-1", price_per_card=None)
        read()
        assert is_credited(order) == [None]

    def test_an_order_that_another_account_bought_is_not_looked_for(self, books: Books) -> None:
        prove_key()
        ApiKey.objects.filter(pk=own_key().pk).update(environment="PRODUCTION")
        sandbox = partly_delivered("test", environment="SANDBOX")
        bought = partly_delivered("cart-1", environment="PRODUCTION")
        read()
        assert is_credited(sandbox, bought) == [None, False]

    def test_an_order_that_settles_after_its_entries_were_read_gets_them_later(
        self, books: Books
    ) -> None:
        order = ordered(reference="cart-1")
        books.book("REFUND-ORDER", 980, at(9), name="r")
        read()
        assert matches() == {"r": (None, False)}
        Order.objects.filter(pk=order.pk).update(
            status=Status.PARTIALLY_FILLED,
            fulfilled_quantity=3,
            fulfilled_amount=1470,
            settled_at=at(4000),
        )
        read()
        assert matches() == {"r": ("cart-1", True)}
        assert is_credited(order) == [True]


def test_a_credit_that_becomes_somebody_elses_is_missed(books: Books) -> None:
    order = partly_delivered("cart-1", provider_order_id="ab12")
    booked = books.book("REFUND-ORDER", 980, at(9), name="r", objid="ab12")
    books.book("ORDER", 2450, at(0), name="c", objid="ab12")
    read()
    assert is_credited(order) == [True]
    booked["objid"] = "ff00"
    read()
    assert matches()["r"] == (None, False)
    assert is_credited(order) == [False]


def test_an_entry_that_changes_loses_its_order_and_finds_another(books: Books) -> None:
    ordered(reference="cart-1")
    ordered(reference="cart-2", quantity=1, sent_at=at(60))
    booked = books.book("ORDER", 2450, at(1), name="c")
    read()
    assert matches() == {"c": ("cart-1", True)}
    booked["amount"] = 490
    booked["time"] = at(60).isoformat()
    assert read().changed_days == {DAY: 1}
    assert matches() == {"c": ("cart-2", True)}
    assert LedgerEntry.objects.get().amount == -490


def test_an_order_that_loses_its_entry_long_after_it_settled_lacks_its_refund(books: Books) -> None:
    early = at(-6 * 86_400)
    times = dict.fromkeys(("created_at", "sent_at", "settled_at"), early)
    order = ordered(Status.REFUNDED, **times)
    late = books.book("REFUND-ORDER", 2450, at(0), name="late", objid=order.provider_order_id)
    read()
    order.refresh_from_db()
    assert order.is_credited
    late["objid"] = "somebody-elses"
    read()
    order.refresh_from_db()
    assert order.is_credited is False
