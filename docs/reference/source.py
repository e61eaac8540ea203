"""Reading the source of the app without importing it, because django-oscar may be missing."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

# The optional apps need not be installed either.
APPS = ("giftcards", "giftcards.books", "giftcards.delivery", "giftcards.oscar")


def source_of(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(module)
    return Path(spec.origin).read_text()


def tree_of(module: str) -> ast.Module:
    return ast.parse(source_of(module))


def definition(module: str, name: str) -> tuple[Any, list[str]]:
    """Return the definition of a name in a module, and the lines of the module that defines it."""
    for node in tree_of(module).body:
        if getattr(node, "name", "") == name:
            return node, source_of(module).splitlines()
        if isinstance(node, ast.ImportFrom) and any(it.name == name for it in node.names):
            return definition(str(node.module), name)
    raise LookupError(f"{module} has no {name}.")
