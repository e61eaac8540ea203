"""Charges and credits of the provider, for shops: the arithmetic is in ``rules.money``.

What the customer gets back is in :mod:`giftcards.settlement`.
"""

from giftcards.rules.money import RefundBreakdown, refund_breakdown

__all__ = ["RefundBreakdown", "refund_breakdown"]
