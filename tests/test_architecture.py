"""Imports go one way. A module may import what stands before it here, and nothing else of ours."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "giftcards"

LAYERS = [
    "exceptions cards conf fields",
    "statuses crypto parsing transport provider refunds",
    "verdict models",
    "storing gateway recording signals outbox",
    "asking",
    "fulfilment recovery",
    "following",
    "loop",
    "selftest schedules tasks checks apps admin management migrations",
]
ORDER = " ".join(LAYERS).split()

# Beyond the order: pairs that do not know each other.
STRANGERS = {("models", "provider")}

# Libraries that only these modules import.
ONLY = {
    "cryptography": {"crypto"},
    "requests": {"provider", "transport"},
    "urllib3": {"provider", "transport"},
}

# Stands alone: it is run without the rest. Which of its modules may import which.
SIMULATOR = "simulator"
WITHIN_SIMULATOR = {
    "account": set[str](),
    "server": set[str](),
    "api": {"account", "server"},
    "__init__": {"account", "server", "api"},
}


def name_of(path: Path) -> str:
    """The name in :data:`ORDER`: a package inside the app counts as one."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def modules() -> list[Path]:
    """All but the simulator's."""
    files = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
    return [path for path in files if name_of(path) != SIMULATOR]


def simulator_modules() -> list[Path]:
    return sorted((PACKAGE / SIMULATOR).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every import in the file, wherever it stands, as a dotted name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """The names in :data:`ORDER` that the file imports from."""
    found = (dotted.split(".") for dotted in imports(path))
    return {parts[1] for parts in found if parts[0] == "giftcards"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    name, imported = name_of(path), own_imports(path)
    libraries = {dotted.partition(".")[0] for dotted in imports(path)}
    assert name in ORDER, f"{name} is new: give it a place in the order"
    allowed = set(ORDER[: ORDER.index(name)])
    if path.parent.is_relative_to(PACKAGE / name):
        allowed.add(name)  # inside a package
    if path.name == "giftcards_simulator.py":
        allowed.add(SIMULATOR)
    assert imported <= allowed, f"{name} may not import {sorted(imported - allowed)}"
    for pair in STRANGERS:
        assert name not in pair or imported.isdisjoint(pair), f"{pair} do not know each other"
    for library, importers in ONLY.items():
        assert library not in libraries or name in importers, f"{name} may not import {library}"


@pytest.mark.parametrize("path", simulator_modules(), ids=lambda path: path.stem)
def test_the_simulator_stands_alone(path: Path) -> None:
    inner = f"giftcards.{SIMULATOR}."
    own = {dotted.split(".")[2] for dotted in imports(path) if dotted.startswith(inner)}
    others = {dotted.partition(".")[0] for dotted in imports(path) if not dotted.startswith(inner)}
    assert others <= sys.stdlib_module_names
    assert own <= WITHIN_SIMULATOR[path.stem]


def test_the_order_lists_what_there_is() -> None:
    assert {name_of(path) for path in modules()} == set(ORDER)
    assert {path.stem for path in simulator_modules()} == WITHIN_SIMULATOR.keys()


def test_packages_run_no_code() -> None:
    """All are empty, but for the simulator's, which gathers names."""
    gathers = PACKAGE / SIMULATOR / "__init__.py"
    files = [
        path for folder in ("giftcards", "tests") for path in (ROOT / folder).rglob("__init__.py")
    ]
    assert [path for path in files if path.read_text("utf-8").strip()] == [gathers]
    docstring, *statements, names = ast.parse(gathers.read_text("utf-8")).body
    assert isinstance(docstring, ast.Expr)
    assert {type(statement) for statement in statements} == {ast.ImportFrom}
    assert ast.unparse(names).startswith("__all__ = ")
