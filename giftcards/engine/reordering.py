"""Reordering missing cards in a new order that is linked to the old one.

A reorder is started by staff, by the shop's code or by the ``REORDER_MISSING`` setting.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from decimal import Decimal

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext, override

from giftcards.conf import ReorderRule, conf
from giftcards.engine.task_queue import wake_worker
from giftcards.exceptions import ReorderError
from giftcards.models import ApiKey, Order
from giftcards.models.orders import CORRECTABLE
from giftcards.models.provider import configured_key
from giftcards.rules.money import amount_of_missing
from giftcards.rules.problems import Problem
from giftcards.rules.states import Review

logger = logging.getLogger(__name__)

# The longest pause before the first new order. It is short, because cards that are out of stock may
# soon be available.
_FIRST_PAUSE = timedelta(minutes=10)

_COPIED = (
    "product_id",
    "type_id",
    "product_name",
    "type_name",
    # The environment is copied, so that an order of the sandbox is not repeated with a production
    # key.
    "environment",
    "sale_price",
    "group",
    "metadata",
    "user_id",
    *CORRECTABLE,
)


def reorder_missing(order: Order, *, by: str, max_price: Decimal | int | None = None) -> Order:
    """Place a new order for the missing cards of a final order.

    Returns the new order. The ``repeats`` attribute of the new order refers to the original order.
    Further calls for the same original order return the same new order. If cards of the new order
    are also missing, call this function with the new order. ``by`` is the name of the person who
    reordered the cards, and appears in the timeline of the original order.

    The reference of the new order is a UUID. The new order has the same product, group, metadata,
    user, customer and gift details as the original order. The price limit of the new order is
    ``max_price``, or the limit of the original order if you do not pass ``max_price``. The new
    order is not reviewed, and the function in ``REVIEW_ORDER`` is not called for it, unless staff
    rejected the original order after a review.

    The amount that you owe the customer for the missing cards becomes the ``sale_amount`` of the
    new order. After the reorder, you do not owe the customer any money for the original order.
    Cards that arrived late, after the original order was settled, do not count as missing.

    Raises :exc:`~django.core.exceptions.ValidationError` if ``max_price`` is invalid. Raises
    :exc:`~giftcards.exceptions.ReorderError` in these cases:

    - The original order is open, or all its cards were delivered.
    - The original order was bought in the sandbox and the API key is for production, or the other
      way round.
    - The customer has already been paid back for the original order.
    - The original order has a problem that staff have not acknowledged.
    """
    with transaction.atomic():
        order.lock()
        if known := reorder_of(order):
            return known
        old = Order.objects.get(pk=order.pk)
        check_reorderable(old)
        new = missing_part(old, max_price=max_price)
        decision = Problem("staff_reordered", {"by": by, "order": new.reference})
        _replace(old, new, decision, by=by)
    wake_worker()
    return new


def _replace(old: Order, new: Order, decision: Problem, *, by: str) -> None:
    Order.objects.record(new)
    Order.objects.filter(pk=old.pk).update(
        reordered_amount=new.sale_amount or 0,
        # The amount is NULL if it is unknown what the customer paid.
        open_amount=None if old.open_amount is None else 0,
    )
    old.add_acknowledgement(decision, by=by)
    logger.info("Order %s replaces missing cards of %s.", new.reference, old.reference)


def reorder_of(order: Order) -> Order | None:
    """Return the reorder of the missing cards of ``order``, or ``None``."""
    return Order.objects.filter(repeats=order.pk).first()


def check_reorderable(order: Order) -> None:
    """Raise :exc:`ReorderError` if the missing cards cannot be reordered."""
    if not order.missing_quantity:
        raise ReorderError(
            gettext(
                "No cards can be ordered again. Either the order is still open, or all of its"
                " cards have arrived."
            )
        )
    key = ApiKey.objects.filter(pk=configured_key()).first()
    if key is not None and order.was_sent_elsewhere(key):
        text = gettext(
            "This order was placed in the %(theirs)s environment, but the current API key is for"
            " the %(ours)s environment. The missing cards cannot be ordered again. Place a new"
            " order instead."
        )
        theirs, ours = order.get_environment_display(), key.get_environment_display()
        raise ReorderError(text % {"theirs": theirs, "ours": ours})
    if order.paid_back_amount:
        raise ReorderError(
            gettext(
                "The customer has already been paid back. Place a new order, or cancel the refund"
                " first."
            )
        )
    if order.needs_attention:
        raise ReorderError(
            gettext(
                "The cards may have arrived after all. Look at the order's problems and"
                " acknowledge them before you order the missing cards again."
            )
        )


def missing_part(order: Order, *, max_price: Decimal | int | None = None) -> Order:
    """Return an unsaved order for the missing cards of ``order``."""
    missing = order.missing_quantity
    new = Order(
        repeats=order,
        quantity=missing,
        sale_amount=amount_of_missing(order, missing),
        max_price=order.max_price if max_price is None else max_price,
        **{name: getattr(order, name) for name in _COPIED},
    )
    if new.price_ceiling is None:
        # A price that staff approved for the old order also limits the new order.
        new.max_price = order.approved_price
    # The new order needs a review only if staff rejected the old order after a review.
    if order.review != Review.WANTED:
        new.review = Review.APPROVED
    return new


# Reordering by the rule REORDER_MISSING.


def reorder_by_rule(order: Order) -> None:
    """Order the missing cards again if ``REORDER_MISSING`` requires it.

    The new order is on hold until its ``send_after`` time. Call this function in the transaction
    that makes ``order`` final, because receivers of the final status must not find an incomplete
    new order.

    Does nothing if the setting is off, or if the maximum number of orders or the time limit of the
    setting is reached. Also does nothing if the new order would not have a price limit, or if
    :func:`reorder_missing` would raise :exc:`ReorderError`.
    """
    rule = conf.reorder_missing
    if rule is None:
        return
    try:
        with transaction.atomic(), override(None):  # refusals are logged in English
            _reorder(Order.objects.get(pk=order.pk), rule)
    except ReorderError as error:
        logger.info("No cards of order %s are ordered again. %s", order.reference, error)
    except Exception as error:
        if transaction.get_rollback():
            # The database error has also broken the caller's transaction.
            raise
        # The error is only logged, so that the old order still becomes final.
        logger.error(  # noqa: TRY400 (a traceback may hold a row)
            "The missing cards of order %s are not ordered again: %s",
            order.reference,
            type(error).__name__,
        )


def _reorder(old: Order, rule: ReorderRule) -> None:
    check_reorderable(old)
    now, times = timezone.now(), _times(old)
    end = old.send_before or now + timedelta(hours=rule.hours)
    if times >= rule.times or end <= now:
        return
    new = missing_part(old)
    if new.price_ceiling is None:
        # The new order is sent without a decision by staff, so its price needs a limit.
        new.max_price = old.price_at_placing if old.price_per_card is None else old.price_per_card
    if new.price_ceiling is None:
        return
    new.due_at, new.send_before = None, end
    new.send_after = now + _pause(end - now, turns=rule.times - times, is_first=not times)
    _replace(old, new, Problem("reordered_by_rule", {"order": new.reference}), by="")


def _times(order: Order) -> int:
    """Return how many orders ``REORDER_MISSING`` has created for the cards.

    The number includes ``order``.
    """
    times = 0
    earlier: Order | None = order
    while earlier is not None and earlier.send_before is not None:
        times, earlier = times + 1, earlier.repeats
    return times


def _pause(time_left: timedelta, *, turns: int, is_first: bool) -> timedelta:
    """Return how long to wait before the new order is sent.

    ``time_left`` is the time until the time limit. The pause is this time divided by ``turns + 1``.
    ``turns`` is the number of orders that ``REORDER_MISSING`` can still create. The first pause is
    at most ten minutes.
    """
    pause = time_left / (turns + 1)
    return min(pause, _FIRST_PAUSE) if is_first else pause


def is_still_missing(order: Order) -> bool:
    """Return False if the cards that ``order`` replaces might have arrived.

    Returns True for all orders that ``REORDER_MISSING`` did not create.
    """
    if order.send_before is None or order.repeats is None:
        return True
    old = order.repeats
    return not old.needs_attention and old.missing_quantity >= order.quantity
