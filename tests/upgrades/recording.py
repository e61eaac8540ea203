"""Recordings: the rows of a shop under one version, and the provider's account.

A recording is plain data: the names of the version's migrations, and rows with the version's
columns. So it can be restored into any database.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management.color import no_style
from django.db import connection, models, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from giftcards.simulator import Simulator
from giftcards.simulator.account import SPECIAL_TYPES, Card, Order, Transaction

FOLDER = Path(__file__).parent / "recorded"
# The name of the recording that does not belong to a release.
PRESENT = "present"
ROOT = Path(__file__).parents[2]
LABELS = ("giftcards", "giftcards_books", "giftcards_delivery")
# Any worker creates these rows again.
_LEFT_OUT = {"giftcards.RequestSlot"}
# The files that a worker needs.
_PROJECT = ("giftcards", "example_project", "manage.py")

Recording = dict[str, Any]


def take(simulator: Simulator) -> Recording:
    """Record the rows of the current database, and the provider's account."""
    states = sorted(MigrationRecorder(connection).applied_migrations())
    return {
        "recorded_at": timezone.now().isoformat(),
        "api_key": settings.GIFTCARDS["API_KEY"],
        "encryption_keys": settings.GIFTCARDS["ENCRYPTION_KEYS"],
        "migrations": [[label, name] for label, name in states if label in LABELS],
        "rows": {
            model._meta.label: [_as_data(row) for row in model._base_manager.order_by("pk")]
            for model in _models(apps)
        },
        "orders": [_order_as_data(order) for order in simulator.orders.values()],
        "transactions": [asdict(entry) for entry in simulator.transactions],
    }


def save(recording: Recording, name: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    text = json.dumps(recording, default=str, ensure_ascii=False, indent=1)
    (folder / f"{name}.json").write_text(f"{text}\n", "utf-8")


def load(name: str, folder: Path) -> Recording:
    recording: Recording = json.loads((folder / f"{name}.json").read_text("utf-8"))
    return recording


def restore(recording: Recording, simulator: Simulator) -> None:
    """Restore the database and the account as if they had been recorded a moment ago.

    The database is then migrated to the newest version, with these rows in it.
    """
    since = timezone.now() - datetime.fromisoformat(recording["recorded_at"])
    states = [tuple(state) for state in recording["migrations"]]
    then = MigrationExecutor(connection)
    then.migrate(states)
    old = then.loader.project_state(states).apps
    with transaction.atomic(), connection.constraint_checks_disabled():
        for model in reversed(_models(old)):
            model._base_manager.all().delete()
        for model in _models(old):
            rows = [_from_data(model, row, since) for row in recording["rows"][model._meta.label]]
            model._base_manager.bulk_create(rows)
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), _models(old)):
            cursor.execute(statement)
    now = MigrationExecutor(connection)
    now.migrate([leaf for leaf in now.loader.graph.leaf_nodes() if leaf[0] in LABELS])
    _restore_account(recording, simulator, since)


def _models(registry: Any) -> list[Any]:
    return [
        model
        for label in LABELS
        for model in registry.get_app_config(label).get_models()
        if not model._meta.proxy and model._meta.label not in _LEFT_OUT
    ]


def _columns(model: Any) -> Iterator[models.Field[Any, Any]]:
    return (field for field in model._meta.concrete_fields if not field.generated)


def _as_data(row: models.Model) -> dict[str, Any]:
    values = {field.attname: getattr(row, field.attname) for field in _columns(row)}
    return {
        name: value if isinstance(value, bool | int | list | dict | None) else str(value)
        for name, value in values.items()
    }


def _from_data(model: Any, row: dict[str, Any], since: timedelta) -> Any:
    values = {field.attname: field.to_python(row[field.attname]) for field in _columns(model)}
    return model(**{name: _later(value, since) for name, value in values.items()})


def _later(value: Any, since: timedelta) -> Any:
    return value + since if isinstance(value, datetime) else value


def _order_as_data(order: Order) -> dict[str, Any]:
    """Return the order's data, without the field that follows from its type."""
    return {name: value for name, value in asdict(order).items() if name != "special"}


def _restore_account(recording: Recording, simulator: Simulator, since: timedelta) -> None:
    with simulator._lock:
        simulator._orders = {row["id"]: _order(row, since) for row in recording["orders"]}
        entries = [_of(Transaction, row, since) for row in recording["transactions"]]
        simulator._transactions = {entry.id: entry for entry in entries}
        simulator._balance = entries[-1].balance


def _order(row: dict[str, Any], since: timedelta) -> Order:
    order: Order = _of(Order, row, since)
    order.cards = tuple(Card(**card) for card in row["cards"])
    order.special = SPECIAL_TYPES.get(order.type, order.special)
    return order


def _of(kind: Any, row: dict[str, Any], since: timedelta) -> Any:
    """Return an object of the simulator from its data."""
    values: dict[str, Any] = {}
    for field in fields(kind):
        if field.name not in row:
            continue
        value = row[field.name]
        if value is not None and "datetime" in str(field.type):
            value = datetime.fromisoformat(value) + since
        elif "Decimal" in str(field.type):
            value = Decimal(value)
        values[field.name] = value
    return kind(**values)


def unpack(name: str, folder: Path) -> bool:
    """Copy the recording's project into ``folder``; return False if its tag is unknown here."""
    if name == PRESENT:
        for part in _PROJECT:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, folder / part)
        return True
    archive = folder / "project.tar"
    with suppress(subprocess.CalledProcessError, FileNotFoundError):
        git = ("git", "archive", "--output", archive, name, *_PROJECT)
        subprocess.run(git, cwd=ROOT, capture_output=True, check=True)
        subprocess.run(["tar", "-xf", archive.name], cwd=folder, check=True)
        return True
    return False
