"""The size of the public interface; shops, their tests and their monitors depend on all of it."""

from __future__ import annotations

import ast
from pathlib import Path

from docs.reference.commands import COMMANDS
from docs.reference.names import promised
from docs.reference.settings import DICTS
from tests.docs.pages import MODULES

# Raising a number is a decision: remove something else, or give the reason in the commit message.
MOST_NAMES = 500
MOST_SETTINGS = 31
MOST_COMMANDS = 18
HEALTH_CHECKS = 1


def test_the_list_of_names_is_short() -> None:
    assert len(promised()) == len(set(promised())) <= MOST_NAMES


def test_the_list_has_no_private_name() -> None:
    assert not [line for line in promised() if "._" in line or line.startswith("_")]


def test_the_settings_are_few() -> None:
    assert sum(len(each.declared) for each in DICTS) <= MOST_SETTINGS


def test_the_commands_are_few() -> None:
    assert len(COMMANDS) <= MOST_COMMANDS
    files = {path.stem for path in MODULES if is_command(path)}
    assert files == set(COMMANDS)


def is_command(path: Path) -> bool:
    return path.parent.name == "commands" and not path.stem.startswith("_")


def test_there_is_one_class_of_health_checks() -> None:
    found = [
        node.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith("HealthCheck") for base in node.bases)
    ]
    assert len(found) == HEALTH_CHECKS
