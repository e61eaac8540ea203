"""Payments that customers make on the provider's payment pages.

The money goes to the shop's account at the provider, and the shop pays for the cards from this
account. Payment requests observe the same pauses and the same request quota as all other requests.
Payment requests use at most half of the quota that they share with orders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django.db import transaction

from giftcards.engine.gateway import Gateway
from giftcards.exceptions import TryLater
from giftcards.provider.answers import PaymentAnswer, PaymentLink
from giftcards.provider.client import Client
from giftcards.rules.purposes import Purpose

__all__ = ["PaymentAnswer", "PaymentLink", "check_payment", "create_payment_link"]

T = TypeVar("T")


def create_payment_link(
    *,
    title: str,
    amount: int,
    description: str = "",
    fee_mode: str = "",
    success_message: str = "",
    redirect_url: str = "",
) -> PaymentLink:
    """Create a link with which a customer can pay ``amount`` dinars once.

    The link opens one of the provider's payment pages. Before you can create links, the provider
    must have validated your shop.

    - ``title`` must be 1 to 200 characters long.
    - ``amount`` must be between 500 and 500,000 dinars.
    - ``description`` can be up to 1,000 characters long, and ``success_message`` can be up to 500
      characters long.
    - ``fee_mode`` is ``NO_FEE``, ``SPLIT_FEE`` or ``CUSTOMER_FEE``.
    - ``redirect_url`` is the address to which the customer returns. Customers who have not paid
      also return to this address. Call :func:`check_payment` to find out whether the customer has
      paid.

    The function makes one request, which takes at most ten seconds. If no answer arrives, you can
    safely create another link, because creating a link does not move any money.

    Raises :exc:`~giftcards.exceptions.ProviderError` if no link was created, for example because
    requests are paused or the request quota is used up. Raises its subclass
    :exc:`~giftcards.exceptions.Refused` if the provider refused the request. Raises
    :exc:`RuntimeError` if it is called inside a transaction.
    """
    product = {"title": title, "description": description, "amount": amount}
    link = {
        "productInfo": {name: value for name, value in product.items() if value},
        "feeMode": fee_mode,
        "successMessage": success_message,
        "redirectUrl": redirect_url,
    }
    told = {name: value for name, value in link.items() if value}
    return _ask(lambda client: client.create_payment_link(told))


def check_payment(ref: str) -> PaymentAnswer:
    """Ask the provider about the payment with this reference.

    Compare the amount, the currency and ``is_sandbox`` with the expected values before you place an
    order. The function has the same time limit as :func:`create_payment_link`, and raises the same
    errors.
    """
    return _ask(lambda client: client.check_payment(ref))


def _ask(call: Callable[[Client], T]) -> T:
    with transaction.atomic(durable=True):
        pass  # raises RuntimeError inside a transaction, which would wait for the answer
    with Gateway() as gateway:
        answer = gateway.ask(lambda: call(gateway.client), Purpose.PAYING, may_repeat=False)
        if answer is not None:
            return answer
        is_paused = not gateway.is_open
    why = "are paused" if is_paused else "about orders have priority"
    raise TryLater(f"Requests to the provider {why}.")
