"""The documentation against the code: what it names exists, and what exists is in it."""

from __future__ import annotations

import argparse
import ast
import builtins
import dataclasses
import doctest
import importlib
import inspect
import json
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.apps import apps
from django.conf import global_settings
from django.contrib.admin import site
from django.contrib.auth.models import Permission
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand

from giftcards import checks, conf, exceptions, fulfilment, signals
from giftcards.conf import Setting
from giftcards.delivery import checks as delivery_checks
from giftcards.delivery import conf as delivery_conf
from giftcards.delivery import messages, news
from giftcards.delivery.kinds import KIND_OF_STATUS
from giftcards.delivery.kinds import Kind as MessageKind
from giftcards.delivery.models import CardLink, Delivery, LinkVisit, StaffDigest
from giftcards.management.base import order_as_dict
from giftcards.models import (
    Card,
    CustomerRefund,
    Order,
    Product,
    ProductType,
    ProviderState,
    StatusChange,
)
from giftcards.oscar import checks as oscar_checks
from giftcards.oscar import conf as oscar_conf
from giftcards.oscar.conf import LineState
from giftcards.problems import PARAMETERS, WORDINGS, Kind
from giftcards.refunds import RefundBreakdown
from giftcards.settlement import record_refund
from giftcards.simulator import SPECIAL_TYPES, Simulator
from giftcards.statuses import MOVES, Status
from tests.builders import make_guide_order
from tests.conftest import Call

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]
}
# The apps of the package, by label, with the page that has their commands.
APPS = {
    "giftcards": "commands",
    "giftcards_books": "commands",
    "giftcards_delivery": "delivery",
    "giftcards_oscar": "oscar",
}
INSTALLED = {label: page for label, page in APPS.items() if label in apps.app_configs}
# The label of its app, by command.
COMMANDS = {
    name: label
    for name, app in sorted(get_commands().items())
    for label in INSTALLED
    if app == apps.get_app_config(label).name
}
MODULES = sorted(
    path for path in (ROOT / "giftcards").rglob("*.py") if path.parts[-2] != "migrations"
)

FENCED = re.compile(r"^(```|:::).*?^\1$", re.DOTALL | re.MULTILINE)

every_page = pytest.mark.parametrize("page", sorted(PAGES))


def page(name: str) -> str:
    return PAGES[f"docs/{name}.md"]


def section(text: str, heading: str) -> str:
    """The text under a heading, with the texts under its subheadings."""
    # In code, such a line is a comment.
    prose = FENCED.sub(lambda block: re.sub(r"\S", " ", block[0]), text)
    found = re.search(rf"^(#+) {re.escape(heading)}\n", prose, re.MULTILINE)
    assert found, f"There is no heading {heading!r}."
    end = re.compile(rf"^#{{1,{len(found[1])}}} ", re.MULTILINE).search(prose, found.end())
    return text[found.end() : end.start() if end else None]


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in the text, without headings."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    rules = [number for number, row in enumerate(cells) if set("".join(row)) <= set("-:")]
    return [row for number, row in enumerate(cells) if not {number, number + 1} & set(rules)]


def code(text: str) -> list[str]:
    """The texts between backticks in running text."""
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", text))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


# Commands


def options_of(command: str) -> set[str]:
    """The options that are the command's own."""
    app = apps.get_app_config(COMMANDS[command]).name
    parser = load_command_class(app, command).create_parser("manage.py", command)
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
    text = section(page(APPS[COMMANDS[command]]), command)
    if "its own page" in text:
        text = section(page(command.removeprefix("giftcards_")), "Options")
    documented = {option for cells in rows(text) for option in options_in(cells[0])}
    assert documented == options_of(command)


@every_page
def test_every_command_that_is_named_exists(page: str) -> None:
    models = [model for label in INSTALLED for model in apps.get_app_config(label).get_models()]
    tables = {model._meta.db_table for model in models}
    commands = {path.stem for path in MODULES if path.parts[-2] == "commands"}
    named = set(re.findall(r"(?<!admin:)\bgiftcards_[a-z_]+\b", PAGES[page]))
    # An attribute of an app's configuration, and a tag with its library.
    others = {"giftcards_roles", "giftcards_desk", "giftcards_admin"}
    assert named <= {*commands, *tables, *APPS, *others}


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


def test_the_arguments_of_giftcards_place_are_named() -> None:
    text = section(page("commands"), "giftcards_place")
    assert "product, type and quantity" in text.replace("\n", " ")


# JSON


@pytest.mark.django_db
def test_the_documented_json_of_an_order_has_the_keys_that_are_printed() -> None:
    [shown] = blocks(section(page("commands"), "An order as JSON"), "json")
    documented = json.loads(shown)
    order = make_guide_order(Status.PARTIALLY_FILLED, sale_price=550)
    record_refund(order, amount=550, reference="R1")
    printed = order_as_dict(order)
    assert list(documented) == list(printed)
    assert list(documented["refund"]) == list(printed["refund"])
    assert list(printed["refund"]) == [*RefundBreakdown.__dataclass_fields__]
    assert list(documented["customer"]) == list(printed["customer"])
    [refund] = printed["refunds"]
    assert list(documented["refunds"][0]) == list(refund)


@pytest.mark.django_db
def test_the_documented_json_of_the_overview_has_the_keys_that_are_printed(call: Call) -> None:
    [shown] = blocks(section(page("commands"), "The overview as JSON"), "json")
    documented = json.loads(shown)
    printed = json.loads(call("giftcards_status", "--json").out)
    assert list(documented) == list(printed)
    assert list(documented["orders"]) == list(printed["orders"])
    assert list(documented["provider"]) == list(printed["provider"])


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "command"), [("commands", "giftcards_poll"), ("delivery", "giftcards_deliver")]
)
def test_the_documented_json_of_a_pass_has_the_keys_that_are_printed(
    name: str, command: str, call: Call
) -> None:
    [shown] = re.findall(r'`(\{"sent".*?\})`', page(name))
    assert list(json.loads(shown)) == list(json.loads(call(command, "--json").out))


# Settings and checks


@pytest.mark.parametrize(
    ("name", "heading", "declared"),
    [
        ("settings", "GIFTCARDS", conf.conf.declared),
        ("delivery", "Settings", delivery_conf.conf.declared),
        ("oscar", "Settings", oscar_conf.conf.declared),
    ],
)
def test_every_setting_is_documented_with_its_default(
    name: str, heading: str, declared: Mapping[str, Setting[Any]]
) -> None:
    tables = rows(section(page(name), heading))
    documented = {row[0].strip("`"): row[1] for row in tables if len(row) == 4}
    assert list(documented) == list(declared)
    for name, setting in declared.items():
        default = repr(setting.default).replace("'", '"')
        expected = "**required**" if setting.required else f"`{default}`"
        assert documented[name] == expected


@pytest.mark.parametrize(
    ("name", "module"),
    [("settings", checks), ("delivery", delivery_checks), ("oscar", oscar_checks)],
)
def test_every_check_is_documented(name: str, module: ModuleType) -> None:
    documented = [row[0].strip("`") for row in rows(section(page(name), "System checks"))]
    assert len(documented) == len(set(documented))
    found = re.findall(r"\bgiftcards(?:_\w+)?\.[EW]\d{3}", inspect.getsource(module))
    assert set(documented) == set(found)


# A word of each check: in its message, in its row of the settings page, and wherever it is named.
CHECKS = {
    "giftcards.E001": "API_KEY",
    "giftcards.E002": "API_KEY",
    "giftcards.E003": "ENCRYPTION_KEYS",
    "giftcards.E004": "encryption key",
    "giftcards.E005": "GIFTCARDS",
    "giftcards.E006": "type",
    "giftcards.E007": "range",
    "giftcards.E008": "BASE_URL",
    "giftcards.E009": "BASE_URL",
    "giftcards.E010": "django-q2",
    "giftcards.E011": "timeout",
    "giftcards.E012": "retry",
    "giftcards.E013": "Q_CLUSTER",
    "giftcards.E014": "orm",
    "giftcards.E015": "Q_CLUSTER",
    "giftcards.E016": "twice",
    "giftcards.E017": "SECRET_KEY",
    "giftcards.E018": "CURRENCY",
    "giftcards.E019": "replica",
    "giftcards.E020": "card",
    "giftcards.E021": "REAUTHENTICATE",
    "giftcards.E022": "cards",
    "giftcards.E023": "REVIEW_ORDER",
    "giftcards.E024": "path",
    "giftcards.W001": "worker",
    "giftcards.W002": "sync",
    "giftcards.W003": "broker",
    "giftcards.W004": "scheduler",
    "giftcards.W005": "password",
    "giftcards.W006": "key",
    "giftcards.W008": "same",
}


def checks_in_code() -> dict[str, str]:
    """The texts of each check that ``checks.py`` words itself, by id."""
    found = {}
    for node in ast.walk(ast.parse(inspect.getsource(checks))):
        if isinstance(node, ast.Call):
            ids = [word.value for word in node.keywords if word.arg == "id"]
            if ids and isinstance(ids[0], ast.Constant):
                found[str(ids[0].value)] = ast.unparse(node)
    return found


def test_every_check_means_in_the_settings_what_its_message_says() -> None:
    described = {
        row[0].strip("`"): " ".join(row[1:])
        for row in rows(section(page("settings"), "System checks"))
    }
    assert described.keys() == CHECKS.keys()
    for name, word in CHECKS.items():
        assert word in described[name], name
        assert word in checks_in_code().get(name, word), name


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
    """Import what the dotted name stands for.

    What needs django-oscar is imported where that is: see ``tests/oscar/test_docs.py``.
    """
    if name.startswith("giftcards.oscar.") and "giftcards_oscar" not in INSTALLED:
        return None
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


# The Python API


def api_blocks() -> list[tuple[str, str]]:
    """The blocks of signatures on the API page, each with the module that its first line names."""
    first_line = re.compile(r"# (giftcards(?:\.\w+)+)\n")
    found = [(first_line.match(block), block) for block in blocks(page("api"), "python")]
    return [(match[1], block) for match, block in found if match]


def surface(thing: Any, methods: Iterable[str]) -> list[str]:
    """A function's signature; or a class's fields, and the signatures of these methods."""
    if not isinstance(thing, type):
        return [f"async: {inspect.iscoroutinefunction(thing)}", str(inspect.signature(thing))]
    if typing.is_typeddict(thing):
        return [f"{name}: {kind.__forward_arg__}" for name, kind in thing.__annotations__.items()]
    lines = [f"{field.name}: {field.type}" for field in dataclasses.fields(thing)]
    for name in methods:
        method = inspect.getattr_static(thing, name)
        function = getattr(method, "fget", None) or getattr(method, "__func__", method)
        lines.append(f"{type(method).__name__} {name}{inspect.signature(function)}")
    return lines


@pytest.mark.parametrize(("module", "block"), api_blocks())
def test_every_documented_signature_is_that_of_the_code(module: str, block: str) -> None:
    # Defaults may be what the module imports.
    names = dict(vars(importlib.import_module(module)))
    names |= {"dataclass": dataclasses.dataclass, "field": dataclasses.field}
    # Like the modules of the app, so that annotations are compared as texts.
    exec(f"from __future__ import annotations\n{block}", names)
    [stub] = ast.parse(block).body
    assert isinstance(stub, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    methods = [node.name for node in stub.body if isinstance(node, ast.FunctionDef)]
    found = getattr(importlib.import_module(module), stub.name)
    assert surface(names[stub.name], methods) == surface(found, methods)


def test_every_function_for_placing_has_its_signature_on_the_api_page() -> None:
    documented = set(re.findall(r"def (\w+)", "".join(block for _, block in api_blocks())))
    for name, kind in vars(fulfilment).items():
        if inspect.isfunction(kind) and kind.__module__ == fulfilment.__name__:
            assert name.startswith("_") or name in documented


def test_every_error_is_documented_with_its_base() -> None:
    documented = {
        row[0].strip("`"): row[1].strip("`") for row in rows(section(page("api"), "Errors"))
    }
    assert documented == {
        name: kind.__base__.__name__
        for name, kind in vars(exceptions).items()
        if isinstance(kind, type)
    }


@pytest.mark.parametrize(
    "name", [re.findall(r"def (\w+)", block)[0] for _, block in api_blocks() if "\ndef" in block]
)
def test_every_error_that_a_docstring_names_is_on_the_api_page(name: str) -> None:
    [module] = [module for module, block in api_blocks() if f"def {name}(" in block]
    docstring = inspect.getdoc(getattr(importlib.import_module(module), name)) or ""
    _, _, table = section(page("api"), name).partition("| raises | when |\n")
    documented = {row[0].strip("`") for row in rows(table)}
    assert documented == set(re.findall(r"\w+(?:Error|Conflict|ForSale)", docstring))


@every_page
def test_every_page_can_be_read_as_plain_markdown(page: str) -> None:
    assert "{eval-rst}" not in PAGES[page]


MODELS = {
    "api": (Order, Card, CustomerRefund, StatusChange, Product, ProductType, ProviderState),
    "delivery": (Delivery, CardLink, LinkVisit, StaffDigest),
}


@pytest.mark.parametrize(
    ("where", "model"), [(where, model) for where, models in MODELS.items() for model in models]
)
def test_every_documented_field_of_a_model_exists(where: str, model: Any) -> None:
    names = [
        name
        for cells in rows(section(page(where), model.__name__))
        for name in code(cells[0])
        if not name.endswith(")")
    ]
    assert names
    for name in names:
        assert hasattr(model, name), name


@pytest.mark.parametrize("model", [Order, Card, ProductType])
def test_every_documented_method_of_a_manager_exists(model: Any) -> None:
    methods = re.findall(r"`(\w+)\(\w*\)`", section(page("api"), model.__name__))
    assert methods
    for method in methods:
        assert callable(getattr(model.objects, method))


def test_every_signal_is_documented() -> None:
    for name in vars(signals):
        if name == "customer_refund_changed":
            assert f"`giftcards.signals.{name}`" in page("api")
        if name.startswith("order_"):
            assert f"`{name}`" in section(page("orders"), "Telling your shop")
            assert f"giftcards.signals.{name}" in page("api")


# Messages to customers


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


def test_every_error_that_is_named_exists() -> None:
    named = re.findall(r"`(\w+(?:Error|Conflict))`", "\n".join(PAGES.values()))
    assert named
    for name in named:
        assert name == "ValidationError" or hasattr(exceptions, name) or hasattr(builtins, name)


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


def test_every_code_is_documented_with_its_text_and_its_parameters() -> None:
    documented = rows(section(page("orders"), "What needs attention"))
    assert [row[0].strip("`") for row in documented if row[0].strip("`") not in WORDINGS] == []
    assert len(documented) == len(WORDINGS)
    for name, quoted, parameters, *_ in documented:
        wording = WORDINGS[name.strip("`")]
        text = re.sub(r" ?%\(reason\)s", "", str(wording.text))
        assert quoted.strip('"').rstrip(".") == re.sub(r"%\(\w+\)s", "…", text).rstrip(".")
        assert {*wording.parameters} <= {*code(parameters)} <= {*PARAMETERS}


# The beginning of the column "ends". Problems of the final answer stay until they are ticked off.
ENDS = {
    Kind.SENDING: "when",
    Kind.SEARCH: "with the next look",
    Kind.ANSWER: "with the next answer|ticked off$|when it settles|never shown",
    Kind.LASTING: "ticked off$",
    Kind.LEDGER: r"when the \[ledger\]",
}


def test_every_problem_ends_in_its_row_as_it_does_in_the_code() -> None:
    for name, *cells in rows(section(page("orders"), "What needs attention")):
        kind = WORDINGS[name.strip("`")].kind
        assert kind in {Kind.HISTORY, Kind.CARE} or re.match(ENDS[kind], cells[2]), name


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


def test_every_page_is_listed_in_the_index_and_the_readme() -> None:
    listed = {name for tree in blocks(page("index"), r"\{toctree\}") for name in tree.split()}
    assert {path.stem for path in DOCS.glob("*.md")} - {"index"} <= listed
    for path in DOCS.glob("*.md"):
        # The last two show files that the README links to by themselves.
        if path.stem not in {"index", "changelog", "security-policy"}:
            assert f"(docs/{path.name})" in PAGES["README.md"]


@every_page
def test_every_make_target_exists(page: str) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^\$ |`)(?:\w+=\S+ )*make (\w+)", PAGES[page], re.MULTILINE))
    assert named <= targets
