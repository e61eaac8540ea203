"""What django-q2 calls. No arguments, and results that are counts: its rows can be read by anyone.

Nothing is raised: a task that fails is kept with its traceback for ever, and run again.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from datetime import timedelta

from django.utils import timezone

from giftcards import outbox
from giftcards.conf import LOOP_SECONDS
from giftcards.exceptions import GiftcardsError
from giftcards.fulfilment import LOOP_LEASE, queue_sweep
from giftcards.gateway import Gateway
from giftcards.loop import follow, is_work_left
from giftcards.models import ProviderState

logger = logging.getLogger(__name__)

# How long a tick may go on telling receivers before it follows the orders.
_ANNOUNCING_SECONDS = 10


def sweep() -> str:
    """Run the loop while orders are open, and queue its successor."""
    return _run(patience=timedelta(0))


def tick() -> str:
    """The watchdog, once a minute: the slow work, and the loop if nobody runs it."""
    # A holder that lives renews its lease within this time.
    return _run(patience=LOOP_LEASE + timedelta(seconds=1), is_tick=True)


def _run(*, patience: timedelta, is_tick: bool = False) -> str:
    try:
        if is_tick:
            ProviderState.objects.current()
            ProviderState.objects.filter(pk=1).update(ticked_at=timezone.now())
            # What another process left behind, and receivers that failed; not for ever.
            ends_at = time.monotonic() + _ANNOUNCING_SECONDS
            outbox.announce(lambda: time.monotonic() < ends_at)
        done = follow(seconds=LOOP_SECONDS, stop=_cluster_stop(), patience=patience)
        # Only now that the lease is released: an order that came a moment ago queued nothing.
        if done is not None and is_work_left():
            with Gateway() as gateway:
                if gateway.may_reopen():
                    queue_sweep()
    except GiftcardsError as error:
        logger.error("The task failed: %s", error)  # noqa: TRY400
        return "failed"
    except Exception as error:  # noqa: BLE001 (see the module's docstring)
        logger.error("The task failed: %s", type(error).__name__)  # noqa: TRY400
        return "failed"
    return "another process runs the loop" if done is None else str(done)


def _cluster_stop() -> threading.Event | None:
    """What django-q2 sets when the cluster has to stop, so that the loop need not be waited for.

    It tells its tasks in no way. But a worker is forked in the middle of a method of the object
    that has the event; where it is not, the loop ends by itself after ``LOOP_SECONDS``.
    """
    frame = sys._getframe()  # noqa: SLF001
    while frame := frame.f_back:  # type: ignore[assignment]
        stop = getattr(frame.f_locals.get("self"), "stop_event", None)
        if hasattr(stop, "wait") and hasattr(stop, "is_set"):
            return stop
    return None
