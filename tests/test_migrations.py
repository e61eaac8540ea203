"""Migrations are the same SQL wherever and whenever they run, and compute what they have to."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, models
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone

from giftcards.engine.figures import complete_figures
from giftcards.engine.terms import complete_terms
from giftcards.models import Order, OrderTerm, ProviderState
from giftcards.search_terms import terms_of
from giftcards.statuses import Status
from tests.builders import build_guide_order

ROOT = Path(__file__).resolve().parent.parent
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


SQL = """
import sys, django
from django.core.management import call_command
django.setup()
for name in sys.argv[1:]:
    call_command("sqlmigrate", "giftcards", name)
"""


def start_writing_sql(hash_seed: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SQL, *MIGRATIONS],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": "sqlite://:memory:",
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONHASHSEED": hash_seed,
        },
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_sql_of_the_migrations_does_not_depend_on_the_hash_seed() -> None:
    """The iteration order of a set of texts changes with the hash seed of the process."""
    processes = [start_writing_sql(seed) for seed in ("0", "1", "42")]
    first, *others = (process.communicate(timeout=60)[0] for process in processes)
    assert first.count("CREATE TABLE") > len(MIGRATIONS)
    assert others == [first, first]


FIGURES = ("open_amount", "paid_back_amount", "reordered_amount", "is_consistent", "is_credited")
SOLD = {"sale_amount": Decimal(1000), "quantity": 3}
ORDERS: dict[str, tuple[Status, dict[str, Any]]] = {
    "partly": (Status.PARTIALLY_FILLED, {"fulfilled_quantity": 2, **SOLD}),
    "contradictory": (Status.FULFILLED, {"fulfilled_amount": Decimal(1)}),
    "rejected": (Status.REJECTED, {"sale_price": Decimal(550)}),
    "open": (Status.DELAYED, {"sale_price": Decimal(550)}),
    "unknown": (Status.REFUNDED, {}),
    "again": (Status.REFUNDED, SOLD),
    "again, unknown": (Status.REFUNDED, {}),
}
# The orders that order their missing cards again, and what the customer paid for those.
AGAIN = {"again": Decimal("1000.00"), "again, unknown": None}
ZERO, NOTHING = Decimal(0), None
COMPUTED = {
    "partly": (Decimal("333.33"), ZERO, NOTHING, True, NOTHING),
    "contradictory": (NOTHING, ZERO, NOTHING, False, NOTHING),
    "rejected": (Decimal(2750), ZERO, NOTHING, NOTHING, NOTHING),
    "open": (NOTHING, ZERO, NOTHING, NOTHING, NOTHING),
    "unknown": (NOTHING, ZERO, NOTHING, True, NOTHING),
    "again": (ZERO, ZERO, Decimal(1000), True, NOTHING),
    "again 2": (NOTHING, ZERO, NOTHING, NOTHING, NOTHING),
    "again, unknown": (NOTHING, ZERO, ZERO, True, NOTHING),
    "again, unknown 2": (NOTHING, ZERO, NOTHING, NOTHING, NOTHING),
}


def add_orders(before: Any) -> None:
    """Orders as a version without their figures has left them; ``before`` is its model."""
    columns = (field for field in before._meta.concrete_fields if not field.generated)
    names = {field.attname for field in columns} - {"id", "figures_version", *FIGURES}
    for reference, (status, values) in ORDERS.items():
        order = build_guide_order(status, reference=reference, **values)
        before(**{name: getattr(order, name) for name in names}).save()
    for reference, amount in AGAIN.items():
        repeated = before.objects.get(reference=reference)
        order = build_guide_order(Status.PENDING, reference=f"{reference} 2")
        values = {name: getattr(order, name) for name in names - {"repeats_id", "sale_amount"}}
        before(**values, repeats=repeated, sale_amount=amount).save()


def figures() -> dict[str, tuple[Any, ...]]:
    rows = Order.objects.values_list("reference", *FIGURES)
    return {reference: tuple(values) for reference, *values in rows}


# A process of an older version beside the newest tables, as between `migrate` and its restart.

OF_A_TYPE = {
    models.CharField: "x",
    models.TextField: "x",
    models.DateTimeField: timezone.now(),
    models.DateField: timezone.now().date(),
    models.JSONField: {},
    models.DecimalField: Decimal(1),
    models.IntegerField: 1,
}


def models_of(label: str, name: str) -> dict[str, Any]:
    """The models with tables of an app, as its version with this migration has them."""
    found = MigrationLoader(connection).project_state((label, name)).apps
    every = found.get_app_config(label).get_models()
    return {model.__name__: model for model in every if not model._meta.proxy}


def insert(model: Any, rows: dict[Any, Any]) -> Any:
    """The row in ``rows``, or a new one, with what its version has to give and all it refers to."""
    if model not in rows:
        values: dict[str, Any] = {}
        for field in model._meta.concrete_fields:
            if field.null or field.blank or field.has_default() or field.generated:
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
        # Columns that the older model does not know get their defaults.
        for field in newest._meta.concrete_fields:
            if field.name not in known and not field.generated:
                assert getattr(row, field.attname) == field.get_default()


@pytest.mark.django_db
def test_what_an_older_worker_settles_beside_the_newest_tables_gets_its_figures() -> None:
    add_orders(models_of("giftcards", "0001_initial")["Order"])
    assert figures() != COMPUTED
    # All but the open one; then there is nothing to do.
    for number in (len(ORDERS) - 1, 0):
        assert complete_figures(lambda: True) == number
        assert figures() == COMPUTED


# The search terms of the orders that were there before.

FILLING = importlib.import_module("giftcards.migrations.0008_search_terms")


def fill_terms() -> None:
    state = MigrationLoader(connection).project_state(("giftcards", "0008_search_terms"))
    FILLING.fill(state.apps, SimpleNamespace(connection=connection))


def stored_terms() -> dict[int, set[tuple[int, str]]]:
    found: dict[int, set[tuple[int, str]]] = {}
    for order, kind, term in OrderTerm.objects.values_list("order_id", "kind", "term"):
        found.setdefault(order, set()).add((kind, term))
    return found


def add_older_orders(count: int, name: str = "WEB") -> dict[int, set[tuple[int, str]]]:
    """Orders that an older process has placed, and the terms that they should have."""
    customer = {"customer_name": "أمينة Ben Ali", "customer_phone": "0550 12 34 56"}
    gift = {"recipient_email": "Lina@example.com", "recipient_name": "Lina"}
    orders = Order.objects.bulk_create(
        build_guide_order(reference=f"{name}-{number}", group="cart 7", **customer, **gift)
        for number in range(count)
    )
    return {
        order.pk: {(int(kind), term) for kind, term in terms_of(vars(order))} for order in orders
    }


@pytest.mark.django_db
def test_the_orders_that_are_there_get_their_search_terms_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FILLING, "BATCH", 3)
    ProviderState.objects.current()
    expected = add_older_orders(8)
    for _time in range(2):
        fill_terms()
        assert stored_terms() == expected
    assert ProviderState.objects.current().terms_place == max(expected)
    assert complete_terms(lambda: True) == 0


@pytest.mark.django_db
def test_a_migration_that_was_stopped_goes_on_where_it_was() -> None:
    ProviderState.objects.current()
    done = add_older_orders(2)
    fill_terms()
    left = add_older_orders(2, "left")
    OrderTerm.objects.filter(order__in=done).delete()
    fill_terms()
    assert stored_terms() == left
