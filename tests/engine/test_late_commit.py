"""A claim whose COMMIT is answered so late that another process has already bought the order."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db import connections
from django.db.models import F
from django.utils import timezone

from giftcards.engine.gateway import Gateway
from giftcards.engine.placing import send_now
from giftcards.engine.sweep import sweep
from giftcards.models import Order
from giftcards.simulator import Simulator
from tests.builders import LINE
from tests.fakes.late_commit import Answer, through_a_slow_pooler
from tests.stage import Setter, fresh, history, posts, record_order, wait_until

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.usefixtures("shared_database")


@contextlib.contextmanager
def sent_by_another(order: Order) -> Iterator[None]:
    """Run the block while another process has claimed the order and waits for its COMMIT."""
    answer = Answer()

    def send() -> None:
        try:
            with through_a_slow_pooler(answer), Gateway() as gateway:
                send_now(Order.objects.get(pk=order.pk), gateway)
        finally:
            connections.close_all()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        assert answer.is_due.wait(60)
        # This is longer than the start may take.
        sender.join(0.6)
        yield
    finally:
        answer.let_go()
        sender.join(60)


def let_pass(seconds: float) -> None:
    """Let time pass for the orders."""
    passed = timedelta(seconds=seconds)
    Order.objects.update(
        sent_at=F("sent_at") - passed,
        claimed_until=F("claimed_until") - passed,
        absent_since=F("absent_since") - passed,
        due_at=timezone.now(),
    )


def test_a_sender_whose_commit_is_answered_minutes_later_does_not_buy_what_another_has_bought(
    simulator: Simulator, shorten: Setter
) -> None:
    shorten(start_within=0.5)
    order = record_order(**LINE)
    with sent_by_another(order), Gateway() as gateway:
        for _look in range(4):
            let_pass(240)
            sweep(gateway)
        # The order was taken for lost, proven absent, and sent again.
        assert history(order)[:5] == ["PLACING", "UNCONFIRMED", "PENDING", "PLACING", "HANDLING"]
    assert posts(simulator) == 1
    with Gateway() as gateway:
        wait_until(lambda: sweep(gateway) and Order.objects.get().is_final)
    assert (fresh(order).status, order.problems) == ("FULFILLED", [])
    assert list(simulator.orders) == [order.provider_order_id]


def test_a_sender_whose_commit_is_answered_late_hands_back_an_order_that_is_still_its_own(
    simulator: Simulator, shorten: Setter
) -> None:
    shorten(start_within=0.5)
    order = record_order(**LINE)
    with sent_by_another(order):
        pass
    assert (fresh(order).status, posts(simulator)) == ("PENDING", 0)
    assert [problem.text for problem in order.open_problems] == [
        "The order has not been sent to the provider yet. The shop's server was too slow just"
        " before it sent the order."
    ]
    let_pass(10)
    with Gateway() as gateway:
        assert gateway.is_open
        sweep(gateway)
    assert (history(order)[:3], posts(simulator)) == (["PLACING", "PENDING", "PLACING"], 1)
