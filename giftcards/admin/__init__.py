"""The admin's pages; Django imports this module to register them."""

from giftcards.admin.catalogue import ProductAdmin
from giftcards.admin.desk import DeskAdmin
from giftcards.admin.logs import CardRevealAdmin, CustomerRefundAdmin
from giftcards.admin.orders import OrderAdmin
from giftcards.admin.provider import ProviderStateAdmin

__all__ = [
    "CardRevealAdmin",
    "CustomerRefundAdmin",
    "DeskAdmin",
    "OrderAdmin",
    "ProductAdmin",
    "ProviderStateAdmin",
]
