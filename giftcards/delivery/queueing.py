"""Queueing messages, and waking the worker that sends them."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from giftcards.delivery.channels import Channel, make_channels
from giftcards.delivery.conf import conf
from giftcards.delivery.facts import has_cards, language_of
from giftcards.delivery.failures import describe
from giftcards.delivery.kinds import TO_RECIPIENT, WITH_CARDS, Kind, Mode, kinds_of
from giftcards.delivery.models import CardLink, Delivery, Installation, key_of, put_off
from giftcards.engine.task_queue import queue_once
from giftcards.models import CustomerRefund, Lease, Order, StatusChange
from giftcards.models.money import RefundState
from giftcards.models.orders import CORRECTABLE
from giftcards.rules.states import FINAL

logger = logging.getLogger(__name__)

#: Lease of a task that is queued and has not started. While it is held, no other task is queued.
QUEUED = "queued delivery"
_QUEUED_FOR = timedelta(seconds=20)
#: Lease of the search for refunds whose signal was lost. While it is held, no other one begins.
LOST_REFUNDS = "lost refunds"
_LOOKED_FOR = timedelta(minutes=2)
_PAID_WITHIN = timedelta(days=2)
# Planned refunds are rarely paid later than this. The index is on the time of recording.
_RECORDED_WITHIN = timedelta(days=30)


class Withdrawn(NamedTuple):
    """Numbers of the links that were withdrawn, and of the messages that were cancelled."""

    links: int
    messages: int


def tell_of_change(order: Order, change: StatusChange, **_: Any) -> None:
    """Queue the messages about this status change, if any, each once. A receiver of a signal."""
    if change.at < Installation.begin():
        return
    if change.to_status in FINAL:
        # The customer does not have to wait any more.
        Delivery.objects.cancel(order=order, kind=Kind.DELAYED)
    for kind in kinds_of(change.to_status, is_gift=order.is_gift):
        if kind == Kind.REFUNDED and _is_sought(order):
            continue
        what = "gift" if kind in TO_RECIPIENT else "change"
        _queue(order, kind, f"{what} {change.pk}", change=change)


def _is_sought(order: Order) -> bool:
    """True if the cards of ``order`` were sought by rule, and still are, by another order.

    The customer knows that, and gets a message about that order.
    """
    return order.send_before is not None and order.reordered_amount is not None


def tell_of_refund(refund: CustomerRefund, **_: Any) -> bool:
    """Queue messages about a paid refund, or cancel those about one that was taken back.

    Return True if one is new. A receiver of a signal.
    """
    if refund.state == RefundState.CANCELLED:
        Delivery.objects.cancel(refund=refund)
    if refund.state != RefundState.DONE or refund.executed_at is None:
        return False
    if refund.executed_at < Installation.begin():
        return False
    return _queue(refund.order, Kind.PAID_BACK, f"refund {refund.pk}", refund=refund)


def tell_of_lost_refunds() -> int:
    """Queue messages about paid refunds that have none yet; return the number of these refunds.

    Their process died between the commit and the signal. Does nothing if it has run a moment ago.
    """
    is_off = conf.mode[Kind.PAID_BACK] == Mode.OFF
    if is_off or not Lease.objects.take(LOST_REFUNDS, _LOOKED_FOR):
        return 0
    now = timezone.now()
    lost = CustomerRefund.objects.filter(
        ~Exists(Delivery.objects.filter(refund=OuterRef("pk"))),
        state=RefundState.DONE,
        created_at__gte=now - _RECORDED_WITHIN,
        executed_at__gte=max(now - _PAID_WITHIN, Installation.begin()),
    )
    told = 0
    for refund in lost.select_related("order"):
        try:
            told += tell_of_refund(refund)
        except Exception as error:  # noqa: BLE001 (channels of the shop raise anything)
            # Must not keep back the other refunds and the messages that are due.
            logger.error(  # noqa: TRY400 (its text may hold an address)
                "The customer of order %s is not told of a refund: %s",
                refund.order.reference,
                describe(error),
            )
    return told


def _queue(
    order: Order,
    kind: Kind,
    occasion: str,
    *,
    change: StatusChange | None = None,
    refund: CustomerRefund | None = None,
) -> bool:
    if conf.mode[kind] == Mode.OFF:
        return False
    for_recipient = kind in TO_RECIPIENT
    is_any_new = False
    trouble: Exception | None = None
    with transaction.atomic():
        # Lock and read again, because the order may be stale. A correction of the customer's
        # address thus either comes first, or finds the messages that are queued here.
        order.lock()
        order.refresh_from_db(fields=CORRECTABLE)
        for channel in make_channels():
            try:
                address = address_of(channel, order, for_recipient=for_recipient)
                if not address:
                    continue
                message = Delivery(
                    order=order,
                    change=change,
                    refund=refund,
                    kind=kind,
                    channel=channel.name,
                    address=address,
                    language=language_of(order, for_recipient=for_recipient),
                    # Without the address, which may have changed if the event is announced again.
                    key=key_of(occasion, channel.name),
                    **put_off(order.deliver_at if for_recipient else None),
                )
                is_any_new |= Delivery.objects.add(message)
            except Exception as error:  # noqa: BLE001 (channels of the shop raise anything)
                # The other channels go on; this one is used if the event is announced again.
                trouble = error
    if is_any_new:
        wake()
    if trouble is not None:
        raise trouble
    return is_any_new


def address_of(channel: Channel, order: Order, *, for_recipient: bool = False) -> str:
    """The customer's, or the recipient's, address on ``channel``, or "".

    Raises whatever the channel raises; a failing query of the channel does not break the caller's
    transaction.
    """
    find = channel.recipient_address_of if for_recipient else channel.address_of
    with transaction.atomic():
        address: Any = find(order)
    if not isinstance(address, str):
        raise TypeError(f"The address over {channel.name} is no text.")
    return address


def kinds_that_fit(order: Order) -> list[Kind]:
    """The kinds of messages that fit ``order`` now, and that the settings allow.

    A kind that hands over cards fits only while there are cards to hand over.
    """
    kinds = [*kinds_of(order.status, is_gift=order.is_gift)]
    if WITH_CARDS.intersection(kinds) and not has_cards(order):
        kinds = [kind for kind in kinds if kind not in WITH_CARDS]
    if _last_paid(order):
        kinds.append(Kind.PAID_BACK)
    return [kind for kind in kinds if conf.mode[kind] != Mode.OFF]


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
    """Queue a message that a person asks for; return ``None`` if it was queued already.

    ``once`` is a value unique to the form, so that pressing its button twice sends one message.
    ``withdraws`` also ends the earlier links to the cards now, and cancels the waiting messages
    that would bring further links.
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
        # Add first: a second press must not cancel the message of the first one.
        if not Delivery.objects.add(message):
            return None
        if withdraws:
            withdraw(order, by=by, but=message)
        elif kind in TO_RECIPIENT and not is_elsewhere:
            # The gift is handed over now, not once more at its time.
            put_off_ones = Delivery.objects.filter(not_before__gt=timezone.now())
            put_off_ones.cancel(order=order, kind=kind, channel=channel)
        wake()
    return message


def withdraw(
    order: Order, *, by: str, but: Delivery | None = None, until: int | None = None
) -> Withdrawn:
    """Withdraw the links to the cards of ``order``: all, or those up to the primary key ``until``.

    Messages that would bring further links are cancelled, except ``but``. A message that is being
    sent at this moment may arrive with a dead link, and is not retried.
    """
    others = Delivery.objects.exclude(pk=but.pk) if but else Delivery.objects.all()
    known = CardLink.objects.all() if until is None else CardLink.objects.filter(pk__lte=until)
    with transaction.atomic():
        # First: a process that is sending a message has made its link by then, or makes none.
        messages = others.stop(order=order, kind__in=WITH_CARDS)
        return Withdrawn(links=known.revoke(order, by=by), messages=messages)


def _last_paid(order: Order) -> CustomerRefund | None:
    return order.refunds.filter(state=RefundState.DONE).order_by("-executed_at", "-pk").first()


def wake() -> None:
    """Queue a task that sends what is due, once the current transaction commits.

    Does nothing if a task was queued a moment ago and has not started, or if there is no queue:
    then ``giftcards_poll --loop`` or ``giftcards_deliver`` sends what is due. Never raises.
    """
    transaction.on_commit(_wake, robust=True)


def _wake() -> None:
    queue_once("giftcards.delivery.tasks.deliver", lease=QUEUED, span=_QUEUED_FOR)
