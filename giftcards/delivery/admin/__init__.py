"""The admin's pages about messages and links; Django imports this module to register the pages."""

from giftcards.delivery.admin.deliveries import DeliveryAdmin
from giftcards.delivery.admin.digests import StaffDigestAdmin
from giftcards.delivery.admin.links import CardLinkAdmin
from giftcards.delivery.admin.section import EXTENSION

__all__ = ["EXTENSION", "CardLinkAdmin", "DeliveryAdmin", "StaffDigestAdmin"]
