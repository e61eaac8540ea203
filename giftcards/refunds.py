"""The provider's side of an order's money, for shops; :mod:`giftcards.rules.money` computes it."""

from giftcards.rules.money import RefundBreakdown, refund_breakdown

__all__ = ["RefundBreakdown", "refund_breakdown"]
