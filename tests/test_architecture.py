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
    "exceptions cards conf",
    "statuses crypto parsing transport provider refunds",
    "verdict models",
    "gateway recording signals outbox",
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

# Stands alone: it is run and copied without the rest.
SIMULATOR = "simulator"


def name_of(path: Path) -> str:
    """The name in :data:`ORDER`: a package inside the app counts as one."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


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
    if name == SIMULATOR:
        assert libraries <= sys.stdlib_module_names
        return
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


def test_the_order_lists_what_there_is() -> None:
    assert {name_of(path) for path in modules()} - {SIMULATOR} == set(ORDER)


def test_packages_run_no_code() -> None:
    files = [
        path for folder in ("giftcards", "tests") for path in (ROOT / folder).rglob("__init__.py")
    ]
    assert [path for path in files if path.read_text("utf-8").strip()] == []
