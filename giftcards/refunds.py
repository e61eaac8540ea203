"""The amounts that the provider charged and credited back for an order.

:func:`~giftcards.rules.money.customer_breakdown` in :mod:`giftcards.settlement` returns what the
shop owes a customer.
"""

from giftcards.rules.money import RefundBreakdown, refund_breakdown

__all__ = ["RefundBreakdown", "refund_breakdown"]
