"""Queueing messages, and waking the worker that sends them."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction

from giftcards.delivery.conf import conf
from giftcards.delivery.facts import language_of
from giftcards.delivery.kinds import KIND_OF_STATUS, Kind, Mode
from giftcards.delivery.models import Delivery, Installation
from giftcards.delivery.models.deliveries import key_of
from giftcards.engine.queue import queue_task
from giftcards.models import CustomerRefund, Lease, Order, StatusChange
from giftcards.models.money import RefundState
from giftcards.statuses import FINAL

TASK = "giftcards.delivery.tasks.deliver"
#: A task that is queued and has not started. Not queued twice within this time.
QUEUED = "queued delivery"
_QUEUED_FOR = timedelta(seconds=20)


def tell_of_change(order: Order, change: StatusChange) -> list[Delivery]:
    """Queue what the customer of ``order`` is told about this move, if anything, once."""
    if change.at < Installation.begin():
        return []
    if change.to_status in FINAL:
        # Nobody waits any more.
        Delivery.objects.cancel(order=order, kind=Kind.DELAYED)
    kind = KIND_OF_STATUS.get(change.to_status)
    if kind is None:
        return []
    return _queue(order, kind, f"change {change.pk}", change=change)


def tell_of_refund(refund: CustomerRefund) -> list[Delivery]:
    """Queue the news that a refund was paid; one that was taken back is not told of any more."""
    if refund.state == RefundState.CANCELLED:
        Delivery.objects.cancel(refund=refund)
    if refund.state != RefundState.DONE or refund.executed_at is None:
        return []
    if refund.executed_at < Installation.begin():
        return []
    return _queue(refund.order, Kind.PAID_BACK, f"refund {refund.pk}", refund=refund)


def _queue(
    order: Order,
    kind: Kind,
    occasion: str,
    *,
    change: StatusChange | None = None,
    refund: CustomerRefund | None = None,
) -> list[Delivery]:
    if conf.mode(kind) == Mode.OFF:
        return []
    addresses = {channel.name: channel.address_of(order) for channel in conf.channels}
    messages = [
        Delivery(
            order=order,
            change=change,
            refund=refund,
            kind=kind,
            channel=name,
            address=address,
            language=language_of(order),
            key=key_of(occasion, name, address),
        )
        for name, address in addresses.items()
        if address
    ]
    added = [message for message in messages if Delivery.objects.add(message)]
    if added:
        wake()
    return added


def wake() -> None:
    """Have a worker send what is due, once the current transaction commits.

    Not if that was asked for a moment ago. Never raises; without a worker, ``giftcards_deliver``
    sends it.
    """
    transaction.on_commit(_wake, robust=True)


def _wake() -> None:
    if Lease.objects.take(QUEUED, _QUEUED_FOR):
        queue_task(TASK)
