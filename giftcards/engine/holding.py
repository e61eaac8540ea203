"""Orders above their price ceiling: held until a person approves a price or rejects them."""

from __future__ import annotations

import logging
from decimal import Decimal

from django.db import transaction
from django.utils import timezone

from giftcards.engine.queue import wake_worker
from giftcards.models import Order, StatusChange
from giftcards.problems import Problem
from giftcards.statuses import Status

logger = logging.getLogger(__name__)


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
    approved, above, now = order.check_price(price), _price_above(order), timezone.now()
    if above is None:
        return None
    amounts = {"price": f"{price:.2f}", "ceiling": above.parameters["ceiling"]}
    decision = Problem("staff_approved", {"by": by, **amounts})
    with transaction.atomic():
        # SEND_TIMEOUT starts again: a person wants it now, however long it has waited.
        is_done = order.stay_pending(
            None, approved_price=approved, due_at=now, queued_at=now, failures=0
        )
        if is_done:
            order.acknowledge(decision, by=by)
    if not is_done:
        return None
    logger.info("Order %s may cost %.2f a card.", order.reference, price)
    wake_worker()
    return decision


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
