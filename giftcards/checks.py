"""The system checks that report invalid settings and lost keys.

The id of a check never changes its meaning, because shops silence warnings by id. This module
imports neither the models, which are loaded later, nor django-q2, which might not be installed.
"""

from __future__ import annotations

import inspect
import os
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from math import inf
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, router, transaction
from django.db.models import Q
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.module_loading import import_string

from giftcards.conf import LONGEST_TASK, LOOP_SECONDS, conf, problems
from giftcards.exceptions import ConfigurationError

TAG = "giftcards"
# The id of the message about a setting, by ``SettingProblem.kind``.
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
    "path": "giftcards.E023",
}
# The options that choose a broker. Without any of them, django-q2 uses Redis on the same machine.
_BROKERS_THAT_REPEAT = ("broker_class", "iron_mq", "sqs", "orm", "mongo")
_BROKERS = (*_BROKERS_THAT_REPEAT, "redis", "django_redis")
# The isolation level that Django uses by default.
_READ_COMMITTED = "READ COMMITTED"
# Database options with which a commit does not wait until its data has been written to the disk.
_LOSES_COMMITS = re.compile(
    r"synchronous(_commit)?['\"]?\s*[=:]\s*['\"]?(normal|off|0|1)\b", re.IGNORECASE
)
# Values of django-q2: the default of ``retry`` (seconds), and the ``timeout`` that means that there
# is no time limit.
_DEFAULT_RETRY = 60
_NO_TIMEOUT = -1


@register(TAG)
def check_settings(**_: object) -> list[CheckMessage]:
    """Report invalid or missing values in ``GIFTCARDS``."""
    return [
        Error(problem.message, hint=problem.hint, id=IDS[problem.kind]) for problem in problems()
    ]


@register(TAG)
def check_databases(**_: object) -> list[CheckMessage]:
    """Report tables of the app that are not in the default database.

    The check includes the tables of the optional apps.
    """
    ours = [app for app in apps.get_app_configs() if app.name.partition(".")[0] == "giftcards"]
    models = [model for app in ours for model in app.get_models()]
    aliases = {*map(router.db_for_read, models), *map(router.db_for_write, models)}
    elsewhere = sorted(aliases - {DEFAULT_DB_ALIAS})
    if not elsewhere:
        return []
    return [
        Error(
            f"The tables of giftcards are routed to {' and '.join(map(repr, elsewhere))}. If"
            f" the transaction on {DEFAULT_DB_ALIAS!r} that placed an order were rolled back,"
            " the order would still be bought. A replica would show outdated data.",
            hint=f"Let your database routers return {DEFAULT_DB_ALIAS!r} for reads and writes of"
            " the app 'giftcards' and the apps inside it.",
            id="giftcards.E019",
        )
    ]


@register(TAG)
def check_isolation(**_: object) -> list[CheckMessage]:
    """Warn about an isolation level with which the app has not been tested."""
    connection = connections[DEFAULT_DB_ALIAS]
    level = _isolation(connection.vendor, connection.settings_dict["OPTIONS"])
    if level == _READ_COMMITTED:
        return []
    return [
        Warning(
            f"The database {DEFAULT_DB_ALIAS!r} has the isolation level {level}, with which"
            " giftcards was not tested. If a transaction does not see what other"
            " transactions have committed in the meantime, it may fail, or reserve a card"
            " that is already reserved.",
            hint="Remove 'isolation_level' from its OPTIONS, so that Django uses its default,"
            " READ COMMITTED.",
            id="giftcards.W010",
        )
    ]


def _isolation(vendor: str, options: Mapping[str, Any]) -> str:
    if "isolation_level" not in options or vendor not in {"mysql", "postgresql"}:
        return _READ_COMMITTED
    level = options["isolation_level"]
    if vendor == "mysql":
        return str(level).upper() if level else "of the server"
    # The import is here because the module imports the database driver.
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    return IsolationLevel(level).name.replace("_", " ")


@register(TAG)
def check_durability(**_: object) -> list[CheckMessage]:
    """Warn about database options that risk the loss of committed data."""
    found = _LOSES_COMMITS.search(str(connections[DEFAULT_DB_ALIAS].settings_dict["OPTIONS"]))
    if found is None:
        return []
    return [
        Warning(
            f"The OPTIONS of the database {DEFAULT_DB_ALIAS!r} have {found[0]!r}. If the server"
            " loses power, the database can forget an order that was just sent, and the worker"
            " buys it a second time.",
            hint="Remove this option, or use 'synchronous = FULL' (SQLite) or"
            " 'synchronous_commit = on' (PostgreSQL).",
            id="giftcards.W013",
        )
    ]


@register(TAG)
def check_urls(**_: object) -> list[CheckMessage]:
    """Report a ``REAUTHENTICATE`` value that is not the name of a URL."""
    try:
        name = conf.reauthenticate
    except ConfigurationError:
        return []  # reported by check_settings
    # The settings of a process that only runs workers may have no URLs.
    if name is None or not hasattr(settings, "ROOT_URLCONF"):
        return []
    try:
        reverse(name)
    except NoReverseMatch:
        return [
            Error(
                f"GIFTCARDS['REAUTHENTICATE'] is {name!r}, but there is no URL without"
                " arguments that has this name. Staff could not reveal any codes.",
                hint="Set it to the name of your page's URL, including the namespace. If you"
                " remove the setting, the app asks staff for their password.",
                id="giftcards.E021",
            )
        ]
    return []


# The permission methods of a ``ModelAdmin`` that decide about the page of one order.
_OF_ONE_PAGE = ("has_view_permission", "has_change_permission", "has_delete_permission")


@register(TAG)
def check_admin(**_: object) -> list[CheckMessage]:
    """Report admin classes that override the permissions of the order page.

    These methods can hide only the page of an order. Lists, counts and files would still include
    the order.
    """
    if not apps.is_installed("django.contrib.admin"):
        return []
    from django.contrib.admin.sites import all_sites

    order = apps.get_model("giftcards", "Order")
    used = {type(site.get_model_admin(order)) for site in all_sites if site.is_registered(order)}
    return [
        Error(
            f"{admin} overrides {method}, which affects only the page of an order. Lists,"
            " numbers, messages and files would still show the order.",
            hint="Hide orders with get_queryset, which affects all pages, numbers, messages and"
            " files. Do not give the permission giftcards.view_order to people who may not"
            " see any orders. The app does not let anybody change or delete an order.",
            id="giftcards.E025",
        )
        for admin, method in sorted(chain.from_iterable(map(_overridden, used)))
    ]


def _overridden(admin: type) -> Iterator[tuple[str, str]]:
    for method in _OF_ONE_PAGE:
        owner = next(each for each in admin.__mro__ if method in vars(each))
        if owner.__module__.partition(".")[0] not in {"giftcards", "django"}:
            yield admin.__name__, method


@register(TAG)
def check_functions(**_: object) -> list[CheckMessage]:
    """Report settings that name a function that cannot be imported."""
    found: list[CheckMessage] = []
    for key in ("REVIEW_ORDER", "QUEUE_TASK", "PRICING"):
        try:
            path = conf.get(conf.declared[key])
        except ConfigurationError:
            continue  # reported by check_settings
        if isinstance(path, str):
            found += check_path(f"GIFTCARDS[{key!r}]", path, id="giftcards.E024")
    return found


def check_path(setting: str, path: str, *, id: str) -> list[CheckMessage]:  # noqa: A002
    """Report ``path`` if the object at this path cannot be imported or called."""
    if callable(find(path)):
        return []
    return [
        Error(
            f"{setting} is {path!r}, which cannot be imported or is not callable.",
            hint="Correct the path. The object must exist when the site starts.",
            id=id,
        )
    ]


def find(path: str) -> Any:
    """Return the object at ``path``, or ``None`` if it cannot be imported."""
    try:
        return import_string(path)
    except Exception:  # noqa: BLE001 (a module of the shop may raise anything)
        return None


@register(TAG)
def check_passwords(**_: object) -> list[CheckMessage]:
    """Warn if staff can sign in without a password.

    Staff need a password to reveal codes.
    """
    try:
        if conf.reauthenticate is not None:
            return []
        listed = conf.password_backends
    except ConfigurationError:
        return []  # reported by check_settings
    return [
        Warning(
            f"Staff can log in with {name!r}, which does not use a password. However, staff"
            " need a password to reveal a code.",
            hint="Set GIFTCARDS['REAUTHENTICATE'] to a page of your site where staff prove"
            " their identity. If the backend checks passwords, add it to"
            " GIFTCARDS['PASSWORD_BACKENDS']. If everybody who reveals codes has a password"
            " in your database, silence this warning.",
            id="giftcards.W005",
        )
        for name in settings.AUTHENTICATION_BACKENDS
        if name not in listed and not _takes_password(name)
    ]


# This is the name of the class, because the class cannot be imported before the models are loaded.
_MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"


def _takes_password(backend: str) -> bool:
    authenticate = getattr(find(backend), "authenticate", None)
    if not callable(authenticate):
        return True  # Either it signs nobody in, or Django reports it.
    parameters = inspect.signature(authenticate).parameters
    if "password" in parameters:
        return True
    # A backend may pass all its arguments on to ModelBackend, as the EmailBackend of django-oscar
    # does.
    passes_on = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return passes_on and issubclass(find(backend), find(_MODEL_BACKEND))


@register(TAG, Tags.database)
def check_staff_without_password(
    *, databases: Sequence[str] | None = None, **_: object
) -> list[CheckMessage]:
    """Warn if staff who are allowed to reveal codes do not have a password."""
    alias = router.db_for_read(get_user_model())
    try:
        if alias not in (databases or ()) or conf.reauthenticate or conf.password_backends:
            return []
        with transaction.atomic(using=alias):
            found = _staff_without_password(alias)
    except (ConfigurationError, DatabaseError):
        return []  # reported by check_settings, or there are no tables yet
    if not found:
        return []
    return [
        Warning(
            "Some staff may reveal codes, but do not have a password to prove their identity with:"
            f" {', '.join(found)}.",
            hint="Set GIFTCARDS['REAUTHENTICATE'] to a page of your site where staff prove their"
            " identity, or give these accounts passwords.",
            id="giftcards.W011",
        )
    ]


# The maximum number of staff accounts that a check examines, and the maximum number that its
# message names.
_MOST_STAFF = 200
_MOST_NAMED = 5


def _staff_without_password(alias: str) -> list[str]:
    users = get_user_model()
    names = {field.name for field in users._meta.get_fields()}  # noqa: SLF001
    if not {"is_staff", "is_active", "password"} <= names:
        return []
    staff = users._default_manager.using(alias).filter(is_staff=True, is_active=True)  # noqa: SLF001
    without = staff.filter(Q(password="") | Q(password__startswith=UNUSABLE_PASSWORD_PREFIX))
    found = (user for user in without[:_MOST_STAFF] if user.has_perm("giftcards.reveal_card"))
    return [repr(user.get_username()) for user in islice(found, _MOST_NAMED)]


@register(TAG, Tags.database)
def check_stored_cards(
    *, databases: Sequence[str] | None = None, **_: object
) -> list[CheckMessage]:
    """Report cards that cannot be decrypted, and keys that no card needs.

    Only the newest and the oldest card are decrypted. For the other cards, the key fingerprints are
    compared.
    """
    cards = apps.get_model("giftcards", "Card")
    alias = router.db_for_read(cards)
    if alias not in (databases or ()) or _is_migrating():
        return []
    try:
        with transaction.atomic(using=alias):
            troubles = cards.objects.using(alias).try_keys().values()
            lost, unneeded = cards.objects.using(alias).need_of_keys()
    except (ConfigurationError, DatabaseError):
        return []  # reported by check_settings, or there are no tables yet
    return [
        Error(
            trouble,
            hint="If an encryption key is missing, add it to GIFTCARDS['ENCRYPTION_KEYS'] again."
            " Add it at the end if new cards are encrypted with another key. Without the"
            " key, the codes are lost. If the stored text belongs to another card, somebody"
            " has changed rows of the database. If the codes are lost for good, add"
            " 'giftcards.E020' to SILENCED_SYSTEM_CHECKS.",
            id="giftcards.E020",
        )
        for trouble in dict.fromkeys(filter(None, troubles))
    ] + _need_of_keys(lost, unneeded)


@register(TAG, Tags.database)
def check_api_keys(*, databases: Sequence[str] | None = None, **_: object) -> list[CheckMessage]:
    """Warn if processes that share the database have different API keys."""
    keys = apps.get_model("giftcards", "ApiKey")
    alias = router.db_for_read(keys)
    if alias not in (databases or ()):
        return []
    try:
        with transaction.atomic(using=alias):
            at_work: list[str] = keys.objects.using(alias).at_work(timezone.now())
    except DatabaseError:
        return []  # no tables yet: migrate runs the checks before its work
    if len(at_work) < 2:
        return []
    return [
        Warning(
            f"Processes with different API keys use this database: {', '.join(at_work)}. They"
            " buy orders in different accounts, and one process cannot find the orders that"
            " another process has sent.",
            hint="Configure the same GIFTCARDS['API_KEY'] for every process. If you have just"
            " changed the key and restarted all processes, ignore this warning. It disappears"
            " after 10 minutes.",
            id="giftcards.W008",
        )
    ]


@register(TAG, Tags.database)
def check_queue_is_read(
    *, databases: Sequence[str] | None = None, **_: object
) -> list[CheckMessage]:
    """Warn if tasks are queued but no worker runs them."""
    states = apps.get_model("giftcards", "ProviderState")
    alias = router.db_for_read(states)
    if alias not in (databases or ()):
        return []
    try:
        has_queue = conf.has_queue
        with transaction.atomic(using=alias):
            state = states.objects.using(alias).first()
    except (ConfigurationError, DatabaseError):
        # Another check reports wrong settings. Before the first migration, there are no tables.
        return []
    if state is None or not has_queue or state.is_queue_read(timezone.now()):
        return []
    return [
        Warning(
            "Tasks wait in the queue, but no worker takes them. Messages are sent a minute"
            " late, or are not sent at all.",
            hint="Start the queue's workers, for example with `manage.py qcluster`. If another"
            " process is meant to do the work, for example `manage.py giftcards_poll"
            " --tick`, remove 'django_q' from INSTALLED_APPS, or remove"
            " GIFTCARDS['QUEUE_TASK'].",
            id="giftcards.W012",
        )
    ]


def _is_migrating() -> bool:
    """True if ``migrate`` runs the checks.

    In this case, the check of stored cards is skipped, because lost codes must not stop a
    migration. Django does not pass the name of the command to a check, so this function searches
    the call stack.
    """
    from django.core.management.commands.migrate import Command

    callers = (frame.f_locals.get("self") for frame, _line in traceback.walk_stack(None))
    return any(isinstance(caller, Command) for caller in callers)


def _need_of_keys(lost: int, unneeded: Sequence[int]) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    if lost:
        messages.append(
            Error(
                "GIFTCARDS['ENCRYPTION_KEYS'] does not contain the keys of all stored cards."
                f" Cards that cannot be decrypted: {lost}.",
                hint="Add the missing key at the end of the list again, and run `manage.py"
                " giftcards_rotate_keys` before you remove it. If the key is lost for good,"
                " add 'giftcards.E022' to SILENCED_SYSTEM_CHECKS.",
                id="giftcards.E022",
            )
        )
    messages += [
        Warning(
            f"Key {position} of GIFTCARDS['ENCRYPTION_KEYS'] is not used by any stored card.",
            hint="If every process already uses the key in front of it, run `manage.py"
            " giftcards_rotate_keys --verify` to check that you no longer need this key, and"
            " remove it. A removed key cannot leak. If you are about to move this key to the"
            " front, ignore this warning.",
            id="giftcards.W006",
        )
        for position in unneeded
    ]
    return messages


@register(TAG)
def check_cluster(**_: object) -> list[CheckMessage]:
    """Report ``Q_CLUSTER`` values that do not suit the tasks of the app."""
    if not conf.uses_django_q:
        return []
    # ``settings`` is read here, because django_q.conf reads it only once, when django-q2 is
    # imported.
    cluster = getattr(settings, "Q_CLUSTER", None)
    if not isinstance(cluster, Mapping) or not cluster:
        return [
            Error(
                "Q_CLUSTER is not set. django-q2 would look for Redis on this machine, and a"
                " task that hangs would occupy its worker for ever.",
                hint="Set it to a dict, for example the one on the documentation page about"
                " workers.",
                id="giftcards.E013",
            )
        ]
    return [*_check_times(cluster), *_check_workers(cluster), *_check_queue(cluster)]


def _check_times(cluster: Mapping[str, Any]) -> Iterator[CheckMessage]:
    timeout, retry = cluster.get("timeout"), cluster.get("retry", _DEFAULT_RETRY)
    # django-q2 passes the value to signal.alarm(), which does not accept fractions. Every task
    # would fail.
    if timeout is not None and type(timeout) is not int:
        yield _wrong_type("timeout", "a whole number of seconds, or None")
        return
    if not isinstance(retry, int | float) or isinstance(retry, bool) or not abs(retry) < inf:
        yield _wrong_type("retry", "a number of seconds")
        return
    needed = LONGEST_TASK
    longest = needed if timeout is None or timeout == _NO_TIMEOUT else timeout
    wanted_retry = 2 * max(needed, longest)
    if longest < needed:
        yield Error(
            f"Q_CLUSTER['timeout'] is {timeout} s, but a task that follows orders may take"
            f" {needed} s. django-q2 would stop the task early, and an order that is being"
            " sent would stay unconfirmed.",
            hint=f"Set 'timeout' to at least {needed}, and 'retry' to at least {wanted_retry}.",
            id="giftcards.E011",
        )
    # Redis never repeats a task: it removes the task as soon as a worker takes it.
    if retry <= longest and any(cluster.get(name) for name in _BROKERS_THAT_REPEAT):
        yield Error(
            f"Q_CLUSTER['retry'] is {retry} s, but a task may take {longest} s. django-q2"
            " would start the task a second time while it runs.",
            hint=f"Set 'retry' to at least {wanted_retry}, because the time that a task waits for"
            " a free worker counts, too.",
            id="giftcards.E012",
        )


def _wrong_type(name: str, wanted: str) -> CheckMessage:
    return Error(
        f"Q_CLUSTER[{name!r}] must be {wanted}.",
        hint="Correct the value, or remove it to use the default of django-q2.",
        id="giftcards.E015",
    )


def _check_workers(cluster: Mapping[str, Any]) -> Iterator[CheckMessage]:
    workers = cluster.get("workers") or os.cpu_count() or 4
    if not isinstance(workers, int) or workers < 1:
        yield _wrong_type("workers", "a whole number from 1")
    elif workers == 1:
        # A single worker causes only a warning, because orders are still processed, and the shop
        # may not have other tasks.
        yield Warning(
            "django-q2 has only one worker. While orders are open, every other task waits"
            f" for {LOOP_SECONDS} s at a time.",
            hint="Set Q_CLUSTER['workers'] to 2 or more.",
            id="giftcards.W001",
        )


def _check_queue(cluster: Mapping[str, Any]) -> Iterator[CheckMessage]:
    alias = cluster.get("orm")
    home = router.db_for_write(apps.get_model("django_q", "Schedule"))
    if alias and alias != home:
        yield Error(
            f"Q_CLUSTER['orm'] is {alias!r}, but django-q2 stores its schedules in {home!r}."
            " It would queue the first due schedule again and again, and never reach the"
            " others.",
            hint=f"Set it to {home!r}.",
            id="giftcards.E014",
        )
    # The following checks only warn, because some installations need these values. For example,
    # tests use ``sync``, and another cluster may run the schedules.
    if cluster.get("sync"):
        yield Warning(
            "Q_CLUSTER['sync'] is on. Tasks would run inside the web request, so that orders"
            " are not sent or followed.",
            hint="Remove the option, or run `manage.py giftcards_worker`.",
            id="giftcards.W002",
        )
    if not any(cluster.get(name) for name in _BROKERS):
        yield Warning(
            "Q_CLUSTER does not name a broker. django-q2 would look for Redis on this machine.",
            hint=f"Set 'orm' to {home!r}, or set 'redis' to the address of Redis.",
            id="giftcards.W003",
        )
    if not cluster.get("scheduler", True):
        yield Warning(
            "Q_CLUSTER['scheduler'] is off. Therefore no schedule restarts the worker's"
            " loop, checks late orders or repeats failed work.",
            hint="Remove the option, unless another cluster runs the schedules of this database.",
            id="giftcards.W004",
        )
