"""Search terms are written with their orders, follow them, and find the orders of one customer."""

from __future__ import annotations

import pytest
from django.utils import timezone

from giftcards.fulfilment import change_customer, place_order
from giftcards.models import Order, OrderTerm
from giftcards.text.search_terms import SEARCHED, TermKind, terms_of
from tests.builders import LINE, make_order
from tests.stage import ago

pytestmark = pytest.mark.django_db

CUSTOMER = {"customer_email": "Amina@Example.com", "customer_phone": "0550 12 34 56"}


def stored(order: Order) -> set[tuple[int, str]]:
    return set(OrderTerm.objects.filter(order=order).values_list("kind", "term"))


def expected(order: Order) -> set[tuple[int, str]]:
    order.refresh_from_db()
    found = terms_of({name: getattr(order, name) for name in SEARCHED})
    return {(int(kind), term) for kind, term in found}


def test_an_order_that_is_placed_has_its_terms() -> None:
    order = place_order(**LINE, reference="WEB-2002", **CUSTOMER)
    assert place_order(**LINE, reference="WEB-2002", **CUSTOMER) == order
    assert stored(order) == {
        (TermKind.REFERENCE, "web-2002"),
        (TermKind.REFERENCE, "web2002"),
        (TermKind.NUMBER, "2002"),
        (TermKind.EMAIL, "amina@example.com"),
        (TermKind.PHONE, "550123456"),
        (TermKind.PHONE_PART, "*50123456"),
        (TermKind.PHONE_PART, "*0123456"),
        (TermKind.PHONE_PART, "*123456"),
    }


def test_an_order_that_is_corrected_has_the_terms_of_its_new_values_only() -> None:
    order = place_order(**LINE, **CUSTOMER, customer_name="Amina")
    change_customer(order, name="Lina", phone="0660 00 00 00")
    terms = stored(order)
    assert terms == expected(order)
    assert {(TermKind.NAME, "lina"), (TermKind.PHONE, "660000000")} <= terms
    assert not terms & {(TermKind.NAME, "amina"), (TermKind.PHONE, "550123456")}


def test_an_order_that_is_saved_or_deleted_takes_its_terms_along() -> None:
    order = make_order(reference="one", group="cart 7")
    order.group = "cart 8"
    order.save(update_fields=["group"])
    assert stored(order) == expected(order)
    order.status = "PLACING"
    order.save(update_fields=["status"])
    assert stored(order) == expected(order)
    order.delete()
    assert not OrderTerm.objects.exists()


class TestOrdersOfOneCustomer:
    @pytest.mark.parametrize(
        ("values", "is_same"),
        [
            ({"customer_email": "amina@example.COM"}, True),
            ({"customer_phone": "+213 (0) 550-12-34-56"}, True),
            ({"customer_phone": "٠٥٥٠١٢٣٤٥٦"}, True),
            ({"customer_phone": "00213550123456", "customer_email": "other@example.com"}, True),
            ({"customer_phone": "0661 00 00 00 / 0550 123 456"}, True),
            ({}, False),
            ({"customer_name": "Amina"}, False),
            ({"customer_email": "amina@example.com.dz"}, False),
            ({"customer_phone": "0550 12 34 57"}, False),
            # This number has the same digits, but belongs to another country.
            ({"customer_phone": "+550123456"}, False),
            ({"customer_phone": "12"}, False),
            ({"reference": "550123456"}, False),
            ({"recipient_email": "amina@example.com", "recipient_name": "Amina"}, False),
        ],
        ids=str,
    )
    def test_only_the_same_address_or_number_in_any_spelling_is_the_same_customer(
        self, values: dict[str, str], is_same: bool
    ) -> None:
        order, other = make_order(**CUSTOMER, customer_name="Amina"), make_order(**values)
        assert Order.objects.keys_of_customer(order, limit=9) == [other.pk] * is_same
        assert Order.objects.keys_of_customer(other, limit=9) == [order.pk] * is_same

    def test_the_newest_come_first_without_the_order_itself(self) -> None:
        now = timezone.now()
        old, order, new = (make_order(**CUSTOMER, created_at=at) for at in (ago(99), now, now))
        assert Order.objects.keys_of_customer(order, limit=9) == [new.pk, old.pk]
