"""The tasks for a queue. They take no arguments and return no details: task rows are readable.

They never raise: django-q2 would keep a failed task with its traceback for ever, and run it again.
What apps add to the work of the workers is registered here, too.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from django.db import connections

from giftcards.catalogue import keep_current
from giftcards.conf import LOOP_SECONDS, conf
from giftcards.engine import outbox
from giftcards.engine.database import surviving
from giftcards.engine.figures import complete_figures
from giftcards.engine.gateway import Gateway
from giftcards.engine.loop import begin_tick, follow, is_work_left
from giftcards.engine.task_queue import (
    LOOP_LEASE,
    SWEEP_TASK,
    cluster_stop,
    is_run_by_queueing,
    queue_task,
)
from giftcards.engine.terms import complete_terms
from giftcards.exceptions import GiftcardsError
from giftcards.models import CustomerRefund
from giftcards.models.care import end_finished
from giftcards.privacy.retention import purge_if_due

logger = logging.getLogger(__name__)

FAILED = "failed"
# The most time that a tick spends on announcements before it runs the loop (seconds).
_ANNOUNCING_SECONDS = 10


def sweep() -> str:
    """Run the loop while orders are urgent, and queue its successor."""
    return _run(_stop(), patience=timedelta(0))


def tick() -> str:
    """Do the watchdog's work: announce pending changes, and run the loop if no process does.

    Call it once a minute. It follows the orders for up to 40 seconds, and then does a part of the
    daily work that is due. It does not raise, and returns counts as a text.
    """
    return tick_until(_stop())


def tick_until(stop: threading.Event) -> str:
    """:func:`tick`, which ends early when ``stop`` is set."""
    # Longer than the lease, so that a dead holder's expires.
    return _run(stop, patience=LOOP_LEASE + timedelta(seconds=1), is_tick=True)


def _stop() -> threading.Event:
    return cluster_stop() or threading.Event()


def _run(stop: threading.Event, *, patience: timedelta, is_tick: bool = False) -> str:
    if is_run_by_queueing():
        return "refused"
    began = time.monotonic()
    try:
        if is_tick:
            begin_tick()
            # Covers announcements left by other processes, and retries; limited in time.
            ends_at = time.monotonic() + _ANNOUNCING_SECONDS
            with surviving(stop, "the announcements"):
                outbox.announce(lambda: time.monotonic() < ends_at)
        done = follow(seconds=LOOP_SECONDS, stop=stop, patience=patience)
        # After the lease is released: an order placed while it was held has queued no run.
        if done is not None and is_work_left():
            with Gateway() as gateway:
                if gateway.reopens_by_itself():
                    queue_task(SWEEP_TASK)
        if is_tick:
            # Last, because orders may wait for the loop.
            ends_at = began + conf.longest_task - conf.request_timeout

            def has_time() -> bool:
                return time.monotonic() < ends_at and not stop.is_set()

            do_chores(stop, may_begin=has_time, should_continue=has_time)
    except GiftcardsError as error:
        logger.error("The task failed: %s", error)  # noqa: TRY400
        return FAILED
    except Exception as error:  # noqa: BLE001 (see the module's docstring)
        logger.error("The task failed: %s", type(error).__name__)  # noqa: TRY400
        return FAILED
    return "another process runs the loop" if done is None else str(done)


# Daily work.

#: Does a part of what is due, for as long as the callback returns True.
Chore = Callable[[Callable[[], bool]], object]

_chores: dict[str, Chore] = {}


def add_chore(name: str, chore: Chore) -> None:
    """Have ``chore`` done at the end of each tick; call it from the ``ready`` method of an app.

    ``name`` is for the log, such as "the destruction of old codes".
    """
    _chores[name] = chore


def do_chores(
    stop: threading.Event, *, may_begin: Callable[[], bool], should_continue: Callable[[], bool]
) -> None:
    """Do a part of the daily work that is due.

    Each chore is begun if ``may_begin()``, and goes on while ``should_continue()``.
    """
    # The catalogue last: something of it is always due, which would leave the others no request.
    for name, chore in (*_chores.items(), ("the reading of the catalogue", keep_current)):
        with surviving(stop, name):
            if may_begin():
                chore(should_continue)


# What older workers have left out.
add_chore("the figures of final orders", complete_figures)
add_chore("the search terms of orders", complete_terms)
add_chore("the destruction of old codes", purge_if_due)
add_chore("the end of looking after finished orders", end_finished)
add_chore("the counting of refunds", lambda _should_continue: CustomerRefund.objects.recount())


# Work beside the loop.

#: Works until the event is set.
Companion = Callable[[threading.Event], object]

_companions: dict[str, Companion] = {}
# The pause after a companion that failed (seconds).
_COMPANION_PAUSE = 60.0


def add_companion(name: str, companion: Companion) -> None:
    """Have ``giftcards_poll --loop`` run ``companion`` beside the loop, in a thread of its own.

    For work that would hold up orders in a chore. Call it from the ``ready`` method of an app;
    ``name`` is for the log.
    """
    _companions[name] = companion


@contextlib.contextmanager
def companions(stop: threading.Event) -> Iterator[None]:
    """Run the companions until the block ends, or ``stop`` is set."""
    threads = [
        threading.Thread(target=_accompany, args=[name, companion, stop], name=f"giftcards: {name}")
        for name, companion in _companions.items()
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _accompany(name: str, companion: Companion, stop: threading.Event) -> None:
    try:
        while not stop.is_set():
            try:
                companion(stop)
            except Exception as error:  # noqa: BLE001 (it may raise anything)
                why = error if isinstance(error, GiftcardsError) else type(error).__name__
                logger.error("Without %s for a minute: %s", name, why)  # noqa: TRY400
                stop.wait(_COMPANION_PAUSE)
    finally:
        # Those of this thread.
        connections.close_all()
