"""The app's models, for imports by Django and by shops."""

from giftcards.models.cards import Card
from giftcards.models.catalogue import (
    Category,
    OfferChange,
    Product,
    ProductPrices,
    ProductType,
    Shelf,
)
from giftcards.models.customer_refunds import CustomerRefund
from giftcards.models.fields import new_reference
from giftcards.models.history import Acknowledgement, StatusChange, StatusChangeQuerySet
from giftcards.models.leases import Lease, RequestSlot
from giftcards.models.orders import MAX_QUANTITY, Order, OrderDetails, OrderQuerySet, new_order
from giftcards.models.pricing import ShelfChange
from giftcards.models.provider import ApiKey, Desk, ProviderState
from giftcards.models.redemption import RedemptionInstructions
from giftcards.models.reservations import Reservation
from giftcards.models.searching import OrderTerm
from giftcards.models.staff_records import CardReveal, CustomerChange, Note

__all__ = [
    "MAX_QUANTITY",
    "Acknowledgement",
    "ApiKey",
    "Card",
    "CardReveal",
    "Category",
    "CustomerChange",
    "CustomerRefund",
    "Desk",
    "Lease",
    "Note",
    "OfferChange",
    "Order",
    "OrderDetails",
    "OrderQuerySet",
    "OrderTerm",
    "Product",
    "ProductPrices",
    "ProductType",
    "ProviderState",
    "RedemptionInstructions",
    "RequestSlot",
    "Reservation",
    "Shelf",
    "ShelfChange",
    "StatusChange",
    "StatusChangeQuerySet",
    "new_order",
    "new_reference",
]
