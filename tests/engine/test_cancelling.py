"""Cancelling waiting orders, which is possible until a process claims them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.db import transaction

from giftcards.engine.approvals import put_on_hold_for_price, put_on_hold_for_review
from giftcards.engine.gateway import Gateway
from giftcards.engine.placing import _record_acceptance, mark_unconfirmed, send
from giftcards.engine.recovering import declare_absent
from giftcards.fulfilment import cancel_order, place_order, reorder_missing
from giftcards.models import Order, StatusChange
from giftcards.rules.problems import Problem
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import details, ended, make_order, problems
from tests.stage import ago, claim_to_send, fresh, in_threads, look, posts, record_order, run_sweep

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

LINE = {"product_id": "507f1f77bcf86cd799439011", "type_id": "type_001", "quantity": 2}
SOLD = {"sale_price": Decimal(550)}
CANCELLED = Problem("staff_cancelled", {"by": "amina"})
NOT_SENT = Problem("not_sent", {"reason": "not_started"})
UNPRICED = Problem("price_unknown", {"reason": "no_price"})
ABOVE = Problem("price_above", {"price": "600.00", "ceiling": "550.00"})
WANTED = Problem("review_wanted", {"objection": "Third order today"})
LATER = ago(-3600)


def on_hold_for_price() -> Order:
    order = make_order(**SOLD)
    put_on_hold_for_price(order, price=Decimal(600), ceiling=Decimal(550))
    return order


def on_hold_for_review() -> Order:
    order = make_order(**SOLD)
    put_on_hold_for_review(order, objection="Third order today")
    return order


def absent() -> Order:
    """Return an order that was sent, was lost, is proven absent, and will be sent again."""
    order = make_order(**SOLD)
    assert claim_to_send(order)
    mark_unconfirmed(order)
    assert declare_absent(order, send_again=True, source=StatusChange.Source.RECOVERY)
    return order


WAITING: dict[str, tuple[Callable[[], Order], list[Problem]]] = {
    "queue": (partial(make_order, **SOLD), []),
    "outage": (partial(make_order, problems=[NOT_SENT], due_at=LATER, **SOLD), [NOT_SENT]),
    "price": (partial(make_order, problems=[UNPRICED], due_at=LATER, **SOLD), [UNPRICED]),
    "price above": (on_hold_for_price, [ABOVE]),
    "review": (on_hold_for_review, [WANTED]),
    "turn": (partial(make_order, due_at=None, send_after=LATER, **SOLD), []),
    "absent": (absent, []),
}


@pytest.mark.parametrize(("make", "over"), WAITING.values(), ids=WAITING)
def test_an_order_that_waits_is_cancelled_and_never_sent(
    make: Callable[[], Order], over: list[Problem], simulator: Simulator
) -> None:
    order = make()
    before = order.changes.count()
    assert cancel_order(order, by="amina")
    assert (order.status, order.open_amount, order.due_at) == ("REJECTED", 1100, None)
    assert (fresh(order).status, problems(order)) == ("REJECTED", [])
    change = order.changes.last()
    assert (order.changes.count(), change and change.source) == (before + 1, "staff")
    assert (details(change), ended(change)) == ([CANCELLED], over)
    look(2)
    assert (fresh(order).status, posts(simulator)) == ("REJECTED", 0)


BOUGHT = [status for status in Status if status != Status.PENDING]


@pytest.mark.parametrize("status", BOUGHT)
def test_it_is_too_late_once_an_order_is_claimed_or_final(status: Status) -> None:
    order = make_order(status)
    as_read = {**Order.objects.filter(pk=order.pk).values()[0]}
    # The caller read the order while it was still waiting.
    order.status = Status.PENDING
    assert not cancel_order(order, by="amina")
    assert order.status == status
    assert Order.objects.filter(pk=order.pk).values()[0] == as_read
    assert not order.changes.exists()


def test_the_second_of_two_calls_has_cancelled_nothing() -> None:
    order = make_order()
    stale = Order.objects.get()
    assert cancel_order(order, by="amina")
    assert not cancel_order(stale, by="karim")
    assert (stale.status, stale.changes.count()) == ("REJECTED", 1)


def test_an_order_that_was_tried_since_it_was_read_is_cancelled_with_its_problems() -> None:
    order = make_order()
    worker = Order.objects.get()
    assert claim_to_send(worker)
    source = StatusChange.Source.PLACING
    assert worker.move(Status.PENDING, source=source, details=[NOT_SENT], due_at=LATER)
    assert cancel_order(order, by="amina")
    assert (fresh(order).status, problems(order)) == ("REJECTED", [])
    assert ended(order.changes.last()) == [NOT_SENT]


def test_an_order_that_is_cancelled_while_a_worker_prepares_to_send_it_is_not_sent(
    simulator: Simulator, set_conf: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_conf(REVIEW_ORDER="tests.engine.test_cancelling.cancel_meanwhile")
    order = record_order(**LINE)
    with Gateway() as gateway:
        assert send(order, gateway)
    assert (fresh(order).status, posts(simulator)) == ("REJECTED", 0)


def cancel_meanwhile(order: Order) -> None:
    """Cancel the order, as if staff did so while the shop's rule runs."""
    assert cancel_order(Order.objects.get(pk=order.pk), by="amina")


def test_an_order_waits_on_after_the_rollback_of_its_cancellation(simulator: Simulator) -> None:
    order = place_order(**LINE)
    with transaction.atomic():
        assert cancel_order(order, by="amina")
        transaction.set_rollback(True)
    run_sweep()
    assert (fresh(order).status, posts(simulator)) == ("FULFILLED", 1)


def test_staff_are_told_if_a_lost_order_was_bought_and_then_cancelled() -> None:
    slow = make_order()
    assert claim_to_send(slow)
    lost = Order.objects.get()
    mark_unconfirmed(lost)
    assert declare_absent(lost, send_again=True, source=StatusChange.Source.RECOVERY)
    assert cancel_order(lost, by="amina")
    _record_acceptance(slow, "6901616fe9e88196b4eb64b3", Decimal(490), None)
    told = Problem("accepted_after_all", {"provider_order_id": "6901616fe9e88196b4eb64b3"})
    assert (fresh(lost).status, problems(lost)) == ("REJECTED", [told])


def test_the_cards_of_a_cancelled_order_can_be_ordered_again(simulator: Simulator) -> None:
    order = make_order(**LINE, **SOLD)
    assert cancel_order(order, by="amina")
    new = reorder_missing(order, by="amina")
    assert (new.sale_amount, fresh(order).open_amount) == (1100, 0)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("shared_database")
def test_of_staff_and_workers_at_the_same_moment_one_has_the_order() -> None:
    for _round in range(10):
        order = make_order()
        work: list[Callable[[Order], Any]] = [partial(cancel_order, by="amina"), claim_to_send] * 2
        copies = [Order.objects.get(pk=order.pk) for _process in work]
        done = in_threads(4, lambda: (act := work.pop(), bool(act(copies.pop())))[1])  # noqa: B023
        assert sorted(done) == [False, False, False, True]
        [change] = order.changes.all()
        assert change.to_status == fresh(order).status in {"PLACING", "REJECTED"}
