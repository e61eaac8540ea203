"""What an oscar order shows about its cards: the status of the line, and notes for staff."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone
from oscar.apps.order.signals import order_line_status_changed
from oscar.core.loading import get_model

from giftcards.fulfilment import place_order, reorder_missing
from giftcards.models import Order, StatusChange
from giftcards.oscar.lines import follow_order
from giftcards.settlement import cancel_refund, record_refund
from giftcards.signals import customer_refund_changed
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import LINE, TYPE
from tests.oscar.guide import block_of
from tests.oscar.shop import Customer, bought, card, give_voucher, notes, order_for, status_of, work

TITLE = "PlayStation – TEST_PARTIAL"


def due(amount: str, missing: int, line: Any, *, quantity: int = 5) -> str:
    about = f"{missing} of {quantity} × “{line.title}”. (oscar-line-{line.pk})"
    return f"Refund due: {amount} DA, for {about}"


def none_due(line: Any) -> str:
    return (
        f"No refund is due for “{line.title}”, because the amount was paid back or the missing"
        f" cards were ordered again. (oscar-line-{line.pk})"
    )


@pytest.mark.parametrize(
    ("type_id", "status", "amount", "missing"),
    [
        (TYPE, "Delivered", "", 0),
        ("TEST_PARTIAL", "Partly delivered", "1,590", 3),
        ("TEST_REFUND", "Not delivered", "2,650", 5),
        ("SIM_REJECT", "Not delivered", "2,650", 5),
    ],
)
def test_the_line_and_a_note_say_what_became_of_the_cards(
    shop: Simulator, type_id: str, status: str, amount: str, missing: int
) -> None:
    line = bought(card(type_id), 5)
    assert status_of(line) == "Pending"
    work()
    assert status_of(line) == status
    assert notes(line) == ([due(amount, missing, line)] if amount else [])
    # The change is announced twice, for example because the worker was killed.
    follow_order(order_for(line))
    assert len(notes(line)) == bool(amount)


def test_what_is_due_is_what_was_paid_after_discounts(shop: Simulator) -> None:
    order = Customer().buy(card("TEST_PARTIAL"), 3, voucher=give_voucher(5))
    assert order is not None
    line = order.lines.get()
    assert line.line_price_incl_tax == Decimal("1510.50")
    work()
    # One of three cards was delivered, so the shop keeps 503.50 DA.
    assert notes(line) == [due("1,007", 2, line, quantity=3)]


def test_the_line_follows_an_order_that_takes_long(shop: Simulator) -> None:
    line = bought(card(), 2)
    order = order_for(line)
    accepted = {"provider_order_id": "A1", "accepted_at": timezone.now()}
    for status, told, values in (
        (Status.PLACING, "Ordered", {}),
        (Status.HANDLING, "Ordered", accepted),
        (Status.DELAYED, "Delayed", {}),
    ):
        assert order.move(status, source=StatusChange.Source.CHECK, **values)
        follow_order(order)
        assert status_of(line) == told


def test_missing_cards_that_are_ordered_again_belong_to_the_same_line(shop: Simulator) -> None:
    line = bought(card("TEST_PARTIAL"), 5)
    work()
    Order.objects.update(type_id=TYPE)
    again = reorder_missing(order_for(line), by="amina")
    assert again.move(Status.PLACING, source=StatusChange.Source.CHECK)
    follow_order(again)
    assert status_of(line) == "Ordered"
    assert notes(line) == [due("1,590", 3, line), none_due(line)]
    assert again.move(Status.PENDING, source=StatusChange.Source.CHECK)
    work()
    assert status_of(line) == "Delivered"
    assert len(notes(line)) == 2


def test_a_receiver_adds_refunds_to_the_payment_of_oscar(
    shop: Simulator, django_capture_on_commit_callbacks: Any
) -> None:
    line = bought(card("TEST_PARTIAL"), 5)
    work()
    source = get_model("payment", "Source").objects.create(
        order=line.order,
        source_type=get_model("payment", "SourceType").objects.create(name="Bank"),
        amount_debited=2_650,
    )
    names: dict[str, Any] = {}
    exec(block_of("oscar", "from django.dispatch import receiver"), names)
    try:
        for amount, reference in ((590, "VIR-1"), (1_000, "VIR-2")):
            with django_capture_on_commit_callbacks(execute=True):
                refund = record_refund(order_for(line), amount=amount, reference=reference)
        source.refresh_from_db()
        assert source.amount_refunded == 1_590
        with django_capture_on_commit_callbacks(execute=True):
            cancel_refund(refund, by="amina")
    finally:
        customer_refund_changed.disconnect(names["record_in_oscar"])
    source.refresh_from_db()
    assert source.amount_refunded == 590


def test_refunds_change_what_is_due(
    shop: Simulator, django_capture_on_commit_callbacks: Any
) -> None:
    line = bought(card("TEST_PARTIAL"), 5)
    work()
    order = order_for(line)
    with django_capture_on_commit_callbacks(execute=True):
        record_refund(order, amount=590, reference="VIR-1")
    with django_capture_on_commit_callbacks(execute=True):
        rest = record_refund(order, amount=1_000, reference="VIR-2")
    with django_capture_on_commit_callbacks(execute=True):
        cancel_refund(rest, by="amina")
    expected = [due("1,590", 3, line), due("1,000", 3, line), none_due(line), due("1,000", 3, line)]
    assert notes(line) == expected


def test_the_notes_are_in_the_language_of_the_site(shop: Simulator, settings: Any) -> None:
    settings.LANGUAGE_CODE = "fr"
    line = bought(card("TEST_REFUND"))
    work()
    [note] = notes(line)
    assert note.startswith("Remboursement dû : 530 DA")


def test_the_shop_is_told_of_a_status(shop: Simulator) -> None:
    told = []

    def listen(line: Any, old_status: str, new_status: str, **_: Any) -> None:
        told.append((line.pk, old_status, new_status))

    line = bought(card())
    order_line_status_changed.connect(listen)
    try:
        work()
    finally:
        order_line_status_changed.disconnect(listen)
    assert told == [(line.pk, "Pending", "Delivered")]


@pytest.mark.parametrize(
    ("reference", "group"),
    [
        ("selftest-1", "{number}"),
        ("oscar-line-{pk}0", "{number}"),
        ("oscar-line-{pk}x", "{number}"),
        ("oscar-line-99999999999999999999", "{number}"),
        ("oscar-line-{pk}", "another order"),
    ],
)
def test_orders_of_others_leave_the_line_alone(shop: Simulator, reference: str, group: str) -> None:
    line = bought(card())
    Order.objects.all().delete()
    names = {"pk": line.pk, "number": line.order.number}
    order = place_order(
        **LINE, reference=reference.format(**names), group=group.format(**names), sale_price=530
    )
    assert order.move(Status.REJECTED, source=StatusChange.Source.CHECK)
    follow_order(order)
    assert status_of(line) == "Pending"
    assert notes(line) == []
