"""The opposite of what the app does when it is ready."""

from __future__ import annotations

from contextlib import suppress

from giftcards.models import CustomerRefund, Order
from giftcards.signals import customer_refund_changed, order_status_changed, tick_began

_UID = "giftcards_delivery"


def disconnect() -> None:
    """Disconnect what ``receivers.connect()`` has connected."""
    order_status_changed.disconnect(sender=Order, dispatch_uid=_UID)
    customer_refund_changed.disconnect(sender=CustomerRefund, dispatch_uid=_UID)
    tick_began.disconnect(dispatch_uid=_UID)
    with suppress(ImportError):
        from anymail.signals import tracking

        tracking.disconnect(dispatch_uid=_UID)
