"""From a card on the shelf to a paid order; the cards are reserved during the payment."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from example_project.storefront.models import OF_GIFT, Purchase
from giftcards.catalogue import Guest, check_offer, release, reserve
from giftcards.exceptions import NotForSale
from giftcards.fulfilment import place_order
from giftcards.models import ProductType, ProviderState

#: The minutes that a customer has to pay. They are few, so that you can watch the time run out.
MINUTES = 5
#: The message to a customer if buying would cost the shop real money.
CLOSED = _(
    "This demo takes no money, but this key buys real cards. Only a sandbox key can be used."
)


class PriceChanged(ValidationError):
    """The price has risen since the customer saw it; the purchase has the new amount."""

    def __init__(self) -> None:
        super().__init__(gettext("The price has changed. Check it and press the button again."))


def is_open() -> bool:
    """Return True if buying costs no real money: in the sandbox, or with the simulator."""
    environment = ProviderState.objects.current().environment
    host = urlsplit(str(settings.GIFTCARDS["BASE_URL"])).hostname
    # A provider at any other host is not the simulator.
    is_here = host in {"localhost", "127.0.0.1", "::1"}
    return environment == "SANDBOX" or (is_here and not environment)


def begin(
    user: Any,
    *,
    key: UUID,
    kind: ProductType,
    quantity: int,
    price: Decimal,
    customer: str | Guest,
    **details: Any,
) -> Purchase:
    """Reserve cards for ``user``, who is about to pay ``price`` for each; return the purchase.

    ``customer`` is the customer of the reservation: see ``reserve``. ``details`` are further
    columns of the purchase. A call with the same ``key`` returns the same purchase. Other cards
    that are reserved for the user are released, so that somebody can go back and buy more of the
    same card.

    Raises :exc:`~giftcards.exceptions.NotForSale` if the cards cannot be sold now,
    :exc:`PriceChanged` if they cost more now, and ``ValidationError`` if buying would cost real
    money.
    """
    if not is_open():
        raise ValidationError(CLOSED)
    Purchase.objects.left_alone().delete()
    purchase, _is_new = Purchase.objects.get_or_create(
        user=user,
        key=key,
        defaults={
            "product_type": kind,
            "quantity": quantity,
            "amount": quantity * price,
            "reserved_until": timezone.now(),
            **details,
        },
    )
    if purchase.paid_at is None:
        for other in Purchase.objects.reserved().filter(user=user).exclude(pk=purchase.pk):
            cancel(other)
        _reserve(purchase, customer)
    return purchase


def cancel(purchase: Purchase) -> None:
    """Release the cards; they are reserved again if the customer pays after all."""
    release(purchase.reference)
    Purchase.objects.unpaid().filter(pk=purchase.pk).update(reserved_until=timezone.now())


def pay(purchase: Purchase, *, customer: str | Guest) -> None:
    """Record the payment and order the cards, in one transaction, and only once.

    A worker sends the order after the commit. If the cards are no longer reserved, they are
    reserved again first, with the errors of :func:`begin`. Raises
    :exc:`~giftcards.exceptions.ReferenceConflict` if the customer has paid at the same moment.
    """
    if not is_open():
        raise ValidationError(CLOSED)
    if not purchase.seconds_left:
        _reserve(purchase, customer)
    with transaction.atomic():
        unpaid = Purchase.objects.unpaid().filter(pk=purchase.pk)
        forgotten = {name: None if name == "deliver_at" else "" for name in OF_GIFT}
        if unpaid.update(paid_at=timezone.now(), reserved_until=None, **forgotten):
            # A guest who has logged in meanwhile has taken the purchase along to another account.
            purchase.refresh_from_db(fields=["user"])
            place_order(
                **purchase.line,
                reference=purchase.reference,
                sale_amount=purchase.amount,
                user=purchase.user,
                customer_email=purchase.email,
                customer_language=purchase.language,
                **purchase.gift,
            )


def _compare_price(purchase: Purchase) -> None:
    price = ProductType.objects.for_sale().get(pk=purchase.product_type_id).price
    if price is not None and price * purchase.quantity > purchase.amount:
        purchase.amount = price * purchase.quantity
        Purchase.objects.filter(pk=purchase.pk, paid_at=None).update(amount=purchase.amount)
        raise PriceChanged


def _reserve(purchase: Purchase, customer: str | Guest) -> None:
    """Reserve the cards if they can be sold; this calls the provider, so not in a transaction.

    An old price is not kept: if the cards cost more today, the customer is asked again.
    """
    try:
        check_offer(
            **purchase.line, sale_amount=purchase.amount, reference=purchase.reference, fresh=True
        )
    except NotForSale as error:
        if error.code == "below_cost":
            _compare_price(purchase)
        raise
    _compare_price(purchase)
    kept = reserve(
        **purchase.line, reference=purchase.reference, minutes=MINUTES, customer=customer
    )
    Purchase.objects.unpaid().filter(pk=purchase.pk).update(reserved_until=kept.until)
