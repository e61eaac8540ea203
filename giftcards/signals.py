"""What a shop connects its receivers to.

Both are sent after the change is committed, at least once, in order per order, with ``order`` (an
:class:`~giftcards.models.Order`) and ``change`` (a :class:`~giftcards.models.StatusChange`);
``sender`` is the ``Order`` class. A receiver has to bear being told twice. One that raises is told
again later, 32 times in all, which takes about a day; then it is given up, and the admin shows it.
It never disturbs an order, and the other receivers are not told again for its sake.

One process tells all receivers, one after the other. Where that takes more than two minutes for one
change, another process may tell them the same. So be quick, and give what may hang a time-out.

A receiver is known again by where it is defined. One that is renamed or moved is a new one: it is
told of the changes that any receiver has yet to take, even if it took them under its old name.
Several with the same name (lambdas of one function, methods of two objects of one class) are told
again together.
"""

from __future__ import annotations

from django.dispatch import Signal

# Every move of an order.
order_status_changed = Signal()
# A move to a final status; sent after order_status_changed.
order_settled = Signal()
