"""Telling the shop's receivers of what has changed: at least once, in order per order."""

from __future__ import annotations

import logging
from traceback import walk_tb

from django.utils import timezone

from giftcards.models import Order, StatusChange
from giftcards.signals import order_settled, order_status_changed
from giftcards.statuses import FINAL

logger = logging.getLogger(__name__)


def announce() -> int:
    """Announce the changes that have not been announced; return how many were.

    Where a receiver raised, the change and the later ones of the same order wait for the next call.
    """
    announced = 0
    stuck: set[int] = set()
    changes = StatusChange.objects.filter(announced_at=None).select_related("order")
    for change in changes.order_by("pk"):
        if change.order_id in stuck:
            continue
        if _announce(change):
            StatusChange.objects.filter(pk=change.pk).update(announced_at=timezone.now())
            announced += 1
        else:
            stuck.add(change.order_id)
    return announced


def _announce(change: StatusChange) -> bool:
    """Whether every receiver took note of the change."""
    signals = [order_status_changed]
    if change.to_status in FINAL:
        signals.append(order_settled)
    went_well = True
    for signal in signals:
        for receiver, result in signal.send_robust(Order, order=change.order, change=change):
            if isinstance(result, Exception):
                went_well = False
                logger.error(
                    "The receiver %s failed on order %s (%s): %s. It will be called again.",
                    getattr(receiver, "__qualname__", receiver),
                    change.order.reference,
                    change,
                    _described(result),
                )
    return went_well


def _described(error: Exception) -> str:
    """What was raised and where. Not its text: receivers handle codes in the clear."""
    *_, (frame, line) = walk_tb(error.__traceback__)
    return f"{type(error).__name__} at {frame.f_code.co_filename}:{line}"
