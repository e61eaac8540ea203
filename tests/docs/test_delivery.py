"""The pages about messages to customers, against the code."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission

from giftcards.delivery import messages, news
from giftcards.delivery.kinds import KIND_OF_STATUS
from giftcards.delivery.kinds import Kind as MessageKind
from giftcards.simulator import SPECIAL_TYPES, Simulator
from tests.docs.pages import ROOT, code, page, rows, section


def test_every_kind_of_message_is_documented_with_what_it_tells_of() -> None:
    table = rows(section(page("delivery"), "What customers get"))
    documented = {row[1].strip("`"): set(code(row[0])) for row in table}
    told = {
        kind.value: {status for status, of in KIND_OF_STATUS.items() if of == kind}
        for kind in MessageKind
    }
    assert documented == told


def test_everything_that_staff_are_told_is_documented_with_whom_it_concerns() -> None:
    documented = {
        name: permission.strip("`")
        for names, _, permission, _ in (
            row for row in rows(section(page("delivery"), "Telling staff")) if len(row) == 4
        )
        for name in code(names)
    }
    assert documented == {
        name: alert.permission.removeprefix("giftcards.") for name, alert in news.alerts().items()
    }


def test_every_template_of_a_message_or_page_is_documented() -> None:
    folder = ROOT / "giftcards" / "delivery" / "templates" / "giftcards_delivery"
    kinds = "|".join(MessageKind.values)
    found = {
        re.sub(rf"messages/({kinds})/", "messages/<kind>/", path.relative_to(folder).as_posix())
        for path in folder.rglob("*.*")
    }
    named = re.findall(r"`((?:messages|page|tags|digest)/[\w<>/]+\.\w+)`", page("delivery"))
    assert set(named) == found


def test_every_name_in_a_message_is_documented() -> None:
    documented = {
        name
        for cells in rows(section(page("delivery"), "Of messages"))
        for name in code(cells[0])
        if name.isidentifier()
    }
    source = inspect.getsource(messages)
    assert documented == {
        *re.findall(r'^        "(\w+)": ', inspect.getsource(messages._words), re.MULTILINE),
        *re.findall(r'"(subject|paragraphs)": ', source),
    }


@pytest.mark.parametrize("where", ["delivery", "admin", "security"])
@pytest.mark.django_db
def test_every_permission_of_an_optional_app_that_is_named_exists(where: str) -> None:
    app = Permission.objects.filter(content_type__app_label="giftcards_delivery")
    known = {f"giftcards_delivery.{name}" for name in app.values_list("codename", flat=True)}
    named = re.findall(r"giftcards_delivery\.[a-z]\w+", page(where))
    assert set(named) <= known


def test_every_permission_of_the_app_is_documented() -> None:
    models = apps.get_app_config("giftcards_delivery").get_models()
    for model in models:
        actions = [
            f"{action}_{model._meta.model_name}" for action in model._meta.default_permissions
        ]
        for codename in [*actions, *(name for name, _ in model._meta.permissions)]:
            assert f"`giftcards_delivery.{codename}`" in page("delivery"), codename


def test_every_type_and_option_of_the_simulator_is_documented() -> None:
    text = page("simulator")
    for name in SPECIAL_TYPES:
        assert f"\n| `{name}` |" in text
    for option in dataclasses.fields(Simulator):
        assert f"`{option.name}`" in text
