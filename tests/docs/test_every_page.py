"""On every page, the names exist and the links lead somewhere."""

from __future__ import annotations

import builtins
import inspect
import re
from collections.abc import Callable, Container, Iterable
from functools import partial

import pytest
from django.apps import apps
from django.conf import global_settings
from django.contrib.admin import site
from django.contrib.auth.models import Permission

from giftcards import checks, conf, exceptions
from giftcards.delivery import conf as delivery_conf
from giftcards.models import Order
from giftcards.oscar import conf as oscar_conf
from giftcards.watch.metrics import FAMILIES
from tests.docs.pages import (
    APPS,
    CHECKS,
    COMMANDS,
    DOCS,
    INSTALLED,
    MODULES,
    PAGES,
    ROOT,
    blocks,
    code,
    options_in,
    options_of,
    resolve,
    rows,
    slugs,
)


def found(pattern: str, text: str) -> set[str]:
    return set(re.findall(pattern, text, re.MULTILINE))


def strange(known: Container[str], named: Callable[[str], Iterable[str]]) -> dict[str, list[str]]:
    """Return the unknown names on each page."""
    strangers = {
        page: [name for name in named(text) if name not in known] for page, text in PAGES.items()
    }
    return {page: names for page, names in strangers.items() if names}


def test_every_command_that_is_named_exists() -> None:
    models = [model for label in INSTALLED for model in apps.get_app_config(label).get_models()]
    tables = {model._meta.db_table for model in models}
    commands = {path.stem for path in MODULES if path.parts[-2] == "commands"}
    # A template tag and its library.
    others = {"giftcards_desk", "giftcards_admin"}
    known = {*commands, *tables, *APPS, *others, *(family.name for family in FAMILIES)}
    assert strange(known, partial(found, r"(?<!admin:)\bgiftcards_[a-z_]+\b")) == {}


def test_every_page_of_the_admin_that_is_named_exists() -> None:
    urls = {pattern.name for pattern in site._registry[Order].urls}
    assert strange(urls, partial(found, r"admin:(giftcards_[a-z_]+)\b")) == {}


def test_every_command_line_has_options_that_exist() -> None:
    for page, text in PAGES.items():
        for command, rest in re.findall(r"\b(giftcards_[a-z_]+)((?: [^`\n]*)?)", text):
            if command in COMMANDS and rest.strip().startswith("-"):
                # Only the first words after the name are options. The rest is a sentence.
                words = re.match(r"(?: -[\w-]+)*", rest)
                assert options_in(words[0] if words else "") <= options_of(command), page
        for line in re.findall(r"^\$ .*manage\.py (.*)$", text, re.MULTILINE):
            command, *_ = line.split()
            if command in COMMANDS:
                assert options_in(line) <= options_of(command), page


def test_every_check_is_named_beside_what_it_is_about() -> None:
    for page, text in PAGES.items():
        for paragraph in re.split(r"\n\s*\n|\n(?=\|)", text):
            for name in re.findall(r"giftcards\.[EW]\d{3}", paragraph):
                assert CHECKS[name] in paragraph, (page, name)


def test_every_setting_status_and_variable_that_is_named_exists() -> None:
    files = [*MODULES, *(ROOT / "example_project").rglob("*.py"), ROOT / "Makefile"]
    files += [ROOT / "tests" / "conftest.py", ROOT / "tests" / "recipes" / "settings.py"]
    files += (ROOT / "benchmarks").glob("*.py")
    known = set(re.findall(r"\w+", "\n".join(path.read_text() for path in files)))
    dicts = (conf.conf, delivery_conf.conf, oscar_conf.conf)
    known.update(*(it.declared for it in dicts), dir(global_settings))

    def named(text: str) -> set[str]:
        constants = {word for word in code(text) if re.fullmatch(r"[A-Z][A-Z0-9_]+", word)}
        return constants | found(r"GIFTCARDS\[[\"'](\w+)[\"']\]", text)

    assert strange(known, named) == {}


def test_every_check_that_is_named_exists() -> None:
    check = r"giftcards\.[EW]\d{3}"
    assert strange(found(check, inspect.getsource(checks)), partial(found, check)) == {}


@pytest.mark.django_db
def test_every_python_name_that_is_named_exists() -> None:
    permissions = {
        f"giftcards.{codename}"
        for codename in Permission.objects.values_list("codename", flat=True)
    }
    for name in found(r"\bgiftcards(?:\.[A-Za-z]\w*)+", "\n".join(PAGES.values())):
        is_file = (DOCS / name).exists()
        if not (re.fullmatch(r"giftcards\.[EW]\d{3}", name) or name in permissions or is_file):
            resolve(name)


def test_every_page_can_be_read_as_plain_markdown() -> None:
    assert [page for page, text in PAGES.items() if "{eval-rst}" in text] == []


def test_every_error_that_is_named_exists() -> None:
    known = {"CommandError", "ValidationError", *dir(exceptions), *dir(builtins)}
    named = partial(found, r"`(\w+(?:Error|Conflict))`")
    assert any(map(named, PAGES.values()))
    assert strange(known, named) == {}


def test_every_cell_can_be_read_without_the_row_above() -> None:
    above = re.compile(r"(as above|the same(\.|,|$))", re.IGNORECASE)
    cells = [(page, cell) for page, text in PAGES.items() for row in rows(text) for cell in row]
    assert [(page, cell) for page, cell in cells if above.match(cell)] == []


def test_every_python_file_that_is_named_exists() -> None:
    for page, text in PAGES.items():
        for name in code(text):
            if re.fullmatch(r"[\w/]+\.py", name):
                paths = (ROOT / name, ROOT / "giftcards" / name)
                assert any(path.exists() for path in paths), (page, name)


def test_every_local_link_leads_somewhere() -> None:
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            path = (ROOT / page).parent / file if file else ROOT / page
            assert path.exists(), (page, target)
            if anchor:
                name = path.resolve().relative_to(ROOT).as_posix()
                assert anchor in slugs(PAGES[name]), (page, target)


def test_every_page_is_listed_in_the_index() -> None:
    listed = {
        name for tree in blocks(PAGES["docs/index.md"], r"\{toctree\}") for name in tree.split()
    }
    pages = {name.removeprefix("docs/").removesuffix(".md") for name in PAGES if "/" in name}
    assert pages - {"index"} <= listed


def test_every_make_target_exists() -> None:
    targets = found(r"^(\w+):", (ROOT / "Makefile").read_text())
    assert strange(targets, partial(found, r"(?:^\$ |`)(?:\w+=\S+ )*make (\w+)")) == {}
