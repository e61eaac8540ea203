"""Handing a message to its channel, without waiting for ever for a server that hangs."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from math import inf

from django.db import connections
from django.utils import translation

from giftcards.delivery.channels import Channel, Message
from giftcards.delivery.failures import Failure, Meaning, failure_of
from giftcards.secrecy import contained

#: The most seconds that an attempt may take.
ATTEMPT_SECONDS = 60.0
# How long an attempt may go on after the process was asked to stop (seconds).
_STOPPING_SECONDS = 8.0
# How often somebody who waits looks whether to go on (seconds).
_HEARTBEAT = 0.25


@dataclass(frozen=True, slots=True)
class Sent:
    """The message went out; ``message_id`` is what the channel calls it, or ""."""

    message_id: str


@dataclass(frozen=True, slots=True)
class Limits:
    """How long messages are sent; the moments are those of :func:`time.monotonic`."""

    stop: threading.Event = field(default_factory=threading.Event)
    #: No attempt begins after this, and none goes on after the second one.
    begin_until: float = inf
    end_at: float = inf

    def may_begin(self) -> bool:
        return not self.stop.is_set() and time.monotonic() < self.begin_until


@contained
def hand_over(channel: Channel, message: Message, limits: Limits) -> Sent | Failure:
    """Have ``channel`` send ``message`` in a thread of its own; return how that ended.

    After :data:`ATTEMPT_SECONDS`, or when the limits are reached, nobody knows: the thread goes on
    by itself, and what comes of it is not looked at.
    """
    ends: queue.SimpleQueue[Sent | Failure] = queue.SimpleQueue()
    # A daemon, so that it does not keep a process that wants to end.
    threading.Thread(
        target=_send, args=(channel, message, ends), name="giftcards: message", daemon=True
    ).start()
    began = time.monotonic()
    give_up_at = min(began + ATTEMPT_SECONDS, limits.end_at)
    while (now := time.monotonic()) < give_up_at:
        try:
            return ends.get(timeout=min(_HEARTBEAT, give_up_at - now))
        except queue.Empty:
            if limits.stop.is_set():
                give_up_at = min(give_up_at, time.monotonic() + _STOPPING_SECONDS)
                limits = Limits(end_at=give_up_at)
    return Failure(Meaning.UNANSWERED, f"No answer within {now - began:.0f} s")


@contained
def _send(channel: Channel, message: Message, ends: queue.SimpleQueue[Sent | Failure]) -> None:
    try:
        with translation.override(message.language):
            ends.put(Sent(channel.send(message) or ""))
    except BaseException as error:  # noqa: BLE001 (a channel may raise anything)
        ends.put(failure_of(error))
    finally:
        # Those of this thread, if the channel has used any.
        connections.close_all()
