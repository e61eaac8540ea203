"""The one place that reads ``settings.GIFTCARDS``: lazily, typed, with defaults.

:func:`problems` says what is wrong with it; the system checks and the commands report that, and a
property that meets a wrong value raises :exc:`~giftcards.exceptions.ConfigurationError`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import SplitResult, urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.encoding import force_bytes

from giftcards.exceptions import ConfigurationError
from giftcards.secrecy import Masked, contained

VERSION = "0.1.0"
# How long one task runs the loop (seconds): short, so that a stopping cluster does not wait long.
LOOP_SECONDS = 40
# Time for a task to record answers and call receivers after its last request (seconds).
_RECORDING_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one setting: ``message`` states it, ``hint`` names the fix.

    ``setting`` is the key inside ``GIFTCARDS`` (``""``: the dict itself). ``kind`` is what the
    system checks turn into an id, so it stands for one kind of mistake.
    """

    setting: str
    kind: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"


# A validator gets the name and value of a setting and returns what is wrong with it, if anything.
_Complaint = tuple[str, str, str]
_Validator = Callable[[str, Any], _Complaint | None]


@dataclass(frozen=True, slots=True)
class _Spec:
    validate: _Validator
    default: Any = None
    required: bool = False
    hint: str = ""


def _number(minimum: float, maximum: float, *, whole: bool = False) -> _Validator:
    noun = "a whole number" if whole else "a number"

    def validate(name: str, value: Any) -> _Complaint | None:
        is_number = isinstance(value, int) if whole else isinstance(value, int | float)
        if not is_number or isinstance(value, bool):
            kind = "type"
        elif minimum <= value <= maximum:  # False for NaN
            return None
        else:
            kind = "range"
        return (
            kind,
            f"GIFTCARDS[{name!r}] must be {noun} from {minimum:g} to {maximum:g}.",
            "Correct it, or remove it to get the default.",
        )

    return validate


# As much as a column for amounts holds.
_LARGEST_AMOUNT = Decimal("999999999999.99")


def _amount(name: str, value: Any) -> _Complaint | None:
    # No binary fraction: it would not be the amount that is written.
    if not isinstance(value, int | Decimal) or isinstance(value, bool):
        return (
            "type",
            f"GIFTCARDS[{name!r}] must be an amount: a whole number or a Decimal.",
            "Correct it, or remove it to get the default.",
        )
    if Decimal(value).is_finite() and 0 < value <= _LARGEST_AMOUNT:
        return None
    return (
        "range",
        f"GIFTCARDS[{name!r}] must be an amount above 0, and not above {_LARGEST_AMOUNT}.",
        "Correct it, or remove it to get the default.",
    )


def _switch(name: str, value: Any) -> _Complaint | None:
    if isinstance(value, bool):
        return None
    return ("type", f"GIFTCARDS[{name!r}] must be True or False.", "Write it without quotes.")


def _not_text(name: str, hint: str) -> _Complaint:
    # The value may be a secret, so the message does not contain it.
    return ("type", f"GIFTCARDS[{name!r}] must be a text.", hint)


_PASTE_KEY = "Paste the key from the provider's dashboard as one line, without spaces."


def _api_key(name: str, value: Any) -> _Complaint | None:
    if not isinstance(value, str):
        return _not_text(name, _PASTE_KEY)
    if value.isascii() and value.isprintable() and " " not in value:
        return None
    return ("api_key", f"GIFTCARDS[{name!r}] is not usable as an HTTP header.", _PASTE_KEY)


_GIVE_HOST = "Give scheme and host only, such as https://api.oneclickdz.com."


def _base_url(name: str, value: Any) -> _Complaint | None:
    if not isinstance(value, str):
        return _not_text(name, _GIVE_HOST)
    parts = _address(value)
    if parts is None:
        return (
            "base_url",
            f"GIFTCARDS[{name!r}] is not the address of an HTTP service.",
            _GIVE_HOST,
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        return (
            "insecure",
            f"GIFTCARDS[{name!r}] would send the API key and the card codes unencrypted.",
            "Use https://, or http:// to this machine's own address only.",
        )
    return None


def _address(url: str) -> SplitResult | None:
    """``url`` in parts if it has only a scheme, a host and perhaps a port; otherwise ``None``."""
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
    """Whether ``host``, a name or an address without brackets, is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_NEW_KEY = "Run `manage.py giftcards_generate_key` and put what it prints into the list."


def _encryption_keys(name: str, value: Any) -> _Complaint | None:
    if not isinstance(value, list | tuple):
        return ("type", f"GIFTCARDS[{name!r}] must be a list of Fernet keys.", _NEW_KEY)
    known: set[bytes] = set()
    for position, key in enumerate(value, start=1):
        which = f"Key {position} of GIFTCARDS[{name!r}]"
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
    """Whether the key is derived from ``SECRET_KEY`` in one of the two usual ways."""
    try:
        secret = force_bytes(settings.SECRET_KEY)
    except ImproperlyConfigured:
        return False
    return raw in (secret[:32], hashlib.sha256(secret).digest())


def _url_name(name: str, value: Any) -> _Complaint | None:
    # Whether there is such a URL is checked once there are URLs, by the system checks.
    if isinstance(value, str):
        return None
    return _not_text(name, "Give the name of a URL, such as 'staff:prove'.")


def _currency(name: str, value: Any) -> _Complaint | None:
    hint = "DZD is the one the provider charges in."
    if not isinstance(value, str):
        return _not_text(name, hint)
    if len(value) == 3 and value.isascii() and value.isalpha() and value.isupper():
        return None
    return (
        "currency",
        f"GIFTCARDS[{name!r}] must be a code of three capital letters.",
        hint,
    )


_SPECS: Mapping[str, _Spec] = {
    "API_KEY": _Spec(
        _api_key,
        required=True,
        hint="Set it to the key from the provider's dashboard.",
    ),
    "BASE_URL": _Spec(_base_url, "https://api.oneclickdz.com"),
    "ENCRYPTION_KEYS": _Spec(_encryption_keys, required=True, hint=_NEW_KEY),
    "POLL_INTERVAL": _Spec(_number(0.1, 60), 5),
    "POLL_TIMEOUT": _Spec(_number(1, 86_400), 300),
    "LATE_WATCH_HOURS": _Spec(_number(0, 8_760), 72),
    "REQUESTS_PER_MINUTE": _Spec(_number(1, 6_000, whole=True), 60),
    "REQUEST_TIMEOUT": _Spec(_number(0.1, 30), 10),
    "SEND_TIMEOUT": _Spec(_number(1, 604_800), 3600),
    "PROOF_OF_ABSENCE": _Spec(_number(1, 86_400), 120),
    "CURRENCY": _Spec(_currency, "DZD"),
    "HOLD_ABOVE_SALE_PRICE": _Spec(_switch, True),
    "PRICE_MAX_AGE": _Spec(_number(1, 86_400), 600),
    "LOW_BALANCE": _Spec(_amount),
    "REAUTHENTICATE": _Spec(_url_name),
    "REVEALS_PER_HOUR": _Spec(_number(1, 10_000, whole=True), 30),
}


def _configured() -> Any:
    return getattr(settings, "GIFTCARDS", {})


def _problem(name: str) -> Problem | None:
    spec = _SPECS[name]
    configured = _configured()
    if spec.required and configured.get(name) in (None, "", [], ()):
        return Problem(name, f"no_{name.lower()}", f"GIFTCARDS[{name!r}] is not set.", spec.hint)
    complaint = spec.validate(name, configured[name]) if name in configured else None
    return None if complaint is None else Problem(name, *complaint)


def _not_a_dict() -> Problem | None:
    if isinstance(_configured(), Mapping):
        return None
    return Problem(
        "", "type", "GIFTCARDS must be a dict.", "See the settings page of the documentation."
    )


def problems() -> Iterator[Problem]:
    """Yield everything that is wrong with ``settings.GIFTCARDS``."""
    if problem := _not_a_dict():
        yield problem
        return
    for name in _configured():
        if name not in _SPECS:
            yield Problem(
                str(name),
                "unknown",
                f"GIFTCARDS has a setting {str(name)!r} that does not exist.",
                f"The settings are {', '.join(_SPECS)}.",
            )
    for name in _SPECS:
        if problem := _problem(name):
            yield problem


def require(*names: str) -> None:
    """Raise :exc:`ConfigurationError` for the first of the settings ``names`` that is unusable."""
    for name in names:
        if problem := _not_a_dict() or _problem(name):
            raise ConfigurationError(str(problem))


class Conf:
    """The settings, one typed property each; see the settings page of the documentation."""

    @property
    def api_key(self) -> str:
        """The provider's key, with a masked ``repr``."""
        return Masked(self._get("API_KEY"))

    @property
    def base_url(self) -> str:
        return str(self._get("BASE_URL")).rstrip("/")

    @property
    def encryption_keys(self) -> tuple[str, ...]:
        """Fernet keys, each with a masked ``repr``: the first encrypts, all of them decrypt."""
        return tuple(map(Masked, self._get("ENCRYPTION_KEYS")))

    @property
    def poll_interval(self) -> float:
        """Seconds between two checks of an open order."""
        return float(self._get("POLL_INTERVAL"))

    @property
    def poll_timeout(self) -> float:
        """Seconds after which an order that has not settled is ``DELAYED``."""
        return float(self._get("POLL_TIMEOUT"))

    @property
    def late_watch_hours(self) -> float:
        """Hours, from acceptance, for which a delayed order is still checked."""
        return float(self._get("LATE_WATCH_HOURS"))

    @property
    def requests_per_minute(self) -> int:
        return int(self._get("REQUESTS_PER_MINUTE"))

    @property
    def request_timeout(self) -> float:
        """Seconds that one call to the provider may take in total."""
        return float(self._get("REQUEST_TIMEOUT"))

    @property
    def send_timeout(self) -> float:
        """Seconds after which an order that could not be sent is rejected."""
        return float(self._get("SEND_TIMEOUT"))

    @property
    def proof_of_absence(self) -> float:
        """Seconds after sending until an order missing in the provider's list counts as absent."""
        return float(self._get("PROOF_OF_ABSENCE"))

    @property
    def currency(self) -> str:
        return str(self._get("CURRENCY"))

    @property
    def hold_above_sale_price(self) -> bool:
        """Whether the customer's price is the ceiling of an order without ``max_price``."""
        return bool(self._get("HOLD_ABOVE_SALE_PRICE"))

    @property
    def price_max_age(self) -> float:
        """Seconds for which a price that the provider told counts as its current one."""
        return float(self._get("PRICE_MAX_AGE"))

    @property
    def low_balance(self) -> Decimal | None:
        """The balance, in dinars, below which people are warned; ``None``: they never are."""
        amount = self._get("LOW_BALANCE")
        return None if amount is None else Decimal(amount)

    @property
    def reauthenticate(self) -> str | None:
        """The URL name of the page on which staff prove again who they are.

        ``None``: they are asked for their password.
        """
        name: str | None = self._get("REAUTHENTICATE")
        return name

    @property
    def reveals_per_hour(self) -> int:
        """The most codes that one person may have revealed within an hour."""
        return int(self._get("REVEALS_PER_HOUR"))

    @property
    def longest_task(self) -> float:
        """Seconds that one of our tasks may take; the system checks compare ``Q_CLUSTER`` with it.

        The loop's time includes what the watchdog waits for another holder of the lease. When it is
        over, one order may be half sent: the price is asked for, then the order goes out.
        """
        return LOOP_SECONDS + 2 * self.request_timeout + _RECORDING_SECONDS

    @contained
    def _get(self, name: str) -> Any:
        require(name)
        return _configured().get(name, _SPECS[name].default)


conf = Conf()
