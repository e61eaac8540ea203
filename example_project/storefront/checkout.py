"""From a card on the shelf to a paid order: the cards are reserved while the customer pays."""

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

#: The time in which a customer has to pay. It is short, so that its end can be watched.
MINUTES = 5
#: The message to a customer if buying would cost the shop real money.
CLOSED = _(
    "This demo takes no money, but this key buys real cards. Only a sandbox key can be used."
)


class PriceChanged(ValidationError):
    """The cards cost more today than the customer would pay; the purchase has the new amount."""

    def __init__(self) -> None:
        super().__init__(gettext("The price has changed. Check it and press the button again."))


def is_open() -> bool:
    """True if buying costs no real money: at the sandbox, or at the simulator."""
    environment = ProviderState.objects.current().environment
    host = urlsplit(str(settings.GIFTCARDS["BASE_URL"])).hostname
    # Only on this machine can it be the simulator.
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

    ``customer`` is who reserves the cards: see ``reserve``. ``details`` are further columns of the
    purchase. A repetition with the same ``key`` is the same purchase. Other cards that are reserved
    for the user are released: they would stand in the way of somebody who goes back to buy more of
    the same.

    Raises :exc:`~giftcards.exceptions.NotForSale` if the cards cannot be sold now,
    :exc:`PriceChanged` if they are dearer now, and ``ValidationError`` if they would be bought for
    real money.
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
    """Let others have the cards; if the customer pays all the same, they are reserved anew."""
    release(purchase.reference)
    Purchase.objects.unpaid().filter(pk=purchase.pk).update(reserved_until=timezone.now())


def pay(purchase: Purchase, *, customer: str | Guest) -> None:
    """Record that the customer has paid, and order the cards, in one transaction; only once.

    A worker sends the order after the commit. Cards that are not reserved any more are reserved
    anew before; the errors are those of :func:`begin`. Raises
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
            # A guest who logs in meanwhile takes the purchase along to another account.
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
    """Reserve the cards, if the sale can be served; the provider is asked, so in no transaction.

    What was seen yesterday is not kept: if the cards cost more today, the customer is asked again.
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
