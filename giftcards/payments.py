"""Payments that customers make through the provider.

The money goes to the shop's account, which also pays for the cards. Requests about payments share
the pauses and the request budget of all other requests. They leave half of the budget's shared
slots to orders.
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
    """Create a link with which a customer can make one payment of ``amount`` dinars.

    The link opens a page of the provider, which has to validate the shop first. ``amount`` is from
    500 to 500,000 dinars. ``title`` has 1 to 200 characters, ``description`` at most 1,000 and
    ``success_message`` at most 500. ``fee_mode`` is ``NO_FEE``, ``SPLIT_FEE`` or ``CUSTOMER_FEE``.

    Afterwards, the customer comes back to ``redirect_url``, also without having paid. Call
    :func:`check_payment` to find out.

    The call makes one request, takes at most ten seconds, and moves no money. If no
    answer arrives, it is safe to create another link.

    Raises :exc:`~giftcards.exceptions.ProviderError` if no link was created, for example because
    requests are paused or the budget is used up. Its subclass :exc:`~giftcards.exceptions.Refused`
    means that the provider refuses. Raises :exc:`RuntimeError` in a transaction.
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

    Before you place an order, compare the amount, the currency and ``is_sandbox`` with what you
    expect. The time limit and the errors are those of :func:`create_payment_link`.
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
    why = "are paused" if is_paused else "about orders come first"
    raise TryLater(f"Requests to the provider {why}.")
