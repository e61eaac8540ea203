"""Calculating when an order is checked next.

A fresh order is checked every ``POLL_INTERVAL``. A late order is checked at increasing intervals.
:data:`giftcards.rules.states.STATES` contains the intervals for each status.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.backoff import backoff
from giftcards.engine.gateway import Gateway
from giftcards.models import Order
from giftcards.rules.purposes import Purpose
from giftcards.rules.states import FOLLOWED, STATES


def next_check(
    order: Order, now: datetime, *, watched_since: datetime | None = None
) -> datetime | None:
    """Return the time of the next check of ``order``.

    Returns ``None`` if the order is late and was accepted before ``watched_since``, because such an
    order is no longer watched. The default for ``watched_since`` is ``LATE_WATCH_HOURS`` before
    ``now``.
    """
    state = STATES[order.status]
    if state.last_pause is None:
        return now + timedelta(seconds=conf.poll_interval)
    assert order.accepted_at is not None  # noqa: S101 (a constraint of the table)
    if order.accepted_at < (watched_since or now - timedelta(hours=conf.late_watch_hours)):
        return None
    late_for = now - order.accepted_at - timedelta(seconds=conf.poll_timeout)
    pauses = (pause for limit, pause in state.pauses if late_for < limit)
    return now + next(pauses, state.last_pause)


def retry_pause(order: Order) -> timedelta:
    """Return the pause before ``order`` is checked again after a failure."""
    longest = STATES[order.status].longest_retry
    first = min(timedelta(seconds=conf.poll_interval), longest)
    return backoff(order.failures + 1, first_pause=first, max_pause=longest, jitter=0.25)


def time_to_check(order: Order, gateway: Gateway) -> float:
    """Return the number of seconds until ``order`` can be checked.

    A check is limited by ``POLL_INTERVAL`` and by the request quota.
    """
    wait = gateway.wait_for(Purpose.CHECKING)
    if order.status in FOLLOWED and order.checked_at:
        # If the time of the check is in the future, the clock was set back after the check. The
        # check then counts as made now.
        since = max(timezone.now() - order.checked_at, timedelta(0))
        wait = max(wait, conf.poll_interval - since.total_seconds())
    return wait
