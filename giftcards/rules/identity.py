"""Deciding whether an answer of the provider is about one of our orders.

The provider may not store our references, or may change them. Therefore the order's line is
compared: product, type and quantity. Without references, two orders of the same line look alike.
This module uses neither the database nor requests.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from giftcards.provider.answers import OrderAnswer
from giftcards.rules.problems import Problem

# A line of an order: product, type, quantity.
Line = tuple[str, str, int]

# The largest usual difference between the provider's clock and ours. Regular checks read the list
# only from this long before the time of sending until this long after it.
CLOCK_SKEW = timedelta(minutes=10)
# The largest possible difference between the provider's clock and ours. It is large, because a
# timestamp of the provider may lack its time zone.
FARTHEST_CLOCK = timedelta(hours=2)


def line_of(answer: OrderAnswer) -> tuple[str, str, int | None]:
    """Return the line in the answer; a missing part is "" or ``None``."""
    return answer.product_id, answer.type_id, answer.quantity


def is_created_before(answer: OrderAnswer, moment: datetime | None) -> bool:
    """True if the provider's order was certainly created before ``moment``, by its own time."""
    created_at = answer.created_at
    return moment is not None and created_at is not None and created_at < moment


def find_difference(
    answer: OrderAnswer, line: Line, *, sent_at: datetime | None = None
) -> Problem | None:
    """Return a problem if ``answer`` is about another order, or ``None``.

    A part of ``line`` that is "" fits every answer. Pass ``sent_at`` if the order's id is not
    confirmed yet. In this case, the provider must have created the order within ``FARTHEST_CLOCK``
    of ``sent_at``.
    """
    product_id, type_id, quantity = line
    if answer.quantity not in {None, quantity}:
        told = answer.quantity or 0
        return Problem("quantity_differs", {"told": told, "ordered": quantity})
    if product_id and answer.product_id not in {"", product_id}:
        return Problem("line_differs", {"field": "product"})
    if type_id and answer.type_id not in {"", type_id}:
        return Problem("line_differs", {"field": "type"})
    created_at = answer.created_at
    if sent_at and created_at and abs(created_at - sent_at) > FARTHEST_CLOCK:
        return Problem("line_differs", {"field": "time"})
    return None
