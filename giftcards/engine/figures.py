"""Computing the figures of final orders that a worker of an older version has settled.

During an upgrade, workers of the older version run beside newer processes, and know fewer columns.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal

from django.db import transaction

from giftcards.engine.database import write_together
from giftcards.engine.timings import timings
from giftcards.models import Order
from giftcards.models.orders import final_figures

logger = logging.getLogger(__name__)

# A call begins no further batch after this time (seconds).
_SECONDS = 5.0
# Columns that the figures depend on and that may still change once an order is final.
_GUARD = ("figures_version", "paid_back_amount", "planned_amount", "reordered_amount")


def complete_figures(should_continue: Callable[[], bool]) -> int:
    """Compute missing figures of final orders for a few seconds; return the number of orders."""
    ends_at = time.monotonic() + _SECONDS
    done, is_left = 0, True
    while is_left and time.monotonic() < ends_at and should_continue():
        orders = list(Order.objects.without_figures()[: timings.figures_batch])
        written = sum(write_together(orders, _write))
        done += written
        # Orders that have changed meanwhile, or cannot be written, are left for the next tick.
        is_left = 0 < len(orders) == written
    if done:
        logger.info("The figures of %d final orders were computed.", done)
    return done


def _write(orders: Sequence[Order]) -> int:
    """Compute and write the figures of final orders, unless they have changed since they were read.

    Orders with equal figures share one UPDATE: most owe nothing.
    """
    # The redundant condition makes SQLite use the index: most orders repeat none.
    again = Order.objects.filter(repeats__gt=0, repeats__in=[order.pk for order in orders])
    went_along = dict(again.order_by().values_list("repeats", "sale_amount"))
    groups = defaultdict(list)
    for order in orders:
        guard = {name: getattr(order, name) for name in _GUARD}
        if order.pk in went_along and order.reordered_amount is None:
            order.reordered_amount = went_along[order.pk] or Decimal(0)
        values = {"reordered_amount": order.reordered_amount, **final_figures(order)}
        groups[tuple(guard.items()), tuple(values.items())].append(order.pk)
    with transaction.atomic():
        return sum(
            Order.objects.filter(pk__in=keys, **dict(guard)).order_by().update(**dict(values))
            for (guard, values), keys in groups.items()
        )
