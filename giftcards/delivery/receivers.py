"""Receivers of the core's signals."""

from __future__ import annotations

from typing import Any

from giftcards.delivery import tracking
from giftcards.delivery.moving import move_messages
from giftcards.delivery.queueing import tell_of_change, tell_of_refund, wake
from giftcards.models import CustomerChange, CustomerRefund, Order, StatusChange
from giftcards.signals import (
    customer_changed,
    customer_refund_changed,
    order_status_changed,
    tick_began,
)

# Name of the receivers in the outbox; it must stay the same, even if a function moves.
_UID = "giftcards_delivery"


def connect_always() -> None:
    """Connect the receiver for existing messages and links, also if none are sent now."""
    customer_changed.connect(on_correction, sender=Order, dispatch_uid=_UID)


def connect() -> None:
    """Connect the other receivers; called once, when the app is ready."""
    order_status_changed.connect(on_change, sender=Order, dispatch_uid=_UID)
    customer_refund_changed.connect(on_refund, sender=CustomerRefund, dispatch_uid=_UID)
    tick_began.connect(on_tick, dispatch_uid=_UID)
    tracking.connect()


def disconnect() -> None:
    order_status_changed.disconnect(sender=Order, dispatch_uid=_UID)
    customer_refund_changed.disconnect(sender=CustomerRefund, dispatch_uid=_UID)
    tick_began.disconnect(dispatch_uid=_UID)
    tracking.disconnect()


def on_change(*, order: Order, change: StatusChange, **_: Any) -> None:
    tell_of_change(order, change)


def on_refund(*, refund: CustomerRefund, **_: Any) -> None:
    tell_of_refund(refund)


def on_correction(*, order: Order, change: CustomerChange, **_: Any) -> None:
    move_messages(order, change)


def on_tick(**_: Any) -> None:
    """Wake the worker once a minute for all that is due, such as retries.

    Looks up no messages, because orders wait until this returns.
    """
    wake()
