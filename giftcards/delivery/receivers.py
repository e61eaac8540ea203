"""What the app does when the core announces something."""

from __future__ import annotations

from typing import Any

from giftcards.delivery import tracking
from giftcards.delivery.queueing import tell_of_change, tell_of_refund, wake
from giftcards.models import CustomerRefund, Order, StatusChange
from giftcards.signals import customer_refund_changed, order_status_changed, tick_began

# Its name in the outbox: it stays, wherever the function goes.
_UID = "giftcards_delivery"


def connect() -> None:
    """Listen to the core; called once, when the app is ready."""
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


def on_tick(**_: Any) -> None:
    """Once a minute: wake the worker for what is due, retries among it.

    Nothing is looked up here: orders wait until this returns.
    """
    wake()
