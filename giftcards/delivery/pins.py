"""The PIN that a customer enters to see cards.

Several wrong PINs lock the link. The code calls the entered PIN ``password`` and the correct PIN
``secret``, because error trackers hide variables with these names.
"""

from __future__ import annotations

import logging
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext_lazy as _

from giftcards.delivery.conf import conf
from giftcards.delivery.models import MOST_WRONG_PINS, CardLink, LinkVisit
from giftcards.delivery.revealing import Visitor
from giftcards.exceptions import ConfigurationError
from giftcards.keys.keyring import normalised
from giftcards.keys.secrecy import Masked, apart, contained
from giftcards.models import Order

logger = logging.getLogger(__name__)

_DIGITS = 4


def last_digits_of_phone(order: Order) -> str:
    """Return the last four digits of the customer's phone number.

    A shop can set this function as ``GIFTCARDS_DELIVERY["PIN"]``. If the number has fewer digits,
    or if the order is a gift, the function returns "". The recipient of a gift might not know the
    customer's phone number.
    """
    if order.is_gift:
        return ""
    digits = "".join(filter(str.isdecimal, normalised(order.customer_phone)))
    return digits[-_DIGITS:] if len(digits) >= _DIGITS else ""


# The page shows this text next to the PIN field. If the shop sets a function of its own, this
# function can also have the attribute.
last_digits_of_phone.help_text = _(  # type: ignore[attr-defined]
    "The last four digits of your phone number."
)


@contained
def pin_of(order: Order) -> Masked:
    """Return the PIN for the cards of ``order``, or "" if no PIN is needed.

    Raises :exc:`~giftcards.exceptions.ConfigurationError` if the PIN consists only of characters
    that the comparison ignores, because an empty input would then match it.
    """
    function = conf.pin_of
    found: Any = None if function is None else function(order)
    # The shop's function may return the number 0, which is a valid PIN.
    if found is None or found is False or found == "":
        return Masked()
    secret = Masked(found)
    if not normalised(secret):
        raise ConfigurationError(
            "GIFTCARDS_DELIVERY['PIN'] returns a PIN that consists only of spaces."
        )
    return secret


def help_text() -> str:
    """Return the help text for the PIN field in the active language, or ""."""
    return str(getattr(conf.pin_of, "help_text", ""))


@contained
def is_right(password: str, secret: str) -> bool:
    """True if ``password`` matches the correct PIN ``secret``.

    The comparison ignores case, spaces, dashes and the script of the digits.
    """
    return constant_time_compare(normalised(password), normalised(secret))


@contained
def guess(link: CardLink, password: str, secret: str, visitor: Visitor) -> bool:
    """Count an attempt to enter the PIN of a link, and check the PIN.

    ``password`` is the entered PIN, and ``secret`` is the correct PIN. Returns True if the entered
    PIN is correct. If the link is locked, the result is always False. Each attempt is first counted
    as wrong, so that simultaneous attempts cannot exceed the limit. If the PIN is correct, the
    count is reduced again.
    """
    row = CardLink.objects.filter(pk=link.pk)
    left = row.filter(wrong_pins__lt=MOST_WRONG_PINS)
    is_taken = left.update(wrong_pins=F("wrong_pins") + 1)
    if is_taken and is_right(password, secret):
        row.filter(wrong_pins__gt=0).update(wrong_pins=F("wrong_pins") - 1)
        return True
    link.refresh_from_db(fields=["wrong_pins"])
    if is_taken and link.is_locked:
        _note_lock(link, visitor)
    return False


def _note_lock(link: CardLink, visitor: Visitor) -> None:
    try:
        with transaction.atomic():
            visitor.visit(link, LinkVisit.What.LOCKED, key=f"locked {link.pk}").save()
    except IntegrityError:
        return  # another wrong guess has locked the link
    apart(
        logger.warning,
        "A link to the cards of order %s is locked, because a wrong PIN was entered too often.",
        link.order.reference,
    )
