"""The texts about a product that the customer of an order reads.

They are shown to staff, too.
"""

from __future__ import annotations

from django.utils.safestring import SafeString
from django.utils.translation import gettext

from giftcards.catalogue import descriptions
from giftcards.models import Order
from giftcards.text.display import bdi, linked


def told_to_customers(order: Order) -> list[tuple[str, SafeString]]:
    """Return the region and the redemption instructions, in the active language, with labels."""
    told = descriptions([order])[order.pk]
    facts = [
        (gettext("region"), bdi(told.region) if told.region else SafeString("")),
        (gettext("redemption instructions"), linked(told.instructions)),
    ]
    return [(label, value) for label, value in facts if value]
