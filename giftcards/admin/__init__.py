"""The admin classes.

Django imports this module to register the admin classes.
"""

from giftcards.admin.cards.revealing import CardRevealAdmin
from giftcards.admin.desk.provider import ProviderStateAdmin
from giftcards.admin.desk.start import DeskAdmin
from giftcards.admin.orders.page import OrderAdmin
from giftcards.admin.orders.refunding import CustomerRefundAdmin
from giftcards.admin.shelf.products import ProductAdmin
from giftcards.admin.shelf.shop import CategoryAdmin, ShelfAdmin

__all__ = [
    "CardRevealAdmin",
    "CategoryAdmin",
    "CustomerRefundAdmin",
    "DeskAdmin",
    "OrderAdmin",
    "ProductAdmin",
    "ProviderStateAdmin",
    "ShelfAdmin",
]
