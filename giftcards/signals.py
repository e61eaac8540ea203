"""What a shop connects its receivers to.

Both are sent after the change is committed, at least once, in order per order, with ``order`` (an
:class:`~giftcards.models.Order`) and ``change`` (a :class:`~giftcards.models.StatusChange`);
``sender`` is the ``Order`` class. A receiver that raises is told again later, for a day; it never
disturbs an order, and the other receivers are not told again for its sake.

A receiver is known again by where it is defined: several with the same name (lambdas of one
function, methods of two objects of one class) are told again together.
"""

from __future__ import annotations

from django.dispatch import Signal

# Every move of an order.
order_status_changed = Signal()
# A move to a final status; sent after order_status_changed.
order_settled = Signal()
