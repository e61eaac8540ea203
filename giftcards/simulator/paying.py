"""Requests for payment links, and the page where a customer pays."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from html import escape
from typing import Any

from giftcards.simulator.account import Payment
from giftcards.simulator.bodies import invalid, parse_object
from giftcards.simulator.server import Reply

_LEAST, _MOST = 500, 500_000
_FEE_MODES = {"NO_FEE", "SPLIT_FEE", "CUSTOMER_FEE"}


def _is_text(max_length: int, min_length: int = 0) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and min_length <= len(value) <= max_length


def _is_amount(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return _LEAST <= value <= _MOST and value == round(value, 2)


def _is_address(value: object) -> bool:
    # The address is sent in a header, so it must not contain a line break.
    return isinstance(value, str) and re.fullmatch(r"https?://[!-~]+", value) is not None


def _is_fee_mode(value: object) -> bool:
    return isinstance(value, str) and value in _FEE_MODES


# Checks of the product's fields, and messages for values that fail.
_PRODUCT: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "title": (_is_text(200, 1), "must be a string of 1 to 200 characters"),
    "amount": (_is_amount, f"must be a number from {_LEAST} to {_MOST}"),
    "description": (_is_text(1000), "must be a string of at most 1000 characters"),
}
# Checks of the link's other fields, with messages.
_LINK: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "feeMode": (_is_fee_mode, f"must be one of {', '.join(sorted(_FEE_MODES))}"),
    "successMessage": (_is_text(500), "must be a string of at most 500 characters"),
    "redirectUrl": (_is_address, "must be a URL"),
}
_REQUIRED = {"title", "amount"}


def parse(body: bytes) -> dict[str, Any]:
    """Return the fields of a request for a payment link.

    The amount is a ``Decimal``.
    """
    link = parse_object(body)
    told = link.get("productInfo")
    product = told if isinstance(told, dict) else {}
    details = [
        f"{name} {text}"
        for fields, checks in ((product, _PRODUCT), (link, _LINK))
        for name, (is_valid, text) in checks.items()
        if (name in fields or name in _REQUIRED) and not is_valid(fields.get(name))
    ]
    if details:
        raise invalid(details)
    amount = Decimal(str(product["amount"]))
    return {**link, "productInfo": {**product, "amount": amount}}


def page(payment: Payment) -> str:
    """Return the HTML of the page on which the customer pays or declines.

    Texts on the page are escaped.
    """
    product = payment.told["productInfo"]
    if payment.status == "PENDING":
        choices = (("confirm", "Pay"), ("decline", "Decline"))
        end = "".join(
            f'<form method="post" action="/pay/{payment.ref}/{name}">'
            f"<button>{label}</button></form>"
            for name, label in choices
        )
    elif payment.status == "CONFIRMED":
        end = f"<p>{escape(payment.told.get('successMessage') or 'You have paid.')}</p>"
    else:
        end = "<p>The payment has failed, or the link has expired.</p>"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Simulated payment</title><h1>{escape(product['title'])}</h1>"
        f"<p>{escape(product.get('description') or '')}</p>"
        f"<p>{payment.amount} DA. This is a simulation: no real money is paid.</p>{end}</html>\n"
    )


def way_back(payment: Payment) -> Reply:
    """Return a redirect to the shop, or else to the payment page.

    The redirect leads to the payment page if the link was created without a ``redirectUrl``.
    """
    target = payment.told.get("redirectUrl") or f"/pay/{payment.ref}"
    return Reply(303, "", {"Location": target})
