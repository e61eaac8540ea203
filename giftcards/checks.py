"""The system checks: wrong settings are found by ``manage.py check``, not by an order.

An id stands for one kind of mistake, for ever: shops silence warnings by it. Imported before there
are models, and also where django-q2 is missing, so it imports neither.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from math import ceil, inf
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004
from django.db import router

from giftcards.conf import LOOP_SECONDS, conf, problems
from giftcards.exceptions import ConfigurationError

TAG = "giftcards"
# From conf.Problem.kind.
IDS: Mapping[str, str] = {
    "no_api_key": "giftcards.E001",
    "api_key": "giftcards.E002",
    "no_encryption_keys": "giftcards.E003",
    "encryption_key": "giftcards.E004",
    "unknown": "giftcards.E005",
    "type": "giftcards.E006",
    "range": "giftcards.E007",
    "base_url": "giftcards.E008",
    "insecure": "giftcards.E009",
    "repeated_key": "giftcards.E016",
    "derived_key": "giftcards.E017",
    "currency": "giftcards.E018",
}
# The options that choose a broker. Without any, django-q2 takes Redis on the same machine.
_BROKERS_THAT_REPEAT = ("broker_class", "iron_mq", "sqs", "orm", "mongo")
_BROKERS = (*_BROKERS_THAT_REPEAT, "redis", "django_redis")
# django-q2's own default (seconds), and how it writes "no timeout" besides None.
_DEFAULT_RETRY = 60
_NO_TIMEOUT = -1


def check_settings(**_: object) -> list[CheckMessage]:
    """What is wrong with ``GIFTCARDS``."""
    return [
        Error(problem.message, hint=problem.hint, id=IDS[problem.kind]) for problem in problems()
    ]


def check_cluster(**_: object) -> list[CheckMessage]:
    """Whether django-q2 is there, and will run the loop once, to its end, beside other tasks."""
    if not apps.is_installed("django_q"):
        return [
            Error(
                "django-q2, which follows the orders, is not installed.",
                hint="Add 'django_q' to INSTALLED_APPS.",
                id="giftcards.E010",
            )
        ]
    # Not django_q.conf: that one is read once, when django-q2 is imported.
    cluster = getattr(settings, "Q_CLUSTER", None)
    if not isinstance(cluster, Mapping) or not cluster:
        return [
            Error(
                "Q_CLUSTER is not set: django-q2 would look for Redis on this machine, and let a"
                " task that hangs hold its worker for ever.",
                hint="Set it to a dict, such as the one on the settings page of the documentation.",
                id="giftcards.E013",
            )
        ]
    return [*_check_times(cluster), *_check_workers(cluster), *_check_queue(cluster)]


def _check_times(cluster: Mapping[str, Any]) -> Iterator[CheckMessage]:
    timeout, retry = cluster.get("timeout"), cluster.get("retry", _DEFAULT_RETRY)
    # A fraction is refused by the alarm clock that django-q2 sets: every task would fail.
    if timeout is not None and type(timeout) is not int:
        yield _wrong_type("timeout", "a whole number of seconds, or None")
        return
    if not isinstance(retry, int | float) or isinstance(retry, bool) or not abs(retry) < inf:
        yield _wrong_type("retry", "a number of seconds")
        return
    try:
        needed = ceil(conf.longest_task)
    except ConfigurationError:
        return  # reported by check_settings
    longest = needed if timeout is None or timeout == _NO_TIMEOUT else timeout
    wanted_retry = 2 * max(needed, longest)
    if longest < needed:
        yield Error(
            f"Q_CLUSTER['timeout'] is {timeout} s, but following orders may take {needed} s: it"
            " would be cut short, and an order that is being sent would stay unconfirmed.",
            hint=f"Set 'timeout' to at least {needed}, and 'retry' to at least {wanted_retry}.",
            id="giftcards.E011",
        )
    # Redis forgets a task when it hands it out, so there is no second time.
    if retry <= longest and any(cluster.get(name) for name in _BROKERS_THAT_REPEAT):
        yield Error(
            f"Q_CLUSTER['retry'] is {retry} s, but a task may take {longest} s: it would be"
            " started a second time while it runs.",
            hint=f"Set 'retry' to at least {wanted_retry}: waiting for a free worker counts, too.",
            id="giftcards.E012",
        )


def _wrong_type(name: str, wanted: str) -> CheckMessage:
    return Error(
        f"Q_CLUSTER[{name!r}] must be {wanted}.",
        hint="Correct it, or remove it to get django-q2's default.",
        id="giftcards.E015",
    )


def _check_workers(cluster: Mapping[str, Any]) -> Iterator[CheckMessage]:
    workers = cluster.get("workers") or os.cpu_count() or 4
    if not isinstance(workers, int) or workers < 1:
        yield _wrong_type("workers", "a whole number from 1")
    elif workers == 1:
        # A warning: orders are followed all the same, and a shop may have no other tasks.
        yield Warning(
            "django-q2 has one worker here: while orders are open, every other task waits for"
            f" {LOOP_SECONDS} s at a time.",
            hint="Set Q_CLUSTER['workers'] to 2 or more.",
            id="giftcards.W001",
        )


def _check_queue(cluster: Mapping[str, Any]) -> Iterator[CheckMessage]:
    alias = cluster.get("orm")
    home = router.db_for_write(apps.get_model("django_q", "Schedule"))
    if alias and alias != home:
        yield Error(
            f"Q_CLUSTER['orm'] is {alias!r}, but django-q2 keeps its schedules in {home!r}: it"
            " would queue the first due one again and again, and never get to the others.",
            hint=f"Set it to {home!r}.",
            id="giftcards.E014",
        )
    # Warnings: a project may mean it, in tests or where another cluster does the work.
    if cluster.get("sync"):
        yield Warning(
            "Q_CLUSTER['sync'] is on: tasks would run inside the web request, so orders are not"
            " sent or followed.",
            hint="Remove it, or run `manage.py giftcards_poll --loop`.",
            id="giftcards.W002",
        )
    if not any(cluster.get(name) for name in _BROKERS):
        yield Warning(
            "Q_CLUSTER names no broker: django-q2 would look for Redis on this machine.",
            hint=f"Add 'orm': {home!r}, or say where Redis is with 'redis'.",
            id="giftcards.W003",
        )
    if not cluster.get("scheduler", True):
        yield Warning(
            "Q_CLUSTER['scheduler'] is off: nothing watches over the loop, looks after late orders"
            " or repeats what failed.",
            hint="Remove it, unless another cluster runs the schedules of this database.",
            id="giftcards.W004",
        )
