"""Correcting an order's customer: what is kept, what is refused, and what placing again means."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.utils import timezone

from giftcards.exceptions import CustomerConflict, ReferenceConflict
from giftcards.fulfilment import change_customer, place_order
from giftcards.models import CustomerChange, Order
from giftcards.privacy.erasure import erase, find_orders
from giftcards.privacy.person import Person
from giftcards.signals import customer_changed
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.stage import in_threads

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

WRONG, RIGHT = "lina@exmaple.com", "lina@example.com"
LINE: dict[str, Any] = {"product_id": "p", "type_id": "t", "quantity": 2, "reference": "web-1"}
GIVEN: dict[str, Any] = {**LINE, "customer_email": WRONG, "customer_name": "Lina"}


def kept() -> list[tuple[str, ...]]:
    columns = ("customer_email", "customer_name", "customer_phone", "customer_language")
    return list(CustomerChange.objects.values_list(*columns, "by", "reason"))


@pytest.mark.parametrize("status", Status.values)
def test_a_customer_is_corrected_whatever_became_of_the_order(status: Status) -> None:
    order = make_guide_order(status, customer_email=WRONG, customer_name="Lina")
    changed = change_customer(
        order, email=RIGHT, phone="0550 12 34 56", language="fr", by="amina", reason="She called"
    )
    assert changed is True
    for seen in (order, Order.objects.get()):
        assert (seen.customer_email, seen.customer_name) == (RIGHT, "Lina")
        assert (seen.customer_phone, seen.customer_language) == ("0550 12 34 56", "fr")
        assert seen.status == status
    assert kept() == [(WRONG, "Lina", "", "", "amina", "She called")]


def test_what_is_right_already_is_not_corrected_again() -> None:
    order = make_guide_order(customer_email=RIGHT)
    stale = make_stale(order)
    assert change_customer(order, email=RIGHT) is False
    assert change_customer(order) is False
    assert change_customer(order, phone="1") is True
    # The same button is pressed twice.
    assert change_customer(stale, phone="1") is False
    assert (stale.customer_phone, len(kept())) == ("1", 1)


def make_stale(order: Order) -> Order:
    return Order.objects.get(pk=order.pk)


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"email": "lina"}, "customer_email"),
        ({"email": f"{'x' * 250}@example.com"}, "customer_email"),
        ({"email": "a@ex\u202eample.com"}, "customer_email"),
        ({"name": "a\nb"}, "customer_name"),
        ({"name": 7}, "customer_name"),
        ({"phone": "0" * 51}, "customer_phone"),
        ({"language": "f r"}, "customer_language"),
        ({"phone": "1", "by": "a\nb"}, "by"),
        ({"phone": "1", "reason": "x" * 201}, "reason"),
    ],
    ids=str,
)
def test_values_are_validated_as_in_placing(values: dict[str, Any], wrong: str) -> None:
    order = make_guide_order(customer_email=RIGHT)
    with pytest.raises(ValidationError) as caught:
        change_customer(order, **values)
    assert list(caught.value.message_dict) == [wrong]
    placed = {f"customer_{name}": value for name, value in values.items() if name != "by"}
    if wrong.startswith("customer_"):
        with pytest.raises(ValidationError) as refused:
            place_order(**{**LINE, **placed})
        assert refused.value.message_dict == caught.value.message_dict
    order.refresh_from_db()
    assert (order.customer_email, order.customer_phone, kept()) == (RIGHT, "", [])


class TestGift:
    """The recipient of a gift, the message and the time are corrected in the same way."""

    GIFT: ClassVar[dict[str, Any]] = {
        "recipient_email": WRONG,
        "recipient_name": "Lina",
        "gift_message": "Happy birthday!",
        "deliver_at": timezone.now() + timedelta(days=3),
    }

    @pytest.mark.parametrize("status", Status.values)
    def test_a_recipient_is_corrected_whatever_became_of_the_order(self, status: Status) -> None:
        order = make_guide_order(status, customer_email="amina@example.com", **self.GIFT)
        earlier = self.GIFT["deliver_at"] - timedelta(days=1)
        changed = change_customer(
            order,
            recipient_email=RIGHT,
            recipient_language="fr",
            gift_message="Joyeux\r\nanniversaire ! ",
            deliver_at=earlier.astimezone(ZoneInfo("Asia/Tokyo")),
            by="amina",
        )
        assert changed is True
        for seen in (order, Order.objects.get()):
            assert (seen.recipient_email, seen.recipient_name) == (RIGHT, "Lina")
            assert (seen.recipient_language, seen.deliver_at) == ("fr", earlier)
            assert seen.gift_message == "Joyeux\nanniversaire !"
            assert seen.customer_email == "amina@example.com"
        change = CustomerChange.objects.get()
        assert {name: getattr(change, name) for name in self.GIFT} == self.GIFT

    @pytest.mark.parametrize(
        ("values", "wrong"),
        [
            ({"recipient_email": "lina"}, "recipient_email"),
            ({"recipient_email": ""}, "recipient_email"),
            ({"gift_message": "\u202e"}, "gift_message"),
            ({"deliver_at": "tomorrow"}, "deliver_at"),
            ({"deliver_at": timezone.now() + timedelta(days=400)}, "deliver_at"),
        ],
        ids=["no address", "no more a gift", "a mark", "a text", "too late"],
    )
    def test_values_are_validated_and_a_gift_stays_one(
        self, values: dict[str, Any], wrong: str
    ) -> None:
        order = make_guide_order(**self.GIFT)
        with pytest.raises(ValidationError) as caught:
            change_customer(order, **values)
        assert list(caught.value.message_dict) == [wrong]
        assert not CustomerChange.objects.exists()

    @pytest.mark.parametrize("values", [{"recipient_email": RIGHT}, {"recipient_name": "Lina"}])
    def test_an_order_that_is_no_gift_does_not_become_one(self, values: dict[str, Any]) -> None:
        order = make_guide_order(customer_email=RIGHT)
        with pytest.raises(ValidationError) as caught:
            change_customer(order, **values)
        assert list(caught.value.message_dict) == ["recipient_email"]
        assert not Order.objects.get().is_gift

    def test_placing_it_again_may_give_the_recipient_of_before(self) -> None:
        given = {**LINE, **self.GIFT}
        order = place_order(**given)
        change_customer(order, recipient_email=RIGHT)
        for address in (WRONG, RIGHT):
            assert place_order(**{**given, "recipient_email": address}) == order
        with pytest.raises(ReferenceConflict):
            place_order(**{**given, "recipient_email": "sami@example.com"})


class TestRaces:
    def test_a_customer_who_was_corrected_meanwhile_is_not_corrected_unseen(self) -> None:
        order = make_guide_order(customer_email=WRONG)
        stale = make_stale(order)
        change_customer(order, email=RIGHT)
        with pytest.raises(CustomerConflict):
            change_customer(stale, email="other@example.com")
        assert Order.objects.get().customer_email == RIGHT
        assert stale.customer_email == WRONG

    def test_a_customer_who_was_erased_meanwhile_stays_erased(self) -> None:
        order = make_guide_order(Status.FULFILLED, customer_email=WRONG)
        stale, person = make_stale(order), Person.of(WRONG)
        assert erase(person, find_orders(person)[0]).erased
        with pytest.raises(CustomerConflict):
            change_customer(stale, email=RIGHT)
        assert Order.objects.get().customer_email == ""
        assert kept() == []

    def test_a_receiver_that_fails_undoes_the_correction(self) -> None:
        def fails(**_: Any) -> None:
            raise OSError("the mailing list is away")

        order = make_guide_order(customer_email=WRONG)
        customer_changed.connect(fails)
        try:
            with pytest.raises(OSError, match="mailing list"):
                change_customer(order, email=RIGHT)
        finally:
            customer_changed.disconnect(fails)
        assert (order.customer_email, Order.objects.get().customer_email) == (WRONG, WRONG)
        assert kept() == []

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.usefixtures("shared_database")
    def test_of_corrections_at_the_same_moment_one_is_made(self) -> None:
        order = make_guide_order(customer_email=WRONG)
        copies = [make_stale(order) for _ in range(4)]

        def correct() -> object:
            stale = copies.pop()
            try:
                return change_customer(stale, email=f"{len(copies)}@example.com")
            except CustomerConflict:
                return "conflict"

        assert sorted(in_threads(4, correct), key=str) == [True, "conflict", "conflict", "conflict"]
        assert len(kept()) == 1


def test_receivers_get_the_corrected_order_inside_the_transaction() -> None:
    seen: list[Any] = []

    def receive(order: Order, change: CustomerChange, **_: Any) -> None:
        before = change.before(order)
        seen.append((order.customer_email, before.customer_email, change.by))
        assert connection.in_atomic_block
        assert Order.objects.get().customer_email == order.customer_email

    customer_changed.connect(receive)
    try:
        change_customer(make_guide_order(customer_email=WRONG), email=RIGHT, by="amina")
    finally:
        customer_changed.disconnect(receive)
    assert seen == [(RIGHT, WRONG, "amina")]


class TestPlacingAgain:
    """The shop repeats an order after a time-out, with the customer's details at that time."""

    @pytest.fixture(autouse=True)
    def _corrected(self) -> None:
        order = place_order(**GIVEN)
        change_customer(order, email="lina@exampel.com")
        change_customer(order, email=RIGHT, phone="0550123456")

    @pytest.mark.parametrize(
        "customer",
        [
            {"customer_email": WRONG},
            {"customer_email": "lina@exampel.com"},
            {"customer_email": RIGHT, "customer_phone": "0550123456"},
        ],
        ids=["as given", "as it was between", "as it is"],
    )
    def test_what_holds_or_has_held_is_the_same_order(self, customer: dict[str, str]) -> None:
        again = place_order(**{**GIVEN, **customer})
        assert again.is_new is False
        assert again.customer_email == RIGHT
        assert Order.objects.count() == 1

    @pytest.mark.parametrize(
        "other",
        [
            {"customer_email": "somebody@example.com"},
            # This address was never stored without the phone number.
            {"customer_email": RIGHT},
            {"customer_name": "Karim"},
            {"quantity": 3},
        ],
    )
    def test_anything_else_is_a_conflict(self, other: dict[str, Any]) -> None:
        with pytest.raises(ReferenceConflict):
            place_order(**{**GIVEN, **other})

    def test_an_erased_customer_leaves_nothing_to_compare_with(self) -> None:
        person = Person.of(RIGHT)
        Order.objects.update(
            status=Status.REJECTED, finalized_at=Order.objects.get().created_at + timedelta(hours=1)
        )
        assert erase(person, find_orders(person)[0]).erased == ["web-1"]
        for customer in (WRONG, RIGHT):
            with pytest.raises(ReferenceConflict):
                place_order(**{**GIVEN, "customer_email": customer})
