"""The documentation against the code: what it names exists, and what exists is in it."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import doctest
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import global_settings
from django.contrib.auth.models import Permission
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand

from giftcards import checks, conf, exceptions, signals
from giftcards.management.base import order_as_dict
from giftcards.models import Card, Order, ProviderState, StatusChange
from giftcards.refunds import RefundBreakdown
from giftcards.simulator import SPECIAL_TYPES, Simulator
from giftcards.statuses import MOVES, Status
from tests.builders import make_order
from tests.conftest import Call

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]
}
COMMANDS = sorted(name for name, app in get_commands().items() if app == "giftcards")
MODULES = sorted(
    path for path in (ROOT / "giftcards").rglob("*.py") if path.parts[-2] != "migrations"
)

every_page = pytest.mark.parametrize("page", sorted(PAGES))


def page(name: str) -> str:
    return PAGES[f"docs/{name}.md"]


def section(text: str, heading: str) -> str:
    """What stands under a heading, with what stands under its subheadings."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n", text, re.MULTILINE)
    assert found, f"There is no heading {heading!r}."
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in the text, without headings."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    rules = [number for number, row in enumerate(cells) if set("".join(row)) <= set("-:")]
    return [row for number, row in enumerate(cells) if not {number, number + 1} & set(rules)]


def code(text: str) -> list[str]:
    """What stands between backticks in running text."""
    prose = re.sub(r"^(```|:::).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", prose)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


# Commands


def options_of(command: str) -> set[str]:
    """The options that are the command's own."""
    parser = load_command_class("giftcards", command).create_parser("manage.py", command)
    common = BaseCommand().create_parser("manage.py", command)
    return long_options(parser) - long_options(common)


def long_options(parser: argparse.ArgumentParser) -> set[str]:
    return {
        option
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--")
    }


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_documented(command: str) -> None:
    text = section(page("commands"), command)
    if "its own page" in text:
        text = section(page(command.removeprefix("giftcards_")), "Options")
    documented = {option for cells in rows(text) for option in options_in(cells[0])}
    assert documented == options_of(command)


@every_page
def test_every_command_that_is_named_exists(page: str) -> None:
    tables = {model._meta.db_table for model in apps.get_app_config("giftcards").get_models()}
    named = set(re.findall(r"\bgiftcards_[a-z_]+\b", PAGES[page]))
    assert named <= {*COMMANDS, *tables}


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


def test_the_arguments_of_placing_are_named() -> None:
    text = section(page("commands"), "giftcards_place")
    assert "product, type and quantity" in text.replace("\n", " ")


# JSON


@pytest.mark.django_db
def test_the_order_as_json_has_the_keys_that_are_shown() -> None:
    [shown] = blocks(section(page("commands"), "An order as JSON"), "json")
    documented = json.loads(shown)
    printed = order_as_dict(make_order(Status.PARTIALLY_FILLED))
    assert list(documented) == list(printed)
    assert list(documented["refund"]) == list(printed["refund"])
    assert list(printed["refund"]) == [*RefundBreakdown.__dataclass_fields__]


@pytest.mark.django_db
def test_the_overview_as_json_has_the_keys_that_are_shown(call: Call) -> None:
    [shown] = blocks(section(page("commands"), "The overview as JSON"), "json")
    documented = json.loads(shown)
    printed = json.loads(call("giftcards_status", "--json").out)
    assert list(documented) == list(printed)
    assert list(documented["orders"]) == list(printed["orders"])
    assert list(documented["provider"]) == list(printed["provider"])


@pytest.mark.django_db
def test_the_result_of_a_sweep_has_the_keys_that_are_shown(call: Call) -> None:
    [shown] = re.findall(r'`(\{"sent".*?\})`', page("commands"))
    assert list(json.loads(shown)) == list(json.loads(call("giftcards_poll", "--json").out))


# Settings and checks


def test_every_setting_is_documented_with_its_default() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows(section(page("settings"), "GIFTCARDS"))}
    assert list(documented) == list(conf._SPECS)
    for name, spec in conf._SPECS.items():
        expected = "**required**" if spec.required else f"`{json.dumps(spec.default)}`"
        assert documented[name] == expected


def test_every_check_is_documented() -> None:
    source = inspect.getsource(checks)
    documented = [row[0].strip("`") for row in rows(section(page("settings"), "System checks"))]
    assert len(documented) == len(set(documented))
    assert set(documented) == set(re.findall(r"giftcards\.[EW]\d{3}", source))


@every_page
def test_every_setting_status_and_variable_that_is_named_exists(page: str) -> None:
    text = PAGES[page]
    named = {word for word in code(text) if re.fullmatch(r"[A-Z][A-Z0-9_]+", word)}
    named |= set(re.findall(r"GIFTCARDS\[[\"'](\w+)[\"']\]", text))
    files = [*MODULES, *(ROOT / "example_project").rglob("*.py"), ROOT / "Makefile"]
    files += [ROOT / "tests" / "conftest.py", *(ROOT / "tests" / "benchmarks").glob("*.py")]
    known = set(re.findall(r"\w+", "\n".join(path.read_text() for path in files)))
    assert named - known - set(dir(global_settings)) == set()


# Names


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
        if not re.fullmatch(r"giftcards\.[EW]\d{3}", name) and name not in permissions:
            resolve(name)


def resolve(name: str) -> Any:
    """Import what the dotted name stands for."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return found
    raise AssertionError(f"There is no {name}.")


@every_page
def test_every_python_block_can_be_compiled_and_imports_what_exists(page: str) -> None:
    for block in blocks(PAGES[page], "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {
                "django",
                "django_q",
                "giftcards",
            }:
                for alias in node.names:
                    resolve(f"{node.module}.{alias.name}")


@every_page
def test_every_example_prints_what_is_shown(page: str) -> None:
    examples = "\n".join(blocks(PAGES[page], "pycon"))
    test = doctest.DocTestParser().get_doctest(examples, {}, page, page, 0)
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("model", [Order, Card, StatusChange, ProviderState])
def test_every_documented_field_of_a_model_exists(model: Any) -> None:
    names = [
        name
        for cells in rows(section(page("api"), model.__name__))
        for name in code(cells[0])
        if not name.endswith(")")
    ]
    assert names
    for name in names:
        assert hasattr(model, name), name


@pytest.mark.parametrize("model", [Order, Card])
def test_every_documented_method_of_a_manager_exists(model: Any) -> None:
    methods = re.findall(r"`(\w+)\(\w*\)`", section(page("api"), model.__name__))
    assert methods
    for method in methods:
        assert callable(getattr(model.objects, method))


def test_every_signal_is_documented() -> None:
    for name in vars(signals):
        if name.startswith("order_"):
            assert f"`{name}`" in section(page("orders"), "Telling your shop")
            assert f"giftcards.signals.{name}" in page("api")


def test_the_simulator_is_documented() -> None:
    text = page("simulator")
    for name in SPECIAL_TYPES:
        assert f"\n| `{name}` |" in text
    for option in dataclasses.fields(Simulator):
        assert f"`{option.name}`" in text


def test_the_errors_that_are_named_exist() -> None:
    named = re.findall(r"`(\w+(?:Error|Conflict))`", "\n".join(PAGES.values()))
    assert named
    for name in named:
        assert name == "ValidationError" or hasattr(exceptions, name)


# Orders


def test_every_status_is_documented_by_the_name_that_staff_see() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows(section(page("orders"), "Statuses"))}
    assert documented == {status.value: str(status.label) for status in Status}


def test_every_move_is_documented() -> None:
    documented = [
        tuple(cell.strip("`") for cell in row[:2]) for row in rows(section(page("orders"), "Moves"))
    ]
    allowed = {(origin.value, target.value) for origin in Status for target in MOVES[origin]}
    assert len(documented) == len(allowed)
    assert set(documented) == allowed


def texts_of_the_app() -> Iterator[str]:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_text_for_staff_that_is_explained_is_one_that_the_app_writes() -> None:
    written = list(texts_of_the_app())
    explained = rows(section(page("orders"), "What needs attention"))
    assert explained
    for quoted, *_ in explained:
        for part in filter(None, (part.strip() for part in quoted.strip('"').split("…"))):
            assert any(part in text for text in written), part


# Links


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(
        r"^#+ (.*)$",
        re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE),
        re.MULTILINE,
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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


def test_every_page_can_be_found() -> None:
    listed = {name for tree in blocks(page("index"), r"\{toctree\}") for name in tree.split()}
    assert {path.stem for path in DOCS.glob("*.md")} - {"index"} <= listed
    for path in DOCS.glob("*.md"):
        if path.stem not in {"index", "changelog"}:
            assert f"(docs/{path.name})" in PAGES["README.md"]


@every_page
def test_every_make_target_exists(page: str) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^\$ |`)(?:\w+=\S+ )*make (\w+)", PAGES[page], re.MULTILINE))
    assert named <= targets
