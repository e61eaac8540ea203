"""The task that sends messages.

Like all tasks of this app, this task returns counts and never raises an error. A mail server that
does not respond must not delay orders. Therefore, if there are three or more workers, at least two
of them are always kept free for other tasks. If there are two workers, one of them is always kept
free. A single worker sends messages only for a few seconds at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from django.utils import timezone

from giftcards.conf import LONGEST_TASK, LOOP_SECONDS
from giftcards.delivery import digests
from giftcards.delivery.channels import Limits
from giftcards.delivery.models import Delivery
from giftcards.delivery.queueing import QUEUED, tell_of_lost_refunds, wake
from giftcards.delivery.sending import SendingTally, send_due
from giftcards.engine.background import Work
from giftcards.engine.task_queue import cluster_stop, is_run_by_queueing, workers
from giftcards.engine.tuning import tuning
from giftcards.exceptions import GiftcardsError
from giftcards.management.output import counted
from giftcards.models import Lease, ProviderState

logger = logging.getLogger(__name__)

# The most tasks that send messages at the same time. Each task takes a lease.
_MOST_SLOTS = 4
# The length of each task's lease. It is longer than any task, so tasks do not have to renew their
# leases.
_SLOT_FOR = timedelta(minutes=2)
# The time at the end of a task that is reserved for recording outcomes (seconds).
_RECORDING_SECONDS = 10.0
# A task begins an attempt only if at least this time is left for the attempt (seconds).
_SHORTEST_ATTEMPT = 20.0
# The seconds for which a single worker may begin attempts, and the additional seconds after which
# its last attempt must have ended.
_ALONE_SECONDS, _ALONE_ATTEMPT = 5.0, 10.0


def deliver() -> str:
    """Send the due messages, and return a summary in words.

    If messages are still due at the end, the function queues another task, unless a server is
    failing.
    """
    if is_run_by_queueing():
        return "refused"
    stop = cluster_stop() or threading.Event()
    try:
        # From here on, another task can be queued, because this task might miss messages that are
        # added later.
        Lease.objects.revoke(QUEUED)
        ProviderState.objects.note_queue_read()
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
        return "other processes are already sending the messages"
    try:
        limits = _limits(stop, number)
        done = _send_and_wait(limits, stop, may_wait=number > 2)
        # Digests come last, because customers wait for their messages.
        told = digests.send_due(limits)
    finally:
        Lease.objects.release(*slot)
    # The lease is released before the next task is queued, because that task needs a lease. If a
    # server is failing, no task is queued before the next minute.
    if not done.is_cut_short and Delivery.objects.due(timezone.now()).exists():
        wake()
    return f"{done}; {counted(told, 'digest')} for staff"


def _take_slot(number_of_slots: int) -> tuple[str, str] | None:
    """Acquire one of the leases for sending.

    Returns the name and the token of the lease, or ``None``.
    """
    for name in (f"messages {index}" for index in range(number_of_slots)):
        if token := Lease.objects.take(name, _SLOT_FOR):
            return name, token
    return None


def _limits(stop: threading.Event, number_of_workers: int) -> Limits:
    now = time.monotonic()

    def may_go_on() -> bool:
        return not stop.is_set()

    if number_of_workers < 2:
        return Limits(may_go_on, now + _ALONE_SECONDS, now + _ALONE_SECONDS + _ALONE_ATTEMPT)
    seconds = LONGEST_TASK - _RECORDING_SECONDS
    return Limits(may_go_on, now + min(LOOP_SECONDS, seconds - _SHORTEST_ATTEMPT), now + seconds)


def _send_and_wait(limits: Limits, stop: threading.Event, *, may_wait: bool) -> SendingTally:
    """Send the due messages.

    If ``may_wait`` is True, the function also waits for messages that become due soon.
    """
    wait_until = time.monotonic() + tuning.task_wait
    done = send_due(limits)
    while may_wait and not done.is_cut_short and _wait(limits, stop, until=wait_until):
        done += send_due(limits)
    return done


def _wait(limits: Limits, stop: threading.Event, *, until: float) -> bool:
    """Wait until a message is due, but not beyond the given time.

    Returns True as soon as a message is due. Returns False if no message becomes due by then, or if
    ``limits`` end the wait.
    """
    while limits.may_begin():
        due_at = Delivery.objects.next_due_at()
        if due_at is None:
            return False
        seconds = (due_at - timezone.now()).total_seconds()
        if seconds <= 0:
            return True
        if time.monotonic() + seconds > until:
            return False
        # The task waits only briefly before it checks again, because a new message may be queued in
        # the meantime.
        stop.wait(min(seconds, tuning.task_poll))
    return False


def send_messages(may_go_on: Callable[[], bool]) -> bool:
    """Send the due messages and digests.

    Returns False if a failing server kept the function from sending all messages.
    """
    tell_of_lost_refunds()
    limits = Limits(may_go_on)
    done = send_due(limits)
    # Digests come last, because customers wait for their messages.
    digests.send_due(limits)
    return not done.is_cut_short


MESSAGES = Work(
    name="the messages",
    do=send_messages,
    is_prompt=True,
    is_due=lambda: Delivery.objects.due(timezone.now()).exists(),
    wake=wake,
)
