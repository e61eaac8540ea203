"""Finding orders that the provider has bought twice.

The provider may show our references in its list, but accept the same reference a second time. If
its list lags for too long, an order is then taken for absent and bought again. Therefore every row
with the reference of an order is a purchase of this order, whatever the id of the row is, unless
the row is older than the order.
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
    """Find rows that are a second purchase of an order, and notify staff.

    Such a row has the order's reference, but none of its ids. ``rows`` are rows of ``listing``, the
    list as the key of ``gateway`` shows it. The result maps the ids of the rows to orders. If the
    order only waits to be sent again, the row is the first purchase, and the order is searched for.
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
    """Group the ``rows`` that have an id and a reference by their reference."""
    named: dict[str, list[OrderAnswer]] = defaultdict(list)
    for row in rows:
        if row.reference and row.provider_id:
            named[row.reference].append(row)
    return named


def _is_other(row: OrderAnswer, order: Order, gateway: Gateway) -> bool:
    is_own = row.provider_id in order.names
    return not is_own and may_be_adopted(row, order, gateway)


def may_be_adopted(row: OrderAnswer, order: Order, gateway: Gateway) -> bool:
    """True if ``row``, which has the order's reference, may be a purchase of ``order``.

    A row that is older than the order is another shop's, which has the same account and the same
    encryption keys.
    """
    is_older = is_created_before(row, gateway.earliest_there(order.created_at))
    return not is_older and find_difference(row, order.line) is None


def _note(order: Order, rows: Sequence[OrderAnswer], listing: Listing) -> None:
    if order.status in ACCEPTED:
        # Before the first answer, the list may show the order's own row with another id.
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
    """Move a PENDING or PLACING order to UNCONFIRMED, because the provider may have it.

    Return False if another process has moved or claimed the order since it was read.
    """
    with transaction.atomic():
        # A pending order moves by way of PLACING, as it did for the worker that sent it.
        if order.status == Status.PENDING and not order.move(
            Status.PLACING, source=StatusChange.Source.RECOVERY, claim=uuid.uuid4().hex
        ):
            return False
        moved = order.move(
            Status.UNCONFIRMED, source=StatusChange.Source.RECOVERY, details=[problem], **columns
        )
    return moved is not None
