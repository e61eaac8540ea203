"""The loop that sweeps while orders are open, in one process at a time."""

from __future__ import annotations

import functools
import logging
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import PurePath

from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.balance import BalanceReader
from giftcards.engine.database import surviving
from giftcards.engine.gateway import Gateway
from giftcards.engine.sweep import Swept, sweep
from giftcards.engine.tuning import tuning
from giftcards.models import Card, Lease, Order, ProviderState, StatusChange
from giftcards.models.provider import this_machine
from giftcards.rules.purposes import Purpose
from giftcards.rules.states import STATES, Status

logger = logging.getLogger(__name__)

# The shortest pause after a sweep that did nothing (seconds).
_IDLE_PAUSE = 0.25


def follow(
    *,
    seconds: float | None,
    stop: threading.Event | None = None,
    max_wait: timedelta = timedelta(0),
) -> Swept | None:
    """Run the loop, which sweeps whenever orders are due.

    If ``seconds`` is ``None``, the loop ends when ``stop`` is set. Otherwise, the loop also ends
    after ``seconds``, when there are no more urgent orders, or when the provider refuses the key or
    does not answer. Returns the total of all sweeps, or ``None`` if another process holds the lease
    and the lease does not expire within ``max_wait``.
    """
    loop = _Loop(seconds, stop or threading.Event(), max_wait)
    with surviving(loop.stop, "the loop"):
        try_stored_cards()
    is_over = False
    try:
        while not is_over:
            with surviving(loop.stop, "the loop"):
                is_over = not loop.step()
            # If the database failed, ``step()`` may not have checked whether the run is over.
            is_over = is_over or loop.is_over
    finally:
        for clean_up in (loop.close_gateway, loop.release, loop.close_balance):
            with surviving(loop.stop, "the loop"):
                clean_up()
    return loop.done


@functools.cache  # the keys of a process do not change
def try_stored_cards() -> None:
    """Log an error if the encryption keys cannot decrypt the stored cards."""
    cards = Card.objects.all()
    for trouble in filter(None, cards.try_keys().values()):
        logger.error("%s", trouble)
    lost, _unneeded = cards.need_of_keys()
    if lost:
        logger.error(
            "GIFTCARDS['ENCRYPTION_KEYS'] does not contain the keys of all stored cards."
            " Cards that cannot be decrypted: %d.",
            lost,
        )


def begin_tick() -> None:
    """Record that this worker is running.

    The worker calls this function once a minute.
    """
    ProviderState.objects.note_tick(_this_worker())


def _this_worker() -> str:
    """Return the name of this program and machine, such as ``qcluster@web-2``.

    The program's arguments are left out, because they might be secret.
    """
    path, *arguments = sys.argv or [""]
    name = PurePath(path).stem
    if name == "__main__":
        name = PurePath(path).parent.name
    if name in {"manage", "django", "django-admin"} and arguments:
        name = arguments[0]
    return f"{name}@{this_machine()}"


def is_work_left() -> bool:
    """Return True if the loop must continue because an order is urgent."""
    return Order.objects.urgent().exists()


def is_work_waiting() -> bool:
    """Return True if there is work for the loop, but the loop is not running.

    There is work for the loop if an order is urgent, or if the announcement of a change is due.
    """
    if Lease.objects.is_taken(Lease.LOOP):
        return False
    return is_work_left() or StatusChange.objects.all().to_announce(timezone.now()).exists()


class _Loop:
    """One run of the loop: its time limit, its lease and its gateway.

    If the database fails, any method can raise an error. :func:`follow` then calls :meth:`step`
    again.
    """

    def __init__(self, seconds: float | None, stop: threading.Event, max_wait: timedelta) -> None:
        self.stop = stop
        # The sum of the sweeps, or None if another process runs the loop.
        self.done: Swept | None = Swept()
        self._is_endless = seconds is None
        self._ends_at = float("inf") if seconds is None else time.monotonic() + seconds
        self._max_wait = max_wait
        self._gateway: Gateway | None = None
        self._balance = BalanceReader()
        self._token: str | None = None
        self._beat_at = 0.0
        self._tick_at = 0.0
        self._is_lease_lost = False

    def step(self) -> bool:
        """Sweep, wait for more work, and return False if the run has ended."""
        if self._token is None:
            self._wait_out_outage()
            if not self._take_lease():
                self.done = None
                return False
        if self._gateway is None:
            self._gateway = Gateway()
        if not self.should_continue():
            return False
        swept = sweep(self._gateway, should_continue=self.should_continue)
        assert self.done is not None  # noqa: S101 (the lease was taken)
        self.done += swept
        if self._gateway.is_open and self.should_continue():
            self._do_side_work(self._gateway)
        is_barred = self._gateway.is_cut_off or not self._gateway.reopens_by_itself()
        if not self._is_endless and (is_barred or not is_work_left()):
            return False
        if is_barred:
            # The lease is free for one interval, so that a process with another API key, or on a
            # machine with another network, can take it.
            self.release()
            self.stop.wait(max(conf.poll_interval, tuning.loop_look))
        else:
            self._wait_for_work(self._gateway, is_idle=not (swept.sent or swept.checked))
        return True

    def _do_side_work(self, gateway: Gateway) -> None:
        self._balance.look_after()
        if gateway.prices.look_at_orders_on_hold(self._has_time):
            gateway.flush()

    def _has_time(self) -> bool:
        return self.should_continue() and not is_work_left()

    def _wait_out_outage(self) -> None:
        """Wait while this machine's calls are paused after an outage.

        The run does not hold the lease during the wait, because another machine might have a
        network connection that works.
        """
        while not self.is_over and ProviderState.objects.current().is_cut_off(timezone.now()):
            self.stop.wait(tuning.loop_look)

    def _take_lease(self) -> bool:
        """Acquire the lease, and return whether this run holds it.

        If the process that holds the lease has died, wait up to ``max_wait`` for the lease to
        expire.
        """
        give_up_at = time.monotonic() + self._max_wait.total_seconds()
        expiry = self._held_until()
        while True:
            self._beat_at = time.monotonic()
            self._token = Lease.objects.take(Lease.LOOP, tuning.lease)
            if self._token:
                break
            # A changed expiry means that the holder is alive.
            if self._held_until() != expiry or self._beat_at >= give_up_at:
                return False
            if self.stop.wait(tuning.loop_look):
                return False
        # The run with the lease sends new orders. When it ends, another run may be queued
        # immediately.
        Lease.objects.revoke(Lease.QUEUED_SWEEP)
        return True

    def _held_until(self) -> datetime | None:
        lease = Lease.objects.filter(name=Lease.LOOP)
        return lease.values_list("until", flat=True).first()

    @property
    def is_over(self) -> bool:
        return self.stop.is_set() or time.monotonic() >= self._ends_at

    def should_continue(self) -> bool:
        """Return True if the run can continue.

        The method also stores the balance if it has arrived, renews the lease, and records once a
        minute that an endless loop is running.
        """
        if self.is_over:
            return False
        # The balance is stored as soon as it arrives, because orders are not sent while the request
        # for the balance holds the key probe.
        self._balance.take_answer()
        now = time.monotonic()
        if now - self._beat_at >= tuning.loop_look and self._token:
            self._beat_at = now
            self._is_lease_lost = not Lease.objects.keep(Lease.LOOP, self._token, tuning.lease)
        if self._is_endless and now >= self._tick_at:
            # An endless loop also does the work of the schedule, which may not be running.
            self._tick_at = now + tuning.loop_tick
            begin_tick()
        return not self._is_lease_lost

    def _wait_for_work(self, gateway: Gateway, *, is_idle: bool) -> None:
        began = time.monotonic()
        latest = began + conf.poll_interval
        earliest = began + (_IDLE_PAUSE if is_idle else 0)
        while self.should_continue():
            wait = _time_to_work(gateway) if gateway.is_open else tuning.loop_look
            now = time.monotonic()
            left = min(max(wait, earliest - now), latest - now)
            if left <= 0:
                return
            self.stop.wait(min(left, tuning.loop_look))

    def close_gateway(self) -> None:
        if self._gateway is not None:
            self._gateway.close()

    def close_balance(self) -> None:
        """Wait for the balance if a request for it is in flight.

        The run releases its lease before this call, so that orders do not wait for the balance.
        """
        self._balance.close(seconds=0 if self.stop.is_set() else tuning.request_timeout)

    def release(self) -> None:
        if self._token:
            Lease.objects.release(Lease.LOOP, self._token)
            self._token = None


def _time_to_work(gateway: Gateway) -> float:
    """Return the seconds until an order is due and the quota has a free slot.

    The result is at most one poll interval.
    """
    now = timezone.now()
    waits = [conf.poll_interval]
    for status, state in STATES.items():
        if state.request and (due_at := Order.objects.next_due_at([Status(status)], now)):
            slot = _time_to_slot(state.request, gateway)
            waits.append(max((due_at - now).total_seconds(), slot))
    return min(waits)


def _time_to_slot(purpose: Purpose, gateway: Gateway) -> float:
    """Return the seconds until the quota allows a request for ``purpose``.

    While the list is in use, a check is also possible as soon as the quota allows a request for the
    list.
    """
    wait = gateway.wait_for(purpose)
    is_listed = purpose in {Purpose.CHECKING, Purpose.CHECKING_LATE} and gateway.is_list_read
    return min(wait, gateway.wait_for(Purpose.LISTING)) if is_listed else wait
