"""The provider's charges and refunds for orders.

Shops import this module. The arithmetic is in :mod:`giftcards.rules.money`. For what the shop owes
a customer, import :func:`~giftcards.rules.money.customer_breakdown` from
:mod:`giftcards.settlement`.
"""

from giftcards.rules.money import RefundBreakdown, refund_breakdown

__all__ = ["RefundBreakdown", "refund_breakdown"]
