"""The provider's ledger: reading, matching to the orders, and discrepancies."""

from giftcards.ledger.summary import Discrepancies, Discrepancy, Summary, summarise

__all__ = ["Discrepancies", "Discrepancy", "Summary", "summarise"]
