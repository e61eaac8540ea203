"""From the provider's catalogue to a paid order."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext_lazy as _

from example_project.storefront.models import Purchase
from giftcards.fulfilment import place_order
from giftcards.models import ProductType, ProviderState

# The shop adds 12 % to what a card costs it, and rounds up to 10 DA.
_MARGIN = Decimal("1.12")
_STEP = Decimal(10)


#: The message to a customer if buying would cost the shop real money.
CLOSED = _("This demo takes no money, and its key buys for real: only a sandbox key can be used.")


def is_open() -> bool:
    """True if buying costs no real money: at the sandbox, or at the simulator."""
    environment = ProviderState.objects.current().environment
    host = urlsplit(str(settings.GIFTCARDS["BASE_URL"])).hostname
    # Only on this machine can it be the simulator.
    is_here = host in {"localhost", "127.0.0.1", "::1"}
    return environment == "SANDBOX" or (is_here and not environment)


def sale_price(kind: ProductType) -> Decimal:
    """The customer's price for one card of this type, which must be for sale."""
    assert kind.price is not None  # noqa: S101 (for_sale() leaves out those without a price)
    steps = (kind.price * _MARGIN / _STEP).to_integral_value(ROUND_CEILING)
    return steps * _STEP


def buy(
    user: Any, key: UUID, kind: ProductType, *, quantity: int, email: str, language: str
) -> Purchase:
    """Record that ``user`` has paid, and order the cards, in one transaction.

    A repetition with the same ``key`` buys nothing. A worker sends the order after the commit.
    Raises ``ValidationError`` if the order would be bought for real money.
    """
    if not is_open():
        raise ValidationError(CLOSED)
    with transaction.atomic():
        purchase, is_new = Purchase.objects.get_or_create(
            user=user,
            key=key,
            defaults={
                "product_id": kind.product.product_id,
                "type_id": kind.type_id,
                "quantity": quantity,
                "amount": quantity * sale_price(kind),
                "email": email,
                "language": language,
            },
        )
        if is_new:
            place_order(
                product_id=purchase.product_id,
                type_id=purchase.type_id,
                quantity=purchase.quantity,
                reference=purchase.reference,
                sale_amount=purchase.amount,
                customer_email=purchase.email,
                customer_language=purchase.language,
            )
    return purchase
