"""The provider's charges and refunds for orders, for shops to import.

:func:`~giftcards.rules.money.customer_breakdown` in :mod:`giftcards.settlement` has what the shop
owes a customer.
"""

from giftcards.rules.money import RefundBreakdown, refund_breakdown

__all__ = ["RefundBreakdown", "refund_breakdown"]
