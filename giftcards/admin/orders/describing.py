"""The product information that is shown to the customer of an order.

Staff see the same information.
"""

from __future__ import annotations

from django.utils.safestring import SafeString
from django.utils.translation import gettext

from giftcards.catalogue import descriptions
from giftcards.models import Order
from giftcards.text.display import bdi, linked


def told_to_customers(order: Order) -> list[tuple[str, SafeString]]:
    """Return the region and the redemption instructions, with labels.

    The information is in the active language.
    """
    told = descriptions([order])[order.pk]
    facts = [
        (gettext("region"), bdi(told.region) if told.region else SafeString("")),
        (gettext("redemption instructions"), linked(told.instructions)),
    ]
    return [(label, value) for label, value in facts if value]
