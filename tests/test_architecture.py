"""Imports point down. These tables are the design; the tests hold the code to them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "giftcards"

# What each part of the app may import of the others: only what stands above it.
PARTS = {
    "exceptions": "",
    "secrecy": "exceptions",
    "addresses": "",
    "wiping": "",
    "statuses": "",
    "signals": "",
    "problems": "",
    "options": "exceptions secrecy",
    "conf": "exceptions secrecy options",
    "checks": "exceptions options conf",
    "refunds": "statuses",
    "sales": "statuses",
    "provider": "exceptions secrecy conf problems",
    "crypto": "exceptions secrecy conf provider",
    "models": "exceptions secrecy statuses problems refunds sales conf crypto",
    "migrations": "statuses refunds sales models",
    "display": "statuses problems conf models",
    "engine": (
        "exceptions secrecy statuses signals problems conf refunds sales crypto provider models"
    ),
    "fulfilment": "models engine",
    "settlement": "signals sales models",
    "catalogue": "exceptions provider models engine",
    "ledger": "exceptions statuses problems conf refunds crypto provider models engine",
    "reports": "statuses models",
    "exports": "statuses refunds sales models reports",
    "balance_forecast": "statuses models",
    "customers": "exceptions conf problems models display secrecy wiping",
    "retention": "conf statuses models engine wiping",
    "rotation": "exceptions secrecy conf crypto models wiping",
    "health": "exceptions engine",
    "apps": "checks wiping engine ledger",
    "tasks": "exceptions conf signals models engine ledger retention",
    "roles": "exceptions",
    "management": (
        "exceptions statuses problems conf refunds settlement crypto models engine catalogue ledger"
        " reports exports balance_forecast customers retention rotation"
        " roles"
    ),
    "admin": (
        "exceptions secrecy addresses statuses problems conf display refunds settlement crypto"
        " provider models engine fulfilment catalogue ledger reports exports balance_forecast"
    ),
    "delivery": (
        "exceptions secrecy addresses statuses signals problems options conf checks refunds"
        " settlement crypto models display engine fulfilment catalogue ledger balance_forecast"
        " customers retention health roles management admin"
    ),
}

# The order inside a package: a module may import what stands to the left of it. A package inside
# one that stands here may have an order of its own.
WITHIN = {
    "provider": "transport answers client",
    "models": (
        "environment fields metadata times batches leases prices catalogue provider changes"
        " order_queries orders corrections cards reveals_and_notes ledger money"
    ),
    "engine": (
        "database backoff task_queue clock budget prices probe price_holds gateway background"
        " identity verdict storing late_answers figures recording polling outbox correcting"
        " reordering sending recovery_plan recovery restoring resolving sweep balance held_prices"
        " loop health"
    ),
    "customers": "person registry words export erasure",
    "ledger": "pairing expected summary conditions matching reading nightly",
    "admin": (
        "charts forms readonly lookups provider_sections provider catalogue buttons sections"
        " notices pages reauthentication revealing finding pricing repeating resolving columns"
        " filters balance listing order_links order_rows reveal_log refund_log books ledger summary"
        " breakdown refunding bookings timeline notes disputing correcting checking order_page"
        " placing periods figures pictures reports orders"
    ),
    "management": "output base overview selftest commands",
    "delivery": (
        # what is configured and stored, and what a customer is told
        "kinds conf checks models migrations privacy facts codes links"
        # sending it
        " channels failures handover messages queueing moving tracking receivers sending retention"
        # staff and monitors
        " conditions health signals news digest_mail digests tasks"
        # the customer's pages
        " pins qr page_tokens revealing my_orders pages views urls"
        " admin templatetags management apps"
    ),
    "delivery.models": "deliveries digests links",
    "delivery.admin": (
        "pages labels correction allowance resending handing_over previews dispute links digests"
        " deliveries section"
    ),
}

# Which libraries a part may import, beside the standard one and Django.
LIBRARIES = {
    "crypto": "cryptography",
    "provider.transport": "requests urllib3",
    "fulfilment": "asgiref",
    "signals": "asgiref",
    "exports": "openpyxl",
    "health": "asgiref health_check",
    "engine.task_queue": "django_q",
    "delivery.health": "health_check",
    "delivery.failures": "requests urllib3",
    "delivery.tracking": "anymail",
    "delivery.tasks": "django_q",
    "delivery.qr": "segno",
}

# Runs without the rest, on the standard library alone; one command starts it.
SIMULATOR = "simulator"
WITHIN_SIMULATOR = "account server api"
ORDERS = {**WITHIN, SIMULATOR: WITHIN_SIMULATOR}

# What gathers names; every other ``__init__.py`` is empty.
GATHERING = {
    "admin/__init__.py",
    "delivery/admin/__init__.py",
    "delivery/models/__init__.py",
    "ledger/__init__.py",
    "models/__init__.py",
    "simulator/__init__.py",
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def inner_name(path: Path, package: str) -> str:
    """The name of the module, or of the package it is in, inside ``package``.

    "" for a module that is not in it, and for the package's own ``__init__``.
    """
    outer, names = package.split("."), list(path.relative_to(PACKAGE).with_suffix("").parts)
    inner = names[len(outer) :] if names[: len(outer)] == outer else []
    return "" if not inner or inner == ["__init__"] else inner[0]


def imports(path: Path) -> Iterator[str]:
    """Every import in the file, wherever it stands, as a dotted name.

    Not those that only the type checker sees: a queryset names the model it is a queryset of.
    """
    tree = ast.parse(path.read_text("utf-8"))
    type_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in type_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> Iterator[list[str]]:
    """The imports from this package, in parts, without its name."""
    for dotted in imports(path):
        package, *parts = dotted.split(".")
        if package == "giftcards":
            yield parts


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
class TestModules:
    def test_modules_import_only_parts_above_them(self, path: Path) -> None:
        part = part_of(path)
        imported = {parts[0] for parts in own_imports(path)} - {part}
        if path.name == "giftcards_simulator.py":
            imported.remove(SIMULATOR)
        allowed = set() if part == SIMULATOR else set(PARTS[part].split())
        assert imported <= allowed, f"{part} may not import {sorted(imported - allowed)}"

    def test_modules_import_only_those_left_of_them_inside_their_packages(self, path: Path) -> None:
        for package, names in ORDERS.items():
            name, order, outer = inner_name(path, package), names.split(), package.split(".")
            if not name:
                continue
            imported = {
                parts[len(outer)]
                for parts in own_imports(path)
                if parts[: len(outer)] == outer and parts[len(outer) :]
            }
            allowed = set(order[: order.index(name)])
            if (PACKAGE.joinpath(*outer) / name).is_dir():
                allowed.add(name)
            assert imported <= allowed, f"{path} may not import {sorted(imported - allowed)}"

    def test_modules_import_only_the_libraries_of_their_part(self, path: Path) -> None:
        part = part_of(path)
        name = inner_name(path, part)
        imported = {dotted.partition(".")[0] for dotted in imports(path)}
        imported -= {*sys.stdlib_module_names, "giftcards", "django"}
        if part == SIMULATOR:
            assert not imported
            assert "django" not in {dotted.partition(".")[0] for dotted in imports(path)}
        allowed = LIBRARIES.get(part, "") + " " + LIBRARIES.get(f"{part}.{name}", "")
        assert imported <= set(allowed.split()), f"{part}.{name} imports {sorted(imported)}"


def test_the_tables_of_the_architecture_list_every_module() -> None:
    assert {part_of(path) for path in modules()} == {*PARTS, SIMULATOR}
    for package, order in ORDERS.items():
        found = {inner_name(path, package) for path in modules()} - {""}
        assert found == set(order.split()), package


def test_every_part_may_import_only_parts_above_it_in_the_table() -> None:
    above: set[str] = set()
    for part, allowed in PARTS.items():
        assert set(allowed.split()) <= above, part
        above.add(part)


def test_a_package_runs_no_code_when_it_is_imported() -> None:
    files = [path for folder in (PACKAGE, ROOT / "tests") for path in folder.rglob("__init__.py")]
    filled = {path for path in files if path.read_text("utf-8").strip()}
    assert {str(path.relative_to(PACKAGE)) for path in filled} == GATHERING
    for path in filled:
        _docstring, *statements, names = ast.parse(path.read_text("utf-8")).body
        assert {type(statement) for statement in statements} == {ast.ImportFrom}
        assert ast.unparse(names).startswith("__all__ = ")
