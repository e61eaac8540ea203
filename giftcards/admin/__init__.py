"""The admin classes, which Django registers by importing this module."""

from giftcards.admin.cards.revealing import CardRevealAdmin
from giftcards.admin.desk.catalogue import ProductAdmin
from giftcards.admin.desk.provider import ProviderStateAdmin
from giftcards.admin.desk.start import DeskAdmin
from giftcards.admin.orders.page import OrderAdmin
from giftcards.admin.orders.refunding import CustomerRefundAdmin

__all__ = [
    "CardRevealAdmin",
    "CustomerRefundAdmin",
    "DeskAdmin",
    "OrderAdmin",
    "ProductAdmin",
    "ProviderStateAdmin",
]
