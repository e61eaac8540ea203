"""Computes for the orders that are final already what others get when they become final."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from giftcards import refunds, sales
from giftcards.statuses import FINAL, SETTLED, Status

_AT_ONCE = 1_000
_COLUMNS = ["open_amount", "is_consistent", "reordered_amount"]


def compute(apps: Any, schema_editor: BaseDatabaseSchemaEditor) -> None:
    Order = apps.get_model("giftcards", "Order")
    orders = Order.objects.using(schema_editor.connection.alias)
    last = 0
    while batch := list(orders.filter(pk__gt=last).order_by("pk")[:_AT_ONCE]):
        last = batch[-1].pk
        again = dict(
            orders.filter(repeats__in=[order.pk for order in batch])
            .order_by()
            .values_list("repeats", "sale_amount")
        )
        final = [order for order in batch if order.status in FINAL]
        for order in final:
            _compute(order, again)
        orders.bulk_update(final, _COLUMNS)


def _compute(order: Any, again: Mapping[int, Decimal | None]) -> None:
    paid = sales.paid_amount(order)
    if paid is not None:
        split = sales.compute(
            paid=paid, quantity=order.quantity, fulfilled_quantity=order.fulfilled_quantity
        )
        order.open_amount = split.owed_amount
    if order.status in SETTLED:
        breakdown = refunds.compute(
            status=Status(order.status),
            quantity=order.quantity,
            fulfilled_quantity=order.fulfilled_quantity,
            price_per_card=order.price_per_card,
            fulfilled_amount=order.fulfilled_amount,
        )
        order.is_consistent = breakdown.is_consistent
    if order.pk in again:
        # What was paid for the missing cards went to the order that orders them again.
        order.reordered_amount = again[order.pk] or 0
        order.open_amount = None if paid is None else 0


class Migration(migrations.Migration):
    dependencies = [("giftcards", "0004_money")]
    operations = [migrations.RunPython(compute, migrations.RunPython.noop, elidable=True)]
