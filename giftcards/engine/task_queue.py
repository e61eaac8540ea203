"""Queueing tasks with django-q2 or the shop's own queue.

If there is no queue, the app does not queue tasks, and ``giftcards_poll`` follows the orders.
"""

from __future__ import annotations

import enum
import logging
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from django.apps import apps
from django.db import connections, router, transaction
from django.db.models import Count, F, Min, QuerySet
from django.utils import timezone
from django.utils.module_loading import import_string
from django.utils.translation import gettext

from giftcards.conf import conf
from giftcards.engine.threads import start_thread
from giftcards.engine.tuning import tuning
from giftcards.models import Lease, ProviderState
from giftcards.rules.problems import ASK_DEVELOPER, Explanation

logger = logging.getLogger(__name__)

SWEEP_TASK = "giftcards.tasks.sweep"
TICK_TASK = "giftcards.tasks.tick"
# A tick by django-q2 begins within this time, unless the workers are busy.
_LATE = timedelta(minutes=2)
_CONSOLATION = "The next tick does the work within about a minute."
# The longest wait for a broker outside the database (seconds).
_BROKER_PATIENCE = 0.5
_NAME = "giftcards: follow orders"
# The results of successful tasks are not saved, because they could be read in the database and in
# the admin.
_OPTIONS = {"save": False, "ack_failure": True}
_ASSUMED_WORKERS = 2
# ``is_queueing`` is True while this thread hands a task to a queue.
_thread = threading.local()


class Outcome(enum.Enum):
    CREATED = "created"
    REPAIRED = "repaired"
    IN_PLACE = "in place"


def _schedules() -> Any:
    return apps.get_model("django_q", "Schedule").objects


def ensure_schedule() -> Outcome | None:
    """Create or repair the schedule of django-q2.

    The time of the next run does not change, and a paused schedule stays paused. Returns ``None``
    if django-q2 does not run the tasks. The function locks a row in a table of this app, so that
    two processes do not both create the schedule. django-q2 does not have a unique constraint that
    would prevent this.
    """
    if not conf.uses_django_q:
        return None
    schedules = _schedules()
    lock, _ = Lease.objects.get_or_create(name=Lease.SCHEDULE)
    # The schedule and the lock may be in different databases, so the lock is held until the
    # schedule is committed.
    with transaction.atomic(), transaction.atomic(using=router.db_for_write(schedules.model)):
        lock.save(force_update=True)
        wanted = {
            "name": _NAME,
            "schedule_type": schedules.model.MINUTES,
            "minutes": 1,
            "kwargs": repr({"q_options": _OPTIONS}),  # django-q2 stores the text of a dict
        }
        first, *others = schedules.filter(func=TICK_TASK).order_by("pk") or [None]
        if first is None:
            schedules.create(func=TICK_TASK, repeats=-1, next_run=timezone.now(), **wanted)
            return Outcome.CREATED
        schedules.filter(pk__in=[other.pk for other in others]).delete()
        outdated = {name for name, value in wanted.items() if getattr(first, name) != value}
        schedules.filter(pk=first.pk).update(**wanted)
    return Outcome.REPAIRED if others or outdated else Outcome.IN_PLACE


def explain_schedule() -> Explanation:
    """Explain why the schedule does not run, and how to make it run.

    The text is "" if the schedule runs, or if django-q2 does not run the tasks.
    """
    if not conf.uses_django_q:
        return Explanation("")
    schedule = _schedules().filter(func=TICK_TASK).order_by("pk").first()
    if schedule is None:
        text, hint = (
            gettext("There is no schedule for the background work."),
            gettext("Run `manage.py giftcards_setup`."),
        )
        return Explanation(text, str(ASK_DEVELOPER), hint)
    if schedule.repeats == 0:
        text = gettext("The schedule for the background work is paused.")
        hint = gettext("In the django-q2 admin, set the schedule's repeats to -1.")
        return Explanation(text, str(ASK_DEVELOPER), hint)
    return Explanation("")


def schedule_problem() -> str:
    """Return the text of :func:`explain_schedule` for developers."""
    return explain_schedule().for_developers


def next_tick(state: ProviderState) -> datetime | None:
    """Return the time of the schedule's next run.

    Returns ``None`` if django-q2 does not run the tasks, or if its schedule is missing or paused.
    Also returns ``None`` if a run is overdue, but a worker has since reported that it is running.
    In this case, an endless loop or cron does the work instead of the schedule.
    """
    if not conf.uses_django_q:
        return None
    runs = _schedules().filter(func=TICK_TASK).exclude(repeats=0).order_by("pk")
    next_run: datetime | None = runs.values_list("next_run", flat=True).first()
    is_elsewhere = next_run and state.last_tick_at and next_run < state.last_tick_at - _LATE
    return None if is_elsewhere else next_run


class Backlog(NamedTuple):
    """The number of waiting items, and when the first began to wait.

    ``since`` is ``None`` if there are no waiting items.
    """

    number: int
    since: datetime | None


def waiting_tasks() -> Backlog | None:
    """Return how many tasks are waiting in the queue, and since when.

    Returns ``None`` if :func:`tasks_in_queue` returns ``None``.
    """
    waiting = tasks_in_queue()
    if waiting is None:
        return None
    found = waiting.aggregate(count=Count("pk"), since=Min("lock"))
    return Backlog(found["count"], found["since"])


def tasks_in_queue() -> QuerySet[Any] | None:
    """Return the tasks that no worker has taken yet.

    The result includes tasks of other apps, because they delay our tasks. Returns ``None`` if
    django-q2 does not store the queue in the database.
    """
    if not (conf.uses_django_q and _is_broker_in_database()):
        return None
    from django_q.conf import Conf

    queue: QuerySet[Any] = apps.get_model("django_q", "OrmQ").objects.using(Conf.ORM)
    # A task that a worker has taken is locked until it counts as lost.
    return queue.filter(key=Conf.CLUSTER_NAME, lock__lte=timezone.now())


def follow_clock(*, span: timedelta, now: datetime, **_named: object) -> None:
    """Move the next run of django-q2's schedule by ``span``.

    ``span`` is the difference by which the clock was set back.
    """
    if apps.is_installed("django_q"):
        ahead = _schedules().filter(func=TICK_TASK, next_run__gt=now)
        ahead.update(next_run=F("next_run") + span)


def workers() -> int:
    """Return the number of workers that run tasks.

    If django-q2 does not run the tasks, the number is unknown, and the function assumes two
    workers.
    """
    if not conf.uses_django_q:
        return _ASSUMED_WORKERS
    from django_q.conf import Conf

    return int(Conf.WORKERS)


def wake_worker() -> None:
    """Queue the loop when the current transaction commits.

    If there is no transaction, the loop is queued immediately. Does nothing if the loop is running,
    if it was queued a moment ago, or if there is no queue. The function never raises an exception,
    and never waits long for a broker that is down. If the loop cannot be queued, the task that runs
    every minute starts it.
    """
    transaction.on_commit(_wake, robust=True)


def _wake() -> None:
    if not Lease.objects.is_taken(Lease.LOOP):
        queue_once(SWEEP_TASK, lease=Lease.QUEUED_SWEEP, span=tuning.lease)


def queue_once(path: str, *, lease: str, span: timedelta) -> None:
    """Queue the function at the dotted ``path``, at most once per ``span``.

    ``lease`` is the name of the lease that records when the function was last queued.
    """
    if conf.has_queue and Lease.objects.take(lease, span):
        queue_task(path)


def is_queue_read() -> bool:
    """Return True if there is a queue and workers take tasks from it."""
    if not conf.has_queue:
        # Tasks that were queued before the queue was removed do not count.
        ProviderState.objects.note_queue_read()
        return False
    is_in_cluster = cluster_stop() is not None
    return is_in_cluster or ProviderState.objects.current().is_queue_read(timezone.now())


def queue_task(path: str) -> None:
    """Queue the function at ``path`` without arguments.

    Does nothing if there is no queue. If the queue fails, the error is logged. Do not call this
    function in a transaction.
    """
    own = conf.queue_task
    if conf.has_queue:
        ProviderState.objects.note_queued()
    if own is not None:
        _enqueue_patiently(lambda: import_string(own)(path))
    elif conf.uses_django_q:
        _queue_with_django_q(path)


def _queue_with_django_q(path: str) -> None:
    # django-q2 is imported here, because it is not installed on every site.
    from django_q.conf import Conf
    from django_q.tasks import async_task

    if Conf.SYNC:
        # In django-q2's test mode, the task would run inside the web request.
        return
    queue = partial(async_task, path, q_options=_OPTIONS)
    if _is_broker_in_database():
        # The broker uses the database connection of this thread, so no other thread can queue the
        # task.
        _enqueue(queue)
    else:
        _enqueue_patiently(queue)


def _enqueue_patiently(queue: Callable[[], object]) -> None:
    # Brokers have no common option for a time-out, so a thread queues the task. It ends when the
    # broker answers.
    thread = start_thread(_enqueue_in_thread, queue)
    if thread is None:
        logger.error("The task could not be queued. %s", _CONSOLATION)
        return
    thread.join(_BROKER_PATIENCE)
    if thread.is_alive():
        logger.error("The task queue does not answer. %s", _CONSOLATION)


def _is_broker_in_database() -> bool:
    """Return True if django-q2 uses its ORM broker.

    django-q2 uses this broker if no other broker is configured.
    """
    from django_q.conf import Conf

    return bool(Conf.ORM) and not (Conf.BROKER_CLASS or Conf.IRON_MQ or Conf.SQS)


def _enqueue_in_thread(queue: Callable[[], object]) -> None:
    try:
        _enqueue(queue)
    finally:
        # A receiver of django-q2's signals may have opened a connection in this thread.
        connections.close_all()


def _enqueue(queue: Callable[[], object]) -> None:
    _thread.is_queueing = True
    try:
        queue()
    except Exception as error:  # noqa: BLE001 (a broker may raise anything)
        # The text of the error is not logged, because the URL of a broker may contain a password.
        logger.error(  # noqa: TRY400
            "Queueing a task failed: %s. %s", type(error).__name__, _CONSOLATION
        )
    finally:
        _thread.is_queueing = False


def is_run_by_queueing() -> bool:
    """Return True if a task runs inside the call that should only queue it.

    In the test mode of a queue, tasks run in the call that queues them. A task must then do
    nothing, because a web request waits for the task to end.
    """
    is_queueing: bool = getattr(_thread, "is_queueing", False)
    if is_queueing:
        logger.error(
            "A task ran immediately instead of being queued, so it did not do any work. Orders"
            " wait until a worker or `manage.py giftcards_poll` follows them."
        )
    return is_queueing


def cluster_stop() -> threading.Event | None:
    """Return the event with which django-q2 stops the cluster, or ``None``.

    When the event is set, the loop can end before its time limit. django-q2 does not pass the event
    to tasks, so the function searches the call stack for it. django-q2's ``Sentinel`` has the event
    and forks the workers, and therefore the stack of each worker contains a method of the
    ``Sentinel``.
    """
    # The module is not imported here, because a worker has already loaded it.
    sentinel = getattr(sys.modules.get("django_q.cluster"), "Sentinel", None)
    if sentinel is None:
        return None
    frame = sys._getframe()  # noqa: SLF001
    while frame := frame.f_back:  # type: ignore[assignment]
        caller = frame.f_locals.get("self")
        if isinstance(caller, sentinel):
            return getattr(caller, "stop_event", None)
    return None
