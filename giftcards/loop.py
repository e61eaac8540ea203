"""The loop that sweeps while orders are open, and the lease that lets one process run it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

from django.db import InterfaceError, OperationalError, close_old_connections
from django.db.models import Min
from django.utils import timezone

from giftcards.conf import conf
from giftcards.following import Swept, sweep
from giftcards.fulfilment import LOOP_LEASE
from giftcards.gateway import Gateway
from giftcards.models import Order, ProviderState
from giftcards.statuses import FINAL

logger = logging.getLogger(__name__)

# The loop looks for orders to send, and renews its lease, at least this often (seconds).
_HEARTBEAT = 1.0
# The pause after the database went away (seconds).
_DATABASE_PAUSE = 2.0


def follow(
    *,
    seconds: float | None,
    stop: threading.Event | None = None,
    patience: timedelta = timedelta(0),
) -> Swept | None:
    """Run the loop: sweep whenever orders are due; return what was done.

    Ends after ``seconds``, when ``stop`` is set, when no order is urgent any more, or when the
    provider refuses the key; with ``seconds=None`` only when ``stop`` is set. Only one process runs
    the loop: where another one does and its lease does not run out within ``patience``, ``None``.
    """
    loop = _Loop(seconds, stop or threading.Event())
    done = Swept()
    gateway: Gateway | None = None
    try:
        # The outer one is for the gateway's end, which may find the database gone as well.
        with _outliving_the_database(loop.stop), contextlib.ExitStack() as stack:
            while True:
                with _outliving_the_database(loop.stop):
                    if gateway is None:
                        if not loop.take(patience):
                            return None
                        gateway = stack.enter_context(Gateway())
                    if not loop.go_on():
                        break
                    done += sweep(gateway, go_on=loop.go_on)
                    if seconds is not None and not (gateway.may_reopen() and is_work_left()):
                        break
                    loop.wait_for_work(gateway)
                # Also where the database has failed ever since the lease was asked for.
                if loop.is_over:
                    break
    finally:
        with _outliving_the_database(loop.stop):
            loop.release()
    return done


@contextlib.contextmanager
def _outliving_the_database(stop: threading.Event) -> Iterator[None]:
    """If the database goes away in here, say so and give it a moment; the caller goes on."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        logger.error(  # noqa: TRY400 (a traceback may hold a row)
            "The database failed the loop, which pauses for %g s: %s",
            _DATABASE_PAUSE,
            type(error).__name__,
        )
        stop.wait(_DATABASE_PAUSE)
        close_old_connections()


def is_work_left() -> bool:
    """Whether any order needs the loop to go on."""
    return Order.objects.urgent().exists()


class _Loop:
    """One run of the loop: how long it may take, and the lease that makes it the only one."""

    def __init__(self, seconds: float | None, stop: threading.Event) -> None:
        self.stop = stop
        self._ends_at = float("inf") if seconds is None else time.monotonic() + seconds
        self._token = ""
        self._beat_at = 0.0
        # Whether another process has taken the lease over.
        self._is_lost = False

    def take(self, patience: timedelta) -> bool:
        """Become the one process; wait up to ``patience`` for a holder that may have died."""
        until = time.monotonic() + patience.total_seconds()
        held_until = ProviderState.objects.current().loop_until
        while True:
            # The database may have failed this very method after the lease was taken.
            if not self._token:
                self._beat_at = time.monotonic()
                self._token = (
                    ProviderState.objects.take_lease("loop", now=timezone.now(), length=LOOP_LEASE)
                    or ""
                )
            if self._token:
                # From here on, who places an order relies on this run, not on one that is queued.
                ProviderState.objects.filter(pk=1).update(kicked_at=None)
                return True
            if ProviderState.objects.current().loop_until != held_until:
                # It was renewed: the holder lives.
                return False
            if time.monotonic() >= until or self.stop.wait(_HEARTBEAT):
                return False

    @property
    def is_over(self) -> bool:
        return self.stop.is_set() or time.monotonic() >= self._ends_at

    def go_on(self) -> bool:
        """Whether the run may do more; renews the lease in passing."""
        if self.is_over:
            return False
        now = time.monotonic()
        if now - self._beat_at >= _HEARTBEAT:
            self._beat_at = now
            self._is_lost = not ProviderState.objects.keep_lease(
                "loop", self._token, now=timezone.now(), length=LOOP_LEASE
            )
        return not self._is_lost

    def wait_for_work(self, gateway: Gateway) -> None:
        """Return when something is due and can be afforded, or after an interval."""
        until = time.monotonic() + conf.poll_interval
        while (left := until - time.monotonic()) > 0 and self.go_on():
            if gateway.allows_calls:
                now = timezone.now()
                waiting = Order.objects.unclaimed(now).exclude(status__in=FINAL)
                due_at = waiting.aggregate(first=Min("due_at"))["first"]
                if due_at is not None:
                    left = min(left, max((due_at - now).total_seconds(), gateway.wait_for()))
                if left <= 0:
                    return
            self.stop.wait(min(left, _HEARTBEAT))

    def release(self) -> None:
        if self._token:
            ProviderState.objects.release_lease("loop", self._token)
