"""Send the messages that are due.

A process claims a message, sends it, and records the result. The result is unknown if the process
dies before it records the result, or if the server does not answer after it has received the
message. If the result is unknown, the app sends the message again, so the customer might receive it
several times. After :data:`MOST_UNANSWERED` attempts with an unknown result, the app gives up.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import ProtectedError
from django.utils import timezone
from django.utils.crypto import salted_hmac

from giftcards.delivery import links
from giftcards.delivery.channels import (
    Failure,
    Limits,
    Meaning,
    Sent,
    describe,
    hand_over,
    make_channels,
    send_over,
)
from giftcards.delivery.conf import WITH_CARDS, Kind, Mode, conf, kinds_now
from giftcards.delivery.facts import is_destroyed
from giftcards.delivery.messages import compose, needs_link
from giftcards.delivery.models import CardLink, Delivery, DeliveryStatus, stored_id
from giftcards.keys.secrecy import Masked, contained
from giftcards.models.customer_refunds import RefundState

#: A claim ends after this time, which is longer than any attempt. Then another process takes the
#: message over.
CLAIM = timedelta(minutes=2)
#: The number of attempts with unknown outcome after which a message is given up.
MOST_UNANSWERED = 6
# The first pauses after attempts that certainly failed. Every later pause is _LONGEST_PAUSE.
_PAUSES = (
    timedelta(seconds=10),
    timedelta(seconds=30),
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(minutes=30),
)
_LONGEST_PAUSE = timedelta(hours=1)
_UNANSWERED_PAUSE = timedelta(minutes=15)
# A message older than this is given up, but only after the retries in _PAUSES.
_GIVEN_UP_AFTER = timedelta(days=1)
# After this number of failures in a row, no more messages are sent on the channel for now.
_FAILURES_IN_A_ROW = 3
_BATCH = 20


@dataclass(frozen=True, slots=True)
class SendingTally:
    """The result of :func:`send_due`: the number of messages by outcome.

    ``is_cut_short`` is True if some messages may not have been sent because a server is failing.
    """

    sent: int = 0
    retrying: int = 0
    failed: int = 0
    cancelled: int = 0
    is_cut_short: bool = False

    def __add__(self, other: SendingTally) -> SendingTally:
        return SendingTally(
            self.sent + other.sent,
            self.retrying + other.retrying,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
            other.is_cut_short,
        )

    def __str__(self) -> str:
        counts = (
            f"{self.sent} sent, {self.retrying} to be retried, {self.failed} failed,"
            f" {self.cancelled} cancelled"
        )
        return f"{counts}; a server does not answer" if self.is_cut_short else counts


def send_due(limits: Limits) -> SendingTally:
    """Send all messages that are due, earliest first, within ``limits``.

    If sending through a channel fails three times in a row because of its server, the function
    sends no more messages through this channel, and ``is_cut_short`` in the result is True.
    ``is_cut_short`` is also True if the time runs out while a server is failing. Several processes
    can call this function at the same time, because only one of them can claim a message.
    """
    return _Pass(limits).run()


class _Pass:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._away: set[str] = set()

    def run(self) -> SendingTally:
        while self._limits.may_begin() and (batch := self._next()):
            for wanted in batch:
                if self._limits.may_begin() and wanted.channel not in self._away:
                    self._send(wanted)
        # If a server is failing, its messages may have used up the time for other messages.
        is_over = not self._limits.may_begin()
        is_cut_short = bool(self._away) or (is_over and any(self._failures.values()))
        return SendingTally(**self._counts, is_cut_short=is_cut_short)

    def _next(self) -> list[Delivery]:
        due = Delivery.objects.due(timezone.now()).exclude(channel__in=self._away)
        return list(due[:_BATCH])

    def _send(self, wanted: Delivery) -> None:
        if not Delivery.objects.claim(wanted, until=timezone.now() + CLAIM):
            return
        # The row may have changed while earlier messages were being sent.
        rows = Delivery.objects.filter(claim=wanted.claim).select_related("order", "refund")
        delivery = rows.filter(pk=wanted.pk).first()
        if delivery is None:
            return  # the message was deleted with its order
        values = self._values(delivery)
        if Delivery.objects.conclude(delivery, **values):
            status = values["status"]
            if status == DeliveryStatus.RETRYING:
                # The message may have been stopped during the attempt.
                stopped = Delivery.objects.filter(pk=delivery.pk, is_stopped=True)
                status = DeliveryStatus.CANCELLED if stopped.cancel() else status
            # Each field of the tally is named after a status.
            self._counts[status.value] += 1

    def _values(self, delivery: Delivery) -> dict[str, Any]:
        """Send the message if it is still needed.

        Returns the new column values of the message.
        """
        if delivery.unanswered >= MOST_UNANSWERED:
            # The process that made the last attempt died. Claiming the message has already counted
            # another attempt, but this attempt is not made.
            ended = "The process that was sending the message ended"
            values = _ended(DeliveryStatus.FAILED, error=delivery.error or ended)
            return {**values, "attempts": delivery.attempts - 1}
        end = _attempt(delivery, self._limits) if is_wanted(delivery) else None
        if end is None:
            return _ended(DeliveryStatus.CANCELLED)
        if isinstance(end, Sent):
            self._failures[delivery.channel] = 0
            return _sent(end)
        if end.meaning in {Meaning.SERVER_AWAY, Meaning.UNANSWERED}:
            self._failures[delivery.channel] += 1
            if self._failures[delivery.channel] >= _FAILURES_IN_A_ROW:
                self._away.add(delivery.channel)
        return _after_failure(delivery, end)


def is_wanted(delivery: Delivery) -> bool:
    """True if the message still fits its order and must still be sent."""
    # Another version may have written a kind that this version does not know.
    is_off = conf.mode.get(delivery.kind) == Mode.OFF and not delivery.requested_by
    if is_off or delivery.is_stopped or not delivery.address:
        return False
    if delivery.kind == Kind.PAID_BACK:
        return delivery.refund is None or delivery.refund.state == RefundState.DONE
    order = delivery.order
    is_true = delivery.kind in kinds_now(order)
    return is_true and not (delivery.kind in WITH_CARDS and is_destroyed(order))


@contained
def _attempt(delivery: Delivery, limits: Limits) -> Sent | Failure | None:
    """Try to send the message.

    Returns ``None`` if the message was stopped or its claim was lost.
    """
    link: CardLink | None = None
    token: Masked | None = None
    try:
        channel = {each.name: each for each in make_channels()}[delivery.channel]
        with transaction.atomic():
            # Lock the order first, as a correction of the address does, to avoid a deadlock.
            delivery.order.lock()
            if not Delivery.objects.hold(delivery):
                return None
            if needs_link(delivery.order, delivery.kind):
                link, token = links.issue(
                    delivery.order, origin=CardLink.Origin.MESSAGE, delivery=delivery
                )
        message = replace(compose(delivery, token), id=_id(delivery))
    except Exception as error:  # noqa: BLE001 (templates and hooks of the shop)
        end: Sent | Failure = Failure(Meaning.NOT_SENT, describe(error))
    else:
        send = partial(send_over, channel, message)
        end = hand_over(send, limits, on_late_result=partial(_record_late, delivery))
    if link is not None and isinstance(end, Failure) and end.meaning is not Meaning.UNANSWERED:
        # The message was not sent, so its link is deleted. If somebody has visited the link
        # nevertheless, the database refuses to delete it.
        with suppress(ProtectedError):
            link.delete()
    return end


def _id(delivery: Delivery) -> str:
    digest = salted_hmac("giftcards.delivery.message", delivery.key, algorithm="sha256")
    return digest.hexdigest()[:32]


def _ended(status: DeliveryStatus, **values: Any) -> dict[str, Any]:
    return {"status": status, "next_attempt_at": None, **values}


def _sent(end: Sent) -> dict[str, Any]:
    return _ended(
        DeliveryStatus.SENT,
        sent_at=timezone.now(),
        message_id=stored_id(end.message_id),
        error="",
    )


def _record_late(delivery: Delivery, end: Sent) -> None:
    """Record that a message was sent, although its result arrived late.

    The function does not record anything if there was a later attempt, or if the customer's data
    has been erased.
    """
    rows = Delivery.objects.filter(pk=delivery.pk, claim=delivery.claim).exclude(address="")
    rows.update(**_sent(end))


def _after_failure(delivery: Delivery, failure: Failure) -> dict[str, Any]:
    is_unanswered = failure.meaning is Meaning.UNANSWERED
    values = {"error": failure.error, "unanswered": delivery.unanswered + is_unanswered}
    now = timezone.now()
    if is_unanswered:
        is_over = values["unanswered"] == MOST_UNANSWERED
        next_attempt_at = now + _UNANSWERED_PAUSE
    else:
        failures = delivery.attempts - delivery.unanswered
        has_waited = failures > len(_PAUSES)
        pause = _LONGEST_PAUSE if has_waited else _PAUSES[failures - 1]
        asked = timedelta(seconds=min(failure.pause, _LONGEST_PAUSE.total_seconds()))
        next_attempt_at = now + max(pause, asked)
        # A message is not too old before it has been retried, even if it waited for a worker for a
        # day.
        is_too_old = has_waited and next_attempt_at > delivery.waits_since + _GIVEN_UP_AFTER
        is_over = failure.meaning is Meaning.REFUSED or is_too_old
    if is_over:
        return _ended(DeliveryStatus.FAILED, **values)
    return {"status": DeliveryStatus.RETRYING, "next_attempt_at": next_attempt_at, **values}
