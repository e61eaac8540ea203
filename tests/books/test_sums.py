"""All reports of the same orders agree, and every dinar is accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from random import Random
from typing import Any, NamedTuple

import pytest
from django.db import transaction
from django.utils import timezone
from django_q.models import OrmQ
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from giftcards.books.exports import order_rows, report_rows
from giftcards.books.reports import By, Figures, report
from giftcards.models import (
    Acknowledgement,
    Card,
    CustomerRefund,
    Lease,
    Order,
    OrderTerm,
    StatusChange,
)
from giftcards.settlement import customer_breakdown
from tests.books.random_shop import DAYS, PRODUCTS, add_books, figures_of
from tests.laws import examples


class Line(NamedTuple):
    """A final order, and what it adds to a report."""

    day: date
    order: Order
    figures: Figures


def read_line(order: Order) -> Line:
    assert order.finalized_at is not None
    day = order.finalized_at.astimezone(timezone.get_default_timezone()).date()
    return Line(day, order, figures_of(order))


def total(lines: Iterable[Line]) -> Figures:
    return sum((line.figures for line in lines), Figures())


@pytest.fixture(scope="module")
def books(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: Any
) -> Iterator[list[Line]]:
    seed = request.config.getoption("randomly_seed", 0)
    with django_db_blocker.unblock():
        with transaction.atomic():
            add_books(200, Random(seed))
        yield [read_line(order) for order in Order.objects.filter(finalized_at__isnull=False)]
        Order.objects.update(repeats=None)
        for model in (CustomerRefund, Acknowledgement, StatusChange, Card, OrderTerm, Order):
            model._base_manager.all()._raw_delete("default")  # type: ignore[attr-defined]
        OrmQ.objects.all().delete()
        Lease.objects.all().delete()


first, last = DAYS[0] - timedelta(days=1), DAYS[-1]
days = st.dates(first, last)


@pytest.mark.django_db
@pytest.mark.usefixtures("books")
class TestIdentities:
    @given(st.tuples(days, days).map(sorted), st.sampled_from(["", *PRODUCTS]))
    @hypothesis_settings(max_examples=examples(30))
    def test_a_report_by_anything_is_the_sum_of_its_orders(
        self, books: list[Line], period: list[date], product_id: str
    ) -> None:
        start, end = period
        wanted = total(
            line
            for line in books
            if start <= line.day <= end and product_id in {"", line.order.product_id}
        )
        for by in By:
            found = report(start, end, by, product_id=product_id)
            assert found.total == wanted
            assert sum((row.figures for row in found.rows), Figures()) == wanted

    def test_every_row_is_the_sum_of_its_orders(self, books: list[Line]) -> None:
        found = report(first, last, By.TYPE)
        assert len(found.rows) == 6
        for row in found.rows:
            own = (each for each in books if (each.order.product_id, each.order.type_id) == row.key)
            assert row.figures == total(own)

    def test_every_dinar_is_explained_on_both_sides(self) -> None:
        found = report(first, last).total
        assert found.paid_amount == found.kept_amount + found.owed_amount
        parts = (found.customer_paid_back_amount, found.open_amount)
        assert min(parts) > 0
        assert found.owed_amount == sum(parts)
        # Customers paid only once, so orders that repeat missing cards are not sales.
        sales = Order.objects.filter(repeats=None, finalized_at__isnull=False)
        left_open = Order.objects.filter(finalized_at=None, repeats__isnull=False)
        paid = sum(order.sale_amount or 0 for order in sales)
        gone_along = sum(order.sale_amount or 0 for order in left_open)
        assert found.paid_amount == paid - gone_along
        # The random orders have to include every situation.
        assert found.rejected
        assert found.unknown
        assert found.contradictory
        assert found.unpaid
        assert Order.objects.filter(reordered_amount__gt=0).exists()
        assert CustomerRefund.objects.filter(state="cancelled").exists()

    def test_what_was_ordered_was_charged_or_refunded_where_all_of_it_is_known(
        self, books: list[Line]
    ) -> None:
        odd = [
            line.order.pk for line in books if line.figures.unknown or line.figures.contradictory
        ]
        Order.objects.filter(pk__in=odd).update(finalized_at=timezone.now())
        found = report(first, last).total
        assert (found.unknown, found.contradictory) == (0, 0)
        assert found.orders == len(books) - len(odd)
        assert found.ordered_amount == found.charged_amount + found.refunded_amount

    def test_no_more_is_paid_back_than_an_order_owes(self) -> None:
        for order in Order.objects.filter(refunds__isnull=False).distinct():
            paid = (each.amount for each in order.refunds.filter(state="done"))
            assert order.paid_back_amount == sum(paid, Decimal(0))
            breakdown = customer_breakdown(order)
            assert breakdown is not None
            assert breakdown.open_amount == order.open_amount >= 0
            # The amount transferred to the order for the missing cards is no longer owed.
            if order.reordered_amount is None:
                assert breakdown.owed_amount == order.paid_back_amount + order.open_amount

    def test_every_row_of_the_files_tells_paid_and_owed_apart(self) -> None:
        parts = ("Paid back", "Still owed")
        files = [
            ("Owed to the customer", order_rows(first, last)),
            *(("Owed to customers", report_rows(report(first, last, by))) for by in By),
        ]
        for owed, rows in files:
            headings = list(next(rows))
            for row in rows:
                cells: dict[Any, Any] = dict(zip(headings, row, strict=True))
                if cells[owed] is not None:
                    assert cells[owed] == sum(cells[part] for part in parts)
