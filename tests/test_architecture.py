"""Architecture rules beyond the import contracts in ``pyproject.toml`` (see ``make lint``)."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from django.apps import apps

from giftcards.plugins import INSTALLED

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "giftcards"
# Other parts of the package do not name these apps.
OPTIONAL = {"books", "delivery", "oscar"}

# These modules collect names; every other ``__init__.py`` is empty.
GATHERING = {
    "admin/__init__.py",
    "books/admin/__init__.py",
    "catalogue/__init__.py",
    "delivery/admin/__init__.py",
    "models/__init__.py",
    "simulator/__init__.py",
}


def test_every_library_has_a_contract_that_names_its_importers() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    protected = {
        library
        for contract in settings["contracts"]
        for library in contract.get("protected_modules", ())
    }
    imported = {
        name.partition(".")[0] for path in PACKAGE.rglob("*.py") for name in imported_names(path)
    }
    of_all = {*sys.stdlib_module_names, "giftcards", "django", "asgiref"}
    assert imported - of_all == protected


def test_no_module_imports_itself() -> None:
    """The graph of imports has no edge from a module to itself, so no contract can forbid it."""
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        from_here = {
            f"{node.module}.{alias.name}"
            for node in nodes(path)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert name not in {*imported_names(path), *from_here}


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


def imported_names(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            yield str(node.module)


def test_no_test_module_is_imported_by_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        found = re.search(
            r"^\s*(from|import) tests\b.*\btest_", path.read_text("utf-8"), re.MULTILINE
        )
        assert found is None, path


def test_a_package_runs_no_code_when_it_is_imported() -> None:
    files = [path for folder in (PACKAGE, ROOT / "tests") for path in folder.rglob("__init__.py")]
    filled = {path for path in files if path.read_text("utf-8").strip()}
    assert {str(path.relative_to(PACKAGE)) for path in filled} == GATHERING
    for path in filled:
        _docstring, *statements, names = ast.parse(path.read_text("utf-8")).body
        assert {type(statement) for statement in statements} == {ast.ImportFrom}
        assert ast.unparse(names).startswith("__all__ = ")


def core_files(*endings: str) -> list[Path]:
    """Return the files of the core with these endings."""
    files = (path for ending in endings for path in PACKAGE.rglob(f"*{ending}"))
    return [path for path in files if path.relative_to(PACKAGE).parts[0] not in OPTIONAL]


def said(path: Path) -> Iterator[str]:
    """Yield the names and the texts in a Python file, without its docstrings."""
    explained = {id(node.value) for node in nodes(path) if isinstance(node, ast.Expr)}
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in explained:
                yield node.value
        elif isinstance(node, ast.Name | ast.Attribute):
            yield node.id if isinstance(node, ast.Name) else node.attr


def test_the_core_names_no_optional_app() -> None:
    """Code, texts, templates and URLs do not name them; a plugin declares what its app adds."""
    plugins = [INSTALLED[label] for label in ("giftcards_books", "giftcards_delivery")]
    # These are compared as whole texts, because the same word may mean something else in a
    # sentence.
    whole = {condition.code for plugin in plugins for condition in plugin.conditions}
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


def test_every_docstring_begins_with_a_short_sentence() -> None:
    """The docstrings of parsers are cells of the settings table, and begin in lower case."""
    first_lines = {
        docstring.partition("\n")[0]
        for path in PACKAGE.rglob("*.py")
        for node in nodes(path)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if (docstring := ast.get_docstring(node))
    }
    sentences = {line for line in first_lines if line[0].isupper()}
    assert {line for line in sentences if len(line) > 72 or not line.endswith(".")} == set()
