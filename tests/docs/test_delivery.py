"""Compare the pages about messages to customers with the code."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest
from django.contrib.auth.models import Permission

from giftcards.delivery import messages
from giftcards.delivery.conf import KIND_OF_STATUS
from giftcards.delivery.conf import Kind as MessageKind
from giftcards.delivery.digest_items import told_conditions
from giftcards.management.groups import role_permissions
from giftcards.rules.roles import BY_APP, ROLES
from giftcards.simulator import SPECIAL_TYPES, Simulator
from tests.docs.pages import PAGES, ROOT, code, page, rows, section


def test_every_kind_of_message_is_documented_with_what_it_tells_of() -> None:
    table = rows(section(page("messages"), "When customers get a message"))
    documented = {
        row[0].strip("`"): {name for name in code(row[1]) if name.isupper()} for row in table
    }
    told = {
        kind.value: {status for status, of in KIND_OF_STATUS.items() if of == kind}
        for kind in MessageKind
    }
    assert documented == told


def test_everything_that_staff_are_told_is_documented_with_whom_it_concerns() -> None:
    table = rows(section(page("digests"), "What a digest says"))
    documented = {
        name: (permission.strip("`"), told)
        for permission, names, told in (row for row in table if len(row) == 3)
        for name in code(names)
    }
    assert documented == {
        name: (condition.permission.removeprefix("giftcards."), _told(condition.permission))
        for name, condition in told_conditions().items()
    }


def _told(permission: str) -> str:
    """Return the groups with the permission, in the sequence and words of the page."""
    held = [
        name.removeprefix("Gift card ")
        for name, codenames in ROLES.items()
        if permission.removeprefix("giftcards.") in codenames
    ]
    return "all" if len(held) == len(ROLES) else ", ".join(held)


def test_every_template_of_a_message_or_page_is_documented() -> None:
    folder = ROOT / "giftcards" / "delivery" / "templates" / "giftcards_delivery"
    kinds = "|".join(MessageKind.values)
    found = {
        re.sub(rf"messages/({kinds})/", "messages/<kind>/", path.relative_to(folder).as_posix())
        for path in folder.rglob("*.*")
    }
    named = re.findall(r"`((?:messages|page|tags|digest)/[\w<>/]+\.\w+)`", page("templates"))
    assert set(named) == found


def test_every_name_in_a_message_is_documented() -> None:
    documented = {
        name
        for cells in rows(section(page("templates"), "Messages"))
        for name in code(cells[0])
        if name.isidentifier()
    }
    source = inspect.getsource(messages)
    assert documented == {
        *re.findall(r'^        "(\w+)": ', inspect.getsource(messages._words), re.MULTILINE),
        *re.findall(r'"(subject|paragraphs)": ', source),
    }


@pytest.mark.django_db
def test_the_table_of_permissions_has_each_that_allows_something() -> None:
    table = [row for row in rows(section(page("admin"), "Permissions")) if len(row) == 3]
    known = {f"{label}.{codename}" for label, codename in role_permissions()}
    # This permission adds nothing to the one for products.
    assert {row[0].strip("`") for row in table} == known - {"giftcards.view_producttype"}
    needed = {name for row in table for name in code(row[2])}
    assert needed <= {name.partition(".")[2] for name in known}


@pytest.mark.django_db
def test_every_permission_of_an_optional_app_that_is_named_exists() -> None:
    app = Permission.objects.filter(content_type__app_label="giftcards_delivery")
    known = {f"giftcards_delivery.{name}" for name in app.values_list("codename", flat=True)}
    named = re.findall(r"giftcards_delivery\.[a-z]+_[a-z]+\b", "\n".join(PAGES.values()))
    assert set(named) <= known


def test_the_groups_are_documented_with_what_they_may_do() -> None:
    documented = {row[0]: set(code(row[1])) for row in rows(section(page("admin"), "Groups"))}
    held = {
        name: {codename for roles in BY_APP.values() for codename in roles.get(name, ())}
        for name in ROLES
    }
    support, manager, accountant = held.values()
    assert documented == {**held, "Gift card manager": set()}
    assert manager >= support | accountant


def test_every_type_and_option_of_the_simulator_is_documented() -> None:
    text = page("simulator")
    for name in SPECIAL_TYPES:
        assert f"\n| `{name}` |" in text
    for option in dataclasses.fields(Simulator):
        assert f"`{option.name}`" in text
