"""Receivers are told of every change at least once, in order, and never disturb an order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.dispatch import Signal

from giftcards.models import Order, StatusChange
from giftcards.outbox import announce
from giftcards.signals import order_settled, order_status_changed
from giftcards.statuses import Status
from tests.builders import make_order

pytestmark = pytest.mark.django_db

Receiver = Callable[[Order, StatusChange], object]
Listen = Callable[[Signal, Receiver], None]
Heard = list[tuple[str, str, str]]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Connect a receiver for as long as the test runs."""
    connected: list[tuple[Signal, Callable[..., None]]] = []

    def connect(signal: Signal, receiver: Receiver) -> None:
        def a_shops_receiver(sender: object, **named: Any) -> None:
            assert sender is Order
            receiver(named["order"], named["change"])

        signal.connect(a_shops_receiver, weak=False)
        connected.append((signal, a_shops_receiver))

    yield connect
    for signal, receiver in connected:
        assert signal.disconnect(receiver)


@pytest.fixture
def heard(listen: Listen) -> Heard:
    """Which signal was sent of which order, and of which change, in the order of sending."""
    calls: Heard = []
    listen(
        order_status_changed,
        lambda order, change: calls.append(("changed", order.reference, str(change))),
    )
    listen(
        order_settled,
        lambda order, change: calls.append(("settled", order.reference, str(change))),
    )
    return calls


def moved(reference: str, *targets: Status) -> Order:
    order = make_order(reference=reference)
    for target in targets:
        assert order.move(target, source=StatusChange.Source.CLOCK)
    return order


def waiting() -> int:
    return StatusChange.objects.filter(announced_at=None).count()


def test_every_change_is_announced_once_in_its_order(heard: Heard) -> None:
    moved("order-1", Status.DELAYED, Status.REFUNDED)
    moved("order-2", Status.REFUNDED)
    assert announce() == 3
    assert heard == [
        ("changed", "order-1", "HANDLING → DELAYED"),
        ("changed", "order-1", "DELAYED → REFUNDED"),
        ("settled", "order-1", "DELAYED → REFUNDED"),
        ("changed", "order-2", "HANDLING → REFUNDED"),
        ("settled", "order-2", "HANDLING → REFUNDED"),
    ]
    assert waiting() == 0
    assert announce() == 0
    assert len(heard) == 5


def test_a_rejected_order_is_final_as_well(heard: Heard) -> None:
    order = make_order(Status.PLACING, reference="order-1")
    order.move(Status.REJECTED, source=StatusChange.Source.PLACING)
    announce()
    assert [signal for signal, _, _ in heard] == ["changed", "settled"]


def test_a_receiver_gets_the_order_as_it_is_stored(listen: Listen) -> None:
    order = moved("order-1", Status.DELAYED)
    Order.objects.filter(pk=order.pk).update(problem="written meanwhile")
    seen: list[tuple[str, str]] = []
    listen(order_status_changed, lambda order, change: seen.append((order.status, order.problem)))
    announce()
    assert seen == [("DELAYED", "written meanwhile")]


def test_without_receivers_nothing_is_left_waiting() -> None:
    moved("order-1", Status.REFUNDED)
    assert announce() == 1
    assert waiting() == 0


def test_nothing_to_announce_is_one_query(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(1):
        assert announce() == 0


def test_a_change_costs_one_query(django_assert_num_queries: Any) -> None:
    moved("order-1", Status.DELAYED, Status.REFUNDED)
    with django_assert_num_queries(3):
        announce()


@pytest.mark.parametrize("signal", [order_status_changed, order_settled])
class TestReceiverThatFails:
    """The one change of order-1 goes wrong: it is final, so it is sent as both signals."""

    @pytest.fixture
    def fail(self, signal: Signal, listen: Listen) -> list[Exception]:
        """A receiver raises the last of these when it is told of order-1."""
        errors: list[Exception] = [ConnectionError("AAAA-AAAA-AAAA-AAAA")]

        def receive(order: Order, change: StatusChange) -> None:
            if errors and order.reference == "order-1":
                raise errors[-1]

        listen(signal, receive)
        return errors

    def test_the_others_are_told_and_it_is_called_again(
        self, fail: list[Exception], heard: Heard
    ) -> None:
        order = moved("order-1", Status.REFUNDED)
        moved("order-2", Status.REFUNDED)
        told = [
            ("changed", "order-1", "HANDLING → REFUNDED"),
            ("settled", "order-1", "HANDLING → REFUNDED"),
        ]
        assert announce() == 1
        assert heard[:2] == told
        assert [reference for _, reference, _ in heard[2:]] == ["order-2", "order-2"]
        assert list(StatusChange.objects.filter(announced_at=None)) == [order.changes.get()]

        heard.clear()
        fail.clear()
        assert announce() == 1
        assert heard == told
        assert waiting() == 0

    def test_it_is_logged_without_what_it_raised(
        self, fail: list[Exception], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        moved("order-1", Status.REFUNDED)
        announce()
        [entry] = [entry for entry in caplog.records if entry.levelname == "ERROR"]
        message, line = entry.getMessage().split(f"{__file__}:")
        assert message == (
            "The receiver listen.<locals>.connect.<locals>.a_shops_receiver failed on order"
            " order-1 (HANDLING → REFUNDED): ConnectionError at "
        )
        assert re.fullmatch(r"\d+\. It will be called again\.", line)
        assert entry.exc_info is None
        assert "AAAA" not in caplog.text

    def test_the_order_is_undisturbed(self, fail: list[Exception]) -> None:
        order = moved("order-1", Status.REFUNDED)
        before = Order.objects.filter(pk=order.pk).values().get()
        announce()
        assert Order.objects.filter(pk=order.pk).values().get() == before


def test_later_changes_of_the_same_order_wait_for_the_first(listen: Listen) -> None:
    moved("order-1", Status.DELAYED, Status.REFUNDED)
    told: list[str] = []

    def receive(order: Order, change: StatusChange) -> None:
        told.append(change.to_status)
        if len(told) == 1:
            raise ConnectionError

    listen(order_status_changed, receive)
    assert announce() == 0
    assert told == ["DELAYED"]
    assert announce() == 2
    assert told == ["DELAYED", "DELAYED", "REFUNDED"]


def test_a_receiver_without_a_name_disturbs_nobody(
    heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    class Shop:
        def __call__(self, **named: object) -> None:
            raise ConnectionError

        def __repr__(self) -> str:
            return "<the shop>"

    shop = Shop()
    order_settled.connect(shop)
    try:
        moved("order-1", Status.REFUNDED)
        moved("order-2", Status.DELAYED)
        assert announce() == 1
    finally:
        order_settled.disconnect(shop)
    assert [reference for _, reference, _ in heard] == ["order-1", "order-1", "order-2"]
    assert "The receiver <the shop> failed on order order-1" in caplog.text


def test_a_process_that_dies_while_telling_tells_again(heard: Heard, listen: Listen) -> None:
    """At least once: the change is marked only after every receiver has returned."""
    moved("order-1", Status.REFUNDED)

    def die(order: Order, change: StatusChange) -> None:
        raise KeyboardInterrupt

    listen(order_settled, die)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            announce()
    assert [signal for signal, _, _ in heard] == ["changed", "settled"] * 2
    assert waiting() == 1
