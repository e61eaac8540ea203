"""The one place that reads ``settings.GIFTCARDS``: lazily, typed, with defaults.

:func:`problems` yields what is wrong with the settings, for the system checks and the commands. An
attribute whose setting is wrong raises :exc:`~giftcards.exceptions.ConfigurationError`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
from decimal import Decimal
from typing import Any
from urllib.parse import SplitResult, urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.encoding import force_bytes

from giftcards.keys.secrecy import Masked
from giftcards.options import (
    CORRECT,
    Parser,
    Setting,
    SettingsDict,
    Unusable,
    number,
    optional,
    text,
)

VERSION = "0.1.0"
_ONECLICKDZ = "https://api.oneclickdz.com"
# How long one task runs the loop (seconds): short, so that a stopping cluster does not wait long.
LOOP_SECONDS = 40
# Time for a task to record answers and call receivers after its last request (seconds).
_RECORDING_SECONDS = 10
# The largest amount that a column holds.
_LARGEST_AMOUNT = Decimal("999999999999.99")


def _amount(setting: str, value: Any) -> Decimal:
    # No float: as a binary fraction, it would differ from the amount as written.
    if not isinstance(value, int | Decimal) or isinstance(value, bool):
        message = f"{setting} must be an amount: a whole number or a Decimal."
        raise Unusable("type", message, CORRECT)
    if Decimal(value).is_finite() and 0 < value <= _LARGEST_AMOUNT:
        return Decimal(value)
    message = f"{setting} must be an amount above 0, and not above {_LARGEST_AMOUNT}."
    raise Unusable("range", message, CORRECT)


def _switch(setting: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise Unusable("type", f"{setting} must be True or False.", "Write it without quotes.")


def _api_key(setting: str, value: Any) -> str:
    hint = "Paste the key from the provider's dashboard as one line, without spaces."
    key = text(setting, value, hint)
    if key.isascii() and key.isprintable() and " " not in key:
        return Masked(key)
    raise Unusable("api_key", f"{setting} is not usable as an HTTP header.", hint)


def address(*, of: str, example: str, http_would: str) -> Parser[str]:
    """A parser of addresses with a scheme and a host; the slash at their end is dropped.

    Messages say whose address it has to be, and what ``http://`` would do unencrypted.
    """
    hint = f"Give scheme and host only, such as {example}."

    def parse(setting: str, value: Any) -> str:
        url = text(setting, value, hint)
        parts = address_parts(url)
        if parts is None:
            raise Unusable("base_url", f"{setting} is not the address of {of}.", hint)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            safe = "Use https://, or http:// to this machine's own address only."
            raise Unusable("insecure", f"{setting} would {http_would} unencrypted.", safe)
        return url.rstrip("/")

    return parse


_api_address = address(
    of="an HTTP service", example=_ONECLICKDZ, http_would="send the API key and the card codes"
)


def address_parts(url: str) -> SplitResult | None:
    """Split ``url`` if it has only a scheme, a host and perhaps a port; otherwise ``None``."""
    # Whitespace is refused first, because urlsplit drops some of it and the client does not.
    if not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in {"http", "https"}
            and _is_host(parts.hostname or "", in_brackets="[" in url)
            and parts.path in {"", "/"}
            and not {"?", "#"} & set(url)
            and parts.username is None
            and parts.port != 0
        )
    except ValueError:
        return None
    return parts if usable else None


def _is_host(host: str, *, in_brackets: bool) -> bool:
    if in_brackets:
        ipaddress.IPv6Address(host)  # raises ValueError
        return True
    return host != "" and all(character.isalnum() or character in ".-_" for character in host)


def is_loopback(host: str) -> bool:
    """True if ``host``, a name or an address without brackets, is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_NEW_KEY = "Run `manage.py giftcards_generate_key` and put what it prints into the list."


def _encryption_keys(setting: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise Unusable("type", f"{setting} must be a list of Fernet keys.", _NEW_KEY)
    known: set[bytes] = set()
    for position, key in enumerate(value, start=1):
        which = f"Key {position} of {setting}"
        raw = _raw_key(text(which, key, _NEW_KEY))
        if raw is None:
            raise Unusable("encryption_key", f"{which} is not a Fernet key.", _NEW_KEY)
        if raw in known:
            raise Unusable("repeated_key", f"{which} is there twice.", "Remove the second one.")
        # Allowed in other positions, so that cards sealed with such a key can still be opened.
        if position == 1 and _is_from_secret_key(raw):
            raise Unusable(
                "derived_key",
                f"{which} is made from SECRET_KEY: whoever learns that reads the codes as well,"
                " and changing it loses them.",
                "Run `manage.py giftcards_generate_key` and put what it prints before this key.",
            )
        known.add(raw)
    return tuple(map(Masked, value))


def _raw_key(key: str) -> bytes | None:
    """The 32 bytes of a Fernet key; ``None`` if it is malformed or looks like a placeholder."""
    try:
        raw = base64.b64decode(key.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    return raw if len(raw) == 32 and len(set(raw)) > 8 else None


def _is_from_secret_key(raw: bytes) -> bool:
    """True if the key is derived from ``SECRET_KEY`` in one of the two usual ways."""
    try:
        secret = force_bytes(settings.SECRET_KEY)
    except ImproperlyConfigured:
        return False
    return raw in (secret[:32], hashlib.sha256(secret).digest())


def _url_name(setting: str, value: Any) -> str:
    # The system checks look the URL up, once URLs are loaded.
    return text(setting, value, "Give the name of a URL, such as 'staff:prove'.")


def _currency(setting: str, value: Any) -> str:
    hint = "DZD is the one the provider charges in."
    code = text(setting, value, hint)
    if len(code) == 3 and code.isascii() and code.isalpha() and code.isupper():
        return code
    raise Unusable("currency", f"{setting} must be a code of three capital letters.", hint)


class Conf(SettingsDict, dict_name="GIFTCARDS"):
    """The settings, one typed attribute each; see the settings page of the documentation."""

    #: The provider's key, with a masked ``repr``.
    api_key = Setting(
        _api_key, required="Set it to the key from the provider's dashboard.", is_working=True
    )
    base_url = Setting(_api_address, default=_ONECLICKDZ, is_working=True)
    #: Fernet keys, each with a masked ``repr``: the first encrypts, all of them decrypt.
    encryption_keys = Setting(_encryption_keys, required=_NEW_KEY, is_working=True)
    #: Seconds between two checks of an open order.
    poll_interval = Setting(number(float, 0.1, 60), default=5, is_working=True)
    #: Seconds after which an order that has not settled is ``DELAYED``.
    poll_timeout = Setting(number(float, 1, 86_400), default=300, is_working=True)
    #: Hours after acceptance during which a delayed order is still checked.
    late_watch_hours = Setting(number(float, 0, 8_760), default=72, is_working=True)
    requests_per_minute = Setting(number(int, 1, 6_000), default=60, is_working=True)
    #: Seconds that one call to the provider may take in total.
    request_timeout = Setting(number(float, 0.1, 30), default=10, is_working=True)
    #: Seconds after which an order that could not be sent is rejected.
    send_timeout = Setting(number(float, 1, 604_800), default=3600, is_working=True)
    #: Seconds after sending until an order missing in the provider's list counts as absent.
    proof_of_absence = Setting(number(float, 1, 86_400), default=120, is_working=True)
    currency = Setting(_currency, default="DZD", is_working=True)
    #: True if the customer's price is the price ceiling of an order without ``max_price``.
    hold_above_sale_price = Setting(_switch, default=True, is_working=True)
    #: Seconds for which a price from the provider counts as current.
    price_max_age = Setting(number(float, 1, 86_400), default=600, is_working=True)
    #: The balance, in dinars, below which people are warned; ``None``: no warnings.
    low_balance = Setting(optional(_amount, None))
    #: The URL name of the page on which staff prove their identity again; ``None``: they are asked
    #: for their password instead.
    reauthenticate = Setting(optional(_url_name, None))
    #: The largest number of codes that one person may reveal within an hour.
    reveals_per_hour = Setting(number(int, 1, 10_000), default=30)
    #: Days after which the codes of a settled order are destroyed; ``None``: never.
    codes_kept_days = Setting(optional(number(float, 1, 36_500), None))

    @property
    def longest_task(self) -> float:
        """Longest time, in seconds, that one of the app's tasks takes.

        The system checks compare ``Q_CLUSTER`` with it. The loop's time includes the watchdog's
        wait for another holder of the lease. At its end, one order may be half sent, which takes
        two more requests: one for the price, and one that places the order.
        """
        return LOOP_SECONDS + 2 * self.request_timeout + _RECORDING_SECONDS


conf = Conf()
problems = conf.problems
require = conf.require
