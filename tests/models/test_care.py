"""Who looks after an order: one at a time, by guarded writes, until nothing is left to do."""

from __future__ import annotations

from typing import Any

import pytest

from giftcards.models import Order
from giftcards.models.order_queries import FINISHED, UNFINISHED
from giftcards.models.staff_records import end_finished, give_back, take
from giftcards.rules.problems import Problem
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.stage import fresh, in_threads

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

SOLD = {"sale_price": 550}
# The situations of an order, and whether something is left to do.
SITUATIONS: list[tuple[Status, dict[str, Any], bool]] = [
    (Status.PENDING, {}, True),
    (Status.DELAYED, {}, True),
    (Status.FULFILLED, {}, False),
    (Status.FULFILLED, SOLD, False),
    (Status.FULFILLED, {"problems": [Problem("not_known")]}, True),
    (Status.REFUNDED, {}, False),
    (Status.PARTIALLY_FILLED, SOLD, True),
    (Status.REJECTED, {**SOLD, "paid_back_amount": 2750}, False),
    (Status.REJECTED, {**SOLD, "planned_amount": 2750}, True),
]


def entries(order: Order) -> list[str]:
    return [tick.code for tick in order.acknowledgements.all()]


@pytest.mark.parametrize(("status", "values", "is_left"), SITUATIONS)
def test_an_order_has_an_owner_while_something_is_left_to_do(
    status: Status, values: dict[str, Any], is_left: bool
) -> None:
    order = make_guide_order(status, **values)
    assert order.is_unfinished == is_left
    assert Order.objects.filter(UNFINISHED).exists() == is_left
    assert Order.objects.filter(FINISHED).exists() != is_left
    assert take(order, by="amina") == is_left
    assert order.owner == ("amina" if is_left else "")
    assert entries(order) == ["staff_took"] * is_left


def test_who_read_the_order_before_somebody_else_took_it_does_not_take_it() -> None:
    order = make_guide_order(Status.DELAYED)
    late = Order.objects.get()
    assert take(order, by="amina")
    assert not take(late, by="karim")
    assert fresh(late).owner == "amina"
    assert take(late, by="karim")
    assert not give_back(order, by="amina")
    assert fresh(late).owner == "karim"
    assert entries(late) == ["staff_took", "staff_took_over"]
    assert give_back(late, by="karim")
    assert (late.owner, late.looked_after_since) == ("", None)


@pytest.mark.django_db(transaction=True)
def test_of_several_people_at_the_same_moment_one_takes_the_order(shared_database: str) -> None:
    key = make_guide_order(Status.DELAYED).pk
    names = iter("abcd")
    done = in_threads(4, lambda: take(Order.objects.get(pk=key), by=next(names)))
    assert set(done) <= {True, False}
    order = Order.objects.get()
    # Those who read the order later took it over, and each of them is recorded.
    assert done.count(True) == len(entries(order)) >= 1
    assert order.owner in set("abcd")


def test_the_tick_ends_it_where_nothing_is_left_so_a_later_problem_is_nobodys() -> None:
    done, busy = make_guide_order(Status.DELAYED), make_guide_order(Status.DELAYED)
    for order in (done, busy):
        assert take(order, by="amina")
    finished = {"status": Status.FULFILLED, "fulfilled_quantity": 5, "due_at": None}
    Order.objects.filter(pk=done.pk).update(finalized_at=done.created_at, **finished)
    assert end_finished(lambda: False) == 0
    assert end_finished(lambda: True) == 1
    Order.objects.filter(pk=done.pk).update(**done.problem_columns(new=[Problem("not_known")]))
    assert [Order.objects.get(pk=order.pk).owner for order in (done, busy)] == ["", "amina"]
