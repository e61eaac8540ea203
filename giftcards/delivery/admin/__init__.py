"""The admin's pages about messages; Django imports this module to register them."""

from giftcards.delivery.admin.deliveries import DeliveryAdmin
from giftcards.delivery.admin.digests import StaffDigestAdmin

__all__ = ["DeliveryAdmin", "StaffDigestAdmin"]
