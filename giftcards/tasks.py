"""The tasks for a queue. They take no arguments and return no details: task rows are readable.

They never raise: django-q2 would keep a failed task with its traceback for ever, and run it again.
What apps add to the work of the workers is registered here, too: chores, which every worker does
once a minute whatever its orders, and companions of the loop.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

from django.db import Error, connections
from django.utils import timezone

from giftcards.catalogue import keep_current, keep_prices
from giftcards.conf import conf
from giftcards.engine import outbox
from giftcards.engine.database import surviving
from giftcards.engine.gateway import Gateway
from giftcards.engine.loop import begin_tick, follow, is_work_left, is_work_waiting
from giftcards.engine.task_queue import (
    SWEEP_TASK,
    cluster_stop,
    is_run_by_queueing,
    queue_task,
)
from giftcards.engine.timings import timings
from giftcards.exceptions import GiftcardsError
from giftcards.models import Lease, ProviderState
from giftcards.models.care import end_finished
from giftcards.models.times import LONGEST_HOLD
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

    Call it once a minute. It follows the orders for up to 40 seconds, and then does the daily work
    that is due: for at least some seconds, whatever is open. It does not raise, and returns counts
    as a text.
    """
    return tick_until(_stop())


def tick_until(stop: threading.Event) -> str:
    """:func:`tick`, which ends early when ``stop`` is set."""
    return _run(stop, patience=timings.tick_patience, is_tick=True)


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
        done = follow(seconds=timings.task_seconds, stop=stop, patience=patience)
        # After the lease is released: an order placed while it was held has queued no run.
        if done is not None and is_work_left():
            with Gateway() as gateway:
                if gateway.reopens_by_itself():
                    queue_task(SWEEP_TASK)
        if is_tick:
            # Last, because orders come first.
            do_chores(stop, _limit(began + conf.longest_task - conf.request_timeout))
    except GiftcardsError as error:
        logger.error("The task failed: %s", error)  # noqa: TRY400
        return FAILED
    except Exception as error:  # noqa: BLE001 (see the module's docstring)
        logger.error("The task failed: %s", type(error).__name__)  # noqa: TRY400
        return FAILED
    return "another process runs the loop" if done is None else str(done)


def _limit(ends_at: float) -> Callable[[], bool]:
    """A callback that returns False from ``ends_at`` on, or earlier if an order waits."""
    share_ends_at = time.monotonic() + timings.chores_seconds

    def has_time() -> bool:
        now = time.monotonic()
        return now < ends_at and (now < share_ends_at or not is_work_waiting())

    return has_time


# Daily work.

#: Does a part of what is due, for as long as the callback returns True.
Chore = Callable[[Callable[[], bool]], object]

_chores: dict[str, Chore] = {}
# Last, because something of the catalogue is always due, which would leave the others no request.
_LAST_CHORES: dict[str, Chore] = {
    "the reading of the catalogue": keep_current,
    "the news of offers": partial(outbox.announce, outbox=outbox.OFFERS),
}


def add_chore(name: str, chore: Chore) -> None:
    """Have every worker do ``chore`` once a minute; call it from the ``ready`` method of an app.

    ``name`` is for people, such as "the destruction of old codes".
    """
    _chores[name] = chore


def do_chores(stop: threading.Event, has_time: Callable[[], bool] = lambda: True) -> None:
    """Give each chore its turn, unless another process does.

    Once ``has_time`` returns False, or ``stop`` is set, no other one is begun. The next call begins
    there, even if a chore has killed this process, so that each gets its turn.
    """

    def may_go_on() -> bool:
        return has_time() and not stop.is_set()

    token = Lease.objects.take(Lease.CHORES, LONGEST_HOLD)
    if token is None:
        return
    chores = {**_chores, **_LAST_CHORES}
    begun, ended = ProviderState.objects.current().chores_record
    ended = {name: at for name, at in ended.items() if name in chores}
    names = list(chores)
    try:
        for name in names[names.index(begun) + 1 :] if begun in names[:-1] else names:
            if not (may_go_on() and Lease.objects.keep(Lease.CHORES, token, LONGEST_HOLD)):
                break
            begun = name
            ended.setdefault(name, None)
            ProviderState.objects.note_chores(begun, ended)
            with surviving(stop, name):
                if _do(name, chores[name], may_go_on):
                    ended[name] = timezone.now()
        ProviderState.objects.note_chores(begun, ended)
    finally:
        Lease.objects.release(Lease.CHORES, token)


def _do(name: str, chore: Chore, should_continue: Callable[[], bool]) -> bool:
    """Do ``chore``; True if it came to its end: in time, and without an error."""
    is_cut_short = False

    def may_go_on() -> bool:
        nonlocal is_cut_short
        is_cut_short = not should_continue()
        return not is_cut_short

    try:
        chore(may_go_on)
    except Error:
        raise
    except Exception as error:  # noqa: BLE001 (the others must have their turn)
        why = error if isinstance(error, GiftcardsError) else type(error).__name__
        logger.error("Without %s for a minute: %s", name, why)  # noqa: TRY400
        return False
    return not is_cut_short


def _do_chores_until(stop: threading.Event) -> None:
    """Do the chores once a minute."""
    while not stop.is_set():
        with surviving(stop, "the daily work"):
            do_chores(stop)
        stop.wait(timings.chores_every)


add_chore("the destruction of old codes", purge_if_due)
add_chore("the end of looking after finished orders", end_finished)
# Before other apps look at the shelf.
add_chore("the prices by the shop's function", keep_prices)


# Work beside the loop.

#: Works until the event is set.
Companion = Callable[[threading.Event], object]

_companions: dict[str, Companion] = {"the daily work": _do_chores_until}
# The pause after a companion that failed (seconds).
_COMPANION_PAUSE = 60.0


def add_companion(name: str, companion: Companion) -> None:
    """Have ``giftcards_poll --loop`` run ``companion`` beside the loop, in a thread of its own.

    Call it from the ``ready`` method of an app; ``name`` is for the log.
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
