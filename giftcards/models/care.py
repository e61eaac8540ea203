"""The owner of an order: one member of staff at a time, until nothing is left to do about it.

Each change is one guarded UPDATE, whose row count tells which of two people was first, and leaves
an entry in the timeline.
"""

from __future__ import annotations

from collections.abc import Callable

from django.db import transaction
from django.utils import timezone

from giftcards.models.fields import assign
from giftcards.models.order_queries import FINISHED, UNFINISHED, batches
from giftcards.models.orders import Order
from giftcards.problems import Problem


def take(order: Order, *, by: str) -> bool:
    """Record that ``by`` looks after ``order``; False if its owner has changed since it was read.

    Also False if nothing is left to do. Whoever looked after it until then does not any more.
    """
    entry = Problem("staff_took", {"by": by})
    if order.owner:
        entry = Problem("staff_took_over", {"by": by, "other": order.owner})
    return _write(order, entry, by=by, name=by)


def give_back(order: Order, *, by: str) -> bool:
    """Record that ``by`` does not look after ``order`` any more; False if ``by`` did not."""
    return order.looked_after_by == by and _write(
        order, Problem("staff_gave_back", {"by": by}), by=by, name=""
    )


def _write(order: Order, entry: Problem, *, by: str, name: str) -> bool:
    values = {"looked_after_by": name, "looked_after_since": timezone.now() if name else None}
    with transaction.atomic(using=order._state.db):  # noqa: SLF001
        row = Order.objects.filter(UNFINISHED, pk=order.pk, looked_after_by=order.looked_after_by)
        if not row.update(**values):
            return False
        order.acknowledge(entry, by=by)
    assign(order, values)
    return True


def end_finished(should_continue: Callable[[], bool]) -> int:
    """Forget who looked after orders about which nothing is left to do; return how many.

    So a problem that comes later is nobody's, rather than that of whoever had the order long ago.
    """
    ended = 0
    owned = Order.objects.filter(looked_after_by__gt="").order_by().values_list("pk", flat=True)
    for keys in batches(owned):
        if not should_continue():
            break
        finished = Order.objects.filter(FINISHED, pk__in=keys).order_by()
        ended += finished.update(looked_after_by="", looked_after_since=None)
    return ended
