"""``giftcards_setup`` and ``giftcards_generate_key``, the first commands in a new project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.contrib.auth.models import Group, Permission
from django.test import modify_settings
from django.utils import translation
from django_q.models import Schedule

from giftcards.management.groups import ensure_roles, role_permissions
from giftcards.rules.roles import BY_APP, ROLES
from tests.conftest import Call
from tests.stage import ROOT, in_threads

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


NAMES = ["Gift card support", "Gift card manager", "Gift card accountant"]
END = " Orders are followed while `manage.py qcluster` runs.\n"


def groups(outcome: str) -> str:
    return "".join(f"The group {name} is {outcome}.\n" for name in NAMES)


def held(name: str) -> set[str]:
    """Return the permissions of a group."""
    found = Group.objects.get(name=name).permissions.values_list("codename", flat=True)
    return set(found)


def of_role(name: str) -> set[str]:
    """Return the permissions that a role should have, including those of the optional apps."""
    return {codename for roles in BY_APP.values() for codename in roles.get(name, ())}


class TestSetup:
    def test_setup_creates_keeps_or_repairs_the_schedule(self, call: Call) -> None:
        created, in_place = groups("created"), groups("in place")
        assert call("giftcards_setup") == (f"The schedule is created.{END}{created}", "", 0)
        assert call("giftcards_setup") == (f"The schedule is in place.{END}{in_place}", "", 0)
        Schedule.objects.update(minutes=9)
        assert call("giftcards_setup") == (f"The schedule is repaired.{END}{in_place}", "", 0)
        assert Schedule.objects.get().minutes == 1

    def test_setup_with_json_prints_one_object(self, call: Call) -> None:
        out, err, code = call("giftcards_setup", "--json")
        new = {"outcome": "created", "missing": []}
        expected = {"schedule": "created", "groups": dict.fromkeys(NAMES, new)}
        assert (json.loads(out), err, code) == (expected, "", 0)

    def test_setup_with_verbosity_0_prints_nothing(self, call: Call) -> None:
        assert call("giftcards_setup", "-v0") == ("", "", 0)
        assert (Schedule.objects.count(), Group.objects.count()) == (1, 3)

    def test_setup_names_the_queue_of_the_shop(self, call: Call, settings: Any) -> None:
        own = {"QUEUE_TASK": "tests.fakes.queues.record"}
        settings.GIFTCARDS = {**settings.GIFTCARDS, **own}
        assert call("giftcards_setup").out == (
            "Tasks go to the queue of QUEUE_TASK (tests.fakes.queues.record). Configure this"
            " queue or cron to call giftcards.tasks.tick once a minute. Orders are followed while"
            " its worker runs.\n"
            f"{groups('created')}"
        )

    def test_setup_without_django_q_creates_the_groups_only(self, call: Call) -> None:
        with modify_settings(INSTALLED_APPS={"remove": "django_q"}):
            out, err, code = call("giftcards_setup")
            told = json.loads(call("giftcards_setup", "--json").out)
        assert (err, code) == ("", 0)
        assert out == (
            "No schedule is needed, because django-q2 does not run the tasks. Orders are followed"
            f" while `manage.py giftcards_worker` or another worker runs.\n{groups('created')}"
        )
        assert (told["schedule"], list(told["groups"])) == (None, NAMES)
        assert not Schedule.objects.exists()

    def test_setup_works_before_the_shop_is_configured(self, call: Call, settings: Any) -> None:
        configured = settings.GIFTCARDS
        del settings.GIFTCARDS
        assert call("giftcards_setup").code == 0
        settings.GIFTCARDS = configured


class TestGroups:
    def test_each_group_gets_the_permissions_of_its_role_and_a_name_in_english(
        self, call: Call
    ) -> None:
        with translation.override("fr"):
            call("giftcards_setup")
        assert list(Group.objects.order_by("pk").values_list("name", flat=True)) == NAMES
        assert {name: held(name) for name in NAMES} == {name: of_role(name) for name in NAMES}

    def test_an_optional_app_says_what_its_permissions_are_for(self, call: Call) -> None:
        call("giftcards_setup")
        of_delivery = Permission.objects.filter(content_type__app_label="giftcards_delivery")
        codenames = set(of_delivery.values_list("codename", flat=True))
        assert held(NAMES[1]) >= codenames
        assert held(NAMES[0]) & codenames == codenames - {"view_staffdigest"}
        assert not held(NAMES[2]) & codenames

    def test_without_the_optional_app_there_are_no_permissions_of_it(
        self, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for label in BY_APP.keys() - {"giftcards"}:
            monkeypatch.delitem(BY_APP, label)
        assert call("giftcards_setup").code == 0
        assert {name: held(name) for name in NAMES} == {
            name: set(codenames) for name, codenames in ROLES.items()
        }

    @pytest.mark.all_apps
    def test_a_group_of_the_time_before_the_optional_app_gets_its_part_by_a_repair(
        self, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as before:
            before.delitem(BY_APP, "giftcards_delivery")
            call("giftcards_setup")
        lacks = "permissions: view_delivery, view_cardlink, view_linkvisit, resend_delivery."
        assert lacks in call("giftcards_setup").out
        call("giftcards_setup", "--repair-groups")
        assert held(NAMES[0]) == of_role(NAMES[0])

    def test_what_the_shop_adds_or_takes_away_stays_as_it_is(self, call: Call) -> None:
        call("giftcards_setup")
        group = Group.objects.get(name=NAMES[0])
        group.permissions.remove(Permission.objects.get(codename="reveal_card"))
        group.permissions.add(Permission.objects.get(codename="view_user"))
        changed = held(NAMES[0])
        out = call("giftcards_setup").out
        assert (
            "The group Gift card support is in place. It lacks these permissions: reveal_card. Use"
            " --repair-groups to add them.\n"
        ) in out
        assert held(NAMES[0]) == changed
        found = json.loads(call("giftcards_setup", "--json").out)["groups"][NAMES[0]]
        assert found == {"outcome": "in place", "missing": ["reveal_card"]}

    def test_repairing_adds_what_is_missing_and_takes_nothing_away(self, call: Call) -> None:
        call("giftcards_setup")
        group = Group.objects.get(name=NAMES[0])
        group.permissions.set([Permission.objects.get(codename="view_user")])
        out = call("giftcards_setup", "--repair-groups").out
        assert "The group Gift card support is repaired.\n" in out
        assert "The group Gift card manager is in place.\n" in out
        assert held(NAMES[0]) == of_role(NAMES[0]) | {"view_user"}

    def test_a_group_of_that_name_that_the_shop_has_made_is_left_alone(self, call: Call) -> None:
        Group.objects.create(name=NAMES[1])
        assert (
            "The group Gift card manager is in place. It lacks these permissions: view_order, "
            in call("giftcards_setup").out
        )
        assert held(NAMES[1]) == set()

    def test_setup_before_the_end_of_migrate_says_so_and_does_nothing(self, call: Call) -> None:
        Permission.objects.filter(codename__in=["reveal_card", "view_cost"]).delete()
        out, err, code = call("giftcards_setup")
        assert (out, code) == ("", 2)
        assert err == (
            "These permissions do not exist yet: reveal_card, view_cost. Django creates them at"
            " the end of `manage.py migrate`. Run `migrate` to its end, and then run this command"
            " again.\n"
        )
        assert (Group.objects.count(), Schedule.objects.count()) == (0, 0)


@pytest.mark.django_db(transaction=True)
def test_setup_on_several_servers_at_once_makes_each_group_once(
    shared_database: str, call: Call
) -> None:
    results = in_threads(4, lambda: ensure_roles(role_permissions()))
    assert not [result for result in results if isinstance(result, Exception)]
    assert Group.objects.count() == 3
    assert held(NAMES[1]) == of_role(NAMES[1])
    assert [[role.outcome for role in roles].count("created") for roles in results] != [3] * 4


class TestGenerateKey:
    def test_generate_key_prints_a_new_key_and_nothing_else_whatever_is_configured(
        self, call: Call, settings: Any
    ) -> None:
        kept, keys = settings.GIFTCARDS, set()
        for configured in (kept, {}, None, "nonsense", {"ENCRYPTION_KEYS": ["x"]}):
            settings.GIFTCARDS = configured
            out, err, code = call("giftcards_generate_key")
            assert (err, code) == ("", 0)
            [key] = out.splitlines()
            Fernet(key)
            keys.add(key)
        settings.GIFTCARDS = kept
        assert len(keys) == 5

    def test_generate_key_works_in_a_project_that_has_just_been_made(self, tmp_path: Path) -> None:
        """The project has none of our settings, no database and no migrated tables."""
        (tmp_path / "bare.py").write_text(
            'SECRET_KEY = "x"\nINSTALLED_APPS = ["giftcards"]\nUSE_TZ = True\n'
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "django", "giftcards_generate_key"],
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "bare"}
            | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stderr, done.returncode) == ("", 0)
        Fernet(done.stdout.removesuffix("\n"))
