"""Compare the reference with the code: generated pages, public names, and tables kept by hand."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.core.management import call_command

from docs.reference.api import MODELS
from docs.reference.checks import by_app
from docs.reference.names import FILE, attributes, json_keys, names, promised
from docs.reference.pages import PAGES
from giftcards import checks, exceptions, fulfilment
from giftcards.delivery import checks as delivery_checks
from giftcards.models import Card, Order, ProductType
from giftcards.oscar import checks as oscar_checks
from giftcards.rules.problems import Problem
from giftcards.settlement import record_refund
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import PARTIAL, make_guide_order, settle
from tests.conftest import Call
from tests.docs.pages import CHECKS, DOCS, Block, all_blocks, code, page, rows, section
from tests.docs.pages import PAGES as PAGES_OF_DOCS


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_the_code_says(name: str) -> None:
    committed = (DOCS / "reference" / name).read_text()
    assert committed == PAGES[name](), "`python -m docs.reference` writes the pages anew."


A_DECISION = """\
A public name has changed. That is a decision: see docs/versions.md for how long an old name stays,
write the change down in CHANGELOG.md, and run `python -m docs.reference --names`.
"""


def test_the_public_names_are_those_of_the_release() -> None:
    released, found = FILE.read_text().splitlines(), names().splitlines()
    changes = difflib.unified_diff(released, found, "names.txt", "the code", lineterm="", n=0)
    assert released == found, "\n".join([A_DECISION, *changes])


def test_every_function_for_placing_is_public() -> None:
    # The details of an order are listed as parameters instead.
    for name in set(fulfilment.__all__) - {"OrderDetails"}:
        assert f"giftcards.fulfilment.{name}" in FILE.read_text(), name


# Apps and URL modules that a shop refers to as a whole.
WHOLE = {
    "giftcards",
    "giftcards.books",
    "giftcards.delivery",
    "giftcards.delivery.urls",
    "giftcards.oscar",
    "giftcards.oscar.urls",
}
TEACHING = [name for name in PAGES_OF_DOCS if name == "README.md" or name.startswith("docs/")]


@pytest.mark.parametrize("name", TEACHING)
def test_every_name_that_a_block_of_code_uses_is_promised(name: str) -> None:
    paths = {re.split(r"[( ]", line)[0] for line in promised()}
    # If an attribute or a function is promised, so is its model or module.
    known = paths | {path.rpartition(".")[0] for path in paths} | WHOLE
    used = {each for block in all_blocks(name) for each in names_in(block)}
    assert used <= known


def names_in(block: Block) -> Iterator[str]:
    """Yield the names that the block imports from the app or has in quotation marks."""
    imports = r"^\s*(?:>>> )?from (giftcards[\w.]*) import (\([^)]*\)|[^\n#]+)"
    for module, imported in re.findall(imports, block.text, re.MULTILINE):
        for each in imported.strip("()").split(","):
            yield f"{module}.{each.split()[0]}"
    yield from re.findall(r"""["'](giftcards(?:\.\w+)+)["']""", block.text)


def test_what_a_block_of_code_uses_is_found() -> None:
    text = "from giftcards import (tasks as work, urls)\nA = 'giftcards.delivery.pins.pin'\n"
    block = Block("page", "heading", "python", text, 1)
    assert set(names_in(block)) == {
        "giftcards.tasks",
        "giftcards.urls",
        "giftcards.delivery.pins.pin",
    }


@pytest.mark.parametrize("module", [checks, delivery_checks, oscar_checks])
def test_every_check_has_a_row(module: ModuleType) -> None:
    documented = [name for rows in by_app().values() for name in rows]
    assert len(documented) == len(set(documented))
    found = re.findall(r"\bgiftcards(?:_\w+)?\.[EW]\d{3}", inspect.getsource(module))
    assert set(found) <= set(documented)


def test_every_check_of_the_core_is_in_the_table_of_words() -> None:
    assert by_app()["giftcards"].keys() == CHECKS.keys()


def test_every_error_that_a_docstring_names_exists() -> None:
    text = page("reference/api")
    named = set(re.findall(r"`(\w+(?:Error|Conflict|ForSale))`", text))
    known = {
        *vars(exceptions),
        "TypeError",
        "ValidationError",
        "ValueError",
        "RuntimeError",
        "ImportError",
    }
    assert named
    assert named <= known


# Tables kept by hand.


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in MODELS.items() for name in names]
)
def test_every_documented_field_of_a_model_exists(module: str, name: str) -> None:
    text, model = (
        section(page("reference/models"), name),
        getattr(importlib.import_module(module), name),
    )
    named = [each for cells in rows(text) for each in code(cells[0]) if not each.endswith(")")]
    assert named
    for each in named:
        assert hasattr(model, each) or each in model.__annotations__, each


@pytest.mark.parametrize(("path", "promises"), attributes().items())
def test_every_promised_attribute_of_a_model_is_documented(path: str, promises: list[str]) -> None:
    text = section(page("reference/models"), path.rpartition(".")[2])
    documented = {each.rpartition(".")[2] for each in code(text)}
    assert set(promises) <= documented


@pytest.mark.parametrize("model", [Order, Card, ProductType])
def test_every_documented_method_of_a_manager_exists(model: Any) -> None:
    text = section(page("reference/models"), model.__name__)
    methods = re.findall(r"[`.](\w+)\(\w*\)`", text)
    assert methods
    for method in methods:
        assert callable(getattr(model.objects.all(), method)), method


# Keys that are data: names of groups and references; versions of databases.
DATA = {"groups", "kept", "left_alone", "changed_days"}
DATABASES = {"SQLite", "PostgreSQL", "MariaDB"}


def keys_of(printed: dict[str, Any]) -> Iterator[str]:
    for key, value in printed.items():
        yield key
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict) and key not in DATA:
            yield from (f"{key}.{name}" for name in inner if name not in DATABASES)


@pytest.fixture
def shop(simulator: Simulator) -> None:
    """A catalogue, and an order with every value that the commands can print."""
    call_command("giftcards_catalogue", verbosity=0)
    settle("web-1041", PARTIAL)
    order = make_guide_order(
        Status.PARTIALLY_FILLED,
        reference="web-1042",
        sale_price=550,
        problems=[Problem("not_known", {})],
        customer_email="amina@example.com",
    )
    record_refund(order, amount=550, reference="R1")


# The command that prints the keys, for each section of the page or documented command.
PRINTED = {
    "An order": ("giftcards_status", "web-1042"),
    "giftcards_status": ("giftcards_status",),
    "giftcards_report": ("giftcards_report",),
    "giftcards_ledger": ("giftcards_ledger",),
    "giftcards_catalogue": ("giftcards_catalogue",),
    "giftcards_customer": ("giftcards_customer", "amina@example.com", "--erase", "--dry-run"),
    "giftcards_poll": ("giftcards_poll",),
    "giftcards_purge": ("giftcards_purge", "--settled-before", "30"),
    "giftcards_reconcile": ("giftcards_reconcile", "--after-restore"),
    "giftcards_refund": ("giftcards_refund", "web-1042", "50", "--payment-reference", "R2"),
    "giftcards_rotate_keys": ("giftcards_rotate_keys",),
    "giftcards_selftest": ("giftcards_selftest",),
    "giftcards_setup": ("giftcards_setup",),
}


@pytest.mark.usefixtures("shop")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("title", PRINTED)
def test_the_documented_json_has_the_keys_that_are_printed(title: str, call: Call) -> None:
    printed = set(keys_of(json.loads(call(*PRINTED[title], "--json").out)))
    documented = set(json_keys()[title])
    if not any("." in name for name in documented):
        printed = {name for name in printed if "." not in name}
    # The rows of the report have the same keys as the total, so the page names these keys once.
    printed -= {name.replace("total.", "rows.") for name in printed if name.startswith("total.")}
    assert documented - {"opened"} == printed


def test_the_json_of_every_command_is_documented() -> None:
    assert json_keys().keys() == {*PRINTED, "giftcards_oscar_sync"}
