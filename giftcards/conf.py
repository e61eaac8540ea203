"""The one place that reads ``settings.GIFTCARDS``: lazily, typed, with defaults.

:func:`problems` yields what is wrong with the settings, for the system checks and the commands. A
property whose setting is wrong raises :exc:`~giftcards.exceptions.ConfigurationError`.
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
from giftcards.options import CORRECT, Complaint, Option, Options, not_text, number

VERSION = "0.1.0"
# How long one task runs the loop (seconds): short, so that a stopping cluster does not wait long.
LOOP_SECONDS = 40
# Time for a task to record answers and call receivers after its last request (seconds).
_RECORDING_SECONDS = 10


# The largest amount that a column holds.
_LARGEST_AMOUNT = Decimal("999999999999.99")


def _amount(setting: str, value: Any) -> Complaint | None:
    # No float: as a binary fraction, it would differ from the amount as written.
    if not isinstance(value, int | Decimal) or isinstance(value, bool):
        return (
            "type",
            f"{setting} must be an amount: a whole number or a Decimal.",
            CORRECT,
        )
    if Decimal(value).is_finite() and 0 < value <= _LARGEST_AMOUNT:
        return None
    return (
        "range",
        f"{setting} must be an amount above 0, and not above {_LARGEST_AMOUNT}.",
        CORRECT,
    )


def _switch(setting: str, value: Any) -> Complaint | None:
    if isinstance(value, bool):
        return None
    return ("type", f"{setting} must be True or False.", "Write it without quotes.")


_PASTE_KEY = "Paste the key from the provider's dashboard as one line, without spaces."


def _api_key(setting: str, value: Any) -> Complaint | None:
    if not isinstance(value, str):
        return not_text(setting, _PASTE_KEY)
    if value.isascii() and value.isprintable() and " " not in value:
        return None
    return ("api_key", f"{setting} is not usable as an HTTP header.", _PASTE_KEY)


_GIVE_HOST = "Give scheme and host only, such as https://api.oneclickdz.com."


def _base_url(setting: str, value: Any) -> Complaint | None:
    if not isinstance(value, str):
        return not_text(setting, _GIVE_HOST)
    parts = address_parts(value)
    if parts is None:
        return (
            "base_url",
            f"{setting} is not the address of an HTTP service.",
            _GIVE_HOST,
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        return (
            "insecure",
            f"{setting} would send the API key and the card codes unencrypted.",
            "Use https://, or http:// to this machine's own address only.",
        )
    return None


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


def _encryption_keys(setting: str, value: Any) -> Complaint | None:
    if not isinstance(value, list | tuple):
        return ("type", f"{setting} must be a list of Fernet keys.", _NEW_KEY)
    known: set[bytes] = set()
    for position, key in enumerate(value, start=1):
        which = f"Key {position} of {setting}"
        if not isinstance(key, str):
            return ("type", f"{which} must be a text.", _NEW_KEY)
        raw = _raw_key(key)
        if raw is None:
            return ("encryption_key", f"{which} is not a Fernet key.", _NEW_KEY)
        if raw in known:
            return ("repeated_key", f"{which} is there twice.", "Remove the second one.")
        # Allowed in other positions, so that cards sealed with such a key can still be opened.
        if position == 1 and _is_from_secret_key(raw):
            return (
                "derived_key",
                f"{which} is made from SECRET_KEY: whoever learns that reads the codes as well,"
                " and changing it loses them.",
                "Run `manage.py giftcards_generate_key` and put what it prints before this key.",
            )
        known.add(raw)
    return None


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


def _url_name(setting: str, value: Any) -> Complaint | None:
    # The system checks look the URL up, once URLs are loaded.
    if isinstance(value, str):
        return None
    return not_text(setting, "Give the name of a URL, such as 'staff:prove'.")


def _currency(setting: str, value: Any) -> Complaint | None:
    hint = "DZD is the one the provider charges in."
    if not isinstance(value, str):
        return not_text(setting, hint)
    if len(value) == 3 and value.isascii() and value.isalpha() and value.isupper():
        return None
    return (
        "currency",
        f"{setting} must be a code of three capital letters.",
        hint,
    )


OPTIONS = Options(
    "GIFTCARDS",
    {
        "API_KEY": Option(
            _api_key,
            required=True,
            hint="Set it to the key from the provider's dashboard.",
        ),
        "BASE_URL": Option(_base_url, "https://api.oneclickdz.com"),
        "ENCRYPTION_KEYS": Option(_encryption_keys, required=True, hint=_NEW_KEY),
        "POLL_INTERVAL": Option(number(0.1, 60), 5),
        "POLL_TIMEOUT": Option(number(1, 86_400), 300),
        "LATE_WATCH_HOURS": Option(number(0, 8_760), 72),
        "REQUESTS_PER_MINUTE": Option(number(1, 6_000, whole=True), 60),
        "REQUEST_TIMEOUT": Option(number(0.1, 30), 10),
        "SEND_TIMEOUT": Option(number(1, 604_800), 3600),
        "PROOF_OF_ABSENCE": Option(number(1, 86_400), 120),
        "CURRENCY": Option(_currency, "DZD"),
        "HOLD_ABOVE_SALE_PRICE": Option(_switch, True),
        "PRICE_MAX_AGE": Option(number(1, 86_400), 600),
        "LOW_BALANCE": Option(_amount),
        "REAUTHENTICATE": Option(_url_name),
        "REVEALS_PER_HOUR": Option(number(1, 10_000, whole=True), 30),
        "CODES_KEPT_DAYS": Option(number(1, 36_500)),
    },
)
problems = OPTIONS.problems
require = OPTIONS.require


class Conf:
    """The settings, one typed property each; see the settings page of the documentation."""

    @property
    def api_key(self) -> str:
        """The provider's key, with a masked ``repr``."""
        return Masked(OPTIONS.get("API_KEY"))

    @property
    def base_url(self) -> str:
        return str(OPTIONS.get("BASE_URL")).rstrip("/")

    @property
    def encryption_keys(self) -> tuple[str, ...]:
        """Fernet keys, each with a masked ``repr``: the first encrypts, all of them decrypt."""
        return tuple(map(Masked, OPTIONS.get("ENCRYPTION_KEYS")))

    @property
    def poll_interval(self) -> float:
        """Seconds between two checks of an open order."""
        return float(OPTIONS.get("POLL_INTERVAL"))

    @property
    def poll_timeout(self) -> float:
        """Seconds after which an order that has not settled is ``DELAYED``."""
        return float(OPTIONS.get("POLL_TIMEOUT"))

    @property
    def late_watch_hours(self) -> float:
        """Hours after acceptance during which a delayed order is still checked."""
        return float(OPTIONS.get("LATE_WATCH_HOURS"))

    @property
    def requests_per_minute(self) -> int:
        return int(OPTIONS.get("REQUESTS_PER_MINUTE"))

    @property
    def request_timeout(self) -> float:
        """Seconds that one call to the provider may take in total."""
        return float(OPTIONS.get("REQUEST_TIMEOUT"))

    @property
    def send_timeout(self) -> float:
        """Seconds after which an order that could not be sent is rejected."""
        return float(OPTIONS.get("SEND_TIMEOUT"))

    @property
    def proof_of_absence(self) -> float:
        """Seconds after sending until an order missing in the provider's list counts as absent."""
        return float(OPTIONS.get("PROOF_OF_ABSENCE"))

    @property
    def currency(self) -> str:
        return str(OPTIONS.get("CURRENCY"))

    @property
    def hold_above_sale_price(self) -> bool:
        """True if the customer's price is the price ceiling of an order without ``max_price``."""
        return bool(OPTIONS.get("HOLD_ABOVE_SALE_PRICE"))

    @property
    def price_max_age(self) -> float:
        """Seconds for which a price from the provider counts as current."""
        return float(OPTIONS.get("PRICE_MAX_AGE"))

    @property
    def low_balance(self) -> Decimal | None:
        """The balance, in dinars, below which people are warned; ``None``: no warnings."""
        amount = OPTIONS.get("LOW_BALANCE")
        return None if amount is None else Decimal(amount)

    @property
    def reauthenticate(self) -> str | None:
        """The URL name of the page on which staff prove their identity again.

        ``None``: staff are asked for their password instead.
        """
        name: str | None = OPTIONS.get("REAUTHENTICATE")
        return name

    @property
    def reveals_per_hour(self) -> int:
        """The largest number of codes that one person may reveal within an hour."""
        return int(OPTIONS.get("REVEALS_PER_HOUR"))

    @property
    def codes_kept_days(self) -> float | None:
        """Days after which the codes of a settled order are destroyed; ``None``: never."""
        days = OPTIONS.get("CODES_KEPT_DAYS")
        return None if days is None else float(days)

    @property
    def longest_task(self) -> float:
        """Longest time, in seconds, that one of the app's tasks takes.

        The system checks compare ``Q_CLUSTER`` with it. The loop's time includes the watchdog's
        wait for another holder of the lease. At its end, one order may be half sent, which takes
        two more requests: one for the price, and one that places the order.
        """
        return LOOP_SECONDS + 2 * self.request_timeout + _RECORDING_SECONDS


conf = Conf()
