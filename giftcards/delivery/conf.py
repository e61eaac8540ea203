"""The one place that reads ``settings.GIFTCARDS_DELIVERY``: lazily, typed, with defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils.module_loading import import_string

from giftcards.conf import address_parts, is_loopback
from giftcards.delivery.kinds import Kind, Mode
from giftcards.management.roles import ROLES
from giftcards.options import Complaint, Option, Options, not_text, number

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from giftcards.delivery.channels import Channel
    from giftcards.models import Order


# What people write between the digits of a phone number.
_BETWEEN_DIGITS = " .-()\u00a0"


def _mode(setting: str, value: Any) -> Complaint | None:
    modes = value if isinstance(value, Mapping) else {Kind.DELIVERED: value}
    if all(kind in Kind.values and mode in Mode.values for kind, mode in modes.items()):
        return None
    return (
        "mode",
        f"{setting} must be one of {', '.join(map(repr, Mode.values))}, or a dict of them by kind"
        " of message.",
        f"The kinds are {', '.join(Kind.values)}.",
    )


def _base_url(setting: str, value: Any) -> Complaint | None:
    hint = "Give scheme and host only, such as https://shop.example."
    if not isinstance(value, str):
        return not_text(setting, hint)
    parts = address_parts(value)
    if parts is None:
        return ("base_url", f"{setting} is not the address of a site.", hint)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        return (
            "insecure",
            f"{setting} would have the card codes travel unencrypted.",
            "Use https://, or http:// to this machine's own address only.",
        )
    return None


def _text(setting: str, value: Any) -> Complaint | None:
    hint = "Write one line of text."
    if not isinstance(value, str):
        return not_text(setting, hint)
    return None if value.isprintable() else ("text", f"{setting} is not one line of text.", hint)


def _path(setting: str, value: Any) -> Complaint | None:
    hint = "Give a dotted path, such as 'shop.gifts.owned_orders'."
    if not isinstance(value, str):
        return not_text(setting, hint)
    return _complaint_about_path(setting, value, hint)


def _complaint_about_path(setting: str, path: str, hint: str) -> Complaint | None:
    if all(part.isidentifier() for part in path.split(".")) and "." in path:
        return None
    return ("path", f"{setting} is not a dotted path.", hint)


def _channels(setting: str, value: Any) -> Complaint | None:
    hint = "List the dotted paths of classes, such as 'giftcards.delivery.channels.Mail'."
    if not isinstance(value, list | tuple) or not all(isinstance(path, str) for path in value):
        return ("type", f"{setting} must be a list of texts.", hint)
    complaints = (_complaint_about_path(setting, path, hint) for path in value)
    return next(filter(None, complaints), None)


def _staff_emails(setting: str, value: Any) -> Complaint | None:
    hint = (
        "List addresses, or dicts with 'address', and if you like 'language' and 'role', which is"
        f" one of {', '.join(map(repr, ROLES))}."
    )
    if not isinstance(value, list | tuple):
        return ("type", f"{setting} must be a list.", hint)
    if all(map(_is_person, _entries(value))):
        return None
    return ("staff_emails", f"{setting} has an entry that is not usable.", hint)


def _entries(people: Iterable[Any]) -> list[Any]:
    """The entries of ``STAFF_EMAILS`` as dicts, also those that are only an address."""
    return [{"address": entry} if isinstance(entry, str) else entry for entry in people]


def _is_person(entry: Any) -> bool:
    if not isinstance(entry, Mapping) or not entry.keys() <= {"address", "language", "role"}:
        return False
    try:
        validate_email(entry.get("address"))
    except ValidationError:
        return False
    is_role = entry.get("role", next(iter(ROLES))) in ROLES
    return is_role and entry.get("language", settings.LANGUAGE_CODE) in languages()


def languages() -> dict[str, Any]:
    """The languages in which the site can write: codes mapped to names, some of them lazy."""
    return {settings.LANGUAGE_CODE: settings.LANGUAGE_CODE, **dict(settings.LANGUAGES)}


OPTIONS = Options(
    "GIFTCARDS_DELIVERY",
    {
        "MODE": Option(_mode, "link"),
        "BASE_URL": Option(_base_url),
        "FROM_EMAIL": Option(_text),
        "SHOP_NAME": Option(_text),
        "CONTACT": Option(_text),
        "CHANNELS": Option(_channels, ("giftcards.delivery.channels.Mail",)),
        "LINK_DAYS": Option(number(1, 3_650), 30),
        "LINK_REVEALS": Option(number(1, 1_000, whole=True)),
        "PIN": Option(_path),
        "OWNED_ORDERS": Option(_path),
        "STAFF_EMAILS": Option(_staff_emails, ()),
        "DIGEST_MINUTES": Option(number(1, 1_440), 30),
    },
)
problems = OPTIONS.problems
require = OPTIONS.require


@dataclass(frozen=True, slots=True)
class StaffPerson:
    """A member of staff who gets digests.

    ``role`` is a key of :data:`giftcards.management.roles.ROLES`. Without one, they are told of
    everything.
    """

    address: str
    language: str
    role: str | None


class Conf:
    """The settings, one typed property each; see the delivery page of the documentation."""

    def mode(self, kind: str) -> Mode:
        """The form in which messages of this kind are sent."""
        configured = OPTIONS.get("MODE")
        if isinstance(configured, Mapping):
            configured = configured.get(kind, Mode.LINK)
        return Mode(configured)

    @property
    def is_off(self) -> bool:
        """True if customers get no messages at all."""
        return all(self.mode(kind) == Mode.OFF for kind in Kind)

    @property
    def base_url(self) -> str:
        """The address of the shop, without a slash at its end; "" if it is not set."""
        return (OPTIONS.get("BASE_URL") or "").rstrip("/")

    @property
    def from_email(self) -> str | None:
        """The sender of messages; ``None`` for ``DEFAULT_FROM_EMAIL``."""
        address: str | None = OPTIONS.get("FROM_EMAIL")
        return address

    @property
    def shop_name(self) -> str:
        """The name of the shop, or else the host of its address; "" without either."""
        parts = address_parts(self.base_url)
        return OPTIONS.get("SHOP_NAME") or (parts and parts.hostname) or ""

    @property
    def contact(self) -> str:
        """The shop's contact for customers: an e-mail address, a phone number or a page's address.

        "" if it is not set.
        """
        return OPTIONS.get("CONTACT") or ""

    @property
    def contact_address(self) -> str:
        """The URL that a click on ``contact`` opens; "" if its kind is not recognised."""
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
    def channels(self) -> list[Channel]:
        """New instances of the configured channels, in their order."""
        paths: Sequence[str] = OPTIONS.get("CHANNELS")
        return [import_string(path)() for path in paths]

    @property
    def link_days(self) -> float:
        """Days for which a link works."""
        return float(OPTIONS.get("LINK_DAYS"))

    @property
    def link_reveals(self) -> int | None:
        """Most times that a link shows its cards; ``None`` if the shop sets no limit."""
        reveals: int | None = OPTIONS.get("LINK_REVEALS")
        return reveals

    @property
    def pin_of(self) -> Callable[[Order], str] | None:
        """The function that returns an order's PIN, or "" for none; ``None`` if it is not set."""
        function: Callable[[Order], str] | None = self._imported("PIN")
        return function

    @property
    def owned_orders(self) -> Callable[[Any], QuerySet[Order]] | None:
        """The function that returns the orders of a user; ``None`` if nobody is shown any."""
        function: Callable[[Any], QuerySet[Order]] | None = self._imported("OWNED_ORDERS")
        return function

    @property
    def staff(self) -> list[StaffPerson]:
        """The people who get digests."""
        return [_person(entry) for entry in _entries(OPTIONS.get("STAFF_EMAILS"))]

    @property
    def digest_minutes(self) -> float:
        """Least number of minutes between two digests to the same person."""
        return float(OPTIONS.get("DIGEST_MINUTES"))

    def _imported(self, name: str) -> Any:
        path: str | None = OPTIONS.get(name)
        return None if path is None else import_string(path)


def _person(entry: Mapping[str, str]) -> StaffPerson:
    return StaffPerson(
        entry["address"], entry.get("language", settings.LANGUAGE_CODE), entry.get("role")
    )


conf = Conf()
