"""Rows in words that a customer can read: the names of their columns, and values as texts."""

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
    """What many rows of ``model`` are called."""
    return str(capfirst(str(model._meta.verbose_name_plural)))  # noqa: SLF001


def value_of(row: models.Model, name: str) -> Any:
    """A value as JSON has it: a choice by its name, an amount with the currency, a local time."""
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
