"""What a shop connects its receivers to.

Both are sent after the change is committed, at least once, in order per order, with ``order`` (an
:class:`~giftcards.models.Order`) and ``change`` (a :class:`~giftcards.models.StatusChange`);
``sender`` is the ``Order`` class. A receiver that raises is told again later; it never disturbs an
order.
"""

from __future__ import annotations

from django.dispatch import Signal


class _Signal(Signal):
    def _log_robust_failure(self, receiver: object, err: Exception) -> None:
        """Log nothing: :mod:`giftcards.outbox` does.

        Django would log the error's text and traceback, and receivers handle codes in the clear. It
        also expects every receiver to have a ``__qualname__``, which a partial has not.
        """


# Every move of an order.
order_status_changed = _Signal()
# A move to a final status; sent after order_status_changed.
order_settled = _Signal()
