"""The signals to which a shop connects its receivers.

``order_status_changed``, ``order_finalized``, ``order_kept_waiting`` and ``offer_changed`` are sent
after the commit, at least once and in order. Their receivers have to be idempotent: they may be
called twice for a change. They may even run in two processes at once, if they take more than two
minutes.

If one of these receivers raises an error, nothing else is affected. It is called again, up to 32
times within about a day. Then the change is given up, and the admin shows this.

Give each of these receivers a ``dispatch_uid``. The app stores under this name which changes the
receiver has taken. Receivers with the same name are retried together. Without a ``dispatch_uid``,
the name is the module and name of the function. If you rename such a function, it is called again
for each change that another receiver has not taken yet.

The other signals are ordinary signals of Django. The process that made the change sends them once.
``customer_changed`` is sent before the commit, and an error of a receiver rolls the correction
back. All others are sent after the commit, and an error of a receiver is only logged.

``sender`` is the class of the model that a signal is about, or ``None``.
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

    Django has no public API to call only some receivers, so this class reads Django's own list.
    """

    def named_receivers(self, sender: object) -> Iterator[tuple[str, _Receiver]]:
        """Yield the name of each receiver for ``sender``, and a function that calls it.

        The function takes the keyword arguments of the signal, and awaits an async receiver.
        """
        with self.lock:
            connections: list[Any] = list(self.receivers)
        # Further items of the tuple depend on the version of Django.
        for (key, sender_id), reference, *_more in connections:
            receiver = reference() if isinstance(reference, weakref.ReferenceType) else reference
            # A weakly referenced receiver may have been garbage-collected.
            if receiver is None or sender_id not in {id(None), id(sender)}:
                continue
            # Without a ``dispatch_uid``, the key consists of ids that change with each start.
            name = key if isinstance(key, str) else _definition(receiver)
            call = async_to_sync(receiver) if iscoroutinefunction(receiver) else receiver
            yield name, partial(call, signal=self, sender=sender)


def _definition(receiver: Any) -> str:
    """Return the receiver's module and qualified name.

    Its repr() is not stable, and may contain secrets.
    """
    while isinstance(receiver, partial):
        receiver = receiver.func
    if not hasattr(receiver, "__qualname__"):
        receiver = type(receiver)
    return f"{receiver.__module__}.{receiver.__qualname__}"


#: Sent for every change of an order's status, with ``order`` (an :class:`~giftcards.models.Order`)
#: and ``change`` (a :class:`~giftcards.models.StatusChange`).
order_status_changed = OutboxSignal()
#: Sent for a change to a final status, after ``order_status_changed`` and with the same arguments.
order_finalized = OutboxSignal()
#: Sent once for an order that the provider has not accepted within ``POLL_TIMEOUT`` after it was
#: recorded, with the same arguments: it is on hold, cannot be sent, or is unconfirmed. The status
#: stays as it is, and ``change`` has it twice. If the order is accepted and becomes ``DELAYED``
#: later, ``order_status_changed`` is sent, too. Orders that ``REORDER_MISSING`` made are left out.
order_kept_waiting = OutboxSignal()
#: Sent when the provider's offer of a type changes; the changes of one type are sent one after the
#: other. The arguments are ``product_id``, ``type_id``, ``what``, ``old`` and ``new`` (as in
#: :class:`~giftcards.models.OfferChange`), and ``at``, the time when the change was noticed. The
#: signal is sent within a minute of that time. Amounts in ``old`` and ``new`` are what the provider
#: charges for a card, also if ``what`` is ``price``.
offer_changed = OutboxSignal()
#: Sent with ``refund``, a :class:`~giftcards.models.CustomerRefund` that was recorded, paid or
#: taken back: see its ``state``.
customer_refund_changed = Signal()
#: Sent inside the transaction of a correction, with ``order`` and ``change``, a
#: :class:`~giftcards.models.CustomerChange` with the details before the correction. Effects outside
#: the database have to wait for the commit, with ``transaction.on_commit``.
customer_changed = Signal()
