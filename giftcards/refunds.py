"""Charges and credits of the provider, for shops: the arithmetic is in ``rules.money``.

What the shop owes a customer is :func:`giftcards.rules.money.customer_breakdown`, which shops
import from :mod:`giftcards.settlement`.
"""

from giftcards.rules.money import RefundBreakdown, refund_breakdown

__all__ = ["RefundBreakdown", "refund_breakdown"]
