"""Finding orders that the provider sold twice.

The provider might show our references in its list, but still accept the same reference a second
time. If the list is delayed for too long, the app assumes that an order is absent and buys it
again. Therefore, every row with the reference of an order counts as a purchase of this order,
regardless of the id in the row, unless the row is older than the order.
"""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone

from giftcards.engine.gateway import Gateway
from giftcards.engine.listing import Listing
from giftcards.models import Order, StatusChange
from giftcards.models.order_queries import batches
from giftcards.models.orders import ReferenceAnswer
from giftcards.provider.answers import OrderAnswer
from giftcards.rules.identity import find_difference, is_created_before
from giftcards.rules.problems import Problem
from giftcards.rules.states import ACCEPTED, Status

logger = logging.getLogger(__name__)


def note_repetitions(
    rows: Iterable[OrderAnswer], listing: Listing, gateway: Gateway
) -> Mapping[str, Order]:
    """Find second purchases of orders in the list, and notify staff.

    A row is a second purchase if it has the reference of an order, but an id that the app has not
    stored for this order. ``rows`` is a part of ``listing``, which was read with the API key of
    ``gateway``. Returns a mapping from the ids of these rows to the orders. If an order is waiting
    to be sent again, the row shows that an earlier attempt already bought the order. The app then
    searches for the order instead of sending it again.
    """
    named = by_reference(rows)
    found: dict[str, Order] = {}
    for batch in batches(named):
        for order in Order.objects.sent_as(batch):
            rows_of_order = named[order.provider_reference]
            repeated = [row for row in rows_of_order if _is_other(row, order, gateway)]
            if repeated and not order.was_sent_elsewhere(gateway.key):
                found |= {row.provider_id: order for row in repeated}
                _note(order, repeated, listing)
    return found


def by_reference(rows: Iterable[OrderAnswer]) -> dict[str, list[OrderAnswer]]:
    """Group the ``rows`` by reference.

    Rows without an id or a reference are left out.
    """
    named: dict[str, list[OrderAnswer]] = defaultdict(list)
    for row in rows:
        if row.reference and row.provider_id:
            named[row.reference].append(row)
    return named


def _is_other(row: OrderAnswer, order: Order, gateway: Gateway) -> bool:
    is_own = row.provider_id in order.names
    return not is_own and may_be_adopted(row, order, gateway)


def may_be_adopted(row: OrderAnswer, order: Order, gateway: Gateway) -> bool:
    """Return True if ``row`` could be a purchase of ``order``.

    The row has the order's reference. A row that is older than the order belongs to another shop,
    which uses the same account and the same encryption keys.
    """
    is_older = is_created_before(row, gateway.earliest_there(order.created_at))
    return not is_older and find_difference(row, order.line) is None


def _note(order: Order, rows: Sequence[OrderAnswer], listing: Listing) -> None:
    if order.status in ACCEPTED:
        # Before the first answer, the list may contain the order's own row with another id.
        if _is_known_there(order, listing):
            _tell(order, [_problem("bought_twice", row) for row in rows])
    elif order.status == Status.REJECTED:
        _tell(order, [_problem("accepted_after_all", row) for row in rows])
    elif order.status == Status.PENDING:
        _search_again(order)


def _is_known_there(order: Order, listing: Listing) -> bool:
    own = listing.row_of(order)
    is_listed = own is not None and own.reference == order.provider_reference
    return is_listed or (order.checked_at is not None and order.identified_at is not None)


def _problem(code: str, row: OrderAnswer) -> Problem:
    return Problem(code, {"provider_order_id": row.provider_id})


def _tell(order: Order, problems: Sequence[Problem]) -> None:
    if all(problem in map(Problem.of, order.problems) for problem in problems):
        return
    with transaction.atomic():
        order.lock()
        order.refresh_from_db(fields=["problems"])
        known = [Problem.of(entry) for entry in order.problems]
        columns = order.problem_columns(new=problems)
        Order.objects.filter(pk=order.pk).update(**columns)
    for problem in problems:
        if problem not in known:
            logger.error("Order %s is %s. %s", order.reference, order.status, problem)


def _search_again(order: Order) -> None:
    problem = Problem("bought_before")
    if move_sent(
        order,
        problem,
        reference_answer=ReferenceAnswer.REPEATED,
        due_at=timezone.now(),
        failures=0,
    ):
        logger.warning("Order %s is UNCONFIRMED. %s", order.reference, problem)


def move_sent(order: Order, problem: Problem, **columns: Any) -> bool:
    """Move a PENDING or PLACING order to UNCONFIRMED.

    Call this function if the provider might have received the order. Returns False if another
    process has moved or claimed the order since it was read.
    """
    with transaction.atomic():
        # A pending order first moves to PLACING, as it did when a worker sent it.
        if order.status == Status.PENDING and not order.move(
            Status.PLACING, source=StatusChange.Source.RECOVERY, claim=uuid.uuid4().hex
        ):
            return False
        moved = order.move(
            Status.UNCONFIRMED, source=StatusChange.Source.RECOVERY, details=[problem], **columns
        )
    return moved is not None
