"""Model fields that behave the same on every database, and checks of what people type."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.translation import gettext_lazy as _

# Control and format characters, lone surrogates, separators of lines and paragraphs. Format
# characters include all that change the direction of text.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Format characters that Persian words, and emoji made of several, need.
_JOINERS = {"\u200c", "\u200d"}
_AMOUNT = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")


def plain_line(text: str) -> None:
    """Validate one line of text in any script, without characters that reorder or hide text.

    Refuses control characters, line separators, bidirectional marks, embeddings, overrides and
    isolates, and other invisible characters except the zero-width joiners.
    """
    if any(unicodedata.category(char) in _UNSEEN and char not in _JOINERS for char in text):
        raise ValidationError(
            _("Use one line of text, without control or direction characters."), code="plain_line"
        )


def read_amount(text: str) -> Decimal | None:
    """Parse an amount typed by a person, like ``550`` or ``549.90``; ``None`` if it is invalid.

    Invalid are exponents, underscores, infinity and digits of other scripts, all of which Python
    accepts. Beside such digits, a reader may mistake the decimal mark.
    """
    return Decimal(text) if _AMOUNT.fullmatch(text) else None


class ExactCharField(models.CharField):  # type: ignore[type-arg]
    """Text compared and sorted by code points, whatever the collation of the database.

    By default, MySQL and MariaDB treat ``a`` and ``A`` as equal, but the provider's ids may differ
    only in case. In PostgreSQL, an index with a linguistic collation cannot serve prefix searches.
    """

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        parameters: dict[str, Any] = dict(super().db_parameters(connection))
        if collation := {"mysql": "utf8mb4_bin", "postgresql": "C"}.get(connection.vendor):
            parameters["collation"] = collation
        return parameters


class ExactEmailField(ExactCharField, models.EmailField):  # type: ignore[type-arg]
    """An e-mail address that is compared like the text of an :class:`ExactCharField`."""
