"""The shop to be recorded: an order in each status, reached through the app itself."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from django.core.management import call_command
from django.db.models import F
from django.utils import timezone

from giftcards.books.models import MonthClosing
from giftcards.catalogue import reserve
from giftcards.delivery.models import CardLink, LinkVisit, StaffDigest
from giftcards.delivery.tasks import deliver
from giftcards.engine.outbox import announce
from giftcards.fulfilment import change_customer, place_order, reorder_missing
from giftcards.models import Note, OfferChange, Order, ProductType, RedemptionInstructions
from giftcards.settlement import cancel_refund, record_refund
from giftcards.simulator import Simulator
from tests.builders import PRODUCT, set_shelf
from tests.delivery.staff import message
from tests.stage import run_sweep

SALE_PRICE = 550


def fill(simulator: Simulator) -> None:
    """Fill each table: orders, cards, messages, refunds, the ledger, and work not done yet.

    The provider settles at once; GIFTCARDS points at it.
    """
    call_command("giftcards_catalogue", verbosity=0)
    set_shelf(margin_percent=10)
    category = ProductType.objects.all()[0].product.category
    RedemptionInstructions.objects.create(category=category, language="en", text="Redeem it.")
    OfferChange.objects.create(type=ProductType.objects.all()[0], what="stock", old=2, new=1)
    settled = [
        _place("delivered", "type_001", 2),
        _place("partly", "TEST_PARTIAL", 5),
        _place("refunded", "TEST_REFUND", 2),
        _place("again", "TEST_REFUND", 1),
        _place("rejected", "SIM_REJECT", 1),
    ]
    _work()
    for number, order in enumerate(settled):
        if number % 2:
            change_customer(order, email=f"new{number}@example.com", by="amina", reason="typo")
    partly = Order.objects.get(reference="partly")
    _pay_back(partly)
    Note.objects.add(partly, "She called.", by="amina")
    message(partly, status="failed", error="TimeoutError", failed_at=timezone.now())
    StaffDigest.objects.create(address="boss@shop.example", sent_at=timezone.now())
    reorder_missing(Order.objects.get(reference="again"), by="amina")
    _work()
    call_command("giftcards_ledger", verbosity=0)
    MonthClosing.objects.create(month=date(2025, 1, 1), number=1, closed_by="amina")
    LinkVisit.objects.create(link=CardLink.objects.all()[0], what="opened")
    reserve(product_id=PRODUCT, type_id="type_001", quantity=1, reference="cart")
    late = _place("late", "SIM_NEVER", 3)
    run_sweep()
    Order.objects.filter(pk=late.pk).update(accepted_at=F("accepted_at") - timedelta(minutes=10))
    _work()
    # Work for the next worker: changes without a notification, messages that wait, and orders that
    # are lost, being delivered, on hold, and not yet sent.
    _place("untold", "type_001", 1)
    _work(but_deliver=True)
    _place("unannounced", "TEST_PARTIAL", 4)
    _place("held", "type_001", 1, max_price=Decimal(480))
    _place("at-work", "SIM_SLOW", 2)
    _place("lost", "SIM_LOST", 1)
    run_sweep()
    _place("new", "type_001", 2)


def _place(reference: str, kind: str, quantity: int, **more: Any) -> Order:
    paid = Decimal(SALE_PRICE * quantity)
    return place_order(
        product_id=PRODUCT,
        type_id=kind,
        quantity=quantity,
        reference=reference,
        sale_amount=paid,
        customer_email=f"{reference}@example.com",
        customer_language="ar",
        **more,
    )


def _work(*, but_deliver: bool = False) -> None:
    """Do all work that is due, and notify receivers and customers."""
    for _round in range(4):
        Order.objects.exclude(due_at=None).update(due_at=timezone.now())
        run_sweep()
    announce()
    if not but_deliver:
        deliver()


def _pay_back(order: Order) -> None:
    staff = {"by": "amina"}
    back = record_refund(order, amount=100, reference="R-1", **staff)
    cancel_refund(back, by="karim", reason="The account number was wrong.")
    record_refund(order, amount=550, reference="R-2", **staff)
    record_refund(order, amount=550, reference="R-3", **staff)
