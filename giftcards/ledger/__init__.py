"""The provider's ledger: reading it, matching it to the orders, and what does not fit."""

from giftcards.ledger.summary import Discrepancies, Discrepancy, Summary, summarise

__all__ = ["Discrepancies", "Discrepancy", "Summary", "summarise"]
