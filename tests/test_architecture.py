"""Imports point down. These tables are the design; the tests hold the code to them.

They allow what exists: a new import between two parts, or inside a package, is a decision, which
changes a table.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from django.apps import apps

from giftcards.plugins import INSTALLED

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "giftcards"

# What each part of the app imports of the others: only what stands above it.
PARTS = {
    "exceptions": "",
    "keys.wiping": "",
    "keys.typed": "",
    "addresses": "",
    "rules": "",
    "statuses": "rules",
    "spelling": "",
    "search_terms": "spelling",
    "signals": "",
    "problems": "rules",
    "keys": "",
    "keys.secrecy": "exceptions",
    "refunds": "rules",
    "conf": "exceptions keys.secrecy",
    "releases": "",
    "checks": "exceptions conf releases",
    "keys.keyring": "exceptions keys.secrecy conf",
    "provider": "exceptions keys.secrecy conf",
    "models": "exceptions rules problems keys.secrecy conf keys.keyring spelling search_terms",
    "settlement": "rules signals conf models",
    "keys.rotation": "exceptions keys.wiping keys.secrecy conf keys.keyring models",
    "durations": "",
    "display": "rules problems conf models",
    "engine": ("exceptions rules signals problems keys.secrecy conf keys.keyring provider models"),
    "migrations": "models",
    "catalogue": "exceptions keys.secrecy conf provider models durations display engine",
    "conditions": "models",
    "core_conditions": "rules problems conf models display engine catalogue conditions",
    "fulfilment": "signals models engine",
    "privacy": (
        "exceptions keys.wiping rules spelling problems keys.secrecy conf models display engine"
    ),
    "plugins": "checks models engine catalogue conditions core_conditions privacy",
    "apps": "keys.wiping checks plugins",
    "health": "exceptions conditions",
    "tasks": "exceptions conf engine",
    "management": (
        "exceptions rules problems conf keys.keyring models settlement keys.rotation display "
        "engine catalogue conditions privacy plugins tasks"
    ),
    "admin": (
        "exceptions keys.typed addresses rules spelling search_terms problems keys.secrecy conf "
        "keys.keyring provider models settlement durations display engine catalogue conditions "
        "fulfilment privacy plugins management"
    ),
    "templatetags": "admin",
    "books": (
        "exceptions rules problems conf keys.keyring provider models durations display engine "
        "conditions plugins health management admin"
    ),
    "delivery": (
        "exceptions addresses rules signals keys.secrecy conf checks keys.keyring models "
        "settlement durations display engine conditions privacy plugins health management admin"
    ),
    "oscar": (
        "exceptions addresses rules signals conf models display engine catalogue fulfilment "
        "plugins management"
    ),
}

# What the modules, and the packages, inside a package import of each other.
WITHIN = {
    "admin": {
        "fields": "",
        "form_tokens": "",
        "actions": "form_tokens",
        "hints": "",
        "breakdown": "",
        "rows": "",
        "reauthentication": "",
        "summary": "",
        "provider_sections": "hints",
        "extensions": "actions rows",
        "filters": "rows",
        "catalogue": "rows",
        "provider": "form_tokens rows provider_sections",
        "pages": "actions extensions",
        "deciding": "form_tokens actions pages",
        "held": "actions breakdown pages deciding",
        "owning": "form_tokens actions pages",
        "people": "",
        "same_customer": "actions rows",
        "standstill": "",
        "revealing": "actions reauthentication rows",
        "placing": "breakdown fields pages reauthentication revealing same_customer",
        "timeline": "hints pages",
        "resolving": "form_tokens actions pages deciding",
        "refunding": "actions breakdown fields filters pages rows",
        "correcting": "actions extensions fields form_tokens pages reauthentication revealing",
        "finding": "actions reauthentication",
        "searching": "actions finding",
        "desk": "rows pages searching",
        "order_page": (
            "form_tokens hints breakdown rows summary extensions pages deciding owning people "
            "same_customer standstill timeline refunding"
        ),
        "listing": "rows extensions filters pages searching",
        "orders": (
            "extensions deciding held owning revealing placing resolving refunding correcting "
            "finding searching order_page listing"
        ),
    },
    "catalogue": {
        "pricing": "",
        "stock": "",
        "moves": "pricing",
        "reading": "pricing",
        "quotes": "pricing stock",
        "offers": "pricing stock quotes",
        "holds": "quotes offers",
    },
    "books": {
        "forecast": "",
        "models": "",
        "reports": "",
        "pairing": "",
        "health": "",
        "migrations": "",
        "balances": "",
        "exports": "reports",
        "expected": "pairing",
        "matching": "models pairing expected",
        "summary": "models reports balances expected",
        "months": "models reports summary",
        "closing": "models reports expected months",
        "admin": "forecast models reports exports expected summary months closing",
        "conditions": "forecast models expected summary closing",
        "reading": "models matching conditions",
        "management": "forecast models reports exports summary conditions reading",
        "nightly": "models reading",
        "plugin": "closing conditions nightly",
        "apps": "plugin",
    },
    "books.admin": {
        "periods": "",
        "ledger": "periods",
        "pictures": "periods",
        "reports": "periods pictures",
        "closing": "periods reports",
        "on_orders": "reports closing",
    },
    "delivery": {
        "kinds": "",
        "signals": "",
        "health": "",
        "migrations": "",
        "page_tokens": "",
        "conf": "kinds",
        "facts": "kinds",
        "models": "kinds",
        "channels": "conf",
        "checks": "kinds conf",
        "pins": "conf models revealing",
        "codes": "facts",
        "my_orders": "kinds page_tokens conf facts models",
        "conditions": "conf models",
        "links": "conf models",
        "news": "conf models",
        "privacy": "models",
        "failures": "channels",
        "revealing": "models codes",
        "templatetags": "models my_orders",
        "messages": "kinds conf facts models channels codes links",
        "handover": "failures",
        "queueing": "kinds conf facts models channels failures",
        "pages": "page_tokens conf facts models pins codes revealing",
        "digests": "signals conf models channels news failures handover",
        "sending": "kinds conf facts models channels links failures messages handover",
        "moving": "kinds conf facts models channels failures queueing",
        "views": "page_tokens conf models pins codes my_orders links revealing pages",
        "tasks": "models handover queueing digests sending",
        "admin": "kinds conf facts models channels links messages queueing digests moving",
        "management": "conf models handover queueing digests sending tasks",
        "receivers": "models queueing moving",
        "plugin": "conf checks conditions privacy tasks receivers",
        "urls": "links views",
        "apps": "plugin",
    },
    "delivery.admin": {
        "allowance": "",
        "labels": "",
        "dispute": "labels",
        "handing_over": "allowance",
        "resending": "allowance labels",
        "section": "allowance labels dispute handing_over resending",
        "lists": "labels resending section",
    },
    "engine": {
        "backoff": "",
        "timings": "",
        "task_queue": "timings",
        "database": "timings",
        "turns": "timings database",
        "identity": "",
        "storing": "",
        "clock": "",
        "health": "task_queue",
        "open_money": "",
        "reordering": "task_queue",
        "reviewing": "",
        "outbox": "backoff timings database",
        "recovery_plan": "identity",
        "verdict": "identity",
        "budget": "clock",
        "late_answers": "identity storing verdict",
        "holding": "task_queue database",
        "prices": "database budget holding",
        "recording": "backoff database identity storing reordering verdict late_answers",
        "gateway": "backoff clock budget prices",
        "background": "timings budget gateway",
        "balance": "budget gateway",
        "polling": "timings identity verdict budget gateway",
        "sending": "backoff timings database clock reordering reviewing budget holding gateway",
        "recovery": "backoff timings database identity recovery_plan budget gateway polling",
        "resolving": "timings identity budget gateway recovery",
        "sweep": (
            "timings database outbox verdict budget late_answers holding recording gateway polling "
            "sending recovery"
        ),
        "loop": "timings database budget gateway balance sweep",
    },
    "keys": {
        "secrecy": "",
        "wiping": "",
        "typed": "",
        "keyring": "secrecy",
        "rotation": "secrecy wiping keyring",
    },
    "management": {
        "output": "",
        "roles": "",
        "base": "output",
        "commands": "output roles base",
    },
    "models": {
        "fields": "times",
        "changes": "",
        "times": "",
        "catalogue": "fields changes times",
        "leases": "times",
        "terms": "fields",
        "searching": "terms",
        "order_queries": "times searching",
        "provider": "fields times",
        "orders": "fields changes times catalogue terms order_queries provider",
        "holds": "fields times orders",
        "cards": "fields orders",
        "care": "fields order_queries orders",
        "records": "fields orders cards",
        "money": "fields terms orders records",
    },
    "oscar": {
        "conf": "",
        "lines": "conf",
        "progress": "conf lines",
        "stock": "conf lines",
        "views": "lines",
        "checkout": "lines stock",
        "management": "lines stock",
        "urls": "views",
        "buying": "conf lines progress checkout",
        "checks": "conf checkout",
        "receivers": "lines progress stock buying",
        "plugin": "stock buying checks receivers",
        "apps": "plugin",
    },
    "privacy": {
        "person": "",
        "retention": "",
        "registry": "person",
        "erasure": "person registry",
        "export": "person registry",
    },
    "provider": {
        "answers": "",
        "transport": "",
        "client": "answers transport",
    },
    "rules": {
        "states": "",
        "ceiling": "",
        "money": "states",
    },
    "simulator": {
        "assortment": "",
        "account": "assortment",
        "server": "",
        "api": "account server",
    },
}

# Which libraries a module or a package may import, beside the standard one and Django.
LIBRARIES = {
    "keys.keyring": "cryptography",
    "keys.typed": "cryptography",
    "provider.transport": "requests urllib3",
    "fulfilment": "asgiref",
    "signals": "asgiref",
    "health": "asgiref health_check",
    "engine.task_queue": "django_q",
    "books.exports": "openpyxl",
    "books.health": "health_check",
    "delivery.health": "health_check",
    "delivery.failures": "requests urllib3",
    "delivery.receivers": "anymail",
    "delivery.pages": "segno",
    "oscar.lines": "oscar",
    "oscar.stock": "oscar",
    "oscar.progress": "oscar",
    "oscar.checkout": "oscar",
    "oscar.checks": "oscar",
    "oscar.receivers": "oscar",
    "oscar.views": "oscar",
}

# Optional apps. Nothing outside imports them, and they do not import each other.
OPTIONAL = {"books", "delivery", "oscar"}
# Runs without the rest, on the standard library alone; one command starts it.
SIMULATOR = "simulator"

# What gathers names; every other ``__init__.py`` is empty.
GATHERING = {
    "admin/__init__.py",
    "books/admin/__init__.py",
    "catalogue/__init__.py",
    "delivery/admin/__init__.py",
    "models/__init__.py",
    "simulator/__init__.py",
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def name_of(path: Path) -> tuple[str, ...]:
    """The dotted name of the module in parts, without ``giftcards`` and ``__init__``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


NAMES = {name_of(path): path for path in modules()}


def dotted_imports(path: Path) -> Iterator[str]:
    """Every import in the file, wherever it stands, as a dotted name: for type checkers, too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[tuple[str, ...]]:
    """The modules of this package that the file imports."""
    found = set()
    for dotted in dotted_imports(path):
        package, *parts = dotted.split(".")
        if package == "giftcards":
            while tuple(parts) not in NAMES:
                parts.pop()
            found.add(tuple(parts))
    return found - {name_of(path)}


@cache
def graph() -> dict[tuple[str, ...], set[tuple[str, ...]]]:
    """The modules of this package that each of its modules imports."""
    return {name: own_imports(path) for name, path in NAMES.items()}


def unit(name: tuple[str, ...]) -> str:
    """The part of the app: each module of ``keys`` is one, because their heights differ."""
    return ".".join(name[:2]) if name[0] == "keys" else name[0]


def parts_that_exist() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, imported in graph().items():
        part = unit(name)
        if part != SIMULATOR:
            found.setdefault(part, set()).update(map(unit, imported))
    # The command that starts it.
    found["management"].discard(SIMULATOR)
    return {part: imported - {part} for part, imported in found.items()}


def inner_imports(package: str) -> dict[str, set[str]]:
    """For each module or package inside ``package``: the others inside it that it imports."""
    outer = tuple(package.split("."))
    found: dict[str, set[str]] = {}
    for name, imported in graph().items():
        if name[: len(outer)] == outer and len(name) > len(outer):
            inner = {one[len(outer)] for one in imported if one[: len(outer)] == outer != one}
            found.setdefault(name[len(outer)], set()).update(inner)
    return {name: imported - {name} for name, imported in found.items()}


def written(table: Mapping[str, str]) -> dict[str, set[str]]:
    return {name: set(imported.split()) for name, imported in table.items()}


def test_parts_import_the_parts_of_the_table() -> None:
    assert parts_that_exist() == written(PARTS)


@pytest.mark.parametrize("package", WITHIN)
def test_modules_import_those_of_the_table_inside_their_package(package: str) -> None:
    assert inner_imports(package) == written(WITHIN[package])


def test_the_tables_list_every_package() -> None:
    packages = {name for name, path in NAMES.items() if path.name == "__init__.py"}
    listed = {tuple(package.split(".")) for package in WITHIN}
    small = {name for name in packages if not any(inner_imports(".".join(name)).values())}
    assert packages - small == listed


def test_every_part_of_the_table_imports_only_parts_above_it() -> None:
    above: set[str] = set()
    for part, imported in written(PARTS).items():
        assert imported <= above, part
        above.add(part)


def test_no_modules_import_each_other_in_a_circle() -> None:
    list(TopologicalSorter(graph()).static_order())  # raises CycleError


def test_nothing_imports_an_optional_app_but_itself() -> None:
    for name, imported in graph().items():
        assert {one[0] for one in imported} & OPTIONAL <= {name[0]}, name


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_only_the_libraries_of_the_table(path: Path) -> None:
    name = name_of(path)
    imported = {dotted.partition(".")[0] for dotted in dotted_imports(path)}
    imported -= {*sys.stdlib_module_names, "giftcards"}
    allowed = LIBRARIES.get(".".join(name), "").split()
    assert imported <= ({*allowed} if name[0] == SIMULATOR else {*allowed, "django"})


def test_no_test_module_is_imported_by_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        found = re.search(
            r"^\s*(from|import) tests\b.*\btest_", path.read_text("utf-8"), re.MULTILINE
        )
        assert found is None, path


def test_the_simulator_imports_nothing_of_the_rest() -> None:
    for name, imported in graph().items():
        if name[0] == SIMULATOR:
            assert {one[0] for one in imported} <= {SIMULATOR}


def test_a_package_runs_no_code_when_it_is_imported() -> None:
    files = [path for folder in (PACKAGE, ROOT / "tests") for path in folder.rglob("__init__.py")]
    filled = {path for path in files if path.read_text("utf-8").strip()}
    assert {str(path.relative_to(PACKAGE)) for path in filled} == GATHERING
    for path in filled:
        _docstring, *statements, names = ast.parse(path.read_text("utf-8")).body
        assert {type(statement) for statement in statements} == {ast.ImportFrom}
        assert ast.unparse(names).startswith("__all__ = ")


def core_files(*endings: str) -> list[Path]:
    """The files of the core with these endings."""
    files = (path for ending in endings for path in PACKAGE.rglob(f"*{ending}"))
    return [path for path in files if path.relative_to(PACKAGE).parts[0] not in OPTIONAL]


def said(path: Path) -> Iterator[str]:
    """The names and the texts in a file of Python, without its docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    explained = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in explained:
                yield node.value
        elif isinstance(node, ast.Name | ast.Attribute):
            yield node.id if isinstance(node, ast.Name) else node.attr


def test_the_core_names_no_optional_app() -> None:
    """Neither in code nor in texts, templates and URLs: a plugin says what its app adds."""
    plugins = [INSTALLED[label] for label in ("giftcards_books", "giftcards_delivery")]
    # As a whole: the same word may mean something else in a sentence.
    whole = {condition.code for plugin in plugins for condition in plugin.conditions}
    whole -= {"missing", "unknown", "untold"}
    whole |= {name for plugin in plugins for names in plugin.roles.values() for name in names}
    configs = [apps.get_app_config(plugin.app) for plugin in plugins]
    whole |= {model.__name__ for config in configs for model in config.get_models()}
    parts = re.compile(rf"giftcards[._/-]({'|'.join(OPTIONAL)})|\boscar\b", re.IGNORECASE)
    found = {
        (str(path.relative_to(PACKAGE)), text)
        for path in core_files(".py")
        for text in said(path)
        if text in whole or parts.search(text)
    }
    for path in core_files(".html", ".txt", ".css", ".js"):
        found |= {(path.name, match[0]) for match in parts.finditer(path.read_text("utf-8"))}
    assert not found
