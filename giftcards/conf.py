"""The typed settings in ``settings.GIFTCARDS``.

Each setting is read only when it is needed. Each optional app uses the classes in this module to
read its own settings dict.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from operator import is_not
from typing import Any, ClassVar, Generic, TypeVar, cast
from urllib.parse import SplitResult, urlsplit

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.encoding import force_bytes

from giftcards.exceptions import ConfigurationError
from giftcards.keys.keyring import Keyring
from giftcards.keys.secrecy import Masked, contained

try:
    VERSION = version("django-giftcards")
except PackageNotFoundError:  # a checkout that is not installed
    VERSION = "unknown"
_ONECLICKDZ = "https://api.oneclickdz.com"
# The time for which one task runs the loop (seconds). It is short, because a cluster that is
# stopping waits for the task.
LOOP_SECONDS = 40
# The longest time for one request, from connecting to the last byte (seconds).
REQUEST_TIMEOUT = 10
# Seconds that a task may need after its last request, to record answers and call receivers.
_RECORDING_SECONDS = 10
#: The longest time, in seconds, that a task of the app takes. Just before the end of
#: ``LOOP_SECONDS``, a task may begin to send an order. That takes up to two requests: one for the
#: price, and one to place the order.
LONGEST_TASK = LOOP_SECONDS + 2 * REQUEST_TIMEOUT + _RECORDING_SECONDS
#: The currency of all amounts, in which the provider charges: Algerian dinars.
CURRENCY = "DZD"
#: The maximum number of hours for which ``REORDER_MISSING`` buys missing cards again.
LONGEST_SEARCH = 72
#: The largest amount that a column of money holds.
LARGEST_AMOUNT = Decimal("999999999999.99")

T = TypeVar("T")
U = TypeVar("U")
N = TypeVar("N", bound=float)
# A parser takes a setting's name, for messages, and the setting's value. It returns the value to
# use, or raises Unusable. The reference quotes the parser's docstring, which names the accepted
# values.
Parser = Callable[[str, Any], T]
CORRECT = "Correct the value, or remove the setting to use the default."


class Unusable(Exception):
    """A parser rejected a value.

    The arguments of the exception are the ``kind``, the ``message`` and the ``hint`` of a
    :class:`SettingProblem`.
    """


@dataclass(frozen=True, slots=True)
class SettingProblem:
    """A problem with one setting, or with the whole settings dict.

    ``message`` describes the problem, and ``hint`` says how to fix the problem. ``setting`` is the
    key in the dict, or ``""`` if the dict itself is invalid. ``kind`` is a short name for the kind
    of mistake. The system checks derive the ids of their messages from this name.
    """

    setting: str
    kind: str
    message: str
    hint: str


@dataclass(eq=False)
class Setting(Generic[T]):
    """A setting, which is declared as an attribute of a :class:`SettingsDict`.

    The key of the setting in the dict is the name of the attribute in capitals.

    ``help`` is the description of the setting in the documentation. The default is parsed like any
    other value. A setting without a default has a ``required`` text, which says how to obtain a
    value. If ``is_working`` is True, the commands that place and follow orders do not start unless
    this setting has a valid value.
    """

    parse: Parser[T]
    _: KW_ONLY
    help: str
    default: object = None
    required: str = ""
    is_working: bool = False
    key: str = field(init=False)

    def __set_name__(self, owner: type, name: str) -> None:
        self.key = name.upper()

    def __get__(self, conf: SettingsDict, owner: type) -> T:
        return conf.get(self)

    @property
    def values(self) -> str:
        """The allowed values of the setting, in words."""
        return self.parse.__doc__ or ""


class SettingsDict:
    """The settings in the dict ``settings.<dict_name>``.

    The dict is read at each access, but a value is parsed again only if it has changed. Reading an
    invalid setting raises :exc:`~giftcards.exceptions.ConfigurationError`.
    """

    dict_name: ClassVar[str]
    #: The settings of the subclass by name, in the order in which they are written.
    declared: ClassVar[Mapping[str, Setting[Any]]]

    def __init_subclass__(cls, dict_name: str) -> None:
        cls.dict_name = dict_name
        declared = [value for value in vars(cls).values() if isinstance(value, Setting)]
        cls.declared = {setting.key: setting for setting in declared}

    def __init__(self) -> None:
        # For each setting that was parsed, by key: the objects in its value at that time, and the
        # result.
        self._parsed: dict[str, tuple[list[object], Any]] = {}
        # Only tests change other settings that a value depends on.
        setting_changed.connect(lambda **_: self._parsed.clear(), weak=False)

    def get(self, setting: Setting[T]) -> T:
        """Return the value of a setting, or its default.

        Raises :exc:`ConfigurationError` if the value is invalid.
        """
        try:
            return self._parse(setting)
        except Unusable as error:
            _kind, message, hint = error.args
            raise ConfigurationError(f"{message} {hint}") from None

    def require(self, *keys: str) -> None:
        """Raise :exc:`ConfigurationError` if a setting in ``keys`` is invalid."""
        for key in keys:
            self.get(self.declared[key])

    def problems(self) -> Iterator[SettingProblem]:
        """Yield every problem with the dict."""
        try:
            unknown = [str(key) for key in self._configured() if key not in self.declared]
        except Unusable as error:
            yield SettingProblem("", *error.args)
            return
        hint = f"The settings are {', '.join(self.declared)}."
        for key in unknown:
            message = f"{self.dict_name} has a setting {key!r} that does not exist."
            yield SettingProblem(key, "unknown", message, hint)
        for key, setting in self.declared.items():
            try:
                self._parse(setting)
            except Unusable as error:
                yield SettingProblem(key, *error.args)

    def _configured(self) -> Mapping[str, Any]:
        configured = getattr(settings, self.dict_name, {})
        if isinstance(configured, Mapping):
            return configured
        hint = "See the settings page of the documentation."
        raise Unusable("type", f"{self.dict_name} must be a dict.", hint)

    @contained
    def _parse(self, setting: Setting[T]) -> T:
        key, configured = setting.key, self._configured()
        named = f"{self.dict_name}[{key!r}]"
        if setting.required and configured.get(key) in (None, "", [], ()):
            raise Unusable(f"no_{key.lower()}", f"{named} is not set.", setting.required)
        value = configured.get(key, setting.default)
        objects = list(_objects(value))
        known, parsed = self._parsed.get(key, ([], None))
        if len(known) != len(objects) or any(map(is_not, known, objects)):
            parsed = setting.parse(named, value)
            self._parsed[key] = (objects, parsed)
        return cast("T", parsed)


def _objects(value: object) -> Iterator[object]:
    """Yield ``value`` and all objects inside it."""
    yield value
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield name
            yield from _objects(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _objects(item)


def optional(parse: Parser[T], absent: U) -> Parser[T | U]:
    """Return a parser that also accepts ``None``.

    The parser converts ``None`` to the value ``absent``. It passes all other values to ``parse``.
    """

    def parse_unless_none(setting: str, value: Any) -> T | U:
        return absent if value is None else parse(setting, value)

    parse_unless_none.__doc__ = f"{parse.__doc__}, or `None`"
    return parse_unless_none


def number(to: type[N], minimum: float, maximum: float) -> Parser[N]:
    """Return a parser of numbers from ``minimum`` to ``maximum``."""
    noun, accepted = ("a whole number", int) if to is int else ("a number", int | float)
    values = f"{noun} from {minimum:g} to {maximum:g}"

    def parse(setting: str, value: Any) -> N:
        is_number = isinstance(value, accepted) and not isinstance(value, bool)
        if is_number and minimum <= value <= maximum:  # False for NaN
            return to(value)
        message = f"{setting} must be {values}."
        raise Unusable("range" if is_number else "type", message, CORRECT)

    parse.__doc__ = values
    return parse


def text(setting: str, value: Any, hint: str) -> str:
    """Return ``value`` if it is a string.

    The error never contains the value, because the value might be secret.
    """
    if isinstance(value, str):
        return value
    raise Unusable("type", f"{setting} must be a string.", hint)


def _amount(setting: str, value: Any) -> Decimal:
    """a whole number or a `Decimal`, above 0"""
    # A float is refused: as a binary fraction, it would differ from the amount as written.
    if not isinstance(value, int | Decimal) or isinstance(value, bool):
        message = f"{setting} must be an amount: a whole number or a Decimal."
        raise Unusable("type", message, CORRECT)
    if Decimal(value).is_finite() and 0 < value <= LARGEST_AMOUNT:
        return Decimal(value)
    message = f"{setting} must be an amount greater than 0 and at most {LARGEST_AMOUNT}."
    raise Unusable("range", message, CORRECT)


def dotted_path(example: str) -> Parser[str]:
    """Return a parser of dotted paths.

    The parser does not import the path, but the system checks do.
    """
    hint = f"Use a dotted path, for example {example!r}."

    def parse(setting: str, value: Any) -> str:
        path = text(setting, value, hint)
        if "." in path and all(part.isidentifier() for part in path.split(".")):
            return path
        raise Unusable("path", f"{setting} is not a dotted path.", hint)

    parse.__doc__ = "the dotted path of a function"
    return parse


def _switch(setting: str, value: Any) -> bool:
    """`True` or `False`"""
    if isinstance(value, bool):
        return value
    raise Unusable("type", f"{setting} must be True or False.", "Write the value without quotes.")


def _api_key(setting: str, value: Any) -> str:
    """a string of printable ASCII characters without spaces"""
    hint = "Paste the key from the provider's dashboard as one line, without spaces."
    key = text(setting, value, hint)
    if key.isascii() and key.isprintable() and " " not in key:
        return Masked(key)
    raise Unusable("api_key", f"{setting} cannot be used as an HTTP header.", hint)


def address(*, subject: str, example: str, http_would: str) -> Parser[str]:
    """Return a parser of URLs that consist of a scheme and a host.

    The parser removes a trailing slash.

    The arguments ``subject`` and ``http_would`` complete error messages. For example, "a site"
    completes "… is not the address of a site", and "send the card codes" completes "… would send
    the card codes unencrypted".
    """
    hint = f"Use only a scheme and a host, for example {example}."

    def parse(setting: str, value: Any) -> str:
        url = text(setting, value, hint)
        # A letter of another script may look like an ASCII letter, but the address would then lead
        # to somebody else's host.
        if odd := next((letter for letter in url if not letter.isascii()), ""):
            name = unicodedata.name(odd, "without a name")
            message = f"{setting} has a character that is not ASCII: {name}."
            raise Unusable(
                "base_url",
                message,
                f"{hint} Write domain names in other scripts in their xn--… form.",
            )
        parts = address_parts(url)
        if parts is None:
            raise Unusable("base_url", f"{setting} is not the address of {subject}.", hint)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            safe = "Use https://, or http:// with an address of this machine."
            raise Unusable("insecure", f"{setting} would {http_would} unencrypted.", safe)
        return url.rstrip("/")

    parse.__doc__ = "a string: scheme, host and, if needed, port"
    return parse


_api_address = address(
    subject="an HTTP service", example=_ONECLICKDZ, http_would="send the API key and the card codes"
)


def address_parts(url: str) -> SplitResult | None:
    """Return the parts of ``url``, or ``None`` if the URL is not acceptable.

    An acceptable URL consists of the scheme ``http`` or ``https``, a host, an optional port and an
    optional slash at the end.
    """
    # urlsplit drops some whitespace, but the client does not.
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
    """True if ``host`` is this machine.

    ``host`` is a name, or an IP address without brackets.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_NEW_KEY = "Run `manage.py giftcards_generate_key`, and add the printed key to the list."


def _encryption_keys(setting: str, value: Any) -> tuple[str, ...]:
    """a list of Fernet keys"""
    if not isinstance(value, list | tuple):
        raise Unusable("type", f"{setting} must be a list of Fernet keys.", _NEW_KEY)
    known: set[bytes] = set()
    for position, key in enumerate(value, start=1):
        which = f"Key {position} of {setting}"
        raw = _raw_key(text(which, key, _NEW_KEY))
        if raw is None:
            raise Unusable("encryption_key", f"{which} is not a Fernet key.", _NEW_KEY)
        if raw in known:
            raise Unusable(
                "repeated_key", f"{which} is in the list twice.", "Remove the second one."
            )
        # Keys in other positions are not refused, because they may still be needed to open cards.
        if position == 1 and _is_from_secret_key(raw):
            raise Unusable(
                "derived_key",
                f"{which} is derived from SECRET_KEY. If somebody learns SECRET_KEY, they can"
                " also read the card codes. If you change SECRET_KEY, the codes are lost.",
                "Run `manage.py giftcards_generate_key`, and put the printed key in front of"
                " this key.",
            )
        known.add(raw)
    return tuple(map(Masked, value))


def _raw_key(key: str) -> bytes | None:
    """Return the 32 bytes of a Fernet key, or ``None`` for an invalid key.

    A key is invalid if it is malformed, or if it looks like a placeholder.
    """
    try:
        raw = base64.b64decode(key.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    return raw if len(raw) == 32 and len(set(raw)) > 8 else None


def _is_from_secret_key(raw: bytes) -> bool:
    """True if the key is derived from ``SECRET_KEY`` in a common way.

    The function recognises the first 32 bytes of ``SECRET_KEY``, and the SHA-256 digest of the
    whole ``SECRET_KEY``.
    """
    try:
        secret = force_bytes(settings.SECRET_KEY)
    except ImproperlyConfigured:
        return False
    return raw in (secret[:32], hashlib.sha256(secret).digest())


# The minimum length of a token. Shorter tokens might be guessed.
_SHORTEST_TOKEN = 20


def _token(setting: str, value: Any) -> str:
    """a string of 20 or more printable ASCII characters without spaces"""
    hint = "Create a token with `openssl rand -hex 32`, and give the same token to Prometheus."
    token = text(setting, value, hint)
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise Unusable("type", f"{setting} cannot be used as an HTTP header.", hint)
    if len(token) < _SHORTEST_TOKEN:
        raise Unusable("range", f"{setting} has fewer than {_SHORTEST_TOKEN} characters.", hint)
    return Masked(token)


def _url_name(setting: str, value: Any) -> str:
    """the name of a URL without arguments"""
    # The system checks look the URL up, after the URLs are loaded.
    return text(setting, value, "Use the name of a URL, for example 'staff:prove'.")


_backend = dotted_path("django_auth_ldap.backend.LDAPBackend")


def _backends(setting: str, value: Any) -> tuple[str, ...]:
    """a list of dotted paths of classes"""
    if not isinstance(value, list | tuple):
        hint = "List backends, for example 'django_auth_ldap.backend.LDAPBackend'."
        raise Unusable("type", f"{setting} must be a list of strings.", hint)
    return tuple(_backend(f"A backend in {setting}", path) for path in value)


@dataclass(frozen=True, slots=True)
class ReorderRule:
    """The limits for reordering missing cards automatically.

    ``times`` is the maximum number of orders in a row for the same cards. ``hours`` is the length
    of the period in which these orders can be sent.
    """

    times: int
    hours: float


def _reorder_rule(setting: str, value: Any) -> ReorderRule:
    """a dict of `"times"`, 1 to 10, and `"hours"`, 0.1 to 72"""
    if not isinstance(value, Mapping) or value.keys() != {"times", "hours"}:
        hint = "Write the setting like {'times': 2, 'hours': 6}."
        raise Unusable("type", f"{setting} must be a dict with 'times' and 'hours'.", hint)
    times = number(int, 1, 10)(f"{setting}['times']", value["times"])
    hours = number(float, 0.1, LONGEST_SEARCH)(f"{setting}['hours']", value["hours"])
    return ReorderRule(times, hours)


class Conf(SettingsDict, dict_name="GIFTCARDS"):
    """The settings as typed attributes.

    The settings page of the documentation describes each setting.
    """

    api_key = Setting(
        _api_key,
        help="Your API key at OneClickDz. The key also selects the environment, sandbox or"
        " production.",
        required="Set it to the key from the provider's dashboard.",
        is_working=True,
    )
    base_url = Setting(
        _api_address,
        help="The address of the provider or of its simulator, without a path. You can use"
        " `http://` only for an address of the same machine.",
        default=_ONECLICKDZ,
        is_working=True,
    )
    encryption_keys = Setting(
        _encryption_keys,
        help="The keys that encrypt the card codes. The first key encrypts, and all keys decrypt.",
        required=_NEW_KEY,
        is_working=True,
    )
    poll_interval = Setting(
        number(float, 0.1, 60),
        help="The number of seconds between two checks of an open order.",
        default=5,
        is_working=True,
    )
    poll_timeout = Setting(
        number(float, 1, 86_400),
        help="The number of seconds after which an order that has not settled becomes `DELAYED`."
        " The worker then checks it less often. If the provider delivers the cards later,"
        " the customer still gets them.",
        default=300,
        is_working=True,
    )
    late_watch_hours = Setting(
        number(float, 0, 8_760),
        help="The number of hours for which a delayed order is checked, counted from the time"
        " when the provider accepted it.",
        default=72,
        is_working=True,
    )
    requests_per_minute = Setting(
        number(int, 1, 6_000),
        help="The request quota: the number of requests that all processes together may send in"
        " any 60 seconds. Use a lower number if other programs use the same API key."
        " OneClickDz allows 60 requests a minute in the sandbox and 120 in production.",
        default=60,
        is_working=True,
    )
    send_timeout = Setting(
        number(float, 1, 604_800),
        help="The number of seconds for which an order may wait to be sent. After this time, the"
        " order becomes `REJECTED`, because the customer may no longer be waiting for it.",
        default=3600,
        is_working=True,
    )
    send_reference = Setting(
        _switch,
        help=(
            "If `True`, the app sends the reference of an order to the provider together with"
            " the purchase. An unconfirmed order can then be found by its reference, if the"
            " provider stores references. Run `giftcards_selftest` in the sandbox first. It"
            " tells you whether to turn this setting on."
        ),
        default=False,
        is_working=True,
    )
    review_order = Setting(
        optional(dotted_path("shop.rules.review"), None),
        help="A function that is called with each order before the order is sent. It returns the"
        " reason why staff have to review the order, or `None`. Without this setting, orders"
        " are not reviewed.",
        is_working=True,
    )
    queue_task = Setting(
        optional(dotted_path("shop.background.queue"), None),
        help="A function that puts a task into your own task queue. It is called with the task."
        " Without this setting, django-q2 queues the tasks if it is installed.",
        is_working=True,
    )
    reorder_missing = Setting(
        optional(_reorder_rule, None),
        help="How many times in a row, and for how many hours, the worker orders missing cards"
        " again before you owe the customer the money. Without this setting, only staff"
        " order missing cards again.",
        is_working=True,
    )
    catalogue_interval = Setting(
        number(float, 0, 604_800),
        help="The number of seconds after which the worker reads the catalogue again. If it is 0,"
        " only `giftcards_catalogue` reads the catalogue.",
        default=3600,
    )
    pricing = Setting(
        optional(dotted_path("shop.prices.price"), None),
        help=(
            "A function that is called with a `ProductType` and returns its price, which the"
            " worker stores. The function replaces the shop's margin: it sets the price of"
            " every product type for which neither the type, its product nor its category has"
            " a margin."
        ),
    )
    low_balance = Setting(
        optional(_amount, None),
        help="The balance in dinars below which staff are warned. The app reads the balance at"
        " most once in five minutes.",
    )
    reauthenticate = Setting(
        optional(_url_name, None),
        help="The page where staff prove their identity before they reveal a code. Without this"
        " setting, staff enter their password.",
    )
    password_backends = Setting(
        _backends,
        help="Your authentication backends that check passwords outside your database, for"
        " example in LDAP. Other backends can confirm the identity of staff only with the"
        " password in your database.",
        default=(),
    )
    refund_days = Setting(
        optional(number(int, 1, 365), None),
        help="The number of days within which you pay customers back, counted from the day after"
        " the order became final. Without this setting, messages and pages do not promise a"
        " date.",
    )
    reveals_per_hour = Setting(
        number(int, 1, 10_000),
        help=(
            "The maximum number of card codes that one member of staff may reveal in an hour."
            " The same maximum applies to the links to cards that they create. A correction"
            " of a customer's address counts as a reveal. If somebody exceeds the limit, the"
            " app refuses and notifies `MANAGERS`."
        ),
        default=30,
    )
    metrics_token = Setting(
        optional(_token, None),
        help="The token with which Prometheus can read the metrics. Without this setting, the"
        " page of metrics is closed.",
    )
    codes_kept_days = Setting(
        optional(number(float, 1, 36_500), None),
        help="The number of days after which the app destroys the card codes of a settled order"
        " or a delivered gift. Without this setting, codes are kept for ever.",
    )

    def keyring(self) -> Keyring:
        """Return a new keyring with the keys of ``ENCRYPTION_KEYS``."""
        return Keyring(self.encryption_keys)

    @property
    def uses_django_q(self) -> bool:
        """True if django-q2 runs the tasks.

        This is the case if django-q2 is installed and ``QUEUE_TASK`` is not set.
        """
        try:
            return self.queue_task is None and apps.is_installed("django_q")
        except ConfigurationError:
            return False  # reported by the system checks

    @property
    def has_queue(self) -> bool:
        """True if the site has a task queue.

        Without a queue, the ``giftcards_poll`` command must run to follow the orders.
        """
        return self.queue_task is not None or self.uses_django_q


conf = Conf()
problems = conf.problems
require = conf.require
