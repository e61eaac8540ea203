"""The admin pages for messages and links.

Django imports this module to register the admin classes.
"""

from giftcards.delivery.admin.lists import CardLinkAdmin, DeliveryAdmin, StaffDigestAdmin
from giftcards.delivery.admin.section import EXTENSION

__all__ = ["EXTENSION", "CardLinkAdmin", "DeliveryAdmin", "StaffDigestAdmin"]
