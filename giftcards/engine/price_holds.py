"""Orders above their price ceiling: held until the price falls, or a person decides about them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import islice
from typing import Any

from django.db import transaction
from django.utils import timezone

from giftcards.engine.database import isolate_failures
from giftcards.engine.task_queue import wake_worker
from giftcards.models import Order, StatusChange
from giftcards.problems import Problem
from giftcards.statuses import Status

logger = logging.getLogger(__name__)

# How many held orders go on at a time: about as many as can be sent in a minute.
_AT_ONCE = 100


def hold(order: Order, *, price: Decimal, ceiling: Decimal) -> None:
    """Hold a PENDING order, unless another process was first: it is due at no time."""
    problem = Problem("price_above", {"price": f"{price:.2f}", "ceiling": f"{ceiling:.2f}"})
    if order.stay_pending(problem, due_at=None, failures=0):
        logger.warning("Order %s is held. %s", order.reference, problem)


def held_price(order: Order) -> Decimal | None:
    """What a card cost when ``order`` was held; ``None`` if it is not held."""
    above = _price_above(order)
    return Decimal(above.parameters["price"]) if above else None


def _price_above(order: Order) -> Problem | None:
    problems = map(Problem.of, order.problems if order.is_held else ())
    return next((problem for problem in problems if problem.code == "price_above"), None)


def approve_price(order: Order, price: Decimal | int, *, by: str) -> Problem | None:
    """Send a held order, at ``price`` a card at most; return the decision as it was recorded.

    ``None``, and nothing is changed, if it is not held any more. ``price`` is 0 or more, with at
    most two decimals; otherwise ``ValidationError`` is raised. If the card costs more than that by
    then, the order is held again. ``by``, the name of whoever decided, is kept in the order's
    timeline.
    """
    approved, above = order.check_price(price), _price_above(order)
    if above is None:
        return None
    amounts = {"price": f"{price:.2f}", "ceiling": above.parameters["ceiling"]}
    decision = Problem("staff_approved", {"by": by, **amounts})
    if not _release(order, decision, by=by, approved_price=approved):
        return None
    logger.info("Order %s may cost %.2f a card.", order.reference, price)
    wake_worker()
    return decision


def release_fallen(product_id: str, prices: Mapping[str, Decimal]) -> None:
    """Have held orders of a product sent whose cards cost no more than they may, at ``prices``.

    These are by type, and of this moment. At most 100 orders at a time; the others follow when the
    prices are known the next time.
    """
    is_any_released = False
    for order, fell in islice(_fallen(product_id, prices), _AT_ONCE):
        with isolate_failures(order):
            if _release(order, fell):
                is_any_released = True
                logger.info("Order %s goes on. %s", order.reference, fell)
    if is_any_released:
        wake_worker()


def _fallen(product_id: str, prices: Mapping[str, Decimal]) -> Iterator[tuple[Order, Problem]]:
    """Yield the held orders that cost no more than they may, each with an entry that says so."""
    for order in Order.objects.on_hold().filter(product_id=product_id):
        price, ceiling = prices.get(order.type_id), order.price_ceiling
        if price is None or ceiling is None or price > ceiling:
            continue
        # There may be another reason for which it waits.
        if _price_above(order):
            amounts = {"price": f"{price:.2f}", "ceiling": f"{ceiling:.2f}"}
            yield order, Problem("price_fell", amounts)


def _release(order: Order, reason: Problem, *, by: str = "", **values: Any) -> bool:
    """Have a held order sent, for a reason that its timeline keeps; False if it is not held."""
    # SEND_TIMEOUT starts again, however long it has waited.
    now = timezone.now()
    with transaction.atomic():
        is_done = order.stay_pending(None, due_at=now, queued_at=now, failures=0, **values)
        if is_done:
            order.acknowledge(reason, by=by)
    return is_done


def confirm_price(order: Order, price: Decimal) -> None:
    """Note what a card may cost, as a person has confirmed who has just placed ``order``.

    Call it in the transaction that records the order: no worker has seen it by then.
    """
    order.approved_price = order.check_price(price)
    order.save(update_fields=["approved_price"])


def reject_held(order: Order, *, by: str) -> Problem | None:
    """Reject a held order: nothing was bought. Return the decision as it was recorded.

    ``None``, and nothing is changed, if it is not held any more.
    """
    if not order.is_held:
        return None
    decision = Problem("staff_declined", {"by": by})
    source = StatusChange.Source.STAFF
    if not order.move(Status.REJECTED, source=source, details=[decision], where={"due_at": None}):
        return None
    logger.warning("Order %s was held, and is REJECTED now.", order.reference)
    wake_worker()
    return decision
