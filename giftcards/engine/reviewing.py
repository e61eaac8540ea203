"""Asking the shop's own rule, ``REVIEW_ORDER``, whether a person has to look at an order first."""

from __future__ import annotations

import logging
from copy import copy

from django.utils.functional import Promise
from django.utils.module_loading import import_string
from django.utils.text import Truncator

from giftcards.conf import conf
from giftcards.keys.secrecy import place_of
from giftcards.models import Order
from giftcards.models.fields import as_plain_line
from giftcards.rules.states import Review

logger = logging.getLogger(__name__)

# The rest of a longer objection is cut off.
_LONGEST = 200


class ReviewFailed(Exception):
    """The rule could not be asked, or what it returned is unusable; the text has no secrets."""


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
    return Truncator(line).chars(_LONGEST)
