"""Rows for customers to read: translated names of columns, and readable values."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import models
from django.utils import timezone
from django.utils.text import capfirst

from giftcards.conf import conf

Described = dict[str, Any]


def described(row: models.Model, *names: str) -> Described:
    """The columns of ``row`` that are not empty, by their names in the active language."""
    found = {name: value_of(row, name) for name in names}
    return {label(row, name): value for name, value in found.items() if value not in _EMPTY}


def label(row: models.Model, name: str) -> str:
    field: Any = row._meta.get_field(name)  # noqa: SLF001
    return str(capfirst(field.verbose_name))


def several(rows: Iterable[models.Model], *names: str) -> list[Described]:
    return [described(row, *names) for row in rows]


def heading(model: type[models.Model]) -> str:
    """The plural name of ``model`` in the active language."""
    return str(capfirst(str(model._meta.verbose_name_plural)))  # noqa: SLF001


def value_of(row: models.Model, name: str) -> Any:
    """A column for JSON: a choice by its label, an amount with the currency, a local time."""
    field: Any = row._meta.get_field(name)  # noqa: SLF001
    value = getattr(row, name)
    if field.choices:
        return str(getattr(row, f"get_{name}_display")())
    match value:
        case datetime():
            return timezone.localtime(value).isoformat(timespec="seconds")
        case Decimal():
            return f"{value:.2f} {conf.currency}"
    return value


_EMPTY: tuple[Any, ...] = ("", None, [], {})
