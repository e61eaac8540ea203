"""Receivers of the signals of oscar and of the core, and the work of the tick."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.db.models.signals import pre_save
from oscar.apps.order import signals as oscar_signals
from oscar.core.loading import get_model

from giftcards.models import CustomerRefund, Order, ProductType
from giftcards.oscar.buying import buy_if_paid, buy_missed, take_order
from giftcards.oscar.lines import sku_of
from giftcards.oscar.progress import follow_order, follow_refund
from giftcards.oscar.stock import follow_offers, lock_stock
from giftcards.signals import customer_refund_changed, offer_changed, order_status_changed
from giftcards.tasks import add_chore

logger = logging.getLogger(__name__)

# Name of the receivers in the outbox; it must stay the same, even if a function moves.
_UID = "giftcards_oscar"


def connect() -> None:
    """Connect the receivers, and add to the work of the tick; called when the app is ready."""
    pre_save.connect(lock_stock, sender=get_model("order", "Order"), dispatch_uid=_UID)
    oscar_signals.order_placed.connect(take_order, dispatch_uid=_UID)
    oscar_signals.order_status_changed.connect(buy_if_paid, dispatch_uid=_UID)
    order_status_changed.connect(follow_order, sender=Order, dispatch_uid=_UID)
    customer_refund_changed.connect(follow_refund, sender=CustomerRefund, dispatch_uid=_UID)
    offer_changed.connect(_follow_offer, sender=ProductType, dispatch_uid=_UID)
    add_chore("the lines that are paid", buy_missed)
    add_chore("the stock records", _follow_shelf)


def _follow_offer(product_id: str, type_id: str, **_: Any) -> None:
    follow_offers([sku_of(product_id, type_id)])


def _follow_shelf(should_continue: Callable[[], bool]) -> None:
    """Follow what changes without the provider: holds, orders, and the rule for prices."""
    try:
        follow_offers(should_continue=should_continue)
    except Exception as error:  # noqa: BLE001 (the rule of the shop may raise anything)
        logger.error("The stock records were not followed: %s", type(error).__name__)  # noqa: TRY400
