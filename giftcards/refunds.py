"""The amounts that the provider charged and credited back for an order.

The amounts that the shop owes a customer are returned by
:func:`~giftcards.rules.money.customer_breakdown`, which :mod:`giftcards.settlement` exports.
"""

from giftcards.rules.money import RefundBreakdown, refund_breakdown

__all__ = ["RefundBreakdown", "refund_breakdown"]
