"""The reference against the code: commands, JSON, settings, checks and the Python API."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import re
import typing
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import pytest

from giftcards import checks, conf, exceptions, fulfilment, signals
from giftcards.conf import Setting
from giftcards.delivery import checks as delivery_checks
from giftcards.delivery import conf as delivery_conf
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
from giftcards.refunds import RefundBreakdown
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.conftest import Call
from tests.docs.pages import (
    APPS,
    CHECKS,
    COMMANDS,
    blocks,
    code,
    options_in,
    options_of,
    page,
    rows,
    section,
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_documented(command: str) -> None:
    text = section(page(APPS[COMMANDS[command]]), command)
    if "its own page" in text:
        text = section(page(command.removeprefix("giftcards_")), "Options")
    documented = {option for cells in rows(text) for option in options_in(cells[0])}
    assert documented == options_of(command)


def test_the_arguments_of_giftcards_place_are_named() -> None:
    text = section(page("commands"), "giftcards_place")
    assert "product, type and quantity" in text.replace("\n", " ")


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
            assert f"`{name}`" in section(page("placing"), "Telling your shop")
            assert f"giftcards.signals.{name}" in page("api")
