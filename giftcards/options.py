"""Reading a dict of settings: typed values with defaults, and what is wrong with them.

:mod:`giftcards.conf` reads ``GIFTCARDS`` with it, and each optional app reads its own dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from giftcards.exceptions import ConfigurationError
from giftcards.keys.secrecy import contained

# The kind, message and hint of a setting's problem, as in an OptionProblem.
Complaint = tuple[str, str, str]
# Takes a setting's name for messages, and its value; returns a complaint, or None if it is right.
Validator = Callable[[str, Any], Complaint | None]
CORRECT = "Correct it, or remove it to get the default."


@dataclass(frozen=True, slots=True)
class OptionProblem:
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


@dataclass(frozen=True, slots=True)
class Option:
    """One setting; ``hint`` says how to get a value if the setting is ``required``.

    The value may be ``None`` if the default is ``None``.
    """

    validate: Validator
    default: Any = None
    required: bool = False
    hint: str = ""


class Options:
    """The settings in the dict ``settings.<name>``, read anew each time."""

    def __init__(self, name: str, options: Mapping[str, Option]) -> None:
        self.name = name
        self.options = options

    @contained
    def get(self, key: str) -> Any:
        """The value or default; :exc:`~giftcards.exceptions.ConfigurationError` if it is wrong."""
        self.require(key)
        return self._configured().get(key, self.options[key].default)

    def require(self, *keys: str) -> None:
        """Raise :exc:`ConfigurationError` for the first of the settings that is unusable."""
        for key in keys:
            if problem := self._not_a_dict() or self._problem(key):
                raise ConfigurationError(str(problem))

    def problems(self) -> Iterator[OptionProblem]:
        """Yield everything that is wrong with the dict."""
        if problem := self._not_a_dict():
            yield problem
            return
        for key in self._configured():
            if key not in self.options:
                yield OptionProblem(
                    str(key),
                    "unknown",
                    f"{self.name} has a setting {str(key)!r} that does not exist.",
                    f"The settings are {', '.join(self.options)}.",
                )
        for key in self.options:
            if problem := self._problem(key):
                yield problem

    def _configured(self) -> Any:
        return getattr(settings, self.name, {})

    def _problem(self, key: str) -> OptionProblem | None:
        option, configured = self.options[key], self._configured()
        named = f"{self.name}[{key!r}]"
        if option.required and configured.get(key) in (None, "", [], ()):
            return OptionProblem(key, f"no_{key.lower()}", f"{named} is not set.", option.hint)
        if key not in configured or (configured[key] is None and option.default is None):
            return None
        complaint = option.validate(named, configured[key])
        return None if complaint is None else OptionProblem(key, *complaint)

    def _not_a_dict(self) -> OptionProblem | None:
        if isinstance(self._configured(), Mapping):
            return None
        hint = "See the settings page of the documentation."
        return OptionProblem("", "type", f"{self.name} must be a dict.", hint)


def number(minimum: float, maximum: float, *, whole: bool = False) -> Validator:
    """A validator of numbers from ``minimum`` to ``maximum``."""
    noun = "a whole number" if whole else "a number"

    def validate(setting: str, value: Any) -> Complaint | None:
        is_number = isinstance(value, int) if whole else isinstance(value, int | float)
        if not is_number or isinstance(value, bool):
            kind = "type"
        elif minimum <= value <= maximum:  # False for NaN
            return None
        else:
            kind = "range"
        return (kind, f"{setting} must be {noun} from {minimum:g} to {maximum:g}.", CORRECT)

    return validate


def not_text(setting: str, hint: str) -> Complaint:
    """The complaint that a value is not a text. It does not show the value, a possible secret."""
    return ("type", f"{setting} must be a text.", hint)
