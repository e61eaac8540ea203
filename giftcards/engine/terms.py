"""Writing the search terms of orders that a process of an older version has recorded.

During an upgrade, older processes run beside newer ones, and know fewer tables.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from django.utils import timezone

from giftcards.models import Order, ProviderState

logger = logging.getLogger(__name__)

# Orders per transaction: few, so that it is short, because workers go on meanwhile.
_BATCH = 500
# A call begins no further batch after this time (seconds).
_SECONDS = 5.0
# No transaction that has recorded an order lasts longer.
_COMMITTED = timedelta(hours=1)


def complete_terms(should_continue: Callable[[], bool]) -> int:
    """Write missing search terms for a few seconds; return the number of orders."""
    ends_at = time.monotonic() + _SECONDS
    # Read first. Afterwards, no order with a lower key appears.
    committed = Order.objects.newest_before(timezone.now() - _COMMITTED)
    place = ProviderState.objects.current().terms_place
    done = 0
    while keys := list(Order.objects.without_terms(place).values_list("pk", flat=True)[:_BATCH]):
        if time.monotonic() >= ends_at or not should_continue():
            committed = min(committed, place)
            break
        Order.objects.write_terms(keys)
        done, place = done + len(keys), keys[-1]
    if committed > ProviderState.objects.current().terms_place:
        ProviderState.objects.filter(pk=1).update(terms_place=committed)
    if done:
        logger.info("The search terms of %d orders were written.", done)
    return done
