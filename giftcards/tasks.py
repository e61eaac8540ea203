"""The tasks for django-q2. They take no arguments and return no details: task rows are readable.

They never raise: django-q2 would keep a failed task with its traceback for ever, and run it again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from giftcards.catalogue import keep_current
from giftcards.conf import LOOP_SECONDS, conf
from giftcards.engine import outbox
from giftcards.engine.database import surviving
from giftcards.engine.figures import complete_figures
from giftcards.engine.gateway import Gateway
from giftcards.engine.loop import begin_tick, follow, is_work_left
from giftcards.engine.task_queue import LOOP_LEASE, SWEEP_TASK, cluster_stop, queue_task
from giftcards.engine.terms import complete_terms
from giftcards.exceptions import GiftcardsError
from giftcards.models import CustomerRefund
from giftcards.models.care import end_finished
from giftcards.privacy.retention import purge_if_due

logger = logging.getLogger(__name__)

# The most time that a tick spends on announcements before it runs the loop (seconds).
_ANNOUNCING_SECONDS = 10


def sweep() -> str:
    """Run the loop while orders are urgent, and queue its successor."""
    return _run(patience=timedelta(0))


def tick() -> str:
    """Do the watchdog's work: announce pending changes, and run the loop if no process does.

    Call it once a minute. It follows the orders for up to 40 seconds, and then does a part of the
    daily work that is due. It does not raise, and returns counts as a text.
    """
    # Longer than the lease, so that a dead holder's expires.
    return _run(patience=LOOP_LEASE + timedelta(seconds=1), is_tick=True)


def _run(*, patience: timedelta, is_tick: bool = False) -> str:
    stop = cluster_stop() or threading.Event()
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
        return "failed"
    except Exception as error:  # noqa: BLE001 (see the module's docstring)
        logger.error("The task failed: %s", type(error).__name__)  # noqa: TRY400
        return "failed"
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
