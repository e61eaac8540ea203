"""Later reports of mail providers about messages, if the site uses django-anymail."""

from __future__ import annotations

import contextlib
from typing import Any

from giftcards.delivery.models import Delivery, DeliveryStatus

_UID = "giftcards_delivery"
_NOT_DELIVERED = {"bounced", "rejected", "failed"}
# The reasons that anymail defines; others could be texts of the provider.
_REASONS = {"invalid", "bounced", "timed_out", "blocked", "spam", "unsubscribed", "other"}


def connect() -> None:
    """Listen to the webhooks of anymail, if it is installed; safe to repeat."""
    with contextlib.suppress(ImportError):
        from anymail.signals import tracking

        tracking.connect(on_event, dispatch_uid=_UID)


def disconnect() -> None:
    with contextlib.suppress(ImportError):
        from anymail.signals import tracking

        tracking.disconnect(dispatch_uid=_UID)


def on_event(*, event: Any, **_: Any) -> None:
    """Mark a message that did not arrive, or about which the customer complained."""
    sent = Delivery.objects.filter(
        message_id=stored_id(str(event.message_id or "")), status=DeliveryStatus.SENT
    ).exclude(message_id="")
    if event.event_type in _NOT_DELIVERED:
        reason = event.reject_reason if event.reject_reason in _REASONS else "other"
        sent.update(status=DeliveryStatus.FAILED, error=f"{event.event_type}: {reason}")
    elif event.event_type == "complained":
        sent.update(error="complained")


def stored_id(message_id: str) -> str:
    """The form in which a channel's id of a message is stored and looked up."""
    return message_id.replace("\0", "")[:200]
