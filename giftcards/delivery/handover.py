"""Handing a message over with a timeout, in case a server hangs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from math import inf

from django.db import connections

from giftcards.delivery.failures import Failure, Meaning, failure_of
from giftcards.keys.secrecy import contained

#: The most seconds that an attempt may take.
ATTEMPT_SECONDS = 60.0
# How long an attempt may go on after the process was asked to stop (seconds).
_STOPPING_SECONDS = 8.0
# How often the waiting thread checks whether to stop (seconds).
_POLL_EVERY = 0.25


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of a message that went out; ``message_id`` is its id at the channel, or ""."""

    message_id: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the time for sending messages, by :func:`time.monotonic`."""

    #: Asked before each attempt, and during it: once it returns False, the attempt has to end soon.
    may_go_on: Callable[[], bool] = lambda: True
    #: No attempt begins after ``begin_until``, and none is waited for after ``end_at``.
    begin_until: float = inf
    end_at: float = inf

    def may_begin(self) -> bool:
        return time.monotonic() < self.begin_until and self.may_go_on()


@contained
def hand_over(
    send: Callable[[], str | None], limits: Limits, *, late: Callable[[Sent], object]
) -> Sent | Failure:
    """Call ``send``, which hands a message over, in a thread of its own; return the outcome.

    The outcome is a failure with ``Meaning.UNANSWERED`` after :data:`ATTEMPT_SECONDS`, or when the
    limits are reached. The thread goes on: if the message goes out after all, it calls ``late``.
    """
    end: Future[Sent | Failure] = Future()
    # A daemon thread does not keep the process from ending.
    threading.Thread(
        target=_send, args=(send, end, late), name="giftcards: message", daemon=True
    ).start()
    began = time.monotonic()
    give_up_at = min(began + ATTEMPT_SECONDS, limits.end_at)
    is_stopping = False
    while (now := time.monotonic()) < give_up_at:
        with contextlib.suppress(TimeoutError):
            return end.result(min(_POLL_EVERY, give_up_at - now))
        if not (is_stopping or limits.may_go_on()):
            is_stopping = True
            give_up_at = min(give_up_at, time.monotonic() + _STOPPING_SECONDS)
    # False if the outcome came in the meantime.
    if end.cancel():
        return Failure(Meaning.UNANSWERED, f"No answer within {now - began:.0f} s")
    return end.result()


@contained
def _send(
    send: Callable[[], str | None], end: Future[Sent | Failure], late: Callable[[Sent], object]
) -> None:
    try:
        sent = Sent(send() or "")
        try:
            end.set_result(sent)
        except InvalidStateError:  # nobody waits any more
            late(sent)
    except BaseException as error:  # noqa: BLE001 (whoever sends may raise anything)
        with contextlib.suppress(InvalidStateError):
            end.set_result(failure_of(error))
    finally:
        # Closes the connections of this thread only.
        connections.close_all()
