"""Holding orders after a restore from a dump: orders that wait here may have been bought since.

The list does not tell whether an order at the provider is one of ours, or was placed after the dump
and is unknown here. So our orders that it may be are held for a person, and are neither searched
for nor sent automatically.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Min

from giftcards.engine.identity import FARTHEST_CLOCK, find_difference
from giftcards.engine.recovery import describe_row
from giftcards.models import Order, OrderQuerySet, ProviderState, StatusChange
from giftcards.models.times import with_zone
from giftcards.problems import Kind, Problem
from giftcards.provider.answers import OrderAnswer
from giftcards.statuses import Status

logger = logging.getLogger(__name__)

_SOURCE = StatusChange.Source.RECOVERY
# The statuses of orders that a worker sends, or sends again once it takes them for absent.
_MAY_BE_SENT = (Status.PENDING, Status.PLACING, Status.UNCONFIRMED)
# The most orders at the provider that a person is offered as candidates: the earliest ones.
_MOST_CANDIDATES = 20


def waiting_orders() -> OrderQuerySet:
    """The orders that a worker may send, and those that are held."""
    return Order.objects.open().filter(status__in=_MAY_BE_SENT)


def last_sign() -> datetime | None:
    """The time when this database was last in use before its dump, less ``FARTHEST_CLOCK``.

    That is the last tick, which only workers write, or else when the oldest waiting order was
    recorded. ``None`` if there is neither.
    """
    at = ProviderState.objects.current().ticked_at
    if at is None:
        at = waiting_orders().order_by().aggregate(at=Min("created_at"))["at"]
    return at and with_zone(at) - FARTHEST_CLOCK


def hold_bought(
    rows: Sequence[OrderAnswer], *, should_continue: Callable[[], bool] = lambda: True
) -> list[Order]:
    """Hold the waiting orders that one of ``rows`` may be; return them.

    ``rows`` belong to no order here, and are sorted, oldest first. Held orders are ``UNCONFIRMED``,
    and neither sent nor searched for automatically: a person says what became of each. Ends once
    ``should_continue`` returns False.
    """
    held = []
    for order in list(waiting_orders().order_by("pk")):
        if not should_continue():
            break
        found = [row for row in rows if _may_be(row, order)]
        if found and _hold(order, found):
            logger.warning("Order %s is held. %s", order.reference, order.open_problems[-1])
            held.append(order)
    return held


def _may_be(row: OrderAnswer, order: Order) -> bool:
    """True if the row fits the order's line and was not made before the order was recorded."""
    earliest = with_zone(order.created_at) - FARTHEST_CLOCK
    is_later = row.created_at is None or row.created_at >= earliest
    return is_later and find_difference(row, order.line) is None


def _hold(order: Order, rows: Sequence[OrderAnswer]) -> bool:
    """Hold the order; False if another process has moved it since it was read."""
    problem = Problem("restored", {"count": len(rows)})
    values: dict[str, Any] = {
        "candidates": [describe_row(row) for row in rows[:_MOST_CANDIDATES]],
        "absent_since": None,
        "failures": 0,
        # It was sent after the dump, nobody knows when. Without a time, it is never searched for.
        "sent_at": None,
        "due_at": None,
    }
    if order.status == Status.UNCONFIRMED:
        values |= order.problem_columns(ends={Kind.SENDING, Kind.SEARCH}, new=[problem])
        row = Order.objects.filter(pk=order.pk, status=order.status, claim=order.claim)
        is_held = bool(row.update(**values))
        for name, value in values.items():
            setattr(order, name, value)
        return is_held
    with transaction.atomic():
        # By way of PLACING, like the worker that sent it. A row claimed by another does not move.
        if order.status == Status.PENDING and not order.move(
            Status.PLACING, source=_SOURCE, claim=uuid.uuid4().hex
        ):
            return False
        moved = order.move(Status.UNCONFIRMED, source=_SOURCE, details=[problem], **values)
    return moved is not None
