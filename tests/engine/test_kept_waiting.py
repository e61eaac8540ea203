"""A wait of more than POLL_TIMEOUT before an order is accepted is noted once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from giftcards.engine import outbox
from giftcards.models import Order, StatusChange
from giftcards.signals import order_finalized, order_kept_waiting, order_status_changed
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import make_guide_order, make_order
from tests.stage import ago, fresh, in_threads, out_of_service, receiving, run_sweep

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

# These are relative to now, because a test may run long after the import of this module.
LATE, EARLY, SOON, LATER = (timedelta(seconds=seconds) for seconds in (-301, -280, 60, 240))
ON_HOLD = {"due_at": None}
OUTAGE = {"due_at": LATER}


def noted() -> list[tuple[str, str, str]]:
    changes = StatusChange.objects.order_by("pk")
    return list(changes.values_list("from_status", "to_status", "source"))


def moments(values: dict[str, Any]) -> dict[str, Any]:
    now = timezone.now()
    return {
        name: now + value if isinstance(value, timedelta) else value
        for name, value in values.items()
    }


@pytest.mark.parametrize(
    ("status", "values"),
    [
        (Status.PENDING, ON_HOLD),
        (Status.PENDING, OUTAGE),
        # The order was sent, lost and proven absent, and will be sent again.
        (Status.PENDING, OUTAGE | {"sent_at": LATE, "claim": "a", "queued_at": LATER}),
        (Status.UNCONFIRMED, ON_HOLD),
    ],
    ids=["on hold", "outage", "to be sent again", "unconfirmed"],
)
def test_a_long_wait_is_noted_once_and_the_status_stays(
    status: Status, values: dict[str, Any], simulator: Simulator
) -> None:
    order = make_order(status, **moments({"created_at": LATE, **values}))
    assert not order.is_late
    for _sweep in range(3):
        run_sweep()
    assert (fresh(order).status, order.is_late) == (status, True)
    assert noted() == [(status, status, "clock")]


@pytest.mark.parametrize(
    ("status", "values"),
    [
        (Status.PENDING, {"created_at": EARLY, **ON_HOLD}),
        # The order replaces missing cards by rule, and the customer has been informed.
        (Status.PENDING, {"created_at": LATE, "send_before": LATER, **ON_HOLD}),
        (Status.PLACING, {"created_at": LATE, "claimed_until": SOON}),
        (Status.HANDLING, {"created_at": LATE, **OUTAGE}),
        (Status.DELAYED, {"created_at": LATE, **OUTAGE}),
        (Status.REJECTED, {"created_at": LATE}),
        (Status.FULFILLED, {"created_at": LATE}),
    ],
)
def test_other_orders_are_left_alone(
    status: Status, values: dict[str, Any], simulator: Simulator
) -> None:
    make_guide_order(status, **moments(values))
    run_sweep()
    assert noted() == []


def test_an_order_that_is_sent_in_the_same_sweep_is_not_noted(simulator: Simulator) -> None:
    order = make_order(created_at=ago(301))
    run_sweep()
    assert fresh(order).kept_waiting_at is None


def test_waits_are_noted_while_the_provider_is_away(simulator: Simulator) -> None:
    order = make_order(created_at=ago(301), max_price=500)
    with out_of_service(simulator):
        run_sweep()
        run_sweep()
    assert (fresh(order).status, order.is_late) == ("PENDING", True)


def test_a_clock_that_was_set_forward_makes_no_customer_wait(
    simulator: Simulator, wall: Any
) -> None:
    order = make_order(**ON_HOLD)
    run_sweep()
    wall.step(600)
    run_sweep()
    assert fresh(order).kept_waiting_at is None


def test_receivers_hear_of_a_wait_by_a_signal_of_its_own_and_once() -> None:
    order = make_order(created_at=ago(301), **ON_HOLD)
    heard: list[tuple[str, str]] = []

    def receiver(name: str) -> Callable[..., None]:
        def hear(order: Order, change: StatusChange, **_: Any) -> None:
            heard.append((name, change.to_status))

        return hear

    assert order.note_wait()
    assert not order.note_wait()
    assert not Order.objects.get().note_wait()
    moves, ends, waits = map(receiver, ("moves", "ends", "waits"))
    with (
        receiving(order_status_changed, moves),
        receiving(order_finalized, ends),
        receiving(order_kept_waiting, waits),
    ):
        outbox.announce()
        outbox.announce()
    assert heard == [("waits", "PENDING")]
    assert not StatusChange.objects.filter(announced_at=None).exists()


@pytest.mark.parametrize("status", [Status.DELAYED, Status.FULFILLED])
def test_only_open_orders_are_late(status: Status) -> None:
    order = make_guide_order(status, kept_waiting_at=timezone.now() - timedelta(hours=1))
    assert order.is_late == (status == Status.DELAYED)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("shared_database")
def test_of_several_workers_at_the_same_moment_one_notes_the_wait() -> None:
    order = make_order(created_at=ago(301), **ON_HOLD)
    copies = [Order.objects.get(pk=order.pk) for _worker in range(4)]
    done = in_threads(4, lambda: copies.pop().note_wait())
    assert sorted(done) == [False, False, False, True]
    assert order.changes.count() == 1
