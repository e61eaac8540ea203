"""Telling the shop's receivers of what has changed: at least once, in order per order.

One process announces at a time. A receiver that raises is told again, later each time, for a day;
the others are not told again for its sake, and it is not told of later changes before.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from traceback import walk_tb
from typing import Any

from asgiref.sync import async_to_sync
from django.utils import timezone

from giftcards.models import Order, ProviderState, StatusChange
from giftcards.signals import order_settled, order_status_changed
from giftcards.statuses import FINAL

logger = logging.getLogger(__name__)

# A receiver that takes longer than this may see another process tell it the same.
_LEASE = timedelta(minutes=2)
_BATCH = 100
_FIRST_PAUSE = timedelta(seconds=10)
_LONGEST_PAUSE = timedelta(hours=1)
# With these pauses, after a day: one of trying, not one on which no worker ran.
_MOST_FAILURES = 32
_RECORDED = ("unheard", "announced_at", "announce_at", "announce_failures", "announce_error")


def _always() -> bool:
    return True


def announce(go_on: Callable[[], bool] = _always) -> int:
    """Announce the changes whose turn has come; return how many every receiver has heard now.

    ``go_on`` is called before each of them: when it says no, the rest is left for the next time.
    """
    heard = 0
    while go_on() and StatusChange.objects.to_announce(timezone.now()).exists():
        token = ProviderState.objects.take_lease("outbox", now=timezone.now(), length=_LEASE)
        if token is None:
            break
        try:
            heard += _announce_batch(token, go_on)
        finally:
            # Only then is it looked again: who was turned away meanwhile relies on this process.
            ProviderState.objects.release_lease("outbox", token)
    return heard


def _announce_batch(token: str, go_on: Callable[[], bool]) -> int:
    changes = StatusChange.objects.to_announce(timezone.now()).select_related("order")
    batch = list(changes.order_by("pk")[:_BATCH])
    told_again = _told_again({change.order_id for change in batch})
    heard = 0
    for change in batch:
        if not go_on():
            break
        if not ProviderState.objects.keep_lease("outbox", token, now=timezone.now(), length=_LEASE):
            break
        of_order = told_again[change.order_id]
        _announce_change(change, [other for pk, other in of_order.items() if pk < change.pk])
        of_order[change.pk] = change
        heard += change.announced_at is not None
    return heard


def _told_again(orders: set[int]) -> dict[int, dict[int, StatusChange]]:
    """The changes that some receivers have not heard yet, by order and primary key."""
    found: dict[int, dict[int, StatusChange]] = defaultdict(dict)
    waiting = StatusChange.objects.filter(order__in=orders, unheard__isnull=False)
    for change in waiting.exclude(announce_at=None).only("order_id", "unheard", "announce_at"):
        found[change.order_id][change.pk] = change
    return found


def _announce_change(change: StatusChange, earlier: list[StatusChange]) -> None:
    """Tell the receivers that have not heard ``change``, and record who has not heard it now.

    Not those that have yet to hear one of the ``earlier`` changes of the order.
    """
    # Those that were given up hold nobody back.
    held_back_until = {
        name: other.announce_at
        for other in earlier
        if other.announce_at is not None
        for name in other.unheard or ()
    }
    receivers = deque(
        (name, receiver)
        for name, receiver in _receivers(change)
        if change.unheard is None or name in change.unheard
    )
    failed: set[str] = set()
    held_back: set[str] = set()
    try:
        while receivers:
            name, receiver = receivers[0]
            if name in held_back_until:
                held_back.add(name)
            else:
                try:
                    receiver()
                except Exception as error:  # noqa: BLE001 (a receiver never disturbs an order)
                    failed.add(name)
                    change.announce_error = f"{name}: {_described(error)}"
                    logger.error(  # noqa: TRY400 (its text may hold what the receiver worked on)
                        "Announcing order %s (%s) failed. %s",
                        change.order.reference,
                        change,
                        change.announce_error,
                    )
            receivers.popleft()
    finally:
        # Also where the process is told to end in the middle, as when a task takes too long.
        failed.update(name for name, _ in receivers)
        change.unheard = sorted(failed | held_back)
        now = timezone.now()
        if failed:
            change.announce_failures += 1
            is_over = change.announce_failures >= _MOST_FAILURES and not held_back
            change.announce_at = None if is_over else now + _pause(change.announce_failures)
        elif held_back:
            # Right after the change that comes before it.
            change.announce_at = max(filter(None, map(held_back_until.get, held_back)))
        else:
            change.announced_at, change.announce_at, change.announce_error = now, None, ""
        StatusChange.objects.filter(pk=change.pk).update(
            **{name: getattr(change, name) for name in _RECORDED}
        )


def _pause(failures: int) -> timedelta:
    pause: timedelta = min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE)
    return pause


def _receivers(change: StatusChange) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The receivers of ``change``: a name that another process knows too, and how to call it."""
    signals = {"order_status_changed": order_status_changed}
    if change.to_status in FINAL:
        signals["order_settled"] = order_settled
    for signal_name, signal in signals.items():
        # Signal.send_robust tells everybody, each time; there is no public way to tell some.
        plain, asynchronous = signal._live_receivers(Order)  # noqa: SLF001
        arguments = {"signal": signal, "sender": Order, "order": change.order, "change": change}
        for receiver in plain:
            yield f"{signal_name} {_name(receiver)}", partial(receiver, **arguments)
        for receiver in asynchronous:
            yield f"{signal_name} {_name(receiver)}", partial(async_to_sync(receiver), **arguments)


def _name(receiver: Any) -> str:
    """Where the receiver is defined. Not its repr(), which is of this process and may tell all."""
    while isinstance(receiver, partial):
        receiver = receiver.func
    if not hasattr(receiver, "__qualname__"):
        receiver = type(receiver)
    return f"{receiver.__module__}.{receiver.__qualname__}"


def _described(error: Exception) -> str:
    """What was raised and where. Not its text: receivers handle codes in the clear."""
    *_, (frame, line) = walk_tb(error.__traceback__)
    return f"{type(error).__name__} at {frame.f_code.co_filename}:{line}"
