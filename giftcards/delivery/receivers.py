"""Receivers of the core's signals, and of the reports of mail providers if anymail is installed."""

from __future__ import annotations

import contextlib
from typing import Any

from giftcards.delivery.models import Delivery, DeliveryStatus, stored_id
from giftcards.delivery.moving import move_messages
from giftcards.delivery.queueing import tell_of_change, tell_of_refund
from giftcards.models import CustomerRefund, Order
from giftcards.signals import (
    customer_changed,
    customer_refund_changed,
    order_status_changed,
)

# Name of the receivers in the outbox; it must stay the same, even if a function moves.
_UID = "giftcards_delivery"
_NOT_DELIVERED = {"bounced", "rejected", "failed"}
# The reasons that anymail defines; others could be texts of the provider.
_REASONS = {"invalid", "bounced", "timed_out", "blocked", "spam", "unsubscribed", "other"}


def connect_always() -> None:
    """Connect the receiver for existing messages and links, also if none are sent now."""
    customer_changed.connect(move_messages, sender=Order, dispatch_uid=_UID)


def connect() -> None:
    """Connect the other receivers; called once, when the app is ready."""
    order_status_changed.connect(tell_of_change, sender=Order, dispatch_uid=_UID)
    customer_refund_changed.connect(tell_of_refund, sender=CustomerRefund, dispatch_uid=_UID)
    with contextlib.suppress(ImportError):
        from anymail.signals import tracking

        tracking.connect(on_report, dispatch_uid=_UID)


def on_report(*, event: Any, **_: Any) -> None:
    """Mark a message that did not arrive, or about which the customer complained."""
    sent = Delivery.objects.filter(
        message_id=stored_id(str(event.message_id or "")), status=DeliveryStatus.SENT
    ).exclude(message_id="")
    if event.event_type in _NOT_DELIVERED:
        reason = event.reject_reason if event.reject_reason in _REASONS else "other"
        sent.update(status=DeliveryStatus.FAILED, error=f"{event.event_type}: {reason}")
    elif event.event_type == "complained":
        sent.update(error="complained")
