"""What a customer has to know, beside the link, to see the cards.

In forms and in code, a PIN that was typed is called a password, and the right one a secret: those
who collect errors leave out what has such a name.
"""

from __future__ import annotations

from typing import Any

from django.utils.crypto import constant_time_compare
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from giftcards.crypto import normalised
from giftcards.delivery.conf import conf
from giftcards.exceptions import ConfigurationError
from giftcards.models import Order
from giftcards.secrecy import Masked, contained

_DIGITS = 4


class _LastDigitsOfPhone:
    #: The page asks with these words. A function of yours may have such an attribute as well.
    help_text: str | Promise = _("The last four digits of your phone number.")

    def __call__(self, order: Order) -> str:
        """The digits; without a phone number "", so that the cards are shown without a PIN."""
        digits = "".join(filter(str.isdecimal, normalised(order.customer_phone)))
        return digits[-_DIGITS:] if len(digits) >= _DIGITS else ""


#: For ``GIFTCARDS_DELIVERY["PIN"]``.
last_digits_of_phone = _LastDigitsOfPhone()


@contained
def pin_of(order: Order) -> Masked:
    """What the customer of ``order`` has to type; "" for nothing.

    Raises :exc:`~giftcards.exceptions.ConfigurationError` for one that an empty field would match.
    """
    function = conf.pin_of
    found: Any = None if function is None else function(order)
    # A number, such as 0, is one as well.
    if found is None or found is False or found == "":
        return Masked()
    secret = Masked(found)
    if not normalised(secret):
        raise ConfigurationError("GIFTCARDS_DELIVERY['PIN'] gives a PIN of spaces only.")
    return secret


def help_text() -> str:
    """What the page says about the PIN, in the current language; "" for nothing."""
    return str(getattr(conf.pin_of, "help_text", ""))


@contained
def is_right(password: str, secret: str) -> bool:
    """Whether ``password`` is the PIN, whatever its case, spaces, dashes and script of digits."""
    return constant_time_compare(normalised(password), normalised(secret))
