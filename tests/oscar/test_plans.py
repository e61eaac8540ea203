"""Query plans in a shop with a long history: growing tables are never read as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.utils import timezone
from oscar.core.loading import get_model

from giftcards.models import Order, OrderTerm
from giftcards.oscar.buying import buy_if_paid, buy_missed
from giftcards.oscar.lines import follow_order, reference_of
from giftcards.oscar.stock import follow_changes
from giftcards.statuses import Status
from tests.builders import PRODUCT, TYPE, build_guide_order
from tests.history import analyze
from tests.oscar.shop import Line, OscarOrder, Partner, order_for
from tests.plans import explained

Note = get_model("order", "OrderNote")

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_history")]

# With these numbers, neither a month nor a customer has many orders.
COUNT, DAYS_APART, CUSTOMERS = 3_000, 4, 1_000


@pytest.fixture(scope="module")
def _history(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Orders with one line each, all of which are paid and were bought."""
    with django_db_blocker.unblock():
        partner = Partner.objects.create(name="OneClickDz")
        users = get_user_model().objects.bulk_create(
            get_user_model()(username=f"past-{number}") for number in range(CUSTOMERS)
        )
        now = timezone.now()
        orders = OscarOrder.objects.bulk_create(
            OscarOrder(
                number=f"past-{number}",
                user=users[number % CUSTOMERS],
                status="Paid",
                currency="DZD",
                total_incl_tax=530,
                total_excl_tax=530,
                date_placed=now - timedelta(days=DAYS_APART * number),
            )
            for number in range(COUNT)
        )
        Line.objects.bulk_create(
            Line(
                order=order,
                partner=partner,
                partner_name=partner.name,
                partner_sku=f"{PRODUCT}/{TYPE}",
                title="PlayStation",
                quantity=5,
                line_price_incl_tax=2_650,
                line_price_excl_tax=2_650,
                line_price_before_discounts_incl_tax=2_650,
                line_price_before_discounts_excl_tax=2_650,
                num_allocated=0,
            )
            for order in orders
        )
        lines = list(Line.objects.select_related("order"))
        for line in lines:
            line.partner_line_reference = reference_of(line)
        Line.objects.bulk_update(lines, ["partner_line_reference"], batch_size=500)
        bought = Order.objects.bulk_create(
            build_guide_order(
                Status.PARTIALLY_FILLED,
                reference=reference_of(line),
                group=line.order.number,
                sale_amount=2_650,
                finalized_at=line.order.date_placed - timedelta(days=1),
            )
            for line in lines
        )
        # The missing cards of some orders were ordered again.
        Order.objects.bulk_create(
            build_guide_order(
                Status.REFUNDED, quantity=2, repeats=order, finalized_at=order.finalized_at
            )
            for order in bought[100:200]
        )
        Note.objects.bulk_create(Note(order=order, message="Called.") for order in orders)
        analyze(OscarOrder, Line, Note, Order)
    yield
    with django_db_blocker.unblock():
        repetitions = Order.objects.exclude(repeats=None)
        repetitions._raw_delete(connection.alias)
        for model in (Note, Line, OscarOrder, OrderTerm, Order, Partner, get_user_model()):
            model._base_manager.all()._raw_delete(connection.alias)


def missed() -> Any:
    """Delete the order of the newest line, so that the line was not bought, and return the line."""
    line = Line.objects.latest("order__date_placed")
    order_for(line).delete()
    return line


@pytest.mark.parametrize("work", ["buy_missed", "buy_if_paid", "follow_order", "follow_changes"])
def test_no_table_that_grows_is_read_as_a_whole(work: str) -> None:
    with explained(OscarOrder, Line, Note) as statements:
        match work:
            case "buy_missed":
                line = missed()
                statements.clear()
                buy_missed(lambda: True)
                assert order_for(line).status == Status.PENDING
            case "buy_if_paid":
                line = missed()
                statements.clear()
                buy_if_paid(line.order, new_status="Paid")
                assert order_for(line).status == Status.PENDING
            case "follow_order":
                line = Line.objects.select_related("order").latest("pk")
                order = order_for(line)
                statements.clear()
                follow_order(order)
                assert line.order.notes.filter(message__startswith="Refund due").exists()
            case _:
                follow_changes(lambda: True)
                statements.clear()
                follow_changes(lambda: True)
    assert statements
    assert [statement for statement in statements if statement.scans] == []
