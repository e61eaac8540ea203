"""Computes for the orders that are final already what others get when they become final.

500 orders are one short transaction: workers go on meanwhile. Interrupted, it begins again.
"""

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from django.db import migrations, transaction
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from giftcards import refunds, sales
from giftcards.statuses import FINAL, SETTLED, Status

_AT_ONCE = 500
# What is read of an order; its other columns may be long.
_READ = (
    "status",
    "quantity",
    "fulfilled_quantity",
    "price_per_card",
    "fulfilled_amount",
    "sale_price",
    "sale_amount",
)


class _Figures(NamedTuple):
    open_amount: Decimal | None
    reordered_amount: Decimal | None
    is_consistent: bool | None


def compute(apps: Any, schema_editor: BaseDatabaseSchemaEditor) -> None:
    database = schema_editor.connection.alias
    orders = apps.get_model("giftcards", "Order").objects.using(database).order_by("pk")
    last = 0
    while batch := list(orders.filter(pk__gt=last).only(*_READ)[:_AT_ONCE]):
        last = batch[-1].pk
        repeats = orders.filter(repeats__in=[order.pk for order in batch]).order_by()
        again = dict(repeats.values_list("repeats", "sale_amount"))
        # Most orders owe nothing, so few of them differ.
        keys = defaultdict(list)
        for order in batch:
            if order.status in FINAL:
                keys[_figures(order, again)].append(order.pk)
        with transaction.atomic(using=database):
            for figures, same in keys.items():
                orders.filter(pk__in=same).update(**figures._asdict())


def _figures(order: Any, again: Mapping[int, Decimal | None]) -> _Figures:
    """``again``: what was paid for the missing cards went to the orders that order them again."""
    is_consistent = _is_consistent(order) if order.status in SETTLED else None
    paid = sales.paid_amount(order)
    if order.pk in again:
        nothing = Decimal(0)
        return _Figures(None if paid is None else nothing, again[order.pk] or nothing, is_consistent)
    if paid is None:
        return _Figures(None, None, is_consistent)
    split = sales.compute(
        paid=paid, quantity=order.quantity, fulfilled_quantity=order.fulfilled_quantity
    )
    return _Figures(split.owed_amount, None, is_consistent)


def _is_consistent(order: Any) -> bool:
    return refunds.compute(
        status=Status(order.status),
        quantity=order.quantity,
        fulfilled_quantity=order.fulfilled_quantity,
        price_per_card=order.price_per_card,
        fulfilled_amount=order.fulfilled_amount,
    ).is_consistent


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("giftcards", "0004_money")]
    operations = [migrations.RunPython(compute, migrations.RunPython.noop, elidable=True)]
