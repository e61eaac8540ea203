"""The signals that your shop can connect receivers to.

The signals ``order_status_changed``, ``order_finalized``, ``order_kept_waiting`` and
``offer_changed`` are sent after the commit. Each change is announced at least once, and changes are
announced in sequence. Receivers of these signals must be idempotent, because they can be called
twice for the same change. A receiver that takes more than two minutes might even run in two
processes at the same time.

If a receiver of these signals raises an error, other receivers and the order are not affected. The
worker calls the failed receiver again, up to 32 times within about a day. After that, the worker
gives up, and the admin shows that the receiver was not notified.

Give each receiver of these signals a ``dispatch_uid``. The app uses this name to record which
changes the receiver has processed. If several receivers have the same name and one of them fails,
all of them are called again. If you do not set a ``dispatch_uid``, the name consists of the module
and the name of the function. In this case, if you rename the function, it is called again for each
change that some other receiver has not processed yet.

The other signals are ordinary Django signals. The process that made a change sends the signal for
the change once. The ``customer_changed`` signal is sent before the commit, and an error in a
receiver rolls the correction back. The ``customer_refund_changed`` signal is sent after the commit,
and an error in a receiver is only logged.

The ``sender`` is the model class that a signal is about, or ``None``.
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
    """A signal whose receivers can be called and recorded one by one.

    Django does not have a public API to call only some of the receivers. Therefore this class reads
    Django's internal list.
    """

    def named_receivers(self, sender: object) -> Iterator[tuple[str, _Receiver]]:
        """Yield a name and a function for each receiver for ``sender``.

        The function calls the receiver, and takes the keyword arguments of the signal. If the
        receiver is async, the function awaits the receiver.
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

    The repr() of a receiver is not stable, and might contain secrets.
    """
    while isinstance(receiver, partial):
        receiver = receiver.func
    if not hasattr(receiver, "__qualname__"):
        receiver = type(receiver)
    return f"{receiver.__module__}.{receiver.__qualname__}"


#: Sent for every change of an order's status. Receivers get the arguments ``order`` (an
#: :class:`~giftcards.models.Order`) and ``change`` (a :class:`~giftcards.models.StatusChange`).
order_status_changed = OutboxSignal()
#: Sent when an order reaches a final status. The signal follows ``order_status_changed``, and has
#: the same arguments.
order_finalized = OutboxSignal()
#: Sent once for an order that the provider has not accepted within ``POLL_TIMEOUT`` after the order
#: was recorded, because the order is on hold, cannot be sent, or is unconfirmed. Receivers get the
#: same arguments as for ``order_status_changed``. The status of the order does not change:
#: ``from_status`` and ``to_status`` of ``change`` are equal. If the provider accepts the order and
#: it becomes ``DELAYED`` later, the ``order_status_changed`` signal is also sent. The signal is not
#: sent for orders that ``REORDER_MISSING`` created.
order_kept_waiting = OutboxSignal()
#: Sent when the provider's offer of a product type changes. The changes of one product type are
#: sent one after the other. Receivers get the arguments ``product_id``, ``type_id``, ``what``,
#: ``old`` and ``new`` (see :class:`~giftcards.models.OfferChange`), and ``at`` (the time when the
#: app noticed the change). The signal is sent within a minute of that time. Amounts in the ``old``
#: and ``new`` arguments are always costs, even if the ``what`` argument is ``price``.
offer_changed = OutboxSignal()
#: Sent when a refund to a customer was recorded or cancelled. Receivers get the ``refund`` argument
#: (a :class:`~giftcards.models.CustomerRefund`). The ``state`` of the refund is "done" or
#: "cancelled".
customer_refund_changed = Signal()
#: Sent inside the transaction that corrects a customer. Receivers get the arguments ``order`` and
#: ``change`` (a :class:`~giftcards.models.CustomerChange` with the details before the correction).
#: If your receiver has effects outside the database, use ``transaction.on_commit``.
customer_changed = Signal()
