"""Redirecting messages after a correction of the customer's, or the recipient's, address.

A message that went out is sent again only if its link works and has shown no cards: the link is
withdrawn, and there would be no other way to the cards.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from django.utils import timezone

from giftcards.delivery.channels import Channel, make_channels
from giftcards.delivery.conf import conf
from giftcards.delivery.facts import language_of
from giftcards.delivery.failures import describe
from giftcards.delivery.kinds import WITH_CARDS
from giftcards.delivery.models import (
    OPEN,
    CardLink,
    CardLinkQuerySet,
    Delivery,
    DeliveryStatus,
    key_of,
    put_off,
)
from giftcards.delivery.queueing import address_of, kinds_that_fit, wake
from giftcards.models import CustomerChange, Order

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OldAddress:
    """The messages about an order that went, or are to go, to old addresses of one person."""

    order: Order
    messages: list[Delivery]

    @property
    def unsent(self) -> list[Delivery]:
        """Open messages (one may be arriving), and failed ones that no later message replaces."""
        lost = {message.pk for message in self.messages if message.status == DeliveryStatus.FAILED}
        untold = set(Delivery.objects.filter(pk__in=lost).untold().values_list("pk", flat=True))
        return [message for message in self.messages if message.is_open or message.pk in untold]

    @property
    def with_codes(self) -> list[Delivery]:
        """Sent messages that held the codes themselves, rather than a link."""
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
        """Sent messages whose link works, but has not been used to show the cards."""
        working = self.links.usable(timezone.now(), reveals=conf.link_reveals).filter(reveals=0)
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
    """Redirect messages about ``order`` from the addresses before ``change`` to the new ones.

    Also withdraws the links that went to the old addresses, and has a gift wait for its new time. A
    receiver of a signal that is sent in the transaction that makes the change and holds the lock of
    the order: a process that sends or queues a message then finishes before it, or begins after its
    commit.
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
    """Have the gift, unless it was tried already, wait for its time; True if it was not."""
    waiting = Delivery.objects.filter(order=order, status=DeliveryStatus.QUEUED).order_by()
    return bool(waiting.to(recipient=True).update(**put_off(order.deliver_at)))


def _move_messages(
    order: Order, before: Order, change: CustomerChange, *, for_recipient: bool
) -> int:
    """Redirect the messages to one of the two people; return how many were queued anew."""
    former, present = (addresses_of(one, for_recipient=for_recipient) for one in (before, order))
    old = sent_to(order, former - present, for_recipient=for_recipient)
    again = [*old.unsent, *old.unused]
    Delivery.objects.stop(pk__in=[message.pk for message in old.messages])
    old.links.revoke(order, by=change.by)
    # The last message of each kind over each channel.
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
    """The addresses of the customer, or of the recipient: in the order, and of the channels."""
    columns = ("recipient_email",) if for_recipient else ("customer_email", "customer_phone")
    named = {getattr(order, name) for name in columns}
    used = {_address(channel, order, for_recipient=for_recipient) for channel in make_channels()}
    return (named | used) - {""}


def _move(
    message: Delivery, order: Order, change: CustomerChange, *, language: str, for_recipient: bool
) -> bool:
    """Queue the message to the new address; return False if there is none, or it is outdated."""
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
        # The correction goes on without this channel.
        logger.error(  # noqa: TRY400 (its text may hold an address)
            "Where the %s of order %s is reached by %s is not known: %s",
            "recipient" if for_recipient else "customer",
            order.reference,
            channel.name,
            describe(error),
        )
        return ""
