"""Handing a message over with a timeout, in case a server hangs."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
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

    stop: threading.Event = field(default_factory=threading.Event)
    #: No attempt begins after ``begin_until``, and none is waited for after ``end_at``.
    begin_until: float = inf
    end_at: float = inf

    def may_begin(self) -> bool:
        return not self.stop.is_set() and time.monotonic() < self.begin_until


class _End:
    """The outcome of an attempt, for the waiting thread; a late success goes to ``late``."""

    def __init__(self, late: Callable[[Sent], object]) -> None:
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Sent | Failure] = queue.SimpleQueue()
        self._is_awaited = True
        self._late = late

    def tell(self, end: Sent | Failure) -> None:
        with self._lock:
            if self._is_awaited:
                self._queue.put(end)
                return
        if isinstance(end, Sent):
            self._late(end)

    def wait(self, seconds: float) -> Sent | Failure | None:
        with contextlib.suppress(queue.Empty):
            return self._queue.get(timeout=seconds)
        return None

    def give_up(self) -> Sent | Failure | None:
        """Stop waiting; return the outcome if there is one by now."""
        with self._lock:
            self._is_awaited = False
        return None if self._queue.empty() else self._queue.get()


@contained
def hand_over(
    send: Callable[[], str | None], limits: Limits, *, late: Callable[[Sent], object]
) -> Sent | Failure:
    """Call ``send``, which hands a message over, in a thread of its own; return the outcome.

    The outcome is a failure with ``Meaning.UNANSWERED`` after :data:`ATTEMPT_SECONDS`, or when the
    limits are reached. The thread goes on: if the message goes out after all, it calls ``late``.
    """
    end = _End(late)
    # A daemon thread does not keep the process from ending.
    threading.Thread(target=_send, args=(send, end), name="giftcards: message", daemon=True).start()
    began = time.monotonic()
    give_up_at = min(began + ATTEMPT_SECONDS, limits.end_at)
    is_stopping = False
    while (now := time.monotonic()) < give_up_at:
        if told := end.wait(min(_POLL_EVERY, give_up_at - now)):
            return told
        if limits.stop.is_set() and not is_stopping:
            is_stopping = True
            give_up_at = min(give_up_at, time.monotonic() + _STOPPING_SECONDS)
    waited = Failure(Meaning.UNANSWERED, f"No answer within {now - began:.0f} s")
    return end.give_up() or waited


@contained
def _send(send: Callable[[], str | None], end: _End) -> None:
    try:
        end.tell(Sent(send() or ""))
    except BaseException as error:  # noqa: BLE001 (whoever sends may raise anything)
        end.tell(failure_of(error))
    finally:
        # Closes the connections of this thread only.
        connections.close_all()
