"""Migrations are the same SQL wherever and whenever they run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MIGRATIONS = sorted(path.stem for path in ROOT.glob("giftcards/migrations/[0-9]*.py"))


def sql(migration: str, *, hash_seed: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "django", "sqlmigrate", "giftcards", migration],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": "sqlite://:memory:",
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONHASHSEED": hash_seed,
        },
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout


@pytest.mark.parametrize("migration", MIGRATIONS)
def test_the_sql_of_a_migration_does_not_depend_on_the_hash_seed(migration: str) -> None:
    """The iteration order of a set of texts changes with the hash seed of the process."""
    first, *others = (sql(migration, hash_seed=seed) for seed in ("0", "1", "42"))
    assert first.startswith("BEGIN;")
    assert others == [first, first]
