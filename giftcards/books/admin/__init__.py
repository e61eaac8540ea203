"""The admin pages for the ledger, the reports and the closing of months.

Django imports this module to register the admin classes.
"""

from giftcards.books.admin.ledger import LedgerEntryAdmin
from giftcards.books.admin.on_orders import EXTENSION

__all__ = ["EXTENSION", "LedgerEntryAdmin"]
