"""Recording what the provider says of orders that have settled already.

The final status and figures stay. A difference becomes a problem that staff tick off, and cards
that arrive late are kept. Each difference is recorded once, however often it is seen.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from django.db import transaction
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from giftcards.engine.identity import find_difference
from giftcards.engine.storing import Arrival, store_cards
from giftcards.engine.verdict import Settlement, find_changes
from giftcards.models import Order, OrderQuerySet
from giftcards.problems import Problem
from giftcards.provider.answers import OrderAnswer
from giftcards.rules.states import Status

logger = logging.getLogger(__name__)


def find_differences(order: Order, answer: OrderAnswer) -> list[Problem]:
    """Return how an answer about a settled order differs from the record; usually nothing."""
    if difference := find_difference(answer, order.line_at_provider):
        return [difference]
    status, quantity = Status(order.status), order.fulfilled_quantity
    record = Settlement(status, quantity, order.fulfilled_amount, order.price_per_card)
    return [
        *find_changes(answer, record, quantity=order.quantity),
        *_more_cards(order, answer, len(answer.different_cards)),
    ]


def find_owners(
    rows: Mapping[str, OrderAnswer], orders: OrderQuerySet
) -> Iterator[tuple[Order, OrderAnswer]]:
    """Yield those of ``orders`` that have an id in ``rows``, each with its row."""
    for order in orders.owners(rows):
        yield order, next(rows[name] for name in order.names if name in rows)


def compare_rows(rows: Mapping[str, OrderAnswer]) -> list[Order]:
    """Compare ``rows`` of the list, by id, with their settled orders; record the differences.

    Returns the orders with a difference, new or known, that is not ticked off.
    """
    differing = []
    for order, row in find_owners(rows, Order.objects.all()):
        differences = find_differences(order, row) if order.is_settled else []
        if differences:
            record_changes([(order, row)], now=timezone.now())
            order.refresh_from_db(fields=["problems"])
            # By code, because more cards may be stored than this row has.
            still_open = {problem.code for problem in order.open_problems}
            if not still_open.isdisjoint(problem.code for problem in differences):
                differing.append(order)
    return differing


def record_changes(
    answers: Iterable[tuple[Order, OrderAnswer]], *, now: datetime, is_thorough: bool = False
) -> None:
    """Record how ``answers`` about settled orders, given at ``now``, differ from the record.

    An answer that says nothing new costs no query, unless each card is compared (``is_thorough``).
    """
    for order, answer in answers:
        if is_thorough or not _is_known(order, find_differences(order, answer)):
            try:
                _record(order, answer, now)
            except Exception as error:  # noqa: BLE001 (one order's error must not block the others)
                logger.error(  # noqa: TRY400 (a traceback may hold a row)
                    "What the provider answered about order %s could not be recorded: %s",
                    order.reference,
                    type(error).__name__,
                )


def _is_known(order: Order, differences: Sequence[Problem]) -> bool:
    """True if all ``differences`` are on record, ticked off or not."""
    known = [Problem.of(entry) for entry in order.problems]
    received = max((_received(problem) for problem in known), default=0)
    return all(
        # More cards may be stored than any one answer has had.
        problem in known or 0 < _received(problem) <= received
        for problem in differences
    )


def _received(problem: Problem) -> int:
    is_count = problem.code in {"late_cards", "surplus_cards"}
    return int(problem.parameters["received"]) if is_count else 0


@sensitive_variables()
def _record(order: Order, answer: OrderAnswer, now: datetime) -> None:
    is_ours = find_difference(answer, order.line_at_provider) is None
    row = Order.objects.filter(pk=order.pk)
    with transaction.atomic():
        # This write locks the row: another process may have seen the same.
        row.update(checked_at=now)
        order.refresh_from_db(fields=["problems"])
        differences = find_differences(order, answer)
        if is_ours:
            stored = store_cards([Arrival(order, answer.different_cards)])[order.pk]
            differences = [problem for problem in differences if not _received(problem)]
            differences += _more_cards(order, answer, stored)
        known = [Problem.of(entry) for entry in order.problems]
        new = [problem for problem in differences if problem not in known]
        if new:
            row.update(**order.problem_columns(new=new))
    for problem in new:
        logger.error("Order %s is %s: %s", order.reference, order.status, problem)


def _more_cards(order: Order, answer: OrderAnswer, stored: int) -> Iterator[Problem]:
    """Yield a problem if more cards are ``stored`` than the order had when it settled."""
    if stored > order.fulfilled_quantity:
        # Not surplus if the provider counts, and so charges, them.
        is_counted = (answer.fulfilled_quantity or 0) >= stored
        counts = {"received": stored, "announced": order.fulfilled_quantity}
        yield Problem("late_cards" if is_counted else "surplus_cards", counts)
