"""Queue messages about orders, and redirect messages after a correction.

After a correction, links that were sent to the old address are withdrawn. A message is sent again
to the new address only if its link still worked and had not shown any cards.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from giftcards.delivery.channels import Channel, describe, make_channels
from giftcards.delivery.conf import TO_RECIPIENT, WITH_CARDS, Kind, Mode, conf, kinds_now, kinds_of
from giftcards.delivery.facts import has_cards, language_of
from giftcards.delivery.models import (
    OPEN,
    CardLink,
    CardLinkQuerySet,
    Delivery,
    DeliveryStatus,
    Installation,
    key_of,
    put_off,
    stored_id,
)
from giftcards.engine.task_queue import queue_once
from giftcards.models import CustomerChange, CustomerRefund, Lease, Order, StatusChange
from giftcards.models.customer_refunds import RefundState
from giftcards.models.orders import CORRECTABLE
from giftcards.rules.states import FINAL, UNSERVED
from giftcards.signals import (
    customer_changed,
    customer_refund_changed,
    order_kept_waiting,
    order_status_changed,
)

logger = logging.getLogger(__name__)


def tell_of_change(order: Order, change: StatusChange, **_: Any) -> None:
    """Receive ``order_status_changed``, and queue messages about the change.

    If the signal is sent again, the messages are not queued a second time.
    """
    if change.at < Installation.begin():
        return
    if change.to_status in FINAL:
        # When an order is final, its customer no longer has to wait.
        Delivery.objects.cancel(order=order, kind=Kind.DELAYED)
    for kind in kinds_of(change.to_status, is_gift=order.is_gift):
        if kind == Kind.NOT_DELIVERED and _is_being_reordered(order):
            continue
        if kind == Kind.DELAYED:
            _ask_to_wait(order, change)
            continue
        what = "gift" if kind in TO_RECIPIENT else "change"
        _queue(order, kind, f"{what} {change.pk}", change=change)


def tell_of_wait(order: Order, change: StatusChange, **_: Any) -> None:
    """Receive ``order_kept_waiting``, and queue a message about the delay.

    No message is queued if the order has made progress in the meantime. If such an order becomes
    late again, :func:`tell_of_change` queues the message.
    """
    if change.at >= Installation.begin() and order.status in UNSERVED:
        _ask_to_wait(order, change)


def _ask_to_wait(order: Order, change: StatusChange) -> None:
    # The key contains the order instead of the change, so that the customer is asked to wait only
    # once per order.
    _queue(order, Kind.DELAYED, f"late {order.pk}", change=change)


def _is_being_reordered(order: Order) -> bool:
    """True if ``order`` is an automatic reorder, and was itself reordered.

    The customer then receives a message about the later order instead.
    """
    return order.send_before is not None and order.reordered_amount is not None


def tell_of_refund(refund: CustomerRefund, **_: Any) -> bool:
    """Receive ``customer_refund_changed``, and queue or cancel messages.

    If the refund was paid, messages are queued. If the refund was cancelled, its messages are
    cancelled. Returns True if a message was queued.
    """
    if refund.state == RefundState.CANCELLED:
        Delivery.objects.cancel(refund=refund)
    if refund.state != RefundState.DONE or refund.executed_at < Installation.begin():
        return False
    return _queue(refund.order, Kind.PAID_BACK, f"refund {refund.pk}", refund=refund)


#: The name of the lease that limits searches for refunds whose signal was lost.
LOST_REFUNDS = "lost refunds"
_LOOKED_FOR = timedelta(minutes=2)
_PAID_WITHIN = timedelta(days=2)


def tell_of_lost_refunds() -> int:
    """Queue the missing messages about paid refunds.

    Returns the number of refunds for which a message was queued. A message is missing if the
    process died after it had recorded the payment and before it sent the signal. A second call
    within two minutes does nothing.
    """
    is_off = conf.mode[Kind.PAID_BACK] == Mode.OFF
    if is_off or not Lease.objects.take(LOST_REFUNDS, _LOOKED_FOR):
        return 0
    now = timezone.now()
    lost = CustomerRefund.objects.filter(
        ~Exists(Delivery.objects.filter(refund=OuterRef("pk"))),
        state=RefundState.DONE,
        executed_at__gte=max(now - _PAID_WITHIN, Installation.begin()),
    )
    told = 0
    for refund in lost.select_related("order"):
        try:
            told += tell_of_refund(refund)
        except Exception as error:  # noqa: BLE001 (channels of the shop raise anything)
            # A failing channel must not hold up other refunds or messages.
            logger.error(  # noqa: TRY400 (its text may hold an address)
                "The customer of order %s was not notified of a refund: %s",
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
        # The lock makes a correction of the address either come first, or find the messages that
        # are queued here.
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
                    # The address is not part of the key: it may have changed when the signal is
                    # sent again.
                    key=key_of(occasion, channel.name),
                    **put_off(order.deliver_at if for_recipient else None),
                )
                is_any_new |= Delivery.objects.add(message)
            except Exception as error:  # noqa: BLE001 (channels of the shop raise anything)
                # An error in one channel does not stop the other channels. The failed channel is
                # tried again when the signal is sent again.
                trouble = error
    if is_any_new:
        wake()
    if trouble is not None:
        raise trouble
    return is_any_new


def address_of(channel: Channel, order: Order, *, for_recipient: bool = False) -> str:
    """Return the customer's or recipient's address on ``channel``, or "".

    Raises the errors of the channel, and :exc:`TypeError` if the address is not a string. An error
    does not break the caller's transaction.
    """
    find = channel.recipient_address_of if for_recipient else channel.address_of
    with transaction.atomic():
        address: Any = find(order)
    if not isinstance(address, str):
        raise TypeError(f"The address over {channel.name} is not a string.")
    return address


def kinds_that_fit(order: Order) -> list[Kind]:
    """Return the kinds of messages that currently fit ``order``.

    Kinds that the settings turn off are left out. Kinds that deliver cards are included only if the
    order has cards.
    """
    kinds = [*kinds_now(order)]
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
    """Queue a message at the request of staff.

    ``once`` is a unique value for each rendered form, so that pressing the button twice sends only
    one message. If ``withdraws`` is True, earlier links are withdrawn, and waiting messages with
    cards are cancelled. Returns ``None`` if the same form has already queued the message.
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
        # The message is added first, so that a second press of the button does not cancel the
        # message of the first press.
        if not Delivery.objects.add(message):
            return None
        if withdraws:
            withdraw(order, by=by, except_message=message)
        elif kind in TO_RECIPIENT and not is_elsewhere:
            # The gift must not be handed over again at the time of delivery.
            put_off_ones = Delivery.objects.filter(not_before__gt=timezone.now())
            put_off_ones.cancel(order=order, kind=kind, channel=channel)
        wake()
    return message


class Withdrawn(NamedTuple):
    """The number of withdrawn links and the number of cancelled messages."""

    links: int
    messages: int


def withdraw(
    order: Order, *, by: str, except_message: Delivery | None = None, last_link: int | None = None
) -> Withdrawn:
    """Withdraw the links to the cards of ``order``.

    Waiting messages that would deliver the cards are also cancelled, except for the message
    ``except_message``. If ``last_link`` is passed, links whose primary key is higher than
    ``last_link`` are not withdrawn. A message that is being sent might arrive with a link that no
    longer works.
    """
    others = (
        Delivery.objects.exclude(pk=except_message.pk) if except_message else Delivery.objects.all()
    )
    known = (
        CardLink.objects.all() if last_link is None else CardLink.objects.filter(pk__lte=last_link)
    )
    with transaction.atomic():
        # Messages are stopped first. A stopped message gets no new link, even while it is being
        # sent.
        messages = others.stop(order=order, kind__in=WITH_CARDS)
        return Withdrawn(links=known.revoke(order, by=by), messages=messages)


def _last_paid(order: Order) -> CustomerRefund | None:
    return order.refunds.filter(state=RefundState.DONE).order_by("-executed_at", "-pk").first()


#: The name of the lease that prevents a second task while one waits in the queue.
QUEUED = "queued delivery"
_QUEUED_FOR = timedelta(seconds=20)


def wake() -> None:
    """After the commit, queue a task that sends the due messages.

    If an earlier task is still waiting, another task is not queued. If the site does not have a
    task queue, the worker finds the messages. This function never raises an error.
    """
    transaction.on_commit(_wake, robust=True)


def _wake() -> None:
    queue_once("giftcards.delivery.tasks.deliver", lease=QUEUED, span=_QUEUED_FOR)


@dataclass(frozen=True, slots=True)
class OldAddress:
    """An order, and the messages about it to a person's old addresses."""

    order: Order
    messages: list[Delivery]

    @property
    def unsent(self) -> list[Delivery]:
        """Return open messages, and failed messages that were not replaced.

        A later message can replace a failed message: see :meth:`DeliveryQuerySet.untold`. A message
        that is being sent is open, and might still arrive.
        """
        lost = {message.pk for message in self.messages if message.status == DeliveryStatus.FAILED}
        untold = set(Delivery.objects.filter(pk__in=lost).untold().values_list("pk", flat=True))
        return [message for message in self.messages if message.is_open or message.pk in untold]

    @property
    def with_codes(self) -> list[Delivery]:
        """Return sent messages that contained the codes instead of a link."""
        sent = [
            message
            for message in self.messages
            if message.kind in WITH_CARDS and message.status == DeliveryStatus.SENT
        ]
        linked = set(self.links.values_list("delivery", flat=True))
        return [message for message in sent if message.pk not in linked]

    @property
    def links(self) -> CardLinkQuerySet:
        messages = [message.pk for message in self.messages]
        return CardLink.objects.filter(order=self.order, delivery__in=messages)

    @property
    def unused(self) -> list[Delivery]:
        """Return sent messages with a working link that has not shown any cards."""
        working = self.links.usable(timezone.now()).filter(reveals=0)
        keys = set(working.values_list("delivery", flat=True))
        return [
            message
            for message in self.messages
            if message.pk in keys and message.status == DeliveryStatus.SENT
        ]


def sent_to(order: Order, addresses: set[str], *, for_recipient: bool) -> OldAddress:
    about = Delivery.objects.filter(order=order, address__in=addresses)
    return OldAddress(order, list(about.to(recipient=for_recipient).order_by("pk")))


def move_messages(order: Order, change: CustomerChange, **_: Any) -> None:
    """Redirect messages about ``order`` to the corrected addresses.

    Links that were sent to the old addresses are withdrawn, and a gift waits for its new delivery
    time. The function receives ``customer_changed``. The app sends this signal inside the
    transaction that locks the order and makes the correction. Therefore no other process can create
    a link or queue a message in the meantime.
    """
    before = change.before(order)
    is_new_time = order.deliver_at != before.deliver_at and _put_off_anew(order)
    moved = [
        _move_messages(order, before, change, for_recipient=for_recipient)
        for for_recipient in (False, True)
    ]
    if is_new_time or any(moved):
        wake()


def _put_off_anew(order: Order) -> bool:
    """Reschedule the message about a gift to the new delivery time.

    Returns False if no such message is queued.
    """
    waiting = Delivery.objects.filter(order=order, status=DeliveryStatus.QUEUED).order_by()
    return bool(waiting.to(recipient=True).update(**put_off(order.deliver_at)))


def _move_messages(
    order: Order, before: Order, change: CustomerChange, *, for_recipient: bool
) -> int:
    """Queue messages to the new addresses, and return their number."""
    former, present = (addresses_of(one, for_recipient=for_recipient) for one in (before, order))
    old = sent_to(order, former - present, for_recipient=for_recipient)
    again = [*old.unsent, *old.unused]
    Delivery.objects.stop(pk__in=[message.pk for message in old.messages])
    old.links.revoke(order, by=change.by)
    last = {(message.kind, message.channel): message for message in again}
    theirs, new = (language_of(one, for_recipient=for_recipient) for one in (before, order))
    moved = 0
    for message in sorted(last.values(), key=lambda message: message.pk):
        language = new if message.language == theirs else message.language
        moved += _move(message, order, change, language=language, for_recipient=for_recipient)
    if theirs != new:
        waiting = Delivery.objects.filter(order=order, status__in=OPEN, language=theirs)
        waiting.to(recipient=for_recipient).order_by().update(language=new)
    return moved


def addresses_of(order: Order, *, for_recipient: bool) -> set[str]:
    """Return all addresses of the customer or the recipient.

    The set contains the addresses stored in ``order`` and the addresses that the channels use.
    """
    columns = ("recipient_email",) if for_recipient else ("customer_email", "customer_phone")
    named = {getattr(order, name) for name in columns}
    used = {_address(channel, order, for_recipient=for_recipient) for channel in make_channels()}
    return (named | used) - {""}


def _move(
    message: Delivery, order: Order, change: CustomerChange, *, language: str, for_recipient: bool
) -> bool:
    """Queue the message for the new address.

    Returns False if the message is not queued, for example because it no longer fits the order.
    """
    channels = make_channels()
    channel = next((each for each in channels if each.name == message.channel), None)
    address = _address(channel, order, for_recipient=for_recipient) if channel else ""
    if not address or message.kind not in kinds_that_fit(order):
        return False
    return Delivery.objects.add(
        Delivery(
            order=order,
            change_id=message.change_id,
            refund_id=message.refund_id,
            kind=message.kind,
            channel=message.channel,
            address=address,
            language=language,
            key=key_of(f"correction {change.pk} {message.pk}"),
            requested_by=message.requested_by,
            reason=message.reason,
            **put_off(message.not_before if message.is_put_off else None),
        )
    )


def _address(channel: Channel, order: Order, *, for_recipient: bool) -> str:
    try:
        return address_of(channel, order, for_recipient=for_recipient)
    except Exception as error:  # noqa: BLE001 (channels of the shop raise anything)
        # The correction is carried out, but messages on this channel are not sent to a new address.
        logger.error(  # noqa: TRY400 (its text may hold an address)
            "The address of the %s of order %s for the channel %s is unknown: %s",
            "recipient" if for_recipient else "customer",
            order.reference,
            channel.name,
            describe(error),
        )
        return ""


# The outbox stores this name, so it must stay the same even if a function moves.
_UID = "giftcards_delivery"


def connect_always() -> None:
    """Connect the receiver that redirects messages after a correction.

    This receiver is connected even if messages are off.
    """
    customer_changed.connect(move_messages, sender=Order, dispatch_uid=_UID)


def connect() -> None:
    """Connect the receivers that queue messages or process delivery reports."""
    order_status_changed.connect(tell_of_change, sender=Order, dispatch_uid=_UID)
    order_kept_waiting.connect(tell_of_wait, sender=Order, dispatch_uid=_UID)
    customer_refund_changed.connect(tell_of_refund, sender=CustomerRefund, dispatch_uid=_UID)
    with contextlib.suppress(ImportError):
        from anymail.signals import tracking

        tracking.connect(on_report, dispatch_uid=_UID)


_NOT_DELIVERED = {"bounced", "rejected", "failed"}
# The reasons that anymail defines; any other reason may be a text of the mail service.
_REASONS = {"invalid", "bounced", "timed_out", "blocked", "spam", "unsubscribed", "other"}


def on_report(*, event: Any, **_: Any) -> None:
    """Update a sent message according to anymail's ``event``.

    If the message was not delivered, it is marked as failed. If the recipient reported the message
    as spam, it is marked as reported. Other events are ignored.
    """
    sent = Delivery.objects.filter(
        message_id=stored_id(str(event.message_id or "")), status=DeliveryStatus.SENT
    ).exclude(message_id="")
    if event.event_type in _NOT_DELIVERED:
        reason = event.reject_reason if event.reject_reason in _REASONS else "other"
        sent.update(status=DeliveryStatus.FAILED, error=f"{event.event_type}: {reason}")
    elif event.event_type == "complained":
        sent.update(error="complained")
