"""Writing the search terms of orders that a process of an older version has recorded.

During an upgrade, older processes run beside newer ones, and know fewer tables.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from django.utils import timezone

from giftcards.models import Order, OrderTerm, ProviderState
from giftcards.search_terms import TermKind

logger = logging.getLogger(__name__)

# Orders per transaction. For many more keys, MariaDB reads the whole table.
_BATCH = 100
# A call begins no further batch after this time (seconds).
_SECONDS = 5.0
# No transaction that has recorded an order lasts longer.
_COMMITTED = timedelta(hours=1)


def complete_terms(should_continue: Callable[[], bool]) -> int:
    """Write missing search terms for a few seconds; return the number of orders.

    It looks at the orders of the last hour, and at those that it has not looked at yet.
    """
    ends_at = time.monotonic() + _SECONDS
    # Read first. Afterwards, no order with a lower key appears.
    committed = Order.objects.newest_before(timezone.now() - _COMMITTED)
    began = place = ProviderState.objects.current().terms_place
    orders, done = Order.objects.order_by("pk").values_list("pk", flat=True), 0
    while keys := list(orders.filter(pk__gt=place)[:_BATCH]):
        if time.monotonic() >= ends_at or not should_continue():
            committed = min(committed, place)
            break
        known = OrderTerm.objects.filter(order__in=keys, kind=TermKind.REFERENCE)
        missing = set(keys).difference(known.values_list("order_id", flat=True))
        if missing:
            Order.objects.write_terms(missing)
        done, place = done + len(missing), keys[-1]
    if committed > began:
        ProviderState.objects.filter(pk=1).update(terms_place=committed)
    if done:
        logger.info("The search terms of %d orders were written.", done)
    return done
