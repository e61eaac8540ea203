"""The admin's pages; Django imports this module to register them."""

from giftcards.admin.catalogue import ProductAdmin
from giftcards.admin.orders import OrderAdmin
from giftcards.admin.provider import ProviderStateAdmin
from giftcards.admin.refund_log import CustomerRefundAdmin
from giftcards.admin.reveal_log import CardRevealAdmin

__all__ = [
    "CardRevealAdmin",
    "CustomerRefundAdmin",
    "OrderAdmin",
    "ProductAdmin",
    "ProviderStateAdmin",
]
