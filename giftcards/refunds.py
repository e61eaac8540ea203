"""What the provider charges for an order and credits back, for use by shops.

The arithmetic is in :mod:`giftcards.rules.money`. Its
:func:`~giftcards.rules.money.customer_breakdown` says what the shop owes a customer; shops import
it from :mod:`giftcards.settlement`.
"""

from giftcards.rules.money import RefundBreakdown, refund_breakdown

__all__ = ["RefundBreakdown", "refund_breakdown"]
