"""Paid lines become orders exactly once, even if something fails in between."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone, translation
from oscar.apps.checkout.views import PaymentDetailsView

from giftcards.models import Order, Reservation
from giftcards.oscar.buying import buy_missed
from giftcards.simulator import Simulator
from tests.builders import PRODUCT, TYPE
from tests.oscar.shop import (
    Customer,
    Line,
    OscarOrder,
    book,
    bought,
    card,
    notes,
    order_for,
    paths,
    payment_view,
    status_of,
    work,
)
from tests.stage import failing
from tests.wall import Wall

pytest_plugins = ["tests.stage_fixtures"]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shop that learns only after the checkout that the customer has paid."""
    handle = PaymentDetailsView.handle_successful_order
    monkeypatch.setattr(payment_view(), "handle_successful_order", handle)


def orders() -> list[str]:
    return list(Order.objects.order_by("pk").values_list("reference", flat=True))


def test_a_line_that_is_paid_becomes_an_order(shop: Simulator) -> None:
    customer = Customer(language="ar")
    oscar_order = customer.buy(card(), 3)
    assert oscar_order is not None
    line = oscar_order.lines.get()
    order = Order.objects.get()
    assert order.reference == line.partner_line_reference == f"oscar-line-{line.pk}"
    assert order.group == oscar_order.number
    assert (order.product_id, order.type_id, order.quantity) == (PRODUCT, TYPE, 3)
    assert order.sale_amount == Decimal(1_590)
    assert (order.customer_email, order.customer_language) == (customer.email, "ar")
    work()
    assert [path for path in paths(shop) if path == "placeOrder"] == ["placeOrder"]


def test_an_order_that_is_paid_later_keeps_the_language_of_the_customer(
    shop: Simulator, later: None
) -> None:
    line = Customer(language="fr").buy(card()).lines.get()  # type: ignore[union-attr]
    work()
    assert orders() == []
    assert Reservation.objects.exists()
    with translation.override("en-gb"):
        line.order.set_status("Paid")
    assert order_for(line).customer_language == "fr"
    assert not Reservation.objects.exists()


def test_an_order_that_is_paid_from_the_start_is_bought(
    shop: Simulator, settings: Any, later: None
) -> None:
    settings.OSCAR_INITIAL_ORDER_STATUS = "Paid"
    line = bought(card())
    assert orders() == [f"oscar-line-{line.pk}"]


def test_every_status_that_means_paid_buys_once(
    shop: Simulator, settings: Any, later: None
) -> None:
    settings.GIFTCARDS_OSCAR = {"PAID_STATUSES": ["Paid", "Complete"]}
    line = bought(card())
    for status in ("Paid", "Complete"):
        line.order.set_status(status)
        # The customer's address is corrected between the two statuses.
        line.order.user.email = "other@example.com"
        line.order.user.save()
    work()
    assert orders() == [f"oscar-line-{line.pk}"]
    assert notes(line) == []


def test_the_customer_sees_no_failure_and_the_worker_buys(
    shop: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    with failing("INSERT", "giftcards_order"):
        line = bought(card(), 2)
    assert line.order.status == "Paid"
    assert orders() == []
    [error] = [record for record in caplog.records if record.name.startswith("giftcards.oscar")]
    assert error.getMessage() == f"Ordering oscar-line-{line.pk} failed: OperationalError"
    work()
    assert orders() == [f"oscar-line-{line.pk}"]
    work()
    assert status_of(line) == "Delivered"


NOT_BOUGHT: dict[str, dict[str, Any]] = {
    "unpaid": {},
    "cancelled": {"order__status": "Cancelled"},
    "from before the app was installed": {"order__status": "Paid", "partner_line_reference": ""},
    "long ago": {
        "order__status": "Paid",
        "order__date_placed": timezone.now() - timedelta(days=31),
    },
}


@pytest.mark.parametrize("case", NOT_BOUGHT)
def test_the_worker_leaves_other_lines_alone(shop: Simulator, later: None, case: str) -> None:
    customer = Customer()
    customer.put(card())
    customer.put(book())
    assert customer.pay()
    for name, value in NOT_BOUGHT[case].items():
        rows = OscarOrder if name.startswith("order__") else Line
        rows.objects.update(**{name.removeprefix("order__"): value})
    work()
    assert orders() == []


MISTAKES: dict[str, tuple[str, dict[str, Any], str]] = {
    "the SKU": ("line", {"partner_sku": "nonsense"}, "type_id: This field cannot be blank."),
    "the currency": (
        "order",
        {"currency": "EUR"},
        "Cards are sold in DZD, but the order is in EUR.",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_line_that_cannot_be_ordered_is_noted_once_and_bought_when_it_can(
    shop: Simulator, later: None, wall: Wall, mistake: str
) -> None:
    where, values, why = MISTAKES[mistake]
    line = bought(card())
    row = line if where == "line" else line.order
    right = {name: getattr(row, name) for name in values}
    rows = type(row).objects.filter(pk=row.pk)
    rows.update(**values)
    OscarOrder.objects.get().set_status("Paid")
    work()
    work()
    assert orders() == []
    assert notes(line) == [f"“PlayStation – {TYPE}” could not be ordered. {why}"]
    rows.update(**right)
    # The line is retried only when its turn comes, or when its order is marked as paid again.
    work()
    assert orders() == []
    wall.let_pass(76)
    work()
    assert orders() == [f"oscar-line-{line.pk}"]


def test_a_line_that_cannot_be_ordered_is_tried_less_and_less_often_and_after_newer_ones(
    shop: Simulator, later: None, wall: Wall
) -> None:
    broken = bought(card())
    OscarOrder.objects.update(currency="EUR", status="Paid")
    tries = []
    for _minute in range(180):
        buy_missed(lambda: True)
        notes_of = Line.objects.get(pk=broken.pk).partner_line_notes
        if tries[-1:] != [notes_of]:
            tries.append(notes_of)
        wall.let_pass(60)
    assert {text.splitlines()[0] for text in tries} == {"Language: en-gb"}
    assert 6 <= len(tries) <= 9
    newer = bought(card())
    newer.order.set_status("Paid")
    Order.objects.all().delete()
    wall.let_pass(4_600)
    answers = iter([True])
    buy_missed(lambda: next(answers, False))
    assert orders() == [f"oscar-line-{newer.pk}"]


@pytest.mark.parametrize("edited", ["Tries: many, next soon", "Tries: 9, next 2999-01-01T00:00Z"])
def test_notes_that_staff_have_edited_keep_no_line_from_its_turn(
    shop: Simulator, later: None, edited: str
) -> None:
    line = bought(card())
    Line.objects.update(partner_line_notes=f"Language: fr\n{edited}")
    OscarOrder.objects.update(status="Paid")
    buy_missed(lambda: True)
    assert Order.objects.get().customer_language == "fr"
    assert orders() == [f"oscar-line-{line.pk}"]


def test_another_order_of_that_name_is_noted_and_not_taken_for_ours(
    shop: Simulator, later: None
) -> None:
    line = bought(card())
    Order.objects.create(
        reference=f"oscar-line-{line.pk}", product_id=PRODUCT, type_id=TYPE, quantity=1
    )
    line.order.set_status("Paid")
    [note] = notes(line)
    assert "is already used for another order" in note
    work()
    assert status_of(line) == "Pending"
