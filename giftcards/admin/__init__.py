"""The admin's pages; Django imports this module to register them."""

from giftcards.admin.catalogue import ProductAdmin
from giftcards.admin.desk import DeskAdmin
from giftcards.admin.orders import OrderAdmin
from giftcards.admin.provider import ProviderStateAdmin
from giftcards.admin.refunding import CustomerRefundAdmin
from giftcards.admin.revealing import CardRevealAdmin

__all__ = [
    "CardRevealAdmin",
    "CustomerRefundAdmin",
    "DeskAdmin",
    "OrderAdmin",
    "ProductAdmin",
    "ProviderStateAdmin",
]
