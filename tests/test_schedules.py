"""The schedule of the watchdog: one row, whatever happens."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from django.test import modify_settings
from django.utils import timezone
from django_q.models import Schedule

from giftcards.exceptions import ConfigurationError
from giftcards.schedules import Outcome, ensure_schedule, schedule_problem
from tests.engine import ago, in_threads, stop

pytest_plugins = ["tests.engine_fixtures"]
pytestmark = pytest.mark.django_db

ROW = {
    "name": "giftcards: follow orders",
    "func": "giftcards.tasks.tick",
    "schedule_type": "I",
    "minutes": 1,
    "args": None,
    "kwargs": "{'q_options': {'save': False, 'ack_failure': True}}",
    "hook": None,
    "repeats": -1,
    "cron": None,
    "cluster": None,
}


def row() -> dict[str, Any]:
    return Schedule.objects.values(*ROW).get()


def test_is_created_due_at_once() -> None:
    assert ensure_schedule() is Outcome.CREATED
    assert row() == ROW
    assert Schedule.objects.get().next_run <= timezone.now()


def test_is_left_in_place() -> None:
    ensure_schedule()
    before = Schedule.objects.values().get()
    assert ensure_schedule() is Outcome.IN_PLACE
    assert Schedule.objects.values().get() == before


@pytest.mark.parametrize(
    "change",
    [
        {"minutes": 5},
        {"minutes": None},
        {"schedule_type": "H"},
        {"schedule_type": "O"},
        {"kwargs": None},
        {"kwargs": "{'q_options': {'save': True}}"},
        {"name": None},
        {"name": "mine"},
    ],
)
def test_is_repaired(change: dict[str, Any]) -> None:
    ensure_schedule()
    Schedule.objects.update(**change)
    assert ensure_schedule() is Outcome.REPAIRED
    assert row() == ROW
    assert ensure_schedule() is Outcome.IN_PLACE


@pytest.mark.parametrize("change", [{}, {"minutes": 5, "schedule_type": "H"}])
@pytest.mark.parametrize("choice", [{"repeats": 0}, {"cluster": "other"}, {"next_run": ago(-999)}])
def test_what_a_person_chose_is_kept(change: dict[str, Any], choice: dict[str, Any]) -> None:
    ensure_schedule()
    Schedule.objects.update(**change, **choice)
    ensure_schedule()
    assert Schedule.objects.filter(**choice).exists()


def test_is_one(settings: Any) -> None:
    ensure_schedule()
    first = Schedule.objects.get()
    for name in (first.name, "copy", None):
        Schedule.objects.create(func=first.func, name=name, schedule_type="I", minutes=1)
    assert ensure_schedule() is Outcome.REPAIRED
    assert Schedule.objects.get() == first


def test_others_are_none_of_our_business() -> None:
    Schedule.objects.create(func="shop.tasks.report", name=ROW["name"], schedule_type="D")
    before = Schedule.objects.values().get()
    assert ensure_schedule() is Outcome.CREATED
    assert ensure_schedule() is Outcome.IN_PLACE
    assert Schedule.objects.values().get(func="shop.tasks.report") == before


@pytest.mark.django_db(transaction=True)
def test_threads_at_once(shared_database: str) -> None:
    outcomes = in_threads(4, ensure_schedule)
    assert sorted(outcome.value for outcome in outcomes) == ["created"] + ["in place"] * 3
    assert row() == ROW


@pytest.mark.django_db(transaction=True)
def test_processes_at_once(child: Callable[..., subprocess.Popen[str]]) -> None:
    processes = [child("giftcards_setup") for _process in range(3)]
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    said = sorted(stop(process).split(".")[0] for process in processes)
    assert said == ["The schedule is created"] + ["The schedule is in place"] * 2
    assert row() == ROW


def test_what_is_wrong_with_it() -> None:
    assert schedule_problem() == "There is no schedule: run `manage.py giftcards_setup`."
    ensure_schedule()
    assert schedule_problem() == ""
    Schedule.objects.update(repeats=0)
    assert schedule_problem() == (
        "The schedule is paused: set its repeats to -1 in the admin of django-q2."
    )


@pytest.mark.parametrize("ask", [ensure_schedule, schedule_problem])
def test_without_django_q(ask: Callable[[], object]) -> None:
    without = modify_settings(INSTALLED_APPS={"remove": "django_q"})
    with without, pytest.raises(ConfigurationError) as caught:
        ask()
    assert str(caught.value) == "django-q2 is missing. Add 'django_q' to INSTALLED_APPS."
