"""The signals that a shop connects its receivers to.

The first two are sent after the change is committed, at least once, in order per order, with
``order`` (an :class:`~giftcards.models.Order`) and ``change`` (a
:class:`~giftcards.models.StatusChange`); ``sender`` is the ``Order`` class. A receiver
must be idempotent: it may be called twice for the same change. One that raises is retried, up to 32
calls over about a day; then the change is given up, and the admin shows it. Its errors affect
neither the order nor the other receivers.

One process calls all receivers, one after the other. If that takes more than two minutes for one
change, another process may call them for the same change. So be quick, and set a timeout on
anything that may hang.

The app stores the names of the receivers that have taken a change. The name of a receiver is its
``dispatch_uid``, if that is a string; otherwise it is the module and qualified name of the function
or class. Give each receiver a ``dispatch_uid``: its name then survives moving and renaming the
function. A receiver with a new name is a new receiver: it is called for every change that some
receiver has yet to take, even if it took that change under its old name. Receivers that share a
name (lambdas of one function, methods of two objects of one class) are retried together.

The others are ordinary signals of Django. Except for ``customer_changed``, they are sent once,
after the commit, by the process that made the change. A receiver that raises is not retried; its
error is logged.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction
from django.dispatch import Signal

_Receiver = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class _Connection:
    # Unique together with the sender, as in Django.
    key: Hashable
    sender: object
    name: str
    # Returns the receiver; None once a weakly referenced one was garbage-collected.
    receiver: Callable[[], _Receiver | None]

    def is_of(self, key: Hashable, sender: object) -> bool:
        return self.key == key and self.sender is sender


class OutboxSignal(Signal):
    """A signal with named receivers, which the outbox calls one by one.

    It connects, disconnects and sends like any Django signal. Django has no public API to call only
    some of the receivers, so this class keeps a registry of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        # Replaced, never mutated, so that it can be read without the lock.
        self._connections: tuple[_Connection, ...] = ()

    def connect(
        self,
        receiver: _Receiver,
        sender: object | None = None,
        weak: bool = True,
        dispatch_uid: Hashable | None = None,
    ) -> None:
        super().connect(receiver, sender, weak, dispatch_uid)
        key = dispatch_uid or _identity(receiver)
        name = dispatch_uid if isinstance(dispatch_uid, str) else ""
        connection = _Connection(
            key, sender, name or _definition(receiver), _reference(receiver, weak=weak)
        )
        with self._lock:
            # Drop dead receivers: their id() may be reused by another object.
            live = [other for other in self._connections if other.receiver() is not None]
            if not any(other.is_of(key, sender) for other in live):
                live.append(connection)
            self._connections = tuple(live)

    def disconnect(
        self,
        receiver: _Receiver | None = None,
        sender: object | None = None,
        dispatch_uid: Hashable | None = None,
    ) -> bool:
        key = dispatch_uid or _identity(receiver)
        with self._lock:
            self._connections = tuple(
                other for other in self._connections if not other.is_of(key, sender)
            )
        return super().disconnect(receiver, sender, dispatch_uid)

    def named_receivers(self, sender: object) -> Iterator[tuple[str, _Receiver]]:
        """Yield the name of each receiver for ``sender``, and a function that calls only this one.

        The function takes the keyword arguments of the signal, and awaits an async receiver.
        """
        for connection in self._connections:
            receiver = connection.receiver()
            if receiver is None or not (connection.sender is None or connection.sender is sender):
                continue
            call = async_to_sync(receiver) if iscoroutinefunction(receiver) else receiver
            yield connection.name, partial(call, signal=self, sender=sender)


def _identity(receiver: object) -> Hashable:
    # A bound method is a new object on each attribute access.
    if isinstance(receiver, MethodType):
        return id(receiver.__self__), id(receiver.__func__)
    return id(receiver)


def _reference(receiver: _Receiver, *, weak: bool) -> Callable[[], _Receiver | None]:
    if not weak:
        return lambda: receiver
    if isinstance(receiver, MethodType):
        return weakref.WeakMethod(receiver)
    return weakref.ref(receiver)


def _definition(receiver: Any) -> str:
    """The receiver's module and qualified name; a repr() is not stable and may contain secrets."""
    while isinstance(receiver, partial):
        receiver = receiver.func
    if not hasattr(receiver, "__qualname__"):
        receiver = type(receiver)
    return f"{receiver.__module__}.{receiver.__qualname__}"


# Sent for every move of an order.
order_status_changed = OutboxSignal()
# Sent for a move to a final status, after order_status_changed.
order_settled = OutboxSignal()
# Sent with ``refund``, a CustomerRefund that was recorded, paid or cancelled: see its ``state``.
customer_refund_changed = Signal()
# Sent inside the transaction, with ``order`` and ``change``, a CustomerChange that has the old
# values. If a receiver raises, the change is rolled back. Effects outside the database have to wait
# for the commit, with ``transaction.on_commit``. ``sender`` is the class ``Order``.
customer_changed = Signal()
# Sent with ``balance`` and ``limit``, two Decimals, when the account's balance is found to be below
# ``LOW_BALANCE``; again only once it has recovered. ``sender`` is the class ``ProviderState``.
balance_low = Signal()
# Sent once a minute by the worker that runs the schedule, before its own work. For starting other
# work, such as by queueing a task: orders wait until all receivers have returned.
tick_began = Signal()
