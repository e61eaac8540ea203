"""Connect what the app connects when it is ready, and disconnect it again."""

from __future__ import annotations

from contextlib import suppress

from giftcards.delivery import queueing
from giftcards.delivery.tasks import MESSAGES
from giftcards.engine.background import WORK
from giftcards.models import CustomerRefund, Order
from giftcards.signals import customer_refund_changed, order_status_changed

_UID = "giftcards_delivery"


def connect() -> None:
    queueing.connect()
    WORK[MESSAGES.name] = MESSAGES


def disconnect() -> None:
    """Undo :func:`connect`."""
    order_status_changed.disconnect(sender=Order, dispatch_uid=_UID)
    customer_refund_changed.disconnect(sender=CustomerRefund, dispatch_uid=_UID)
    WORK.pop(MESSAGES.name, None)
    with suppress(ImportError):
        from anymail.signals import tracking

        tracking.disconnect(dispatch_uid=_UID)
