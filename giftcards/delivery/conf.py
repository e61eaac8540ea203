"""Kinds of messages, and the settings in ``GIFTCARDS_DELIVERY``.

Only this module reads these settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from email.utils import parseaddr
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import models
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy as _

from giftcards.conf import (
    Setting,
    SettingsDict,
    Unusable,
    address,
    dotted_path,
    number,
    optional,
    text,
)
from giftcards.models import Order
from giftcards.rules.roles import ROLES
from giftcards.rules.states import STATES, Status


class Kind(models.TextChoices):
    DELIVERED = "delivered", _("Cards delivered")
    PARTLY_DELIVERED = "partly_delivered", _("Cards partly delivered")
    NOT_DELIVERED = "not_delivered", _("Not delivered")
    DELAYED = "delayed", _("Please wait")
    PAID_BACK = "paid_back", _("Paid back")
    #: Hands the cards of a gift to its recipient. For a gift, this kind replaces ``DELIVERED`` and
    #: ``PARTLY_DELIVERED``.
    GIFT = "gift", _("Gift")
    #: Tells the giver of a gift that the cards have arrived.
    RECEIPT = "receipt", _("Receipt for a gift")


class Mode(models.TextChoices):
    #: The message links to a page that shows the cards.
    LINK = "link"
    #: The message contains the codes.
    CODES = "codes"
    OFF = "off"


#: Maps the new status of an order to the kind of message about it.
KIND_OF_STATUS: Mapping[str, Kind] = {
    status: Kind(state.customer_news) for status, state in STATES.items() if state.customer_news
}
#: The kinds of messages that hand over cards.
WITH_CARDS = frozenset({Kind.DELIVERED, Kind.PARTLY_DELIVERED, Kind.GIFT})
#: The kinds of messages for the recipient of a gift.
TO_RECIPIENT = frozenset({Kind.GIFT})


def kinds_of(status: str, *, is_gift: bool) -> tuple[Kind, ...]:
    """Return the kinds of messages to send when an order reaches ``status``."""
    kind = KIND_OF_STATUS.get(status)
    if is_gift and kind in WITH_CARDS:
        # Only the recipient gets the cards; the customer gets a receipt.
        return Kind.GIFT, Kind.RECEIPT
    return () if kind is None else (kind,)


def kinds_now(order: Order) -> tuple[Kind, ...]:
    """Return the kinds of messages that fit the current state of ``order``."""
    return kinds_of(status_for_customer(order), is_gift=order.is_gift)


def status_for_customer(order: Order) -> str:
    """Return the status of ``order`` as its customer sees it.

    Customers see every late order as ``DELAYED``.
    """
    return Status.DELAYED if order.is_late else order.status


def _mode(setting: str, value: Any) -> dict[str, Mode]:
    """`"link"`, `"codes"` or `"off"`, or a dict with one of them for each kind of message"""
    modes = value if isinstance(value, Mapping) else dict.fromkeys(Kind.values, value)
    if not all(kind in Kind.values and mode in Mode.values for kind, mode in modes.items()):
        raise Unusable(
            "mode",
            f"{setting} must be one of {', '.join(map(repr, Mode.values))}, or a dict that maps"
            " kinds of messages to these values.",
            f"The kinds of messages are {', '.join(Kind.values)}.",
        )
    # By default, gifts go out in the same form as other cards.
    defaults = {Kind.GIFT: modes.get(Kind.DELIVERED, Mode.LINK)}
    return {kind: Mode(modes.get(kind, defaults.get(kind, Mode.LINK))) for kind in Kind}


_site_address = address(
    subject="a site", example="https://shop.example", http_would="send the card codes"
)


def _sender(setting: str, value: Any) -> str:
    """an e-mail address, with or without a name"""
    hint = "Use an address, for example 'The Shop <orders@shop.example>'."
    line = _line(setting, value)
    try:
        validate_email(parseaddr(line)[1])
    except ValidationError:
        raise Unusable("text", f"{setting} is not an e-mail address.", hint) from None
    return line


def _line(setting: str, value: Any) -> str:
    """one line of text"""
    hint = "Write one line of text."
    line = text(setting, value, hint)
    if line.isprintable():
        return line
    raise Unusable("text", f"{setting} must be one line of text.", hint)


_path = dotted_path("shop.gifts.pin")
_channel = dotted_path("giftcards.delivery.channels.Mail")


def _channels(setting: str, value: Any) -> tuple[str, ...]:
    """a list of dotted paths of classes"""
    if not isinstance(value, list | tuple) or not all(isinstance(path, str) for path in value):
        hint = "List the dotted paths of classes, for example 'giftcards.delivery.channels.Mail'."
        raise Unusable("type", f"{setting} must be a list of strings.", hint)
    return tuple(_channel(setting, path) for path in value)


@dataclass(frozen=True, slots=True)
class StaffPerson:
    """A staff member who receives digests at an address on a channel.

    ``role`` is a key of :data:`giftcards.rules.roles.ROLES`. A person with neither a role nor a
    staff account receives all digest items.
    """

    address: str
    language: str
    role: str | None = None
    channel: str = "mail"


def _staff_emails(setting: str, value: Any) -> list[StaffPerson]:
    """a list of addresses, or of dicts with `"address"`, `"channel"`, `"language"` and `"role"`"""
    hint = (
        "List e-mail addresses, or dicts with 'address' and optionally 'channel', 'language'"
        f" and 'role'. A role is one of {', '.join(map(repr, ROLES))}."
    )
    if not isinstance(value, list | tuple):
        raise Unusable("type", f"{setting} must be a list.", hint)
    entries = [{"address": entry} if isinstance(entry, str) else entry for entry in value]
    if not all(map(_is_person, entries)):
        raise Unusable("staff", f"{setting} has an invalid entry.", hint)
    return [StaffPerson(**{"language": settings.LANGUAGE_CODE, **entry}) for entry in entries]


def _is_person(entry: Any) -> bool:
    names = {field.name for field in fields(StaffPerson)}
    if not isinstance(entry, Mapping) or not entry.keys() <= names:
        return False
    address, channel = entry.get("address"), entry.get("channel", "mail")
    if not all(isinstance(text, str) and text.strip() for text in (address, channel)):
        return False
    try:
        if channel == "mail":
            validate_email(address)
    except ValidationError:
        return False
    is_role = entry.get("role", next(iter(ROLES))) in ROLES
    return is_role and entry.get("language", settings.LANGUAGE_CODE) in languages()


def languages() -> dict[str, Any]:
    """Return the names of the site's languages by code.

    Some names are lazy strings.
    """
    return {settings.LANGUAGE_CODE: settings.LANGUAGE_CODE, **dict(settings.LANGUAGES)}


_BETWEEN_DIGITS = " .-()\u00a0"


class Conf(SettingsDict, dict_name="GIFTCARDS_DELIVERY"):
    """The settings as typed attributes.

    The settings page of the documentation describes each setting.
    """

    mode = Setting(
        _mode,
        help="The form of messages: a link to the cards, the codes themselves, or no messages. If"
        " you use a dict, the kinds that it leaves out are sent as links.",
        default="link",
    )
    shop_url = Setting(
        optional(_site_address, ""),
        help="The address of your shop. It is required for links to cards, which means in the"
        " mode `link`. Without it, digests contain no links to the admin. You can use `http://`"
        " only for an address of the same machine.",
    )
    from_email = Setting(
        optional(_sender, None),
        help="The sender of e-mails. The default is `DEFAULT_FROM_EMAIL`.",
    )
    shop_name = Setting(
        optional(_line, ""),
        help="The name of your shop in messages and on pages. The default is the host of"
        " `SHOP_URL`.",
    )
    contact = Setting(
        optional(_line, ""),
        help="How customers can contact you: an e-mail address, a phone number or the URL of a"
        " page.",
    )
    channels = Setting(
        _channels,
        help="The channels that send messages. Each message is sent through every channel that"
        " reaches the customer.",
        default=("giftcards.delivery.channels.Mail",),
    )
    link_days = Setting(
        number(float, 1, 3_650),
        help="The number of days for which a link works. It must not exceed `CODES_KEPT_DAYS`.",
        default=30,
    )
    pin = Setting(
        optional(_path, None),
        help="A function that returns the PIN of an order. The customer enters this PIN before"
        " the page shows the cards.",
    )
    staff_emails = Setting(
        _staff_emails,
        help="The people who get digests, and the channels through which they get them.",
        default=(),
    )

    @property
    def is_off(self) -> bool:
        """True if all messages to customers are off."""
        return all(mode == Mode.OFF for mode in self.mode.values())

    @property
    def display_name(self) -> str:
        """The name of the shop, or the host in ``SHOP_URL``, or ""."""
        return self.shop_name or urlsplit(self.shop_url).hostname or ""

    @property
    def contact_address(self) -> str:
        """The URL that opens ``contact``, or "" if ``contact`` is plain text."""
        contact = self.contact
        if contact.startswith(("https://", "http://")):
            return contact
        with suppress(ValidationError):
            validate_email(contact)
            return f"mailto:{contact}"
        number = "".join(sign for sign in contact if sign not in _BETWEEN_DIGITS)
        is_number = number.removeprefix("+").isdecimal() and number.isascii()
        return f"tel:{number}" if is_number else ""

    @property
    def pin_of(self) -> Callable[[Order], str] | None:
        """The function that returns an order's PIN, or "".

        The value is ``None`` if the shop does not use PINs.
        """
        return None if self.pin is None else import_string(self.pin)


conf = Conf()
