"""What holds for every page: what it names exists, and its links lead somewhere."""

from __future__ import annotations

import builtins
import inspect
import re

import pytest
from django.apps import apps
from django.conf import global_settings
from django.contrib.admin import site
from django.contrib.auth.models import Permission

from giftcards import checks, conf, exceptions
from giftcards.delivery import conf as delivery_conf
from giftcards.models import Order
from giftcards.oscar import conf as oscar_conf
from giftcards.oscar.conf import LineState
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
    every_page,
    options_in,
    options_of,
    page,
    resolve,
    rows,
    sentences,
    slugs,
    words,
)


@every_page
def test_every_command_that_is_named_exists(page: str) -> None:
    models = [model for label in INSTALLED for model in apps.get_app_config(label).get_models()]
    tables = {model._meta.db_table for model in models}
    commands = {path.stem for path in MODULES if path.parts[-2] == "commands"}
    named = set(re.findall(r"(?<!admin:)\bgiftcards_[a-z_]+\b", PAGES[page]))
    # A tag with its library.
    others = {"giftcards_desk", "giftcards_admin"}
    assert named <= {*commands, *tables, *APPS, *others, *(family.name for family in FAMILIES)}


@every_page
def test_every_page_of_the_admin_that_is_named_exists(page: str) -> None:
    urls = {pattern.name for pattern in site._registry[Order].urls}
    assert set(re.findall(r"admin:(giftcards_[a-z_]+)\b", PAGES[page])) <= urls


@every_page
def test_every_command_line_has_options_that_exist(page: str) -> None:
    for command, rest in re.findall(r"\b(giftcards_[a-z_]+)((?: [^`\n]*)?)", PAGES[page]):
        if command in COMMANDS and rest.strip().startswith("-"):
            # The first words after the name; what follows them is a sentence.
            words = re.match(r"(?: -[\w-]+)*", rest)
            assert options_in(words[0] if words else "") <= options_of(command)
    for line in re.findall(r"^\$ .*manage\.py (.*)$", PAGES[page], re.MULTILINE):
        command, *_ = line.split()
        if command in COMMANDS:
            assert options_in(line) <= options_of(command)


@every_page
def test_every_check_is_named_beside_what_it_is_about(page: str) -> None:
    for paragraph in re.split(r"\n\s*\n|\n(?=\|)", PAGES[page]):
        for name in re.findall(r"giftcards\.[EW]\d{3}", paragraph):
            assert CHECKS[name] in paragraph, name


@every_page
def test_every_setting_status_and_variable_that_is_named_exists(page: str) -> None:
    text = PAGES[page]
    named = {word for word in code(text) if re.fullmatch(r"[A-Z][A-Z0-9_]+", word)}
    named |= set(re.findall(r"GIFTCARDS\[[\"'](\w+)[\"']\]", text))
    files = [*MODULES, *(ROOT / "example_project").rglob("*.py"), ROOT / "Makefile"]
    files += [ROOT / "tests" / "conftest.py", ROOT / "tests" / "recipes" / "settings.py"]
    files += (ROOT / "benchmarks").glob("*.py")
    known = set(re.findall(r"\w+", "\n".join(path.read_text() for path in files)))
    dicts = (conf.conf, delivery_conf.conf, oscar_conf.conf)
    known.update(*(it.declared for it in dicts), LineState.__members__, dir(global_settings))
    assert named - known == set()


@every_page
def test_every_check_that_is_named_exists(page: str) -> None:
    known = set(re.findall(r"giftcards\.[EW]\d{3}", inspect.getsource(checks)))
    assert set(re.findall(r"giftcards\.[EW]\d{3}", PAGES[page])) <= known


@pytest.mark.django_db
@every_page
def test_every_python_name_that_is_named_exists(page: str) -> None:
    permissions = {
        f"giftcards.{codename}"
        for codename in Permission.objects.values_list("codename", flat=True)
    }
    for name in set(re.findall(r"\bgiftcards(?:\.[A-Za-z]\w*)+", PAGES[page])):
        is_file = (DOCS / name).exists()
        if not (re.fullmatch(r"giftcards\.[EW]\d{3}", name) or name in permissions or is_file):
            resolve(name)


@every_page
def test_every_page_can_be_read_as_plain_markdown(page: str) -> None:
    assert "{eval-rst}" not in PAGES[page]


def test_every_error_that_is_named_exists() -> None:
    named = re.findall(r"`(\w+(?:Error|Conflict))`", "\n".join(PAGES.values()))
    assert named
    for name in named:
        assert name == "ValidationError" or hasattr(exceptions, name) or hasattr(builtins, name)


@every_page
def test_every_cell_can_be_read_without_the_row_above(page: str) -> None:
    for row in rows(PAGES[page]):
        for cell in row:
            assert not re.match(r"(as above|the same(\.|,|$))", cell, re.IGNORECASE), row


@every_page
def test_every_python_file_that_is_named_exists(page: str) -> None:
    for name in code(PAGES[page]):
        if re.fullmatch(r"[\w/]+\.py", name):
            assert (ROOT / name).exists() or (ROOT / "giftcards" / name).exists(), name


@every_page
def test_every_local_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in slugs(path.read_text()), target


def test_every_page_is_listed_in_the_index() -> None:
    listed = {name for tree in blocks(page("index"), r"\{toctree\}") for name in tree.split()}
    pages = {name.removeprefix("docs/").removesuffix(".md") for name in PAGES if "/" in name}
    assert pages - {"index"} <= listed


@every_page
def test_every_make_target_exists(page: str) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^\$ |`)(?:\w+=\S+ )*make (\w+)", PAGES[page], re.MULTILINE))
    assert named <= targets


# Generated from texts of the code, included from elsewhere, or in French.
WRITTEN_ELSEWHERE = {
    *(f"docs/reference/{name}.md" for name in ("api", "checks", "commands", "names", "settings")),
    "docs/reference/signals.md",
    "docs/changelog.md",
    "docs/security-policy.md",
    "docs/privacy.fr.md",
}


@pytest.mark.parametrize(
    "page", sorted({name for name in PAGES if "/" in name} - WRITTEN_ELSEWHERE)
)
def test_no_sentence_is_longer_than_twenty_words(page: str) -> None:
    assert [sentence for sentence in sentences(PAGES[page]) if words(sentence) > 20] == []


@pytest.mark.parametrize("around", ["{}", "Short. {} Short.", "- {}\n- Short.", "| X. | {} |"])
def test_a_long_sentence_is_found_wherever_it_stands(around: str) -> None:
    text = around.format("Word `code` **word** [word](page.md) and a “quoted text”.")
    assert [words(sentence) for sentence in sentences(text) if "word" in sentence] == [7]
