"""Recording what the customer paid after the order became final, from code and by staff."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.exceptions import ValidationError
from django.test import Client

from giftcards.exceptions import ReferenceConflict, SaleError
from giftcards.fulfilment import place_order, record_sale_amount, reorder_missing
from giftcards.models import Note, Order
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.pages import errors, order_page, read, sign_in, text, timeline, told
from tests.stage import in_threads

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

KNOWN = "The amount that the customer paid for this order is already known."
LATE = (
    "The missing cards were ordered again, so the amount that was paid for them is no longer known."
)


@pytest.fixture
def order() -> Order:
    """An order of which three of five cards came, without a sale amount."""
    return make_guide_order(
        Status.PARTIALLY_FILLED, reference="web-1042", fulfilled_amount=1470, customer_name="Lina"
    )


def test_what_is_owed_follows_from_what_was_paid(order: Order) -> None:
    assert record_sale_amount(order, 2750, by="amina")
    for known in (order, Order.objects.get()):
        assert (known.sale_amount, known.open_amount) == (2750, 1100)
    assert [(note.by, note.text) for note in Note.objects.all()] == [
        ("amina", "The amount that the customer paid was recorded.")
    ]
    # From here on, the order is like any other.
    record_refund(order, amount=1100, reference="CCP 1", by="amina")
    assert order.open_amount == 0


def test_the_same_amount_again_is_no_news_and_another_is_refused(order: Order) -> None:
    stale = Order.objects.get()
    record_sale_amount(order, 2750, by="amina")
    assert not record_sale_amount(order, Decimal("2750.00"), by="samir")
    with pytest.raises(SaleError, match=KNOWN):
        record_sale_amount(stale, 2751, by="samir")
    assert (Order.objects.get().sale_amount, Note.objects.count()) == (2750, 1)


@pytest.mark.parametrize(
    ("status", "values", "why"),
    [
        (Status.HANDLING, {}, "The order is open."),
        (Status.FULFILLED, {"sale_price": Decimal(550)}, KNOWN),
        (Status.FULFILLED, {"sale_amount": Decimal(0)}, KNOWN),
        (Status.PARTIALLY_FILLED, {"reordered_amount": Decimal(0)}, LATE),
    ],
)
def test_an_order_whose_customer_cannot_be_counted_anew_is_left_alone(
    status: Status, values: dict[str, Any], why: str
) -> None:
    order = make_guide_order(status, **values)
    with pytest.raises(SaleError, match=why):
        record_sale_amount(order, 100, by="amina")
    assert not Note.objects.exists()


@pytest.mark.parametrize("amount", [-1, Decimal("0.001"), 2.5, "10", True, None])
def test_what_is_no_amount_is_refused(order: Order, amount: Any) -> None:
    with pytest.raises(ValidationError):
        record_sale_amount(order, amount, by="amina")
    with pytest.raises(ValidationError):
        record_sale_amount(order, 1, by="")
    assert Order.objects.get().sale_amount is None


def test_an_order_ordered_again_before_it_was_said_stays_as_it_is(order: Order) -> None:
    stale = Order.objects.get()
    reorder_missing(order, by="amina")
    with pytest.raises(SaleError, match=LATE):
        record_sale_amount(stale, 2750, by="samir")


LINE = {"product_id": "psn", "type_id": "type_001", "quantity": 1, "reference": "web-1"}


def test_a_shop_that_places_the_order_again_gets_it_as_before() -> None:
    order = place_order(**LINE)
    again = {**LINE, "sale_amount": 600}
    Order.objects.update(status=Status.REJECTED, finalized_at=order.created_at, due_at=None)
    order.refresh_from_db()
    record_sale_amount(order, 550, by="amina")
    assert place_order(**LINE).pk == place_order(**LINE, sale_amount=550).pk == order.pk
    for other in (again, {**LINE, "sale_price": 550}, {**LINE, "max_price": 9}):
        with pytest.raises(ReferenceConflict):
            place_order(**other)


@pytest.mark.django_db(transaction=True)
def test_of_two_people_who_say_it_at_once_one_is_heard(shared_database: str) -> None:
    make_guide_order(Status.PARTIALLY_FILLED, fulfilled_amount=1470)
    amounts = iter([2750, 2500])

    def say() -> bool:
        return record_sale_amount(Order.objects.get(), next(amounts), by="amina")

    found = in_threads(2, say)
    assert sorted(map(str, found)) == [KNOWN, "True"]
    assert Note.objects.count() == 1


# Staff.


@pytest.fixture
def accountant() -> Client:
    return sign_in("view_order", "settle_refund", name="amina")


def test_staff_say_what_the_customer_paid(order: Order, accountant: Client) -> None:
    address = order_page(order, "sale")
    assert address in read(accountant.get(order_page(order)))
    assert "web-1042" in text(read(accountant.get(address)))
    answer = accountant.post(address, {"amount": "2750"}, follow=True)
    assert told(answer) == ["Recorded: the customer paid 2,750 DA."]
    page = read(answer)
    assert address not in page
    assert any("The amount that the customer paid was recorded." in each for each in timeline(page))
    assert "2750" not in LogEntry.objects.get().change_message
    # One request is a double click, the other has a different amount.
    said = [
        told(accountant.post(address, {"amount": amount}, follow=True)) for amount in ("2750", "9")
    ]
    assert said == [["This amount has already been recorded."], [KNOWN]]


def test_what_staff_cannot_have_meant_is_asked_again(order: Order, accountant: Client) -> None:
    for amount, why in (
        (
            "a lot",
            "Enter an amount such as 550 or 549.90. Use the digits 0 to 9 and a decimal point.",
        ),
        ("-5", "Ensure this value is greater than or equal to 0."),
        ("", "This field is required."),
    ):
        answer = accountant.post(order_page(order, "sale"), {"amount": amount})
        assert errors(read(answer)) == [why]
    assert Order.objects.get().sale_amount is None


def test_others_see_no_button_and_get_no_page(order: Order) -> None:
    support = sign_in("view_order", "check_order")
    address = order_page(order, "sale")
    assert address not in read(support.get(order_page(order)))
    for method in (support.get, support.post):
        assert method(address, {"amount": "1"}).status_code == 403
