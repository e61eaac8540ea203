"""Validators, and model fields that behave the same on every database.

Do not rename anything in this module, because migrations import it. Migrations do not import any
other module of the app.
"""

from __future__ import annotations

import json
import math
import unicodedata
import uuid
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxLengthValidator
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.functional import cached_property
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.rules.times import as_given
from giftcards.text.spelling import digits

# The Unicode categories of control and format characters, lone surrogates, and separators of lines
# and paragraphs. All characters that change the direction of text are format characters.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Format characters that are allowed, because Persian words and composed emoji need them.
_JOINERS = {"\u200c", "\u200d"}
# The deepest nesting of metadata. MariaDB reads at most 32 levels of JSON.
_DEEPEST = 8
_MOST_BYTES = 4_096
_LARGEST_NUMBER = 2**63 - 1

# The options of a column with amounts in dinars.
MONEY: dict[str, Any] = {"max_digits": 14, "decimal_places": 2}


def assign(row: models.Model, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(row, name, value)


def plain_line(text: str) -> None:
    """Validate one line of text in any script.

    Control characters, line separators, and invisible characters that reorder or hide text are
    refused. The zero-width joiners are allowed.
    """
    if any(map(_is_unseen, text)):
        raise ValidationError(
            _(
                "Enter one line of text, without control characters or characters that change the"
                " text direction."
            ),
            code="plain_line",
        )


def has_digits(text: str) -> None:
    """Validate that a phone number contains a digit, in any script."""
    if not digits(text):
        raise ValidationError(_("Enter a phone number."), code="has_digits")


def as_plain_line(text: str) -> str:
    """Return ``text`` as one line that :func:`plain_line` accepts."""
    spaced = (" " if char.isspace() else char for char in text)
    return " ".join("".join(char for char in spaced if not _is_unseen(char)).split())


def _is_unseen(char: str) -> bool:
    return unicodedata.category(char) in _UNSEEN and char not in _JOINERS


def tidied_lines(text: str) -> str:
    """Return ``text`` with expanded tabs, and with line feeds as line ends."""
    return text.replace("\r\n", "\n").expandtabs(4).strip()


def plain_lines(text: str) -> None:
    """Validate text of several lines with :func:`plain_line`."""
    try:
        for line in text.split("\n"):
            plain_line(line)
    except ValidationError:
        complaint = _(
            "Enter text without control characters or characters that change the text direction."
        )
        raise ValidationError(complaint, code="plain_line") from None


class PlainTextField(models.TextField):  # type: ignore[type-arg]
    """A text field that is validated by :func:`plain_lines`.

    The validation also checks ``max_length``.
    """

    @cached_property
    def validators(self) -> Any:
        # Django checks the ``max_length`` of a TextField only in forms.
        return [*super().validators, MaxLengthValidator(self.max_length), plain_lines]

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        return text if text is None else tidied_lines(text)


class MomentField(models.DateTimeField):  # type: ignore[type-arg]
    """A time that callers can pass in any time zone.

    See :func:`as_given`.
    """

    def clean(self, value: Any, model_instance: models.Model | None) -> Any:
        try:
            return super().clean(as_given(value), model_instance)
        except ValueError:
            complaint = gettext(
                "Enter a date and time with a time zone. The year must be from 1970 to 9998."
            )
            raise ValidationError(complaint, code="moment") from None


class ExactCharField(models.CharField):  # type: ignore[type-arg]
    """Text that is compared and sorted by code points on every database.

    The provider's ids can differ only in upper and lower case, which MySQL and MariaDB ignore by
    default. In PostgreSQL, an index with a linguistic collation cannot be used for prefix searches.
    """

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        parameters: dict[str, Any] = dict(super().db_parameters(connection))
        if collation := {"mysql": "utf8mb4_bin", "postgresql": "C"}.get(connection.vendor):
            parameters["collation"] = collation
        return parameters


class ExactEmailField(ExactCharField, models.EmailField):  # type: ignore[type-arg]
    """An e-mail address that is compared as in :class:`ExactCharField`."""


def new_reference() -> str:
    return str(uuid.uuid4())


def complaint_about_metadata(value: Any) -> str:
    """Return the reason why ``value`` is not valid as metadata, or "".

    The metadata of an order must be a dict that every database returns as it was stored:

    * Keys are strings.
    * Values are strings, numbers, True, False, None, lists and dicts.
    * Whole numbers fit into 64 bits. NaN and infinity are not allowed.
    * Values are nested at most 8 levels deep.
    * The JSON is at most 4,096 bytes long.
    """
    if type(value) is not dict:
        return gettext("This must be a dict.")
    if not _is_portable(value, _DEEPEST):
        return gettext(
            "Use strings as keys. Values can be strings, numbers, True, False, None, lists and"
            " dicts, nested at most %(depth)d levels deep."
        ) % {"depth": _DEEPEST}
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    if size > _MOST_BYTES:
        text = gettext(
            "As JSON, the value is %(size)d bytes long, but at most %(most)d bytes are allowed."
        )
        return text % {"size": size, "most": _MOST_BYTES}
    return ""


def _is_portable(value: Any, depth: int) -> bool:
    match value:
        case None | bool():
            return True
        case str():
            return _is_storable(value)
        case int():
            return abs(value) <= _LARGEST_NUMBER
        case float():
            return math.isfinite(value)
        case list():
            return depth > 0 and all(_is_portable(item, depth - 1) for item in value)
        case dict():
            return depth > 0 and all(
                isinstance(name, str) and _is_storable(name) and _is_portable(item, depth - 1)
                for name, item in value.items()
            )
    return False


def _is_storable(text: str) -> bool:
    """Return True if ``text`` is valid Unicode without NUL.

    PostgreSQL refuses NUL.
    """
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def is_same_json(one: Any, other: Any) -> bool:
    """Return True if ``other`` is ``one`` as a JSON column might return it.

    ``True`` and ``1`` count as different, although they are equal in Python.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            is_same_json(item, other[name]) for name, item in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same_json, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) and isinstance(other, int):
        # PostgreSQL returns the float 1e20 as an integer.
        return one == float(other)
    return bool(one == other)
