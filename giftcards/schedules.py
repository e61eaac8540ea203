"""The django-q2 schedule that calls the watchdog once a minute."""

from __future__ import annotations

import enum
from typing import Any

from django.apps import apps
from django.db import router, transaction
from django.utils import timezone

from giftcards.exceptions import ConfigurationError
from giftcards.models import ProviderState

TICK_TASK = "giftcards.tasks.tick"
_NAME = "giftcards: follow orders"
# As django-q2 keeps it: the text of a dict. Succeeding once a minute is nothing to keep a row of.
_OPTIONS = "{'q_options': {'save': False, 'ack_failure': True}}"


class Outcome(enum.Enum):
    CREATED = "created"
    REPAIRED = "repaired"
    IN_PLACE = "in place"


def _schedules() -> Any:
    """django-q2's schedules; looked up late, so that the system checks can say it is missing."""
    if not apps.is_installed("django_q"):
        raise ConfigurationError("django-q2 is missing. Add 'django_q' to INSTALLED_APPS.")
    return apps.get_model("django_q", "Schedule").objects


def ensure_schedule() -> Outcome:
    """Create the schedule, or repair it; leaves alone when it next runs and whether it is paused.

    django-q2 lets two rows have one name. Processes that get here at the same time are kept apart
    by our own row, which the first statement writes to.
    """
    schedules = _schedules()
    ProviderState.objects.current()
    with transaction.atomic(using=router.db_for_write(schedules.model)):
        ProviderState.objects.filter(pk=1).update(id=1)
        wanted = {
            "name": _NAME,
            "schedule_type": schedules.model.MINUTES,
            "minutes": 1,
            "kwargs": _OPTIONS,
        }
        first, *others = schedules.filter(func=TICK_TASK).order_by("pk") or [None]
        if first is None:
            schedules.create(func=TICK_TASK, repeats=-1, next_run=timezone.now(), **wanted)
            return Outcome.CREATED
        schedules.filter(pk__in=[other.pk for other in others]).delete()
        outdated = {name for name, value in wanted.items() if getattr(first, name) != value}
        schedules.filter(pk=first.pk).update(**wanted)
    return Outcome.REPAIRED if others or outdated else Outcome.IN_PLACE


def schedule_problem() -> str:
    """What keeps the schedule from running, as a sentence that names the fix; "" if nothing."""
    schedule = _schedules().filter(func=TICK_TASK).order_by("pk").first()
    if schedule is None:
        return "There is no schedule: run `manage.py giftcards_setup`."
    if schedule.repeats == 0:
        return "The schedule is paused: set its repeats to -1 in the admin of django-q2."
    return ""
