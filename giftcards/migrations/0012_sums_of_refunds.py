"""Takes what is only planned out of what was paid back; backwards, it goes in again.

100 orders are one short transaction: workers go on meanwhile. Interrupted, it begins again.
"""

from collections import defaultdict
from decimal import Decimal
from typing import Any

from django.db import migrations, transaction
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.models import F

_AT_ONCE = 100


def split(apps: Any, schema_editor: BaseDatabaseSchemaEditor) -> None:
    _write(apps, schema_editor, is_apart=True)


def join(apps: Any, schema_editor: BaseDatabaseSchemaEditor) -> None:
    _write(apps, schema_editor, is_apart=False)


def _write(apps: Any, schema_editor: BaseDatabaseSchemaEditor, *, is_apart: bool) -> None:
    database = schema_editor.connection.alias
    orders = apps.get_model("giftcards", "Order").objects.using(database).order_by()
    refunds = apps.get_model("giftcards", "CustomerRefund").objects.using(database).order_by()
    keys = sorted(set(refunds.filter(state="created").values_list("order", flat=True)))
    for start in range(0, len(keys), _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        with transaction.atomic(using=database):
            # A write before all reads locks the rows on every database.
            orders.filter(pk__in=some).update(planned_amount=F("planned_amount"))
            sums: defaultdict[tuple[int, str], Decimal] = defaultdict(Decimal)
            found = refunds.filter(order__in=some)
            for key, state, amount in found.values_list("order", "state", "amount"):
                sums[key, state] += amount
            for key in some:
                paid, planned = sums[key, "done"], sums[key, "created"]
                if not is_apart:
                    paid, planned = paid + planned, Decimal(0)
                orders.filter(pk=key).update(paid_back_amount=paid, planned_amount=planned)


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("giftcards", "0011_planned_refunds")]
    operations = [migrations.RunPython(split, join, elidable=True)]
