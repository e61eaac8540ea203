"""A pytest plugin that starts a process with a theme for the admin."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stage import ROOT, sharing_database

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def tables(
    django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy of the test database, if it is SQLite; creating a new one would be slow."""
    path = tmp_path_factory.mktemp("themes") / "tables.sqlite3"
    with django_db_blocker.unblock(), sharing_database(path):
        return path


@pytest.fixture(scope="session")
def start(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Start a module of this folder with a theme; skip the test if the theme is missing."""

    def begin(module: str, theme: str, *arguments: str) -> subprocess.Popen[str]:
        if importlib.util.find_spec(theme) is None:
            pytest.skip(f"Needs django-{theme}.")
        database = tmp_path_factory.mktemp(theme) / "db.sqlite3"
        if tables.exists():
            shutil.copy(tables, database)
        environment = {"PYTHONPATH": str(ROOT), "GIFTCARDS_TESTS_THEME_DB": str(database)}
        return subprocess.Popen(
            [sys.executable, "-m", f"tests.themes.{module}", theme, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    return begin
