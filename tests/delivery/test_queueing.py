"""Queueing messages after the core has announced a change."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

import pytest
from django.utils import timezone

from giftcards.delivery.channels import Channel
from giftcards.delivery.models import Delivery, Installation
from giftcards.delivery.queueing import tell_of_lost_refunds
from giftcards.delivery.sending import is_wanted
from giftcards.engine import outbox
from giftcards.fulfilment import cancel_order, change_customer
from giftcards.models import Order, StatusChange
from giftcards.settlement import cancel_refund, record_refund
from giftcards.statuses import Status
from tests.builders import make_guide_order, make_order
from tests.delivery.connecting import disconnect

pytestmark = pytest.mark.django_db

CUSTOMER = {"customer_email": "lina@example.com", "customer_language": "ar"}


def moved(status: Status, **values: Any) -> StatusChange:
    order = make_guide_order(status, **CUSTOMER | values)
    return StatusChange.objects.create(
        order=order, from_status=Status.HANDLING, to_status=status, source="check"
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.FULFILLED, "delivered"),
        (Status.PARTIALLY_FILLED, "partly_delivered"),
        (Status.REFUNDED, "not_delivered"),
        (Status.REJECTED, "not_delivered"),
        (Status.DELAYED, "delayed"),
    ],
)
def test_a_move_that_concerns_the_customer_queues_one_message(status: Status, kind: str) -> None:
    change = moved(status)
    outbox.announce()
    message = Delivery.objects.get()
    assert (message.order, message.change, message.kind) == (change.order, change, kind)
    expected = ("mail", "lina@example.com", "ar")
    assert (message.channel, message.address, message.language) == expected
    assert (message.status, message.attempts) == ("queued", 0)


def test_the_customer_of_a_cancelled_order_is_told_once_that_no_card_comes() -> None:
    order = make_order(**CUSTOMER)
    assert cancel_order(order, by="amina")
    assert not cancel_order(order, by="amina")
    outbox.announce()
    assert Delivery.objects.get().kind == "not_delivered"


SOUGHT = {"send_before": timezone.now()}
AGAIN = {"reordered_amount": 1100}


@pytest.mark.parametrize(
    ("status", "values", "messages"),
    [
        (Status.REFUNDED, SOUGHT | AGAIN, 0),
        (Status.REJECTED, SOUGHT | AGAIN, 0),
        # Cards have come.
        (Status.PARTIALLY_FILLED, SOUGHT | AGAIN, 1),
        # No other order follows, so the customer is owed money.
        (Status.REFUNDED, SOUGHT, 1),
        (Status.REJECTED, SOUGHT, 1),
        # The first order of a chain.
        (Status.REFUNDED, AGAIN, 1),
    ],
)
def test_customers_who_know_that_cards_are_sought_are_told_once_there_is_news(
    status: Status, values: dict[str, Any], messages: int
) -> None:
    moved(status, **values)
    outbox.announce()
    assert Delivery.objects.count() == messages


@pytest.mark.parametrize(
    ("status", "is_open", "needs_look"),
    [
        ("queued", True, False),
        ("sending", True, False),
        ("retrying", True, False),
        ("sent", False, False),
        ("failed", False, True),
        ("cancelled", False, False),
    ],
)
def test_a_message_says_whether_it_is_open_and_whether_it_needs_a_look(
    status: str, is_open: bool, needs_look: bool
) -> None:
    message = Delivery(status=status)
    assert (message.is_open, message.needs_look) == (is_open, needs_look)


def test_nobody_is_told_without_an_address_or_of_moves_before_the_installation() -> None:
    moved(Status.FULFILLED, customer_email="")
    change = moved(Status.FULFILLED)
    Installation.objects.update_or_create(pk=1, defaults={"at": change.at + timedelta(seconds=1)})
    assert outbox.announce() == 2
    assert not Delivery.objects.exists()


def test_a_move_that_is_announced_twice_queues_one_message() -> None:
    change = moved(Status.FULFILLED)
    outbox.announce()
    StatusChange.objects.filter(pk=change.pk).update(
        announced_at=None, announce_at=change.at, announced_to=None
    )
    assert outbox.announce() == 1
    assert Delivery.objects.count() == 1


class Broken(Channel):
    """A channel of a shop, with a mistake that the test chooses."""

    name: ClassVar[str] = "broken"
    address: ClassVar[Any] = None

    def address_of(self, order: Order) -> str:
        if isinstance(self.address, Exception):
            raise self.address
        address: str = self.address
        return address


@pytest.mark.parametrize("address", [RuntimeError(), 213550], ids=repr)
def test_a_channel_that_is_broken_keeps_no_other_from_telling_and_is_asked_again(
    address: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "address", address)
    settings.GIFTCARDS_DELIVERY = {
        **settings.GIFTCARDS_DELIVERY,
        "CHANNELS": ["tests.delivery.test_queueing.Broken", "giftcards.delivery.channels.Mail"],
    }
    change = moved(Status.FULFILLED)
    assert outbox.announce() == 0
    assert [message.channel for message in Delivery.objects.all()] == ["mail"]
    monkeypatch.setattr(Broken, "address", "+213550")
    StatusChange.objects.filter(pk=change.pk).update(announce_at=change.at)
    assert outbox.announce() == 1
    assert {message.channel for message in Delivery.objects.all()} == {"mail", "broken"}


def test_a_lost_refund_that_cannot_be_told_of_stops_no_message(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = make_guide_order(Status.REFUNDED, **CUSTOMER, sale_price=100)
    disconnect()
    record_refund(order, amount=10, reference="ccp-1")
    monkeypatch.setattr(Broken, "address", RuntimeError())
    settings.GIFTCARDS_DELIVERY = {
        **settings.GIFTCARDS_DELIVERY,
        "CHANNELS": ["tests.delivery.test_queueing.Broken"],
    }
    assert tell_of_lost_refunds() == 0


def test_a_kind_that_is_off_is_not_queued_and_the_others_are(settings: Any) -> None:
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": {"delayed": "off"}}
    moved(Status.DELAYED)
    # If the site does not have the language, it uses its own language.
    moved(Status.FULFILLED, customer_language="tlh")
    outbox.announce()
    queued = Delivery.objects.values_list("kind", "language")
    assert list(queued) == [("delivered", "en")]


def test_a_final_status_cancels_the_request_to_wait() -> None:
    order = moved(Status.DELAYED).order
    outbox.announce()
    StatusChange.objects.create(
        order=order, from_status=Status.DELAYED, to_status=Status.REFUNDED, source="check"
    )
    outbox.announce()
    kinds = Delivery.objects.order_by("pk").values_list("kind", "status", "next_attempt_at")
    assert list(kinds[:1]) == [("delayed", "cancelled", None)]
    assert [kind for kind, *_ in kinds] == ["delayed", "not_delivered"]


@pytest.mark.django_db(transaction=True)
def test_a_refund_is_told_of_and_not_after_it_was_taken_back() -> None:
    Installation.begin()
    order = make_guide_order(Status.REFUNDED, sale_price=600, **CUSTOMER)
    assert not Delivery.objects.exists()
    refund = record_refund(order, amount=500, reference="R1")
    message = Delivery.objects.get()
    assert (message.kind, message.refund, message.change) == ("paid_back", refund, None)
    cancel_refund(refund, by="amina", reason="wrong account")
    assert Delivery.objects.get().status == "cancelled"


def kept_waiting(status: Status = Status.PENDING, **values: Any) -> Order:
    order = make_guide_order(status, due_at=None, **CUSTOMER | values)
    assert order.note_wait()
    return order


def asked() -> list[tuple[str, str, str]]:
    messages = Delivery.objects.order_by("pk")
    return list(messages.values_list("kind", "address", "status"))


@pytest.mark.parametrize("status", [Status.PENDING, Status.UNCONFIRMED])
def test_a_customer_who_is_kept_waiting_is_asked_to_wait_once(status: Status) -> None:
    order = kept_waiting(status)
    outbox.announce()
    assert asked() == [("delayed", "lina@example.com", "queued")]
    assert is_wanted(Delivery.objects.get())
    # The receiver is called again, and the order is sent and late again.
    order.changes.update(announced_at=None, announce_at=timezone.now(), announced_to=None)
    outbox.announce()
    Order.objects.filter(pk=order.pk).update(
        status=Status.DELAYED, provider_order_id="6901616f", accepted_at=timezone.now()
    )
    source = StatusChange.Source.CLOCK
    for origin in (Status.HANDLING, Status.HANDLING):
        order.changes.create(from_status=origin, to_status=Status.DELAYED, source=source)
        outbox.announce()
    assert asked() == [("delayed", "lina@example.com", "queued")]


def test_the_message_fits_until_the_order_is_final() -> None:
    order = kept_waiting()
    outbox.announce()
    message = Delivery.objects.get()
    Order.objects.filter(pk=order.pk).update(
        status=Status.HANDLING, provider_order_id="6901616f", accepted_at=timezone.now()
    )
    message.order.refresh_from_db()
    assert is_wanted(message)
    assert cancel_waiting(order) == ["cancelled", "queued"]


def cancel_waiting(order: Order) -> list[str]:
    """Refund the order, and return the statuses of its messages."""
    order.changes.create(
        from_status=Status.HANDLING, to_status=Status.REFUNDED, source=StatusChange.Source.CHECK
    )
    outbox.announce()
    return list(Delivery.objects.order_by("pk").values_list("status", flat=True))


@pytest.mark.parametrize("status", [Status.HANDLING, Status.FULFILLED])
def test_an_order_that_goes_on_before_the_message_is_queued_needs_none_yet(
    status: Status,
) -> None:
    order = kept_waiting()
    moved = make_guide_order(status)
    columns = ("status", "provider_order_id", "accepted_at", "finalized_at", "fulfilled_quantity")
    values = {name: getattr(moved, name) for name in columns}
    moved.delete()
    Order.objects.filter(pk=order.pk).update(**values)
    outbox.announce()
    assert asked() == []


def test_the_recipient_of_a_gift_is_told_nothing_while_its_giver_waits() -> None:
    kept_waiting(recipient_email="amir@example.com")
    outbox.announce()
    assert asked() == [("delayed", "lina@example.com", "queued")]


def test_who_was_kept_waiting_before_the_installation_is_not_asked_to_wait() -> None:
    change = kept_waiting().changes.get()
    Installation.objects.update_or_create(pk=1, defaults={"at": change.at + timedelta(seconds=1)})
    outbox.announce()
    assert asked() == []


def test_after_a_correction_the_customer_is_asked_to_wait_at_the_new_address() -> None:
    order = kept_waiting()
    outbox.announce()
    assert change_customer(order, email="amina@example.com")
    assert asked() == [
        ("delayed", "lina@example.com", "cancelled"),
        ("delayed", "amina@example.com", "queued"),
    ]


def test_a_cancelled_order_needs_no_waiting_any_more() -> None:
    order = kept_waiting()
    outbox.announce()
    assert cancel_order(order, by="amina")
    outbox.announce()
    assert [(kind, status) for kind, _address, status in asked()] == [
        ("delayed", "cancelled"), ("not_delivered", "queued"),
    ]  # fmt: skip
