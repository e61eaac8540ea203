"""The models of the app, for :mod:`django.apps` and for short imports."""

from giftcards.delivery.models.deliveries import (
    Delivery,
    DeliveryQuerySet,
    DeliveryStatus,
    Installation,
)
from giftcards.delivery.models.digests import StaffDigest
from giftcards.delivery.models.links import CardLink, CardLinkQuerySet, LinkVisit

__all__ = [
    "CardLink",
    "CardLinkQuerySet",
    "Delivery",
    "DeliveryQuerySet",
    "DeliveryStatus",
    "Installation",
    "LinkVisit",
    "StaffDigest",
]
