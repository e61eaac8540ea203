"""PINs: what a customer has to know, beside the link, to see the cards.

Forms and code call a typed PIN a password, and the right one a secret, because error collectors
hide values with these names.
"""

from __future__ import annotations

from typing import Any

from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext_lazy as _

from giftcards.delivery.conf import conf
from giftcards.exceptions import ConfigurationError
from giftcards.keys.keyring import normalised
from giftcards.keys.secrecy import Masked, contained
from giftcards.models import Order

_DIGITS = 4


def last_digits_of_phone(order: Order) -> str:
    """The digits, for ``GIFTCARDS_DELIVERY["PIN"]``; "" if the phone number has too few.

    "" for a gift as well: its recipient need not know the customer's number.
    """
    if order.is_gift:
        return ""
    digits = "".join(filter(str.isdecimal, normalised(order.customer_phone)))
    return digits[-_DIGITS:] if len(digits) >= _DIGITS else ""


# The words with which the page asks for the PIN. A shop's own function may have them as well.
last_digits_of_phone.help_text = _(  # type: ignore[attr-defined]
    "The last four digits of your phone number."
)


@contained
def pin_of(order: Order) -> Masked:
    """The PIN of the customer of ``order``; "" if none is needed.

    Raises :exc:`~giftcards.exceptions.ConfigurationError` if an empty input would match the PIN.
    """
    function = conf.pin_of
    found: Any = None if function is None else function(order)
    # A number is a PIN as well, even 0.
    if found is None or found is False or found == "":
        return Masked()
    secret = Masked(found)
    if not normalised(secret):
        raise ConfigurationError("GIFTCARDS_DELIVERY['PIN'] gives a PIN of spaces only.")
    return secret


def help_text() -> str:
    """The page's text about the PIN, in the current language; "" if there is none."""
    return str(getattr(conf.pin_of, "help_text", ""))


@contained
def is_right(password: str, secret: str) -> bool:
    """True if ``password`` is the PIN. Case, spaces, dashes and script of digits do not matter."""
    return constant_time_compare(normalised(password), normalised(secret))
