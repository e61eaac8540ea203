"""Migrations are the same SQL wherever and whenever they run, and compute what they have to."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, models
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone

from giftcards.engine.figures import complete_figures
from giftcards.engine.recording import record_answers
from giftcards.models import Order
from giftcards.statuses import Status
from tests.builders import PARTIAL, build_guide_order, claim, make_guide_order

ROOT = Path(__file__).resolve().parent.parent
SUMS_OF_REFUNDS = "0012_sums_of_refunds"
APPS = {"giftcards": "giftcards", "giftcards_delivery": "giftcards/delivery"}
STATES = [
    (label, path.stem)
    for label, folder in APPS.items()
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


@pytest.mark.django_db(transaction=True)
def test_what_is_planned_is_taken_out_of_what_was_paid_back_and_backwards_put_in() -> None:
    refunds = {"done": Decimal("0.10"), "created": Decimal("0.20"), "cancelled": Decimal("0.40")}
    try:
        before = migrate("0010_ledger_findings")
        order = build_guide_order(
            Status.REJECTED, sale_amount=Decimal(1), paid_back_amount=Decimal("0.30")
        )
        order.open_amount = Decimal("0.70")
        model = before.get_model("giftcards", "Order")
        names = {field.attname for field in model._meta.concrete_fields if not field.generated}
        row = model(**{name: getattr(order, name) for name in names - {"id"}})
        row.save()
        for state, amount in refunds.items():
            before.get_model("giftcards", "CustomerRefund").objects.create(
                order=row, amount=amount, reference=state, state=state
            )
        sums = ("paid_back_amount", "planned_amount", "open_amount")
        after = migrate(SUMS_OF_REFUNDS).get_model("giftcards", "Order")
        assert after.objects.values_list(*sums).get() == (
            Decimal("0.10"),
            Decimal("0.20"),
            Decimal("0.70"),
        )
        assert after.objects.values_list("has_paid_back", "has_planned").get() == (True, True)
        old = migrate("0010_ledger_findings").get_model("giftcards", "Order").objects.get()
        assert (old.paid_back_amount, old.open_amount) == (Decimal("0.30"), Decimal("0.70"))
    finally:
        executor = MigrationExecutor(connection)
        executor.migrate(executor.loader.graph.leaf_nodes())


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


def migrate(name: str) -> Any:
    """Bring the app's tables to a migration; the models as they are there."""
    executor = MigrationExecutor(connection)
    return executor.migrate([("giftcards", name)]).apps


def add_orders(before: Any) -> None:
    """Orders as a version without their figures has left them; ``before`` is its model."""
    names = {field.attname for field in before._meta.concrete_fields} - {"id"}
    for reference, (status, values) in ORDERS.items():
        order = build_guide_order(status, reference=reference, **values)
        before(**{name: getattr(order, name) for name in names}).save()
    for reference, amount in AGAIN.items():
        repeated = before.objects.get(reference=reference)
        order = build_guide_order(Status.PENDING, reference=f"{reference} 2")
        columns = {name: getattr(order, name) for name in names - {"repeats_id", "sale_amount"}}
        before(**columns, repeats=repeated, sale_amount=amount).save()


def figures() -> dict[str, tuple[Any, ...]]:
    rows = Order.objects.values_list("reference", *FIGURES)
    return {reference: tuple(values) for reference, *values in rows}


@pytest.mark.django_db(transaction=True)
def test_orders_that_are_final_already_get_the_figures_that_others_get() -> None:
    try:
        add_orders(migrate("0003_staff_pages").get_model("giftcards", "Order"))
    finally:
        # Also the apps whose tables refer to ours, and were taken back with them.
        executor = MigrationExecutor(connection)
        executor.migrate(executor.loader.graph.leaf_nodes())
    assert figures() == COMPUTED


@pytest.mark.django_db(transaction=True)
def test_going_back_and_forward_again_keeps_orders_and_their_cards() -> None:
    order = make_guide_order(reference="web-1042", sale_amount=Decimal(1000))
    record_answers([(claim(order)[0], PARTIAL)], now=timezone.now())
    codes = [card.value for card in order.cards.all()]
    try:
        before = migrate("0003_staff_pages").get_model("giftcards", "Order")
        assert before.objects.get().fulfilled_quantity == 3
    finally:
        executor = MigrationExecutor(connection)
        executor.migrate(executor.loader.graph.leaf_nodes())
    order = Order.objects.get()
    assert [card.value for card in order.cards.all()] == codes
    assert (order.status, order.sale_amount) == (Status.PARTIALLY_FILLED, Decimal(1000))
    assert (order.open_amount, order.is_consistent) == (Decimal(400), True)


# A process of an older version beside the newest tables, as between `migrate` and its restart.

# What an older version still has, and a newer one has dropped.
DROPPED = {("0001_initial", "ProviderState")}
OF_A_TYPE = {
    models.CharField: "x",
    models.TextField: "x",
    models.DateTimeField: timezone.now(),
    models.DecimalField: Decimal(1),
    models.IntegerField: 1,
}


def models_of(label: str, name: str) -> dict[str, Any]:
    """The models of an app as its version with this migration has them."""
    found = MigrationLoader(connection).project_state((label, name)).apps
    return {model.__name__: model for model in found.get_app_config(label).get_models()}


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
@pytest.mark.parametrize(("label", "name"), STATES, ids=[name for _label, name in STATES])
def test_a_process_of_an_older_version_goes_on_inserting_rows(label: str, name: str) -> None:
    for newest in apps.get_app_config(label).get_models():
        newest._default_manager.all().delete()
    rows: dict[Any, Any] = {}
    for older in models_of(label, name).values():
        if (name, older.__name__) in DROPPED:
            continue
        newest = apps.get_model(label, older.__name__)
        row = newest._default_manager.get(pk=insert(older, rows).pk)
        known = {field.name for field in older._meta.concrete_fields}
        # What it does not know is as if this version had inserted the row.
        for field in newest._meta.concrete_fields:
            if field.name not in known and not field.generated:
                assert getattr(row, field.attname) == field.get_default()


@pytest.mark.django_db
def test_what_an_older_worker_settles_beside_the_newest_tables_gets_its_figures() -> None:
    add_orders(models_of("giftcards", "0003_staff_pages")["Order"])
    assert figures() != COMPUTED
    # All but the open one; then there is nothing to do.
    for number in (len(ORDERS) - 1, 0):
        assert complete_figures(lambda: True) == number
        assert figures() == COMPUTED
