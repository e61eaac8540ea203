"""Reading a dict of settings: typed values with defaults, and what is wrong with them.

:mod:`giftcards.conf` reads ``GIFTCARDS`` with it, and each optional app reads its own dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from django.conf import settings

from giftcards.exceptions import ConfigurationError
from giftcards.keys.secrecy import contained

T = TypeVar("T")
U = TypeVar("U")
N = TypeVar("N", bound=float)
# Takes a setting's name for messages, and what is configured; returns the value or raises Unusable.
Parser = Callable[[str, Any], T]
CORRECT = "Correct it, or remove it to get the default."


class Unusable(Exception):
    """A parser's complaint; its arguments are kind, message and hint of :class:`SettingProblem`."""


@dataclass(frozen=True, slots=True)
class SettingProblem:
    """A problem of one setting: ``message`` says what is wrong, ``hint`` names the fix.

    ``setting`` is the key inside the dict (``""``: the dict itself). The system checks turn
    ``kind`` into an id, so it stands for one kind of mistake.
    """

    setting: str
    kind: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"


class Setting(Generic[T]):
    """One setting, an attribute of a :class:`SettingsDict`; its key is the name in capitals.

    The default is parsed like any value. A setting with the hint ``required``, which says how to
    get a value, has none. If ``is_working``, placing and following orders use the setting: their
    commands do not start without it.
    """

    key: str

    def __init__(
        self,
        parse: Parser[T],
        *,
        default: object = None,
        required: str = "",
        is_working: bool = False,
    ) -> None:
        self.parse = parse
        self.default = default
        self.required = required
        self.is_working = is_working

    def __set_name__(self, owner: type, name: str) -> None:
        self.key = name.upper()

    def __get__(self, conf: SettingsDict, owner: type) -> T:
        return conf.get(self)


class SettingsDict:
    """The settings in the dict ``settings.<dict_name>``, read anew each time.

    Reading one that is wrong raises :exc:`~giftcards.exceptions.ConfigurationError`.
    """

    dict_name: ClassVar[str]
    #: The settings of the subclass by key, in the order in which they are written.
    declared: ClassVar[Mapping[str, Setting[Any]]]

    def __init_subclass__(cls, dict_name: str) -> None:
        cls.dict_name = dict_name
        declared = [value for value in vars(cls).values() if isinstance(value, Setting)]
        cls.declared = {setting.key: setting for setting in declared}

    def get(self, setting: Setting[T]) -> T:
        """The value or default of the setting."""
        try:
            return self._parse(setting)
        except Unusable as error:
            _kind, message, hint = error.args
            raise ConfigurationError(f"{message} {hint}") from None

    def require(self, *keys: str) -> None:
        """Raise :exc:`ConfigurationError` for the first of the settings that is unusable."""
        for key in keys:
            self.get(self.declared[key])

    def problems(self) -> Iterator[SettingProblem]:
        """Yield everything that is wrong with the dict."""
        if problem := _problem("", self._configured):
            yield problem
            return
        for key in self._configured():
            if key not in self.declared:
                yield SettingProblem(
                    str(key),
                    "unknown",
                    f"{self.dict_name} has a setting {str(key)!r} that does not exist.",
                    f"The settings are {', '.join(self.declared)}.",
                )
        for key, setting in self.declared.items():
            if problem := _problem(key, partial(self._parse, setting)):
                yield problem

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
        return setting.parse(named, configured.get(key, setting.default))


def _problem(key: str, read: Callable[[], object]) -> SettingProblem | None:
    """The problem of the setting if ``read`` finds it unusable."""
    try:
        read()
    except Unusable as error:
        return SettingProblem(key, *error.args)
    return None


def optional(parse: Parser[T], absent: U) -> Parser[T | U]:
    """A parser that takes ``None`` as well, and returns ``absent`` for it."""

    def parse_unless_none(setting: str, value: Any) -> T | U:
        return absent if value is None else parse(setting, value)

    return parse_unless_none


def number(to: type[N], minimum: float, maximum: float) -> Parser[N]:
    """A parser of numbers from ``minimum`` to ``maximum``: of whole ones if ``to`` is ``int``."""
    noun, accepted = ("a whole number", int) if to is int else ("a number", int | float)

    def parse(setting: str, value: Any) -> N:
        is_number = isinstance(value, accepted) and not isinstance(value, bool)
        if is_number and minimum <= value <= maximum:  # False for NaN
            return to(value)
        message = f"{setting} must be {noun} from {minimum:g} to {maximum:g}."
        raise Unusable("range" if is_number else "type", message, CORRECT)

    return parse


def text(setting: str, value: Any, hint: str) -> str:
    """The value, if it is a text. The complaint does not show the value, a possible secret."""
    if isinstance(value, str):
        return value
    raise Unusable("type", f"{setting} must be a text.", hint)
