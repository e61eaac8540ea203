"""A pool of threads that makes a few requests at the same time.

The threads never use the database. The threads pass the results to the calling thread, which is
allowed to use the database.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from giftcards.engine.gateway import Gateway
from giftcards.engine.request_budget import Slot
from giftcards.engine.threads import start_thread
from giftcards.engine.tuning import tuning
from giftcards.exceptions import ProviderError
from giftcards.rules.purposes import Purpose

K = TypeVar("K")
T = TypeVar("T")

# At most three checks are in flight, or four requests while an order is being sent. Five requests
# with a wrong key cause a block of the IP address. With more requests in flight, the block could
# come before the first refusal is read.
MAX_IN_FLIGHT = 3
# How long to wait for requests in flight after calls have been stopped (seconds).
_GRACE = 3.0


@dataclass(frozen=True, slots=True)
class Pulse:
    """Callbacks that a long operation calls between requests.

    When ``should_continue`` returns False, the operation does not start further requests, but it
    still yields the results of requests in flight.
    """

    should_continue: Callable[[], bool] = lambda: True
    beat: Callable[[], object] = lambda: None


def fan_out(
    jobs: Iterable[tuple[K, Callable[[], T]]],
    gateway: Gateway,
    pulse: Pulse,
    *,
    purpose: Purpose = Purpose.CHECKING,
    is_patient: bool = True,
) -> Iterator[tuple[K, T | Exception]]:
    """Make the calls in ``jobs``, a few at the same time.

    Yields the key of each call with the result or the error. If ``is_patient`` is True, calls wait
    for the request quota. Otherwise, calls are skipped if the quota does not have a free slot. If
    the quota allows an immediate retry, a call that fails with a temporary error is retried once.
    When calls must stop, the function waits some seconds for calls in flight.
    """
    calls = _Calls(jobs, gateway, pulse, purpose)
    ends_at = float("inf")
    while calls.are_left and time.monotonic() < ends_at:
        calls.check_may_start()
        if not calls.may_start:
            ends_at = min(ends_at, time.monotonic() + _GRACE)
        pulse.beat()
        calls.start()
        if not (is_patient or calls.running):
            return
        yield from calls.results(timeout=min(tuning.polling_pulse, ends_at - time.monotonic()))


@dataclass(slots=True)
class _Call(Generic[K, T]):
    key: K
    job: Callable[[], T]
    may_repeat: bool = True


class _Calls(Generic[K, T]):
    def __init__(
        self,
        jobs: Iterable[tuple[K, Callable[[], T]]],
        gateway: Gateway,
        pulse: Pulse,
        purpose: Purpose,
    ) -> None:
        self._waiting = deque(_Call(key, job) for key, job in jobs)
        self._gateway = gateway
        self._pulse = pulse
        self._purpose = purpose
        self._ended: SimpleQueue[tuple[_Call[K, T], Slot, T | Exception]] = SimpleQueue()
        self.running = 0  # calls in flight
        self.may_start = True

    @property
    def are_left(self) -> bool:
        return self.running > 0 or (self.may_start and bool(self._waiting))

    def check_may_start(self) -> None:
        """Set :attr:`may_start` to False if the caller or the gateway stops calls.

        The attribute then stays False.
        """
        if self.may_start:
            self.may_start = self._pulse.should_continue() and self._gateway.is_open

    @property
    def _has_room(self) -> bool:
        # Until the key is proven, calls are made one at a time.
        in_flight = MAX_IN_FLIGHT if self._gateway.is_proven else 1
        return self.may_start and bool(self._waiting) and self.running < in_flight

    def start(self) -> None:
        """Start as many waiting calls as the gateway and ``MAX_IN_FLIGHT`` allow."""
        while self._has_room and (slot := self._gateway.begin(self._purpose)):
            self._start(self._waiting.popleft(), slot)

    def _start(self, call: _Call[K, T], slot: Slot) -> None:
        self.running += 1
        if start_thread(self._run, call, slot) is None:
            self._run(call, slot)

    def _run(self, call: _Call[K, T], slot: Slot) -> None:
        try:
            self._ended.put((call, slot, call.job()))
        except Exception as error:  # noqa: BLE001 (one order's failure is never another's)
            self._ended.put((call, slot, error))

    def results(self, *, timeout: float) -> Iterator[tuple[K, T | Exception]]:
        """Wait until a call ends or a slot is free.

        If a call has ended, yields its key and its result.
        """
        if self._has_room:
            timeout = min(timeout, max(self._gateway.wait_for(self._purpose), 0.01))
        try:
            call, slot, result = self._ended.get(timeout=max(timeout, 0))
        except Empty:
            return
        self.running -= 1
        error = result if isinstance(result, Exception) else None
        is_worth_repeating = isinstance(error, ProviderError) and error.is_worth_repeating
        if call.may_repeat and is_worth_repeating:
            call.may_repeat = False
            self.check_may_start()
            if not self.may_start:
                self._gateway.release(slot)
                return
            if (again := self._gateway.repeat(slot, self._purpose)) is not None:
                self._start(call, again)
                return
        self._gateway.finish(slot, error)
        yield call.key, result
