"""The task that sends messages. Like the other tasks, it returns counts and never raises.

A mail server that hangs must delay nothing but mail. So messages occupy at most all workers but
two, or a single one if there are no more than two. Where there is only one worker, it spends a few
seconds at a time on messages.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from django.utils import timezone

from giftcards.conf import LOOP_SECONDS
from giftcards.conf import conf as core
from giftcards.delivery import digests
from giftcards.delivery.channels import Limits
from giftcards.delivery.models import Delivery
from giftcards.delivery.queueing import QUEUED, tell_of_lost_refunds, wake
from giftcards.delivery.sending import SendingTally, send_due
from giftcards.engine.background import Work
from giftcards.engine.task_queue import cluster_stop, is_run_by_queueing, workers
from giftcards.engine.timings import timings
from giftcards.exceptions import GiftcardsError
from giftcards.management.output import counted
from giftcards.models import Lease

logger = logging.getLogger(__name__)

# Number of the leases on sending; each task takes one.
_MOST_SLOTS = 4
# Longer than the task, so that the lease need not be renewed.
_SLOT_FOR = timedelta(minutes=2)
_LONGEST_TASK = 100.0
# Time reserved for recording before a task would be cut short (seconds).
_RECORDING_SECONDS = 10.0
# The least time that an attempt has once it begins (seconds).
_SHORTEST_ATTEMPT = 20.0
# With a single worker: the time in which attempts begin, and the time for the last one (seconds).
_ALONE_SECONDS, _ALONE_ATTEMPT = 5.0, 10.0


def deliver() -> str:
    """Send what is due, and queue another task if something is left; return counts in words."""
    if is_run_by_queueing():
        return "refused"
    stop = cluster_stop() or threading.Event()
    try:
        # Allows queueing another task: messages queued from now on may come too late for this one.
        Lease.objects.revoke(QUEUED)
        tell_of_lost_refunds()
        return _send(stop)
    except GiftcardsError as error:
        logger.error("The task failed: %s", error)  # noqa: TRY400
    except Exception as error:  # noqa: BLE001 (see the module's docstring)
        logger.error("The task failed: %s", type(error).__name__)  # noqa: TRY400
    return "failed"


def _send(stop: threading.Event) -> str:
    number = workers()
    slot = _take_slot(max(1, min(number - 2, _MOST_SLOTS)))
    if slot is None:
        return "other processes send the messages"
    try:
        limits = _limits(stop, number)
        done = _send_and_wait(limits, stop, may_wait=number > 2)
        # Digests come last, because customers wait for their messages.
        told = digests.send_due(limits, has_mailed=done.has_mailed)
    finally:
        Lease.objects.release(*slot)
    # After the release: a task that ran meanwhile found no slot and ended. A server that is away is
    # left alone until the next minute.
    if not done.is_cut_short and Delivery.objects.due(timezone.now()).exists():
        wake()
    return f"{done}; {counted(told, 'digest')} for staff"


def _take_slot(number: int) -> tuple[str, str] | None:
    """The name and the token of a lease on sending; ``None`` if others hold all of them."""
    for name in (f"messages {index}" for index in range(number)):
        if token := Lease.objects.take(name, _SLOT_FOR):
            return name, token
    return None


def _limits(stop: threading.Event, number_of_workers: int) -> Limits:
    now = time.monotonic()

    def may_go_on() -> bool:
        return not stop.is_set()

    if number_of_workers < 2:
        return Limits(may_go_on, now + _ALONE_SECONDS, now + _ALONE_SECONDS + _ALONE_ATTEMPT)
    seconds = min(core.longest_task, _LONGEST_TASK) - _RECORDING_SECONDS
    return Limits(may_go_on, now + min(LOOP_SECONDS, seconds - _SHORTEST_ATTEMPT), now + seconds)


def _send_and_wait(limits: Limits, stop: threading.Event, *, may_wait: bool) -> SendingTally:
    """Send what is due now, and if the worker may wait, also what is due soon."""
    wait_until = time.monotonic() + timings.task_wait
    done = send_due(limits)
    while may_wait and not done.is_cut_short and _wait(limits, stop, until=wait_until):
        done += send_due(limits)
    return done


def _wait(limits: Limits, stop: threading.Event, *, until: float) -> bool:
    """Wait for a message that is due by ``until``; return False if there is none."""
    while limits.may_begin():
        due_at = Delivery.objects.next_due_at()
        if due_at is None:
            return False
        seconds = (due_at - timezone.now()).total_seconds()
        if seconds <= 0:
            return True
        if time.monotonic() + seconds > until:
            return False
        # Poll, because another message may be queued meanwhile.
        stop.wait(min(seconds, timings.task_poll))
    return False


def send_messages(
    may_go_on: Callable[[], bool], tell: Callable[[str], object] = lambda _: None
) -> bool:
    """Send what is due; False if a server was away. ``tell`` gets counts in words."""
    tell_of_lost_refunds()
    limits = Limits(may_go_on)
    done = send_due(limits)
    # Digests come last, because customers wait for their messages.
    told = digests.send_due(limits, has_mailed=done.has_mailed)
    if told or done != SendingTally():
        tell(f"{done}; {counted(told, 'digest')} for staff.")
    return not done.is_cut_short


MESSAGES = Work(
    name="the messages",
    do=send_messages,
    is_prompt=True,
    is_due=lambda: Delivery.objects.due(timezone.now()).exists(),
    wake=wake,
)
