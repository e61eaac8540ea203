"""Decide whether an answer from the provider is about one of our orders.

The provider might not store our references, or might change them. Therefore, the app compares the
line of the order, which consists of product, type and quantity. If references are not stored, two
orders with the same line cannot be distinguished. This module does not use the database or make
requests.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from giftcards.provider.answers import OrderAnswer
from giftcards.rules.problems import Problem

# A line of an order: product, type, quantity.
Line = tuple[str, str, int]

# The largest difference to be expected between the provider's clock and ours. Regular checks read
# the list from at most this long before the orders were sent until at most this long afterwards.
CLOCK_SKEW = timedelta(minutes=10)
# The largest possible difference between the provider's clock and ours. It is large, because a
# timestamp of the provider may lack its time zone.
FARTHEST_CLOCK = timedelta(hours=2)


def line_of(answer: OrderAnswer) -> tuple[str, str, int | None]:
    """Return the line in the answer.

    If a part is missing, it is "" or ``None``.
    """
    return answer.product_id, answer.type_id, answer.quantity


def is_created_before(answer: OrderAnswer, moment: datetime | None) -> bool:
    """Return True if the provider's order was created before ``moment``.

    The creation time is taken from the answer. Returns False if one of the two times is unknown.
    """
    created_at = answer.created_at
    return moment is not None and created_at is not None and created_at < moment


def find_difference(
    answer: OrderAnswer, line: Line, *, sent_at: datetime | None = None
) -> Problem | None:
    """Return a problem if ``answer`` is about another order, or else ``None``.

    An empty product or type in ``line`` is not compared. Pass ``sent_at`` if it is not confirmed
    yet that the provider's id belongs to the order. The answer is then also about another order if
    its creation time differs from ``sent_at`` by more than ``FARTHEST_CLOCK``.
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
