"""The figures of final orders that a worker of an older version has settled."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from giftcards import tasks
from giftcards.engine.figures import complete_figures
from giftcards.models import Order
from giftcards.models.orders import FIGURES_VERSION
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import make_order

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


def settled_by_an_older_worker(number: int = 1, **values: Any) -> list[Order]:
    """Orders with one of two cards, whose other cost 550; no column says so yet."""
    values = {"sale_amount": Decimal(1100), "price_per_card": Decimal(490), **values}
    return [make_order(Status.PARTIALLY_FILLED, **values) for _order in range(number)]


def figures(order: Order) -> tuple[Any, ...]:
    order.refresh_from_db()
    return order.open_amount, order.is_consistent, order.figures_version


DONE = (Decimal(550), True, FIGURES_VERSION)


def test_the_tick_computes_what_an_older_worker_has_left_out() -> None:
    [order] = settled_by_an_older_worker()
    assert figures(order) == (None, None, 0)
    tasks.tick()
    assert figures(order) == DONE


def test_what_was_paid_back_meanwhile_is_not_owed_again() -> None:
    [order] = settled_by_an_older_worker()
    record_refund(order, amount=200, reference="R1")
    complete_figures(lambda: True)
    assert figures(order) == (Decimal(350), True, FIGURES_VERSION)


@pytest.mark.parametrize("is_paid", [True, False], ids=["paid", "planned"])
def test_a_refund_at_the_same_moment_is_counted_once(is_paid: bool) -> None:
    """It comes between the reading of the orders and the writing of their figures."""
    order, other = settled_by_an_older_worker(2)
    refunds = iter([order])

    def pay_back(execute: Any, sql: str, *args: Any) -> Any:
        if sql.startswith("UPDATE") and "figures_version" in sql and (due := next(refunds, None)):
            record_refund(Order.objects.get(pk=due.pk), amount=550, reference="R1", is_paid=is_paid)
        return execute(sql, *args)

    with connection.execute_wrapper(pay_back):
        assert complete_figures(lambda: True) == 1
    assert figures(other) == DONE
    assert figures(order)[0] == 0
    assert complete_figures(lambda: True) == 1
    assert figures(order) == (Decimal(0), True, FIGURES_VERSION)


def test_the_number_of_queries_does_not_grow_with_the_orders() -> None:
    counts = []
    for number in (1, 5):
        settled_by_an_older_worker(number)
        with CaptureQueriesContext(connection) as queries:
            assert complete_figures(lambda: True) == number
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_orders_are_written_a_batch_at_a_time_and_left_when_the_time_is_over(
    shorten: Callable[..., None],
) -> None:
    shorten(figures_batch=3)
    settled_by_an_older_worker(10)
    goes_on = iter([True, True, False])
    assert complete_figures(lambda: next(goes_on)) == 6
    assert complete_figures(lambda: True) == 4


def test_an_order_that_cannot_be_written_keeps_none_of_the_others_back(
    shorten: Callable[..., None],
) -> None:
    shorten(database_pause=0)
    wrong, *others = settled_by_an_older_worker(3)
    # More than was owed: somebody has written that by hand, and the database refuses the rest.
    Order.objects.filter(pk=wrong.pk).update(paid_back_amount=5_000)
    assert complete_figures(lambda: True) == 2
    assert [figures(order) for order in others] == [DONE, DONE]
    assert figures(wrong) == (None, None, 0)


def test_a_newer_version_is_left_alone() -> None:
    [order] = settled_by_an_older_worker(figures_version=FIGURES_VERSION + 1)
    assert complete_figures(lambda: True) == 0
    assert figures(order) == (None, None, FIGURES_VERSION + 1)
