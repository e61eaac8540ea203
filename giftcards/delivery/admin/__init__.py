"""The admin's pages about messages; Django imports this module to register them."""

from giftcards.delivery.admin.deliveries import DeliveryAdmin

__all__ = ["DeliveryAdmin"]
