"""The signals that a shop connects its receivers to; "Telling your shop" in the docs has the rules.

The first three are sent after the change is committed, at least once, in order. The two about an
order have the arguments ``order`` (an :class:`~giftcards.models.Order`) and ``change`` (a
:class:`~giftcards.models.StatusChange`); ``sender`` is the ``Order`` class. A receiver must
be idempotent: it may be called twice for the same change, also by two processes at once if the
receivers of a change take more than two minutes. One that raises is retried, up to 32 calls over
about a day; then the change is given up, and the admin shows it. Its errors affect neither the
order nor the other receivers.

The app stores the names of the receivers that have taken a change. The name of a receiver is its
``dispatch_uid``, if that is a string; otherwise it is the module and qualified name of the function
or class. Give each receiver a ``dispatch_uid``: its name then survives moving and renaming. A
receiver with a new name is a new receiver: it is called for every change that some
receiver has yet to take, even if it took that change under its old name. Receivers that share a
name (lambdas of one function, methods of two objects of one class) are retried together.

The others are ordinary signals of Django. Except for ``customer_changed``, they are sent once,
after the commit, by the process that made the change. A receiver that raises is not retried; its
error is logged.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction
from django.dispatch import Signal

_Receiver = Callable[..., Any]


class OutboxSignal(Signal):
    """A signal with named receivers, which the outbox calls one by one.

    Django has no public API to call only some of the receivers, so this reads Django's own list.
    """

    def named_receivers(self, sender: object) -> Iterator[tuple[str, _Receiver]]:
        """Yield the name of each receiver for ``sender``, and a function that calls only this one.

        The function takes the keyword arguments of the signal, and awaits an async receiver.
        """
        with self.lock:
            connections: list[Any] = list(self.receivers)
        # How many items follow the receiver depends on the version of Django.
        for (key, sender_id), reference, *_more in connections:
            receiver = reference() if isinstance(reference, weakref.ReferenceType) else reference
            # A weakly referenced receiver may have been garbage-collected.
            if receiver is None or sender_id not in {id(None), id(sender)}:
                continue
            # Without a ``dispatch_uid``, the key is made of ids.
            name = key if isinstance(key, str) else _definition(receiver)
            call = async_to_sync(receiver) if iscoroutinefunction(receiver) else receiver
            yield name, partial(call, signal=self, sender=sender)


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
# Sent for a change of what the provider offers of a type, in order per type, with the texts
# ``product_id``, ``type_id`` and ``what``, the values ``old`` and ``new`` (all of these as in
# :class:`~giftcards.models.OfferChange`), and ``at``, when it was noticed. ``sender`` is the class
# ``ProductType``.
offer_changed = OutboxSignal()
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
