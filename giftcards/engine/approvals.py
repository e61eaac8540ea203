"""Functions that put orders on hold, release them, and cancel them.

The worker puts an order on hold if a card costs more than the price limit, or if ``REVIEW_ORDER``
asks for a review. If ``REVIEW_ORDER`` fails for ``SEND_TIMEOUT`` seconds, the order is put on hold
as well. An order that ``REORDER_MISSING`` created stays on hold until ``send_after``. If such an
order could not be released before ``send_before``, it is rejected. All other orders can stay on
hold for any length of time. An order on hold has the status PENDING and no due time, so workers do
not send it.
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
from django.utils.translation import gettext

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

# The maximum number of orders that one call releases. About this many can be sent in a minute.
_AT_ONCE = 100
# The maximum length of a stored objection, in characters.
_LONGEST_OBJECTION = 200


class ReviewFailed(Exception):
    """``REVIEW_ORDER`` failed or returned an invalid value.

    The message contains no secrets.
    """


def objection(order: Order) -> str:
    """Return the reason why staff must review ``order``, or "".

    The function in ``REVIEW_ORDER`` decides, unless staff have already approved the order in a
    review. Raises :exc:`ReviewFailed` if the function fails or returns an invalid value.
    """
    if order.review == Review.APPROVED:
        return ""
    failure = ""
    answer: object = None
    try:
        rule = conf.review_order
        if rule is not None:
            # The shop's function gets a copy, so that it cannot change ``order`` itself.
            answer = import_string(rule)(copy(order))
    except Exception as error:  # noqa: BLE001 (the shop's code raises anything)
        failure = type(error).__name__
        logger.error(  # noqa: TRY400 (the error's text may hold anything)
            "REVIEW_ORDER failed for order %s: %s at %s", order.reference, failure, place_of(error)
        )
    if failure:
        raise ReviewFailed(failure)
    if answer is None:
        return ""
    line = as_plain_line(str(answer)) if isinstance(answer, str | Promise) else ""
    if not line:
        raise ReviewFailed(f"returned {type(answer).__name__} instead of a reason")
    return Truncator(line).chars(_LONGEST_OBJECTION)


def put_on_hold_for_price(order: Order, *, price: Decimal, ceiling: Decimal) -> None:
    """Put a PENDING order on hold because a card costs more than ``ceiling``.

    Does nothing if another process has changed the order.
    """
    problem = Problem("price_above", {"price": f"{price:.2f}", "ceiling": f"{ceiling:.2f}"})
    if _put_on_hold(order, problem):
        logger.warning("Order %s is on hold. %s", order.reference, problem)


def put_on_hold_for_review(order: Order, *, objection: str) -> None:
    """Put a PENDING order on hold for review.

    Does nothing if another process has changed the order.
    """
    if _put_on_hold(
        order, Problem("review_wanted", {"objection": objection}), review=Review.WANTED
    ):
        # The objection is not logged, because it may be about the customer.
        logger.warning("Order %s is on hold for review.", order.reference)


def put_unreviewed_on_hold(order: Order) -> bool:
    """Put a PENDING order on hold because ``REVIEW_ORDER`` keeps failing.

    This function is called when the order has waited for ``SEND_TIMEOUT`` seconds. Returns False
    without changing anything if ``REVIEW_ORDER`` has not failed for this order. The order is put on
    hold instead of being rejected, because the customer might have paid and the mistake is in the
    shop's code.
    """
    failed = next((each for each in _problems(order) if each.code == "review_failed"), None)
    if failed is None:
        return False
    # The message is stored, so it is in the site's language, like the reasons that the function
    # returns.
    text = gettext("The REVIEW_ORDER rule keeps failing: %(detail)s") % failed.parameters
    put_on_hold_for_review(order, objection=text)
    return True


def put_on_hold_until(order: Order, moment: datetime) -> None:
    """Put a PENDING order on hold until the given time.

    Does nothing if another process has changed the order.
    """
    if _put_on_hold(order, None, send_after=moment):
        logger.info("Order %s is on hold until %s.", order.reference, moment.isoformat())


def _put_on_hold(
    order: Order, problem: Problem | None, *, send_after: datetime | None = None, **values: Any
) -> bool:
    return order.stay_pending(problem, due_at=None, failures=0, send_after=send_after, **values)


def on_hold_price(order: Order) -> Decimal | None:
    """Return the price because of which an order is on hold, or ``None``."""
    above = _on_hold_for(order, "price_above")
    return Decimal(above.parameters["price"]) if above else None


def on_hold_objection(order: Order) -> str | None:
    """Return the reason why ``order`` is on hold for review, or ``None``."""
    wanted = _on_hold_for(order, "review_wanted")
    return str(wanted.parameters["objection"]) if wanted else None


def _on_hold_for(order: Order, code: str) -> Problem | None:
    problems = _problems(order) if order.is_on_hold else ()
    return next((problem for problem in problems if problem.code == code), None)


def _problems(order: Order) -> Iterator[Problem]:
    return map(Problem.of, order.problems)


def approve_price(order: Order, price: Decimal | int, *, by: str) -> Problem | None:
    """Approve a higher price per card for an order that is on hold.

    The order must be on hold because of its price. Before sending the order, a worker compares the
    current price of a card with the approved price. If a card costs more, the worker puts the order
    on hold again. The ``by`` argument is the name of the person who approved the price. This name
    appears in the timeline of the order.

    Returns the recorded decision, or ``None`` if the order is not on hold because of its price.
    Raises ``ValidationError`` if ``price`` is below 0 or has more than two decimals.
    """
    approved, above = (
        order.check_amount("approved_price", price),
        _on_hold_for(order, "price_above"),
    )
    if above is None:
        return None
    amounts = {"price": f"{price:.2f}", "ceiling": above.parameters["ceiling"]}
    decision = Problem("staff_approved", {"by": by, **amounts})
    if not _release(order, decision, by=by, approved_price=approved):
        return None
    logger.info("Order %s was approved at a price of %.2f per card.", order.reference, price)
    wake_worker()
    return decision


def approve_review(order: Order, *, by: str) -> Problem | None:
    """Approve an order that is on hold for review.

    A worker sends the order without another review, but can put it on hold because of its price.
    ``by`` is the name of the person who approved the order, and appears in the timeline of the
    order.

    Returns the recorded decision, or ``None`` if the order is no longer on hold for review.
    """
    wanted = _on_hold_for(order, "review_wanted")
    if wanted is None:
        return None
    decision = Problem("staff_review_approved", {"by": by, **wanted.parameters})
    if not _release(order, decision, by=by, review=Review.APPROVED):
        return None
    logger.info("Order %s was reviewed, and may be sent.", order.reference)
    wake_worker()
    return decision


def release_fallen(product_id: str, prices: Mapping[str, Decimal]) -> None:
    """Release orders on hold if their price no longer exceeds the limit.

    ``prices`` maps the type ids of the product to prices per card. One call releases at most 100
    orders. The next call releases more.
    """
    is_any_released = False
    for order, fell in islice(_fallen(product_id, prices), _AT_ONCE):
        with isolate_failures(order):
            if _release(order, fell):
                is_any_released = True
                logger.info("Order %s continues. %s", order.reference, fell)
    if is_any_released:
        wake_worker()


def _fallen(product_id: str, prices: Mapping[str, Decimal]) -> Iterator[tuple[Order, Problem]]:
    for order in Order.objects.on_hold_for_price().filter(product_id=product_id):
        price, ceiling = prices.get(order.type_id), order.price_ceiling
        if price is None or ceiling is None or price > ceiling:
            continue
        # The order may be on hold for a reason other than its price.
        if _on_hold_for(order, "price_above"):
            amounts = {"price": f"{price:.2f}", "ceiling": f"{ceiling:.2f}"}
            yield order, Problem("price_fell", amounts)


def send_at_once(order: Order, *, by: str) -> Problem | None:
    """Release an order that waits for its ``send_after`` time, to send it now.

    The ``by`` argument is the name of the person who decided. This name appears in the timeline of
    the order. Returns the recorded decision, or ``None`` if the order is no longer on hold until
    ``send_after``.
    """
    if not order.is_waiting:
        return None
    decision = Problem("staff_hurried", {"by": by})
    if not _release(order, decision, by=by):
        return None
    wake_worker()
    return decision


def end_waits(orders: OrderQuerySet) -> None:
    """Release or reject orders whose time on hold has ended.

    An order is released if its ``send_before`` time is still in the future. Otherwise, it is
    rejected. One call handles at most 100 orders. The next call handles more.
    """
    now = timezone.now()
    for order in orders.on_hold_for_too_long(now)[:_AT_ONCE]:
        with isolate_failures(order):
            if is_ahead(order.send_before, now, max_distance=LONGEST_WAIT):
                _release(order)
            else:
                _give_up(order)


def _give_up(order: Order) -> None:
    reason = Problem("reorder_expired")
    # The move fails if the order was released after it was read.
    conditions = {"due_at": None, "send_before": order.send_before}
    source = StatusChange.Source.CLOCK
    if order.move(Status.REJECTED, source=source, details=[reason], conditions=conditions):
        logger.warning("Order %s is REJECTED. %s", order.reference, reason)


def _release(order: Order, reason: Problem | None = None, *, by: str = "", **values: Any) -> bool:
    # ``SEND_TIMEOUT`` starts from the beginning, regardless of how long the order has waited.
    now = timezone.now()
    due = {"due_at": now, "queued_at": now, "send_after": None, "failures": 0}
    with transaction.atomic():
        is_done = order.stay_pending(None, **due, **values)
        if is_done and reason is not None:
            order.add_acknowledgement(reason, by=by)
    return is_done


def confirm_price(order: Order, price: Decimal) -> None:
    """Store a price per card that staff have confirmed as the price limit.

    Call this function in the transaction that records the order, before any worker can see the
    order.
    """
    order.approved_price = order.check_amount("approved_price", price)
    order.save(update_fields=["approved_price"])


def cancel_order(order: Order, *, by: str) -> bool:
    """Cancel an unsent order, and return whether it was cancelled.

    An order can be cancelled while its status is PENDING, whether it waits in the queue or is on
    hold. As soon as a worker has claimed the order, it is too late, and the function returns False.

    The status of the cancelled order becomes REJECTED, and the shop owes the customer a full
    refund. The ``by`` argument is the name of the person who cancelled the order. This name appears
    in the timeline of the order. The function updates ``order`` in place, even if it did not cancel
    the order.

    Only one call for each order returns True. A second call for a cancelled order returns False.
    Therefore, pay the customer back only if the call returns True.
    """
    decision = Problem("staff_cancelled", {"by": by})
    with transaction.atomic():
        # The order may have been sent, refused and queued again after it was read. The lock
        # prevents changes of its claim and its problems until the move.
        order.lock()
        order.refresh_from_db()
        is_done = False
        if order.status == Status.PENDING:
            source = StatusChange.Source.STAFF
            is_done = order.move(Status.REJECTED, source=source, details=[decision]) is not None
    if is_done:
        logger.warning("Order %s was cancelled and is now REJECTED.", order.reference)
        wake_worker()
    return is_done
