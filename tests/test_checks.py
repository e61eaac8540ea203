"""The system checks, by id: what they report, with which texts, and what they accept."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.fernet import Fernet
from django.apps import AppConfig, apps
from django.contrib.admin import AdminSite
from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.hashers import make_password
from django.core.checks import CheckMessage, Error, Warning, run_checks  # noqa: A004
from django.core.exceptions import ImproperlyConfigured
from django.db import ProgrammingError, connection, connections
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django.test import modify_settings
from django.utils import timezone

from giftcards import checks
from giftcards.admin import OrderAdmin
from giftcards.checks import check_durability, check_isolation, check_staff_without_password
from giftcards.conf import problems
from giftcards.models import ApiKey, Order, ProviderState
from giftcards.privacy.rotation import rotate
from tests import settings as of_tests
from tests.builders import PARTIAL, settle
from tests.conftest import Call
from tests.stage import ROOT, ago, use_keys

# Newer versions of Django also run the checks of the database by default.
pytestmark = pytest.mark.django_db

IDS = set(re.findall(r"giftcards\.[EW]\d{3}", Path(checks.__file__).read_text()))

KEY = "sk-CANARY-ca11ab1e"
SEALING, OTHER = (Fernet.generate_key().decode() for _ in range(2))
DERIVED = base64.urlsafe_b64encode(hashlib.sha256(b"tests-only").digest()).decode()
GIFTCARDS: dict[str, Any] = {"API_KEY": KEY, "ENCRYPTION_KEYS": [SEALING]}
# The options are as few as possible; each case adds the options that matter.
CLUSTER: dict[str, Any] = {"orm": "default", "workers": 2, "timeout": 70, "retry": 71}

DEFAULT = "Correct the value, or remove it to use the default of django-q2."


class Elsewhere:
    """A router that keeps django-q2 in a database of its own."""

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return "queue" if model._meta.app_label == "django_q" else None


class GiftcardsElsewhere:
    """A router that keeps the app in a database of its own."""

    label = "giftcards"

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return "cards" if model._meta.app_label == self.label else None


class Replica:
    """A router that reads from a replica."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "replica"


OVERRIDDEN = Error(
    "HidingAdmin overrides has_view_permission, which affects only the page of an order."
    " Lists, numbers, messages and files would still show the order.",
    hint="Hide orders with get_queryset, which affects all pages, numbers, messages and files. Do"
    " not give the permission giftcards.view_order to people who may not see any orders. The"
    " app does not let anybody change or delete an order.",
    id="giftcards.E025",
)
ROUTED = Error(
    "The tables of giftcards are routed to 'cards'. If the transaction on 'default' that"
    " placed an order were rolled back, the order would still be bought. A replica would"
    " show outdated data.",
    hint="Let your database routers return 'default' for reads and writes of the app 'giftcards'"
    " and the apps inside it.",
    id="giftcards.E019",
)


def found() -> list[CheckMessage]:
    # Django keeps the check functions in a set, so their order varies.
    return sorted(run_checks(tags=[checks.TAG]), key=lambda message: str(message.id))


@pytest.fixture(autouse=True)
def _shop(settings: Any) -> None:
    settings.GIFTCARDS = GIFTCARDS
    settings.Q_CLUSTER = CLUSTER


# Settings without a message


def test_the_smallest_valid_configuration_gives_no_message() -> None:
    assert found() == []


def test_the_test_settings_give_no_message(settings: Any) -> None:
    settings.GIFTCARDS = of_tests.GIFTCARDS
    settings.Q_CLUSTER = of_tests.Q_CLUSTER  # type: ignore[attr-defined]
    assert run_checks() == []


def test_the_example_project_gives_no_message() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIFTCARDS_")}
    # The database of the tests cannot be reached here, and Django 6.1 asks it for its version.
    environment["DATABASE_URL"] = "sqlite://:memory:"
    environment["DJANGO_SETTINGS_MODULE"] = "example_project.settings"
    command = [sys.executable, "manage.py", "check", "--fail-level", "INFO"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


# One id for each mistake


class Case(NamedTuple):
    """A mistake in one of the two settings, and the only message that it causes."""

    message: CheckMessage
    giftcards: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    cluster: dict[str, Any] = {}  # noqa: RUF012


# Mistakes in the settings are reported with the texts of giftcards.conf, which has its own tests.
IN_SETTINGS: dict[str, dict[str, Any]] = {
    "E001": {"API_KEY": ""},
    "E002": {"API_KEY": f"{KEY}\n"},
    "E003": {"ENCRYPTION_KEYS": []},
    "E004": {"ENCRYPTION_KEYS": [SEALING, OTHER[:-4]]},
    "E005": {"POLL_INTERVALL": 5},
    "E006": {"POLL_INTERVAL": "5"},
    "E007": {"POLL_INTERVAL": 0},
    "E008": {"BASE_URL": "https://api.oneclickdz.com/v3"},
    "E009": {"BASE_URL": "http://api.oneclickdz.com"},
    "E016": {"ENCRYPTION_KEYS": [SEALING, SEALING]},
    "E017": {"ENCRYPTION_KEYS": [DERIVED]},
    "E023": {"REVIEW_ORDER": "review"},
}
CASES = [
    Case(
        Error(
            "Q_CLUSTER['timeout'] is 69 s, but a task that follows orders may take 70 s."
            " django-q2 would stop the task early, and an order that is being sent would"
            " stay unconfirmed.",
            hint="Set 'timeout' to at least 70, and 'retry' to at least 140.",
            id="giftcards.E011",
        ),
        cluster={"timeout": 69},
    ),
    Case(
        Error(
            "Q_CLUSTER['retry'] is 90 s, but a task may take 90 s. django-q2 would start the"
            " task a second time while it runs.",
            hint="Set 'retry' to at least 180, because the time that a task waits for a free"
            " worker counts, too.",
            id="giftcards.E012",
        ),
        cluster={"timeout": 90, "retry": 90},
    ),
    Case(
        Error(
            "Q_CLUSTER['orm'] is 'other', but django-q2 stores its schedules in 'default'."
            " It would queue the first due schedule again and again, and never reach the"
            " others.",
            hint="Set it to 'default'.",
            id="giftcards.E014",
        ),
        cluster={"orm": "other"},
    ),
    Case(
        Error(
            "Q_CLUSTER['timeout'] must be a whole number of seconds, or None.",
            hint=DEFAULT,
            id="giftcards.E015",
        ),
        cluster={"timeout": 90.0},
    ),
    Case(
        Warning(
            "django-q2 has only one worker. While orders are open, every other task waits"
            " for 40 s at a time.",
            hint="Set Q_CLUSTER['workers'] to 2 or more.",
            id="giftcards.W001",
        ),
        cluster={"workers": 1},
    ),
    Case(
        Warning(
            "Q_CLUSTER['sync'] is on. Tasks would run inside the web request, so that orders"
            " are not sent or followed.",
            hint="Remove the option, or run `manage.py giftcards_worker`.",
            id="giftcards.W002",
        ),
        cluster={"sync": True},
    ),
    Case(
        Warning(
            "Q_CLUSTER does not name a broker. django-q2 would look for Redis on this machine.",
            hint="Set 'orm' to 'default', or set 'redis' to the address of Redis.",
            id="giftcards.W003",
        ),
        cluster={"orm": None},
    ),
    Case(
        Warning(
            "Q_CLUSTER['scheduler'] is off. Therefore no schedule restarts the worker's"
            " loop, checks late orders or repeats failed work.",
            hint="Remove the option, unless another cluster runs the schedules of this database.",
            id="giftcards.W004",
        ),
        cluster={"scheduler": False},
    ),
    Case(
        Error(
            "GIFTCARDS['REAUTHENTICATE'] is 'staff:prove', but there is no URL without"
            " arguments that has this name. Staff could not reveal any codes.",
            hint="Set it to the name of your page's URL, including the namespace. If you remove"
            " the setting, the app asks staff for their password.",
            id="giftcards.E021",
        ),
        giftcards={"REAUTHENTICATE": "staff:prove"},
    ),
    Case(
        Error(
            "GIFTCARDS['REVIEW_ORDER'] is 'shop.rules.review', which cannot be imported or"
            " is not callable.",
            hint="Correct the path. The object must exist when the site starts.",
            id="giftcards.E024",
        ),
        giftcards={"REVIEW_ORDER": "shop.rules.review"},
    ),
]
NO_CLUSTER = Error(
    "Q_CLUSTER is not set. django-q2 would look for Redis on this machine, and a task that"
    " hangs would occupy its worker for ever.",
    hint="Set it to a dict, for example the one on the documentation page about workers.",
    id="giftcards.E013",
)


def apply(case: Case, settings: Any) -> None:
    settings.SECRET_KEY = "tests-only"
    settings.GIFTCARDS = GIFTCARDS | case.giftcards
    settings.Q_CLUSTER = CLUSTER | case.cluster


def assert_only(message: CheckMessage, call: Call) -> None:
    """Assert that only this message is found, and that it fails the command if it is an error.

    The message must not contain a secret.
    """
    assert found() == [message]
    outcome = call("check", tags=[checks.TAG])
    assert str(message) in outcome.err
    assert outcome.code == (1 if isinstance(message, Error) else 0)
    for secret in (KEY, SEALING, OTHER[:-4], DERIVED):
        assert secret not in str(message)


@pytest.mark.parametrize("case", CASES, ids=[case.message.id for case in CASES])
def test_each_mistake_gives_one_message(settings: Any, call: Call, case: Case) -> None:
    apply(case, settings)
    assert_only(case.message, call)


@pytest.mark.parametrize("number", IN_SETTINGS)
def test_each_mistake_in_the_settings_gives_one_error(
    settings: Any, call: Call, number: str
) -> None:
    settings.SECRET_KEY = "tests-only"
    settings.GIFTCARDS = GIFTCARDS | IN_SETTINGS[number]
    [problem] = problems()
    assert_only(Error(problem.message, hint=problem.hint, id=f"giftcards.{number}"), call)


def test_every_check_id_has_exactly_one_case() -> None:
    others = [NO_CLUSTER, ROUTED, OVERRIDDEN, LOST_KEY, LOST_CARDS, UNNEEDED, NO_PASSWORDS]
    others += [SEVERAL_KEYS, UNREAD, WITHOUT_PASSWORD, other_isolation("SERIALIZABLE")]
    others += [forgetful("")]
    messages = [*(case.message for case in CASES), *others]
    ids = [str(message.id) for message in messages]
    assert sorted([*ids, *(f"giftcards.{number}" for number in IN_SETTINGS)]) == sorted(IDS)


@pytest.mark.parametrize("name", ["", "admin:giftcards_order_change", "no-such-page"])
def test_a_page_for_proving_that_needs_arguments_or_does_not_exist_is_an_error(
    settings: Any, name: str
) -> None:
    settings.GIFTCARDS = GIFTCARDS | {"REAUTHENTICATE": name}
    assert [message.id for message in found()] == ["giftcards.E021"]
    # The check does not run in a process without URLs.
    del settings.ROOT_URLCONF
    assert found() == []


@pytest.mark.parametrize("setting", ["REVIEW_ORDER", "QUEUE_TASK", "PRICING"])
@pytest.mark.parametrize(
    ("path", "errors"),
    [
        ("giftcards.fulfilment.place_order", []),
        ("giftcards.fulfilment.logger", ["giftcards.E024"]),
        ("giftcards.fulfilment.review", ["giftcards.E024"]),
    ],
)
def test_a_rule_has_to_be_a_function_that_can_be_imported(
    settings: Any, setting: str, path: str, errors: list[str]
) -> None:
    settings.GIFTCARDS = GIFTCARDS | {setting: path}
    assert [message.id for message in found()] == errors


REMOTE = "django.contrib.auth.backends.RemoteUserBackend"
NO_PASSWORDS = Warning(
    "Staff can log in with 'django.contrib.auth.backends.RemoteUserBackend', which does not"
    " use a password. However, staff need a password to reveal a code.",
    hint="Set GIFTCARDS['REAUTHENTICATE'] to a page of your site where staff prove their identity."
    " If the backend checks passwords, add it to GIFTCARDS['PASSWORD_BACKENDS']. If"
    " everybody who reveals codes has a password in your database, silence this warning.",
    id="giftcards.W005",
)


class Saml:
    def authenticate(self, request: Any, session_info: Any = None, **_named: Any) -> None: ...


class ByEmail(ModelBackend):
    def authenticate(self, request: Any, email: Any = None, password: Any = None) -> None: ...  # type: ignore[override]


class PassesOn(ModelBackend):
    def authenticate(self, *args: Any, **kwargs: Any) -> None: ...


class OnlyPermissions:
    def has_perm(self, user: Any, permission: str) -> bool:
        return False


@pytest.mark.parametrize(
    ("backend", "given", "is_warned"),
    [
        (REMOTE, {}, True),
        (REMOTE, {"REAUTHENTICATE": "admin:password_change"}, False),
        (REMOTE, {"PASSWORD_BACKENDS": [REMOTE]}, False),
        (f"{__name__}.Saml", {}, True),
        (f"{__name__}.Saml", {"PASSWORD_BACKENDS": [f"{__name__}.Saml"]}, False),
        (f"{__name__}.ByEmail", {}, False),
        (f"{__name__}.PassesOn", {}, False),
        (f"{__name__}.OnlyPermissions", {}, False),
    ],
)
def test_a_shop_whose_staff_sign_in_without_a_password_is_told_that_it_needs_a_page_for_proving(
    settings: Any, backend: str, given: dict[str, Any], is_warned: bool
) -> None:
    apply(Case(NO_PASSWORDS), settings)
    settings.GIFTCARDS = GIFTCARDS | given
    settings.AUTHENTICATION_BACKENDS = [backend, "django.contrib.auth.backends.ModelBackend"]
    assert NO_PASSWORDS.msg.count(REMOTE) == 1
    message = NO_PASSWORDS.msg.replace(REMOTE, backend)
    assert [each.msg for each in found()] == ([message] if is_warned else [])
    assert [each.hint for each in found()] == ([NO_PASSWORDS.hint] if is_warned else [])


WITHOUT_PASSWORD = Warning(
    "Some staff may reveal codes, but do not have a password to prove their identity with:"
    " 'amina', 'karim'.",
    hint="Set GIFTCARDS['REAUTHENTICATE'] to a page of your site where staff prove their identity,"
    " or give these accounts passwords.",
    id="giftcards.W011",
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [WITHOUT_PASSWORD]),
        ({"REAUTHENTICATE": "admin:password_change"}, []),
        ({"PASSWORD_BACKENDS": ["shop.ldap.Backend"]}, []),
    ],
)
def test_staff_who_may_reveal_codes_and_have_no_password_are_named(
    settings: Any, given: dict[str, Any], expected: list[Any]
) -> None:
    settings.GIFTCARDS = GIFTCARDS | given
    create = get_user_model().objects.create
    create(username="amina", password="!unusable", is_staff=True, is_superuser=True)
    create(username="karim", password="", is_staff=True, is_superuser=True)
    # These users may not reveal codes, or they have a password.
    create(username="samir", password="!unusable", is_staff=True)
    create(username="lina", password="!unusable", is_superuser=True)
    create(username="nadia", password="!", is_active=False, is_staff=True, is_superuser=True)
    create(username="omar", password=make_password("x"), is_staff=True, is_superuser=True)
    assert check_staff_without_password(databases=["default"]) == expected
    assert check_staff_without_password() == []


def test_a_backend_that_cannot_be_imported_is_not_the_matter_of_a_check(settings: Any) -> None:
    apply(Case(NO_PASSWORDS), settings)
    settings.AUTHENTICATION_BACKENDS = ["shop.gone.Backend"]
    assert found() == []


def test_messages_of_checks_can_be_silenced_by_id(settings: Any, call: Call) -> None:
    settings.Q_CLUSTER = CLUSTER | {"workers": 1}
    settings.SILENCED_SYSTEM_CHECKS = ["giftcards.W001"]
    outcome = call("check", tags=[checks.TAG])
    assert outcome == ("System check identified no issues (1 silenced).\n", "", 0)


def test_all_mistakes_are_reported_at_once(settings: Any) -> None:
    settings.GIFTCARDS = {"LOW_BALANCE": "1"}
    settings.Q_CLUSTER = {"timeout": 30, "retry": 20, "workers": 1, "orm": "other", "sync": True}
    assert [str(message.id)[-4:] for message in found()] == [
        *("E001", "E003", "E006", "E011", "E012", "E014", "W001", "W002")
    ]


@pytest.mark.parametrize("value", [None, [], "API_KEY"])
def test_settings_that_are_not_a_dict_are_an_error(settings: Any, value: Any) -> None:
    settings.GIFTCARDS = value
    assert [message.id for message in found()] == ["giftcards.E006"]


# Q_CLUSTER


def test_an_empty_or_missing_q_cluster_is_an_error(settings: Any) -> None:
    for value in (None, {}, (), []):
        settings.Q_CLUSTER = value
        assert found() == [NO_CLUSTER]
    del settings.Q_CLUSTER
    assert found() == [NO_CLUSTER]


@pytest.mark.parametrize(
    ("option", "values", "wanted"),
    [
        (
            "timeout",
            [70.0, 2.5, "70", True, False, float("nan"), float("inf"), [70]],
            "a whole number of seconds, or None",
        ),
        (
            "retry",
            [None, "240", True, float("nan"), float("inf"), float("-inf"), [240]],
            "a number of seconds",
        ),
        ("workers", [-1, 1.5, 4.0, "4", [4], float("nan")], "a whole number from 1"),
    ],
)
def test_options_of_q_cluster_of_a_wrong_type_are_errors(
    settings: Any, option: str, values: list[Any], wanted: str
) -> None:
    for value in values:
        settings.Q_CLUSTER = CLUSTER | {option: value}
        message = f"Q_CLUSTER[{option!r}] must be {wanted}."
        assert found() == [Error(message, hint=DEFAULT, id="giftcards.E015")]


@pytest.mark.parametrize(
    "times",
    [
        {"timeout": 70, "retry": 71},
        {"timeout": 90, "retry": 240},
        {"timeout": 70, "retry": 70.5},
        {"timeout": 70, "retry": 10**400},
        {"timeout": None, "retry": 71},
        {"timeout": -1, "retry": 71},
        {"retry": 71},
    ],
)
def test_times_in_which_the_loop_runs_once_and_to_its_end_are_accepted(
    settings: Any, times: dict[str, Any]
) -> None:
    settings.Q_CLUSTER = {"orm": "default", "workers": 2} | times
    assert found() == []


@pytest.mark.parametrize("timeout", [0, 1, 60, -2])
def test_a_timeout_that_cuts_the_loop_short_is_an_error(settings: Any, timeout: int) -> None:
    settings.Q_CLUSTER = CLUSTER | {"timeout": timeout, "retry": 10_000}
    (message,) = found()
    assert message.id == "giftcards.E011"
    assert message.hint == "Set 'timeout' to at least 70, and 'retry' to at least 140."


@pytest.mark.parametrize(
    ("times", "retry", "limit", "enough"),
    [
        ({"timeout": 70}, 60, 70, 140),  # django-q2's default
        ({"timeout": 90, "retry": 89}, 89, 90, 180),
        ({"timeout": 900, "retry": 240}, 240, 900, 1800),
        ({}, 60, 70, 140),
        ({"timeout": None, "retry": 70}, 70, 70, 140),
        ({"timeout": -1, "retry": 0}, 0, 70, 140),
    ],
)
def test_a_retry_that_starts_the_loop_twice_is_an_error(
    settings: Any, times: dict[str, Any], retry: int, limit: int, enough: int
) -> None:
    settings.Q_CLUSTER = {"orm": "default", "workers": 2} | times
    assert found() == [
        Error(
            f"Q_CLUSTER['retry'] is {retry} s, but a task may take {limit} s. django-q2 would"
            " start the task a second time while it runs.",
            hint=f"Set 'retry' to at least {enough}, because the time that a task waits for a free"
            " worker counts, too.",
            id="giftcards.E012",
        )
    ]


def test_following_all_hints_leaves_no_message(settings: Any) -> None:
    settings.Q_CLUSTER = CLUSTER | {"timeout": 30, "retry": 20}
    hints = " ".join(str(message.hint) for message in found())
    timeout, *retries = map(int, re.findall(r"at least (\d+)", hints))
    assert len(set(retries)) == 1
    settings.Q_CLUSTER = CLUSTER | {"timeout": timeout, "retry": retries[0]}
    assert found() == []


@pytest.mark.parametrize(
    "broker",
    [
        {"broker_class": "shop.Broker"},
        {"sqs": {"aws_region": "eu-west-3"}},
        {"iron_mq": {"host": "mq.example"}},
        {"mongo": {"host": "127.0.0.1"}},
    ],
)
def test_a_short_retry_is_an_error_with_other_brokers_that_repeat_tasks(
    settings: Any, broker: dict[str, Any]
) -> None:
    settings.Q_CLUSTER = {"workers": 2, "timeout": 70, "retry": 70} | broker
    assert [message.id for message in found()] == ["giftcards.E012"]


@pytest.mark.parametrize("broker", [{"redis": {"host": "127.0.0.1"}}, {"django_redis": "default"}])
def test_a_short_retry_is_no_error_with_redis_which_never_repeats_tasks(
    settings: Any, broker: dict[str, Any]
) -> None:
    settings.Q_CLUSTER = {"workers": 2, "timeout": 70} | broker
    assert found() == []


@pytest.mark.parametrize("workers", [{}, {"workers": None}, {"workers": 0}, {"workers": False}])
def test_the_number_of_processors_counts_if_workers_is_not_set(
    settings: Any, monkeypatch: pytest.MonkeyPatch, workers: dict[str, Any]
) -> None:
    settings.Q_CLUSTER = {"orm": "default", "timeout": 70, "retry": 140} | workers
    for processors, ids in ((1, ["giftcards.W001"]), (2, []), (None, [])):
        monkeypatch.setattr(os, "cpu_count", lambda count=processors: count)
        assert [message.id for message in found()] == ids


def test_orm_has_to_name_the_database_to_which_schedules_are_routed(settings: Any) -> None:
    settings.DATABASE_ROUTERS = [f"{__name__}.Elsewhere"]
    (message,) = found()
    assert message.id == "giftcards.E014"
    assert message.hint == "Set it to 'queue'."
    settings.Q_CLUSTER = CLUSTER | {"orm": "queue"}
    assert found() == []


class HidingAdmin(OrderAdmin):
    def has_view_permission(self, request: Any, obj: Order | None = None) -> bool:
        return super().has_view_permission(request, obj) and obj is not None


class Mixin:
    def has_delete_permission(self, *_args: Any) -> bool:
        return True


class OpenAdmin(Mixin, OrderAdmin):
    pass


class RestrictedAdmin(OrderAdmin):
    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).filter(group="mine")

    def has_report_permission(self, request: Any) -> bool:
        return False


def test_an_admin_of_orders_that_decides_about_one_page_only_is_an_error() -> None:
    site = AdminSite()
    site.register(Order, HidingAdmin)
    assert found() == [OVERRIDDEN]
    site.unregister(Order)
    site.register(Order, OpenAdmin)
    (message,) = found()
    assert message.msg.startswith("OpenAdmin overrides has_delete_permission")
    site.unregister(Order)
    site.register(Order, RestrictedAdmin)
    assert found() == []


@pytest.mark.parametrize(
    "label", [app.label for app in apps.get_app_configs() if app.name.startswith("giftcards")]
)
def test_tables_routed_to_another_database_are_an_error(
    label: str, settings: Any, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GiftcardsElsewhere, "label", label)
    settings.DATABASE_ROUTERS = [f"{__name__}.GiftcardsElsewhere"]
    assert found() == [ROUTED]
    assert call("check", tags=[checks.TAG]).code == 1


def test_orders_read_from_a_replica_are_an_error(settings: Any) -> None:
    settings.DATABASE_ROUTERS = [f"{__name__}.Replica"]
    (message,) = found()
    assert message.id == "giftcards.E019"
    assert message.msg.startswith("The tables of giftcards are routed to 'replica'. ")


# The keys and the stored cards


LOST_KEY = Error(
    "Card 3 of order web-1042: This card cannot be decrypted: none of GIFTCARDS['ENCRYPTION_KEYS']"
    " can decrypt it, or the stored text is damaged.",
    hint="If an encryption key is missing, add it to GIFTCARDS['ENCRYPTION_KEYS'] again. Add it"
    " at the end if new cards are encrypted with another key. Without the key, the codes are"
    " lost. If the stored text belongs to another card, somebody has changed rows of the"
    " database. If the codes are lost for good, add 'giftcards.E020' to"
    " SILENCED_SYSTEM_CHECKS.",
    id="giftcards.E020",
)


LOST_CARDS = Error(
    "GIFTCARDS['ENCRYPTION_KEYS'] does not contain the keys of all stored cards. Cards that"
    " cannot be decrypted: 3.",
    hint="Add the missing key at the end of the list again, and run `manage.py"
    " giftcards_rotate_keys` before you remove it. If the key is lost for good, add"
    " 'giftcards.E022' to SILENCED_SYSTEM_CHECKS.",
    id="giftcards.E022",
)
UNNEEDED = Warning(
    "Key 2 of GIFTCARDS['ENCRYPTION_KEYS'] is not used by any stored card.",
    hint="If every process already uses the key in front of it, run `manage.py"
    " giftcards_rotate_keys --verify` to check that you no longer need this key, and remove"
    " it. A removed key cannot leak. If you are about to move this key to the front, ignore"
    " this warning.",
    id="giftcards.W006",
)


def other_isolation(level: str) -> Warning:
    return Warning(
        f"The database 'default' has the isolation level {level}, with which giftcards was"
        " not tested. If a transaction does not see what other transactions have committed"
        " in the meantime, it may fail, or reserve a card that is already reserved.",
        hint="Remove 'isolation_level' from its OPTIONS, so that Django uses its default, READ"
        " COMMITTED.",
        id="giftcards.W010",
    )


@pytest.mark.parametrize(
    ("vendor", "level", "named"),
    [
        ("mysql", "repeatable read", "REPEATABLE READ"),
        ("mysql", None, "of the server"),
        ("mysql", "Read Committed", ""),
        ("postgresql", IsolationLevel.SERIALIZABLE, "SERIALIZABLE"),
        ("postgresql", IsolationLevel.READ_COMMITTED.value, ""),
        ("sqlite", None, ""),
    ],
)
def test_an_isolation_level_that_was_not_tried_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, vendor: str, level: Any, named: str
) -> None:
    monkeypatch.setattr(connections["default"], "vendor", vendor)
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "isolation_level", level)
    message = other_isolation(named)
    assert check_isolation() == ([message] if named else [])


def forgetful(option: str) -> Warning:
    return Warning(
        f"The OPTIONS of the database 'default' have {option!r}. If the server loses power, the"
        " database can forget an order that was just sent, and the worker buys it a second time.",
        hint="Remove this option, or use 'synchronous = FULL' (SQLite) or 'synchronous_commit = on'"
        " (PostgreSQL).",
        id="giftcards.W013",
    )


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        (
            "init_command",
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;",
            "synchronous = NORMAL",
        ),
        ("init_command", "pragma synchronous=off", "synchronous=off"),
        ("init_command", "PRAGMA synchronous=1;", "synchronous=1"),
        ("init_command", "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;", ""),
        ("init_command", None, ""),
        ("options", "-c synchronous_commit=off", "synchronous_commit=off"),
        ("server_settings", {"synchronous_commit": "off"}, "synchronous_commit': 'off"),
        ("options", "-c synchronous_commit=on", ""),
    ],
)
def test_a_database_that_can_forget_what_it_has_committed_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, name: str, value: Any, found: str
) -> None:
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], name, value)
    assert check_durability() == ([forgetful(found)] if found else [])


SEVERAL_KEYS = Warning(
    "Processes with different API keys use this database: one (SANDBOX), two (unknown). They"
    " buy orders in different accounts, and one process cannot find the orders that another"
    " process has sent.",
    hint="Configure the same GIFTCARDS['API_KEY'] for every process. If you have just changed the"
    " key and"
    " restarted all processes, ignore this warning. It disappears after 10 minutes.",
    id="giftcards.W008",
)


def check_database(alias: str = "default") -> list[CheckMessage]:
    return run_checks(tags=[checks.TAG], databases=[alias])


def test_processes_with_different_api_keys_are_told_of_by_the_database_check() -> None:
    now = timezone.now()
    ApiKey.objects.create(pk="one", environment="SANDBOX", accepted_at=now)
    assert check_database() == []
    ApiKey.objects.create(pk="two", stopped_at=now)
    assert check_database() == [SEVERAL_KEYS]


UNREAD = Warning(
    "Tasks wait in the queue, but no worker takes them. Messages are sent a minute late, or"
    " are not sent at all.",
    hint="Start the queue's workers, for example with `manage.py qcluster`. If another process is"
    " meant to do the work, for example `manage.py giftcards_poll --tick`, remove 'django_q'"
    " from INSTALLED_APPS, or remove GIFTCARDS['QUEUE_TASK'].",
    id="giftcards.W012",
)


@pytest.mark.parametrize(
    ("minutes", "queue", "is_told"),
    [
        (4, "", True),
        (2, "", False),
        (None, "", False),
        (4, "shop.background.queue", True),
        (4, None, False),
    ],
)
def test_a_queue_that_no_worker_reads_is_told_of_by_the_database_check(
    minutes: int | None, queue: str | None, is_told: bool, settings: Any
) -> None:
    """The queue belongs to django-q2 (""), is one of the shop's own, or does not exist."""
    if queue:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "QUEUE_TASK": queue}
    elif queue is None:
        settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_q"]
    since = minutes and ago(60 * minutes)
    ProviderState.objects.create(pk=1, queue_waits_since=since)
    assert (UNREAD in check_database()) is is_told


class TestStoredCards:
    def test_cards_that_open_and_two_keys_before_there_are_cards_give_no_message(
        self, settings: Any
    ) -> None:
        use_keys(settings, SEALING, OTHER)
        assert check_database() == []
        use_keys(settings, SEALING)
        assert check_database() == []
        settle("web-1042", PARTIAL)
        assert check_database() == []

    def test_stored_cards_that_do_not_open_are_an_error_until_it_is_silenced_as_the_hints_say(
        self, settings: Any, call: Call
    ) -> None:
        settle("web-1042", PARTIAL)
        use_keys(settings, OTHER)
        newest, oldest, counted = check_database()
        assert newest == LOST_KEY
        assert oldest.msg.startswith("Card 1 of order web-1042: This card cannot be decrypted:")
        outcome = call("check", databases=["default"])
        assert (str(LOST_KEY) in outcome.err, outcome.code) == (True, 1)
        # The check runs only if database checks are requested, and for this database.
        assert call("check").code == 0
        assert check_database("queue") == []
        hints = f"{newest.hint} {oldest.hint} {counted.hint}"
        settings.SILENCED_SYSTEM_CHECKS = re.findall(r"'(giftcards\.E\d+)'", hints)
        assert call("check", databases=["default"]).code == 0

    @pytest.mark.parametrize("app", [["giftcards"], []], ids=["one app", "every app"])
    def test_stored_cards_that_do_not_open_stop_no_migration(
        self, settings: Any, call: Call, app: list[str]
    ) -> None:
        settle("web-1042", PARTIAL)
        use_keys(settings, OTHER)
        assert call("migrate", *app, skip_checks=False).code == 0
        assert call("check", databases=["default"]).code == 1

    def test_an_older_stored_card_whose_key_was_removed_is_an_error(self, settings: Any) -> None:
        settle("web-1041", PARTIAL)
        use_keys(settings, OTHER)
        settle("web-1042", PARTIAL)
        oldest, counted = check_database()
        assert counted == LOST_CARDS
        assert oldest.msg.startswith("Card 1 of order web-1041: This card cannot be decrypted:")
        use_keys(settings, OTHER, SEALING)
        assert check_database() == []

    def test_an_old_key_that_seals_no_card_any_more_is_a_warning(self, settings: Any) -> None:
        settle("web-1041", PARTIAL)
        use_keys(settings, SEALING, OTHER)
        assert check_database() == [UNNEEDED]
        use_keys(settings, OTHER, SEALING)
        assert check_database() == []
        rotate(per_second=1e6, on_batch=lambda _tally: None)
        assert check_database() == [UNNEEDED]

    def test_stored_cards_without_usable_keys_give_one_message(self, settings: Any) -> None:
        settle("web-1042", PARTIAL)
        use_keys(settings)
        assert [message.id for message in check_database()] == ["giftcards.E003"]

    def test_a_database_without_tables_gives_no_message(self) -> None:
        def fail(*_: Any) -> None:
            raise ProgrammingError('relation "giftcards_card" does not exist')

        with connection.execute_wrapper(fail):
            assert check_database() == []


def test_a_new_shop_can_be_migrated(tmp_path: Path) -> None:
    """``migrate`` runs the checks first, while there are no tables yet."""
    more = f"INSTALLED_APPS.append('django_q')\nQ_CLUSTER = {CLUSTER}\n"
    # The app's own migrations run the same checks, but take several seconds.
    code, said = manage(tmp_path, more, "migrate", "contenttypes")
    assert (code, "Applying contenttypes.0001_initial... OK" in said) == (0, True)


# Without django-q2


def test_without_django_q_or_beside_a_queue_of_the_shop_its_options_are_not_checked(
    settings: Any,
) -> None:
    settings.Q_CLUSTER = {"workers": 1}
    with modify_settings(INSTALLED_APPS={"remove": "django_q"}):
        assert found() == []
    settings.GIFTCARDS = GIFTCARDS | {"QUEUE_TASK": "tests.fakes.queues.record"}
    assert found() == []


SHOP = f"""
SECRET_KEY = "a shop"
USE_TZ = True
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}}
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "giftcards",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {{
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {{
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        }},
    }},
]
GIFTCARDS = {{"API_KEY": "{KEY}", "ENCRYPTION_KEYS": ["{SEALING}"]}}
"""


def manage(tmp_path: Path, more: str, *command: str) -> tuple[int, str]:
    """Run a command in a process of a shop with other settings; return its exit code and output."""
    (tmp_path / "shop_settings.py").write_text(SHOP + more)
    done = subprocess.run(
        [sys.executable, "-m", "django", *command, "--settings=shop_settings"],
        env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_shop_without_django_q_passes_the_checks(tmp_path: Path) -> None:
    absent = "import sys\nsys.modules['django_q'] = None\n"
    expected = (0, "System check identified no issues (0 silenced).\n")
    assert manage(tmp_path, absent, "check") == expected


def test_a_shop_that_forgot_q_cluster_is_told_so(tmp_path: Path) -> None:
    code, said = manage(tmp_path, "INSTALLED_APPS.append('django_q')\n", "check")
    assert code == 1
    assert str(NO_CLUSTER) in said
    assert "Traceback" not in said


def test_a_shop_that_has_no_django_oscar_is_told_so() -> None:
    absent = r"needs django-oscar \(No module named 'oscar'\)\. Run `pip install"
    with pytest.raises(ImproperlyConfigured, match=absent):
        AppConfig.create("giftcards.oscar").ready()


# The documentation


CLUSTERS = [
    block
    for path in sorted((ROOT / "docs").rglob("*.md"))
    for block in re.findall(
        r"^```python\n(Q_CLUSTER = .*?)^```", path.read_text(), re.MULTILINE | re.DOTALL
    )
]


@pytest.mark.parametrize("block", CLUSTERS)
def test_a_q_cluster_of_the_documentation_gives_no_message(block: str, settings: Any) -> None:
    names: dict[str, Any] = {}
    exec(block, names)
    settings.Q_CLUSTER = names["Q_CLUSTER"]
    assert found() == []
