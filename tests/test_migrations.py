"""Migrations produce the same SQL everywhere, and processes of an older version keep working."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, models
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone

from tests.stage import ROOT

APPS = {
    "giftcards": "giftcards",
    "giftcards_books": "giftcards/books",
    "giftcards_delivery": "giftcards/delivery",
}
STATES = [
    (label, path.stem)
    for label, folder in APPS.items()
    if apps.is_installed(folder.replace("/", "."))
    for path in sorted(ROOT.glob(f"{folder}/migrations/[0-9]*.py"))
]
MIGRATIONS = [name for label, name in STATES if label == "giftcards"]


# The project has as few other apps as possible.
SQL = """
import sys, django
from django.conf import settings
from django.core.management import call_command
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "giftcards"],
    USE_TZ=True,
)
django.setup()
for name in sys.argv[1:]:
    call_command("sqlmigrate", "giftcards", name)
"""


def start_writing_sql(hash_seed: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SQL, *MIGRATIONS],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_sql_of_the_migrations_does_not_depend_on_the_hash_seed() -> None:
    """The iteration order of a set of texts changes with the hash seed of the process."""
    processes = [start_writing_sql(seed) for seed in ("0", "1", "42")]
    first, *others = (process.communicate(timeout=60)[0] for process in processes)
    assert first.count("CREATE TABLE") > len(MIGRATIONS)
    assert others == [first, first]


@pytest.mark.parametrize(("label", "name"), STATES, ids=["-".join(state) for state in STATES])
def test_a_migration_imports_only_what_stays_where_it_is(label: str, name: str) -> None:
    text = (ROOT / APPS[label] / "migrations" / f"{name}.py").read_text()
    imported = re.findall(r"^(?:import|from) (giftcards\S*)", text, re.MULTILINE)
    assert set(imported) <= {"giftcards.models.fields"}


# A process of an older version works with the newest tables, as between `migrate` and its restart.

OF_A_TYPE = {
    models.CharField: "x",
    models.TextField: "x",
    models.DateTimeField: timezone.now(),
    models.DateField: timezone.now().date(),
    models.JSONField: {},
    models.DecimalField: Decimal(1),
    models.IntegerField: 1,
    models.DurationField: timedelta(minutes=20),
}


# Columns that may be empty, but not all of them at once.
NEEDED = {"RedemptionInstructions": ("product",)}


def models_of(label: str, name: str) -> dict[str, Any]:
    """Return the models of an app that have tables, as of the version with this migration."""
    found = MigrationLoader(connection).project_state((label, name)).apps
    every = found.get_app_config(label).get_models()
    return {model.__name__: model for model in every if not model._meta.proxy}


def insert(model: Any, rows: dict[Any, Any]) -> Any:
    """Return the row in ``rows``, or create it with its required values and related rows."""
    if model not in rows:
        values: dict[str, Any] = {}
        for field in model._meta.concrete_fields:
            is_needed = field.name in NEEDED.get(model.__name__, ())
            is_optional = field.null or field.blank or field.has_default() or field.generated
            if is_optional and not is_needed:
                continue
            if field.related_model:
                values[field.name] = insert(field.related_model, rows)
            else:
                kinds = (value for kind, value in OF_A_TYPE.items() if isinstance(field, kind))
                values[field.name] = next(kinds)
        rows[model] = model.objects.create(**values)
    return rows[model]


@pytest.mark.django_db
@pytest.mark.parametrize(("label", "name"), STATES, ids=["-".join(state) for state in STATES])
def test_a_process_of_an_older_version_goes_on_inserting_rows(label: str, name: str) -> None:
    for newest in apps.get_app_config(label).get_models():
        newest._default_manager.all().delete()
    rows: dict[Any, Any] = {}
    for older in models_of(label, name).values():
        newest = apps.get_model(label, older.__name__)
        row = newest._default_manager.get(pk=insert(older, rows).pk)
        known = {field.name for field in older._meta.concrete_fields}
        # Columns that do not exist in the older model get their defaults.
        for field in newest._meta.concrete_fields:
            if field.name not in known and not field.generated:
                assert getattr(row, field.attname) == field.get_default()
