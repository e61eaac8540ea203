"""The number of orders in each status, most of which a worker has counted in advance."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from giftcards.models import Order, ProviderState
from giftcards.statuses import Status
from giftcards.watch.overview import count_final_orders, orders_by_status
from tests.builders import make_guide_order, make_order
from tests.stage import ago

pytestmark = pytest.mark.django_db

# Two old orders, an order that has just become final, and open orders.
EXPECTED = {
    "PENDING": 2,
    "PLACING": 0,
    "UNCONFIRMED": 0,
    "REJECTED": 1,
    "HANDLING": 1,
    "DELAYED": 0,
    "FULFILLED": 1,
    "PARTIALLY_FILLED": 0,
    "REFUNDED": 1,
}


def count() -> dict[str, int]:
    return orders_by_status(ProviderState.objects.current())


def work() -> None:
    count_final_orders(lambda: True)


def work_and_wait() -> None:
    work()
    ProviderState.objects.update(final_orders_until=ago(9_000))
    Order.objects.filter(finalized_at__gt=ago(3_600)).update(finalized_at=ago(8_000))


def be_counted_on_a_clock_that_was_set_back() -> None:
    ProviderState.objects.current()
    ProviderState.objects.note_final_orders({"FULFILLED": 9}, until=ago(-600))


@pytest.mark.parametrize(
    "prepare", [lambda: None, work, work_and_wait, be_counted_on_a_clock_that_was_set_back]
)
def test_each_order_is_counted_once_whenever_a_worker_has_counted(
    prepare: Callable[[], None],
) -> None:
    make_guide_order(Status.REFUNDED, finalized_at=ago(90_000))
    make_guide_order(Status.REJECTED, finalized_at=ago(9_999))
    make_guide_order(Status.FULFILLED, finalized_at=ago(9))
    make_guide_order(Status.HANDLING)
    make_order()
    make_order()
    prepare()
    assert count() == EXPECTED


def test_a_worker_counts_once_an_hour_and_leaves_out_what_may_not_be_committed_yet() -> None:
    make_guide_order(Status.FULFILLED, finalized_at=ago(3_500))
    make_guide_order(Status.REFUNDED, finalized_at=ago(3_700))
    work()
    assert ProviderState.objects.current().final_orders == {"REFUNDED": 1}
    # This order is committed an hour late, and included in the next count.
    make_guide_order(Status.REFUNDED, finalized_at=ago(3_700))
    with CaptureQueriesContext(connection) as queries:
        work()
    assert len(queries) == 1
    assert count()["REFUNDED"] == 1
    ProviderState.objects.update(final_orders_until=ago(7_300))
    work()
    assert count()["REFUNDED"] == 2
    ProviderState.objects.update(final_orders_until=ago(-60), final_orders={})
    work()
    assert ProviderState.objects.current().final_orders == {"REFUNDED": 2}
