"""The tasks that a task queue such as django-q2 runs.

Tasks do not take arguments and do not return details, because people without permissions might be
able to read the tables of the queue. Tasks never raise an error, because django-q2 would store the
failed task with its traceback forever, and run it again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from giftcards.conf import LONGEST_TASK
from giftcards.engine import background
from giftcards.engine.database import surviving
from giftcards.engine.gateway import Gateway
from giftcards.engine.loop import begin_tick, follow, is_work_left, is_work_waiting
from giftcards.engine.task_queue import (
    SWEEP_TASK,
    cluster_stop,
    is_queue_read,
    is_run_by_queueing,
    queue_task,
)
from giftcards.engine.tuning import tuning
from giftcards.exceptions import GiftcardsError
from giftcards.models import ProviderState

logger = logging.getLogger(__name__)

FAILED = "failed"


def sweep() -> str:
    """Follow urgent orders, and queue the next run if orders remain."""
    return _run(_stop(), max_wait=timedelta(0))


def tick() -> str:
    """Send and check the orders, and do all other work that is due.

    Call this function once a minute. If no other process is following orders, the function sends
    and checks orders for up to 40 seconds. After that, it does the other work that is due, for
    example the daily work. The function spends at least a few seconds on the other work, even if
    orders are still open. The function does not raise errors, and returns a summary of its work as
    a string.
    """
    return tick_until(_stop())


def tick_until(stop: threading.Event) -> str:
    """Do the same as :func:`tick`, but end early when ``stop`` is set."""
    return _run(stop, max_wait=tuning.tick_patience, is_tick=True)


def _stop() -> threading.Event:
    return cluster_stop() or threading.Event()


def _run(stop: threading.Event, *, max_wait: timedelta, is_tick: bool = False) -> str:
    if is_run_by_queueing():
        return "refused"
    began = time.monotonic()
    try:
        if is_tick:
            begin_tick()
        else:
            ProviderState.objects.note_queue_read()
        done = follow(seconds=tuning.task_seconds, stop=stop, max_wait=max_wait)
        # The app checks for more work only after the release of the lease, because an order that
        # was placed while the lease was held has not queued a run.
        if done is not None and is_work_left():
            with Gateway() as gateway:
                if gateway.reopens_by_itself():
                    queue_task(SWEEP_TASK)
        if is_tick:
            # Other work waits until the orders are done.
            _do_other_work(stop, began + LONGEST_TASK - tuning.request_timeout)
    except GiftcardsError as error:
        logger.error("The task failed: %s", error)  # noqa: TRY400
        return FAILED
    except Exception as error:  # noqa: BLE001 (see the module's docstring)
        logger.error("The task failed: %s", type(error).__name__)  # noqa: TRY400
        return FAILED
    return "another process runs the loop" if done is None else str(done)


def _do_other_work(stop: threading.Event, ends_at: float) -> None:
    has_queue = is_queue_read()
    for lane in background.lanes():
        wake = lane[0].wake
        if wake is not None and has_queue:
            wake()
        else:
            with surviving(stop, "the daily work"):
                background.give_turns(lane, stop, _limit(ends_at))


def _limit(ends_at: float) -> Callable[[], bool]:
    """Return a function that returns True while other work may continue."""
    share_ends_at = time.monotonic() + tuning.chores_seconds

    def has_time() -> bool:
        now = time.monotonic()
        return now < ends_at and (now < share_ends_at or not is_work_waiting())

    return has_time
