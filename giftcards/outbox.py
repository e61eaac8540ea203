"""Telling the shop's receivers of what has changed: at least once, in order per order.

One process announces at a time. A receiver that raises is told again, later each time, for about
a day; the others are not told again for its sake, and it is not told of later changes before.
What is stored is who has heard a change, so that one whose name a deploy has changed is told.
"""

from __future__ import annotations

import logging
from collections import defaultdict
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

# Where the receivers of one change together take longer, another process may tell them the same.
_LEASE = timedelta(minutes=2)
_BATCH = 100
_FIRST_PAUSE = timedelta(seconds=10)
_LONGEST_PAUSE = timedelta(hours=1)
# With these pauses, after about a day: one of trying, not one on which no worker ran.
_MOST_FAILURES = 32
_RECORDED = ("heard", "announced_at", "announce_at", "announce_failures", "announce_error")


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
    to_announce = StatusChange.objects.to_announce(timezone.now()).order_by("pk")
    due = dict(to_announce.values_list("pk", "order_id")[:_BATCH])
    # With those of the same orders whose turn comes later: they hold others back.
    waiting = StatusChange.objects.filter(order__in=set(due.values())).exclude(announce_at=None)
    earlier: dict[int, list[StatusChange]] = defaultdict(list)
    heard = 0
    for change in waiting.select_related("order").order_by("pk"):
        if change.pk in due:
            if not go_on():
                break
            now = timezone.now()
            if not ProviderState.objects.keep_lease("outbox", token, now=now, length=_LEASE):
                break
            _announce_change(change, earlier[change.order_id])
            heard += change.announced_at is not None
        # One that was given up holds nobody back.
        if change.announce_at is not None:
            earlier[change.order_id].append(change)
    return heard


def _announce_change(change: StatusChange, earlier: list[StatusChange]) -> None:
    """Tell the receivers that have not heard ``change``, and record who has heard it now.

    Not those that have yet to hear one of the ``earlier`` changes of the order.
    """
    held_back_until = {name: other.announce_at for other in earlier for name, _ in _unheard(other)}
    receivers = list(_unheard(change))
    # A name as often as there are receivers of it: it has heard when all of them have.
    unheard = [name for name, _ in receivers]
    change.announce_error = ""
    try:
        for name, receiver in receivers:
            if name in held_back_until:
                continue
            try:
                receiver()
            except BaseException as error:
                change.announce_error = f"{name}: {_described(error)}"
                logger.error(  # noqa: TRY400 (its text may hold what the receiver worked on)
                    "Announcing order %s (%s) failed. %s",
                    change.order.reference,
                    change,
                    change.announce_error,
                )
                # A receiver never disturbs an order. A process that is told to end ends.
                if not isinstance(error, Exception):
                    raise
            else:
                unheard.remove(name)
    finally:
        # Also where the process is told to end in the middle, as when a task takes too long.
        told = {name for name, _ in receivers}.difference(unheard)
        change.heard = sorted(told.union(change.heard or ()))
        held_back = held_back_until.keys() & unheard
        now = timezone.now()
        if set(unheard) - held_back:
            change.announce_failures += 1
            is_over = change.announce_failures >= _MOST_FAILURES and not held_back
            change.announce_at = None if is_over else now + _pause(change.announce_failures)
        elif held_back:
            # Right after the change that comes before it.
            change.announce_at = max(filter(None, map(held_back_until.get, held_back)))
        else:
            change.announced_at, change.announce_at = now, None
        StatusChange.objects.filter(pk=change.pk).update(
            **{name: getattr(change, name) for name in _RECORDED}
        )


def _pause(failures: int) -> timedelta:
    pause: timedelta = min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE)
    return pause


def _unheard(change: StatusChange) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Who has yet to hear ``change``: a name that another process knows too, and how to call it."""
    signals = {"order_status_changed": order_status_changed}
    if change.to_status in FINAL:
        signals["order_settled"] = order_settled
    for signal_name, signal in signals.items():
        # Signal.send_robust tells everybody, each time; there is no public way to tell some.
        plain, asynchronous = signal._live_receivers(Order)  # noqa: SLF001
        arguments = {"signal": signal, "sender": Order, "order": change.order, "change": change}
        calls = [(receiver, receiver) for receiver in plain]
        calls += [(receiver, async_to_sync(receiver)) for receiver in asynchronous]
        for receiver, call in calls:
            name = f"{signal_name} {_name(receiver)}"
            if name not in (change.heard or ()):
                yield name, partial(call, **arguments)


def _name(receiver: Any) -> str:
    """Where the receiver is defined. Not its repr(), which is of this process and may tell all."""
    while isinstance(receiver, partial):
        receiver = receiver.func
    if not hasattr(receiver, "__qualname__"):
        receiver = type(receiver)
    return f"{receiver.__module__}.{receiver.__qualname__}"


def _described(error: BaseException) -> str:
    """What was raised and where. Not its text: receivers handle codes in the clear."""
    *_, (frame, line) = walk_tb(error.__traceback__)
    return f"{type(error).__name__} at {frame.f_code.co_filename}:{line}"
