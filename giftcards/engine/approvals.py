"""Holding orders back for a price, for a review by a person, or for a time; and releasing them.

An order is held because a card costs more than the ceiling, because ``REVIEW_ORDER`` wants a person
to look at the order, or because the order repeats missing cards by rule and waits. A held order is
PENDING and never due. Only one that repeats missing cards by rule times out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from copy import copy
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.module_loading import import_string
from django.utils.text import Truncator

from giftcards.conf import conf
from giftcards.engine.database import isolate_failures
from giftcards.engine.task_queue import wake_worker
from giftcards.keys.secrecy import place_of
from giftcards.models import Order, OrderQuerySet, StatusChange
from giftcards.models.fields import as_plain_line
from giftcards.rules.problems import Problem
from giftcards.rules.states import Review, Status
from giftcards.rules.times import LONGEST_WAIT, is_ahead

logger = logging.getLogger(__name__)

# The most held orders that are released at a time: about as many as can be sent in a minute.
_AT_ONCE = 100
# The rest of a longer objection is cut off.
_LONGEST_OBJECTION = 200


class ReviewFailed(Exception):
    """The rule ``REVIEW_ORDER`` failed, or its answer is unusable; the text has no secrets."""


def objection(order: Order) -> str:
    """The reason why a person has to look at ``order`` before it is sent; "" if nobody has to.

    The rule is not asked about an order whose review is approved. Raises :exc:`ReviewFailed`.
    """
    if order.review == Review.APPROVED:
        return ""
    failure = ""
    answer: object = None
    try:
        rule = conf.review_order
        if rule is not None:
            # A copy: what the process does next relies on the order as it was read.
            answer = import_string(rule)(copy(order))
    except Exception as error:  # noqa: BLE001 (the shop's code raises anything)
        failure = type(error).__name__
        logger.error(  # noqa: TRY400 (its text may hold anything)
            "REVIEW_ORDER failed for order %s: %s at %s", order.reference, failure, place_of(error)
        )
    if failure:
        raise ReviewFailed(failure)
    if answer is None:
        return ""
    line = as_plain_line(str(answer)) if isinstance(answer, str | Promise) else ""
    if not line:
        raise ReviewFailed(f"REVIEW_ORDER returned no reason, but {type(answer).__name__}")
    return Truncator(line).chars(_LONGEST_OBJECTION)


def hold_for_price(order: Order, *, price: Decimal, ceiling: Decimal) -> None:
    """Hold a PENDING order that costs too much, unless another process was first."""
    problem = Problem("price_above", {"price": f"{price:.2f}", "ceiling": f"{ceiling:.2f}"})
    if _hold(order, problem):
        logger.warning("Order %s is held. %s", order.reference, problem)


def hold_for_review(order: Order, *, objection: str) -> None:
    """Hold a PENDING order that a person has to look at, unless another process was first."""
    if _hold(order, Problem("review_wanted", {"objection": objection}), review=Review.WANTED):
        # Without the objection, which may be about the customer.
        logger.warning("Order %s is held for review.", order.reference)


def hold_until(order: Order, moment: datetime) -> None:
    """Hold a PENDING order until ``moment``, unless another process was first."""
    if _hold(order, None, send_after=moment):
        logger.info("Order %s waits until %s.", order.reference, moment.isoformat())


def _hold(
    order: Order, problem: Problem | None, *, send_after: datetime | None = None, **values: Any
) -> bool:
    return order.stay_pending(problem, due_at=None, failures=0, send_after=send_after, **values)


def held_price(order: Order) -> Decimal | None:
    """The price of a card when ``order`` was held; ``None`` if it is not held for its price."""
    above = _held_for(order, "price_above")
    return Decimal(above.parameters["price"]) if above else None


def held_objection(order: Order) -> str | None:
    """The reason for the review that ``order`` is held for; ``None`` if it is held for none."""
    wanted = _held_for(order, "review_wanted")
    return str(wanted.parameters["objection"]) if wanted else None


def _held_for(order: Order, code: str) -> Problem | None:
    """The problem with this code for which ``order`` is held; ``None`` if it is not."""
    problems = map(Problem.of, order.problems if order.is_held else ())
    return next((problem for problem in problems if problem.code == code), None)


def approve_price(order: Order, price: Decimal | int, *, by: str) -> Problem | None:
    """Have an order sent that is held for its price, at ``price`` a card at most.

    Returns the decision as recorded, with ``by``; ``None`` if the order is not held for its price
    any more. If a card costs more when the order is to be sent, the order is held again. Raises
    ``ValidationError`` if ``price`` is below 0 or has more than two decimals.
    """
    approved, above = order.check_amount("approved_price", price), _held_for(order, "price_above")
    if above is None:
        return None
    amounts = {"price": f"{price:.2f}", "ceiling": above.parameters["ceiling"]}
    decision = Problem("staff_approved", {"by": by, **amounts})
    if not _release(order, decision, by=by, approved_price=approved):
        return None
    logger.info("Order %s may cost %.2f a card.", order.reference, price)
    wake_worker()
    return decision


def approve_review(order: Order, *, by: str) -> Problem | None:
    """Have an order sent that is held for review; it is not reviewed again.

    Returns the decision as recorded, with ``by``; ``None`` if the order is not held for review any
    more. It can still be held for its price.
    """
    wanted = _held_for(order, "review_wanted")
    if wanted is None:
        return None
    decision = Problem("staff_review_approved", {"by": by, **wanted.parameters})
    if not _release(order, decision, by=by, review=Review.APPROVED):
        return None
    logger.info("Order %s was reviewed, and may be sent.", order.reference)
    wake_worker()
    return decision


def release_fallen(product_id: str, prices: Mapping[str, Decimal]) -> None:
    """Release the orders of a product that were held for a price, if the price has fallen enough.

    ``prices`` are by type. At most 100 are released; the others follow with the next prices.
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
    """Yield the held orders whose price has fallen, each with the entry for its timeline."""
    for order in Order.objects.on_hold_for_price().filter(product_id=product_id):
        price, ceiling = prices.get(order.type_id), order.price_ceiling
        if price is None or ceiling is None or price > ceiling:
            continue
        # The order may be held for another reason.
        if _held_for(order, "price_above"):
            amounts = {"price": f"{price:.2f}", "ceiling": f"{ceiling:.2f}"}
            yield order, Problem("price_fell", amounts)


def send_at_once(order: Order, *, by: str) -> Problem | None:
    """Have an order sent that waits for its time; return the decision as recorded.

    Returns ``None``, and changes nothing, if the order does not wait any more. ``by`` names who
    decided, in the timeline.
    """
    if not order.is_waiting:
        return None
    decision = Problem("staff_hurried", {"by": by})
    if not _release(order, decision, by=by):
        return None
    wake_worker()
    return decision


def end_waits(orders: OrderQuerySet) -> None:
    """Release those of ``orders`` that have waited for their time, and give up overdue ones.

    At most 100 at a time; the others follow with the next call.
    """
    now = timezone.now()
    for order in orders.on_hold_for_too_long(now)[:_AT_ONCE]:
        with isolate_failures(order):
            if is_ahead(order.send_before, now, longest=LONGEST_WAIT):
                _release(order)
            else:
                _give_up(order)


def _give_up(order: Order) -> None:
    reason = Problem("sought_in_vain")
    # Fails if somebody has released the order since it was read.
    where = {"due_at": None, "send_before": order.send_before}
    source = StatusChange.Source.CLOCK
    if order.move(Status.REJECTED, source=source, details=[reason], where=where):
        logger.warning("Order %s is REJECTED. %s", order.reference, reason)


def _release(order: Order, reason: Problem | None = None, *, by: str = "", **values: Any) -> bool:
    """Have a held order sent, and keep ``reason`` in its timeline; False if it is not held."""
    # SEND_TIMEOUT starts again, however long the order has waited.
    now = timezone.now()
    due = {"due_at": now, "queued_at": now, "send_after": None, "failures": 0}
    with transaction.atomic():
        is_done = order.stay_pending(None, **due, **values)
        if is_done and reason is not None:
            order.acknowledge(reason, by=by)
    return is_done


def confirm_price(order: Order, price: Decimal) -> None:
    """Store ``price`` as the ceiling: the person who has just placed ``order`` has confirmed it.

    Call it in the transaction that records the order, so that no worker has seen the order yet.
    """
    order.approved_price = order.check_amount("approved_price", price)
    order.save(update_fields=["approved_price"])


def reject_held(order: Order, *, by: str) -> Problem | None:
    """Reject a held order, for which nothing was bought; return the decision as recorded.

    Returns ``None`` if the order is not held any more.
    """
    if not order.is_held:
        return None
    decision = Problem("staff_declined", {"by": by})
    if held_objection(order) is not None:
        decision = Problem("staff_review_declined", {"by": by})
    elif order.is_waiting:
        decision = Problem("staff_stopped", {"by": by})
    source = StatusChange.Source.STAFF
    if not order.move(Status.REJECTED, source=source, details=[decision], where={"due_at": None}):
        return None
    logger.warning("Order %s was held, and is REJECTED now.", order.reference)
    wake_worker()
    return decision
