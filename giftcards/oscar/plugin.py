"""The plugin that extends the core with django-oscar, and its receivers."""

from __future__ import annotations

from typing import Any

from django.db.models.signals import post_delete, pre_save
from oscar.apps.order import signals as oscar_signals
from oscar.core.loading import get_model

from giftcards.engine.background import Work
from giftcards.models import CustomerRefund, Order, ProductType, Reservation
from giftcards.oscar.buying import buy_if_paid, buy_missed, take_order
from giftcards.oscar.checks import check_settings, check_shop
from giftcards.oscar.lines import follow_order, follow_refund, sku_of
from giftcards.oscar.stock import (
    follow_changes,
    follow_ended_reservation,
    follow_offers,
    lock_stock,
)
from giftcards.plugins import Plugin
from giftcards.signals import customer_refund_changed, offer_changed, order_status_changed

# The outbox stores this name, so it must stay the same even if a function moves.
_UID = "giftcards_oscar"


def _connect() -> None:
    pre_save.connect(lock_stock, sender=get_model("order", "Order"), dispatch_uid=_UID)
    oscar_signals.order_placed.connect(take_order, dispatch_uid=_UID)
    oscar_signals.order_status_changed.connect(buy_if_paid, dispatch_uid=_UID)
    order_status_changed.connect(follow_order, sender=Order, dispatch_uid=_UID)
    customer_refund_changed.connect(follow_refund, sender=CustomerRefund, dispatch_uid=_UID)
    offer_changed.connect(_follow_offer, sender=ProductType, dispatch_uid=_UID)
    post_delete.connect(follow_ended_reservation, sender=Reservation, dispatch_uid=_UID)


def _follow_offer(product_id: str, type_id: str, **_: Any) -> None:
    follow_offers([sku_of(product_id, type_id)])


PLUGIN = Plugin(
    app="giftcards_oscar",
    work=(
        Work(name="the purchase of paid lines", do=buy_missed),
        Work(name="the stock records", do=follow_changes),
    ),
    checks=(check_settings, check_shop),
    connect=_connect,
)
