"""Background calls: made when calls are not paused and the request budget has slots to spare."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.budget import Purpose
from giftcards.engine.gateway import Gateway
from giftcards.engine.timings import timings
from giftcards.exceptions import AccessDenied, RateLimited
from giftcards.models import Lease, Order

T = TypeVar("T")

# The shortest wait before the next attempt to make a call (seconds).
_SHORTEST_WAIT = 0.2


class Stopped(Exception):
    """Raised to stop background calls; the text, if any, says why."""


def ask_when_free(
    gateway: Gateway, call: Callable[[], T | None], on_wait: Callable[[bool], object]
) -> T:
    """Make ``call`` (:attr:`Purpose.BACKGROUND`) as soon as pauses and the budget allow it.

    ``call`` returns ``None`` if the gateway denies it, and is tried again. ``on_wait`` is called
    before each wait of at most a second, with True if calls are paused. Raises :exc:`Stopped` if
    the provider refuses the API key; ``on_wait`` may raise :exc:`Stopped` as well. A key that is to
    be probed is left to an order that the loop is about to ask about.
    """
    while True:
        while not gateway.try_open():
            if not gateway.reopens_by_itself():
                raise Stopped("The provider refuses the API key.")
            on_wait(True)
            time.sleep(timings.background_wait)
        try:
            answer = _try(gateway, call)
        except (AccessDenied, RateLimited):
            # Calls are paused now.
            continue
        if answer is not None:
            return answer
        if gateway.is_open:
            on_wait(False)
            wait = max(gateway.wait_for(Purpose.BACKGROUND), _SHORTEST_WAIT)
            time.sleep(min(wait, timings.background_wait))


def _try(gateway: Gateway, call: Callable[[], T | None]) -> T | None:
    """Make ``call``, unless that keeps the key's probe from an order that the loop follows."""
    if not gateway.is_proven and Lease.objects.is_taken(Lease.LOOP):
        soon = timezone.now() + timedelta(seconds=conf.poll_interval)
        if Order.objects.urgent().filter(due_at__lte=soon).exists():
            return None
    return call()
