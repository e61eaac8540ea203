"""Queueing messages, and waking the worker that sends them."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from giftcards.delivery.channels import Channel
from giftcards.delivery.conf import conf
from giftcards.delivery.facts import has_cards, language_of
from giftcards.delivery.failures import describe
from giftcards.delivery.kinds import KIND_OF_STATUS, WITH_CARDS, Kind, Mode
from giftcards.delivery.models import CardLink, Delivery, Installation
from giftcards.delivery.models.deliveries import key_of
from giftcards.engine.task_queue import queue_task
from giftcards.models import CustomerRefund, Lease, Order, StatusChange
from giftcards.models.money import RefundState
from giftcards.models.orders import OF_CUSTOMER
from giftcards.statuses import FINAL

logger = logging.getLogger(__name__)

TASK = "giftcards.delivery.tasks.deliver"
#: A task that is queued and has not started. Not queued twice within this time.
QUEUED = "queued delivery"
_QUEUED_FOR = timedelta(seconds=20)
#: Refunds whose signal was lost were looked for. Not done again within this time.
LOST_REFUNDS = "lost refunds"
_LOOKED_FOR = timedelta(minutes=2)
_PAID_WITHIN = timedelta(days=2)
# What is planned is rarely paid later. The index is on this.
_RECORDED_WITHIN = timedelta(days=30)


class Withdrawn(NamedTuple):
    """How many links worked until they were withdrawn, and how many messages were cancelled."""

    links: int
    messages: int


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


def tell_of_lost_refunds() -> int:
    """Queue the news of refunds that nobody was told of; return how many.

    Their process died between the commit and the signal. Looks at those that were paid within the
    last two days, and recorded within the last thirty; does nothing if it was done a moment ago.
    """
    is_off = conf.mode(Kind.PAID_BACK) == Mode.OFF
    if is_off or not Lease.objects.take(LOST_REFUNDS, _LOOKED_FOR):
        return 0
    now = timezone.now()
    lost = CustomerRefund.objects.filter(
        ~Exists(Delivery.objects.filter(refund=OuterRef("pk"))),
        state=RefundState.DONE,
        created_at__gte=now - _RECORDED_WITHIN,
        executed_at__gte=max(now - _PAID_WITHIN, Installation.begin()),
    )
    return sum(map(_tell_of_lost_refund, lost.select_related("order")))


def _tell_of_lost_refund(refund: CustomerRefund) -> bool:
    try:
        return bool(tell_of_refund(refund))
    except Exception as error:  # noqa: BLE001 (channels of the shop raise anything)
        # The others are told of, and what waits is sent.
        logger.error(  # noqa: TRY400 (its text may hold an address)
            "The customer of order %s is not told of a refund: %s",
            refund.order.reference,
            describe(error),
        )
        return False


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
    added: list[Delivery] = []
    trouble: Exception | None = None
    with transaction.atomic():
        # The order may have been read a while ago. Whoever corrects the customer's address finds
        # the messages that are queued here, or has done so before.
        order.lock()
        order.refresh_from_db(fields=OF_CUSTOMER)
        for channel in conf.channels:
            try:
                address = address_of(channel, order)
                if not address:
                    continue
                message = Delivery(
                    order=order,
                    change=change,
                    refund=refund,
                    kind=kind,
                    channel=channel.name,
                    address=address,
                    language=language_of(order),
                    # Not of the address, which may be another one when it is announced again.
                    key=key_of(occasion, channel.name),
                )
                if Delivery.objects.add(message):
                    added.append(message)
            except Exception as error:  # noqa: BLE001 (channels of the shop raise anything)
                # The others reach the customer now, and this one when it is announced again.
                trouble = error
    if added:
        wake()
    if trouble is not None:
        raise trouble
    return added


def address_of(channel: Channel, order: Order) -> str:
    """Where ``channel`` reaches the customer; "" if it does not. Raises whatever the channel does.

    A query of a channel that fails does not take the caller's transaction along.
    """
    with transaction.atomic():
        address: Any = channel.address_of(order)
    if not isinstance(address, str):
        raise TypeError(f"The address over {channel.name} is no text.")
    return address


def kinds_that_fit(order: Order) -> list[Kind]:
    """The messages that are true of ``order`` now, and that the settings let be sent.

    One that hands over cards fits only while there are cards to hand over.
    """
    kinds = [KIND_OF_STATUS[order.status]] if order.status in KIND_OF_STATUS else []
    if kinds and kinds[0] in WITH_CARDS and not has_cards(order):
        kinds = []
    if _last_paid(order):
        kinds.append(Kind.PAID_BACK)
    return [kind for kind in kinds if conf.mode(kind) != Mode.OFF]


def send_again(
    order: Order,
    *,
    kind: str,
    channel: str,
    address: str,
    language: str,
    by: str,
    reason: str,
    once: str,
    is_elsewhere: bool = False,
    withdraws: bool = False,
) -> Delivery | None:
    """Queue a message that a person asks for; ``None`` if this was asked for already.

    ``once`` is a value that the form was made with: whoever presses its button twice sends one
    message. With ``withdraws``, the earlier links to the cards end now, and the waiting messages
    that would bring further ones are cancelled.
    """
    message = Delivery(
        order=order,
        refund=_last_paid(order) if kind == Kind.PAID_BACK else None,
        kind=kind,
        channel=channel,
        address=address,
        language=language,
        key=key_of(f"again {order.pk} {once}", channel, address),
        requested_by=by,
        reason=reason,
        is_elsewhere=is_elsewhere,
    )
    with transaction.atomic():
        # First, because the second press may not cancel the message of the first one.
        if not Delivery.objects.add(message):
            return None
        if withdraws:
            withdraw(order, by=by, but=message)
        wake()
    return message


def withdraw(
    order: Order, *, by: str, but: Delivery | None = None, until: int | None = None
) -> Withdrawn:
    """End the links to the cards of ``order`` now: all, or those ``until`` this primary key.

    The messages that would bring further ones are cancelled, ``but`` this one. One that is being
    sent at this moment may arrive with a link that is dead, and is not tried again.
    """
    others = Delivery.objects.exclude(pk=but.pk) if but else Delivery.objects.all()
    known = CardLink.objects.all() if until is None else CardLink.objects.filter(pk__lte=until)
    with transaction.atomic():
        # First: whoever is sending one makes its link before this, or not at all.
        messages = others.stop(order=order, kind__in=WITH_CARDS)
        return Withdrawn(links=known.revoke(order, by=by), messages=messages)


def _last_paid(order: Order) -> CustomerRefund | None:
    return order.refunds.filter(state=RefundState.DONE).order_by("-executed_at", "-pk").first()


def wake() -> None:
    """Have a worker send what is due, once the current transaction commits.

    Not if that was asked for a moment ago, and no worker has begun since. Never raises; without a
    worker, ``giftcards_deliver`` sends it.
    """
    transaction.on_commit(_wake, robust=True)


def _wake() -> None:
    if Lease.objects.take(QUEUED, _QUEUED_FOR):
        queue_task(TASK)
