"""The metadata of an order: JSON that every database returns as it was stored."""

from __future__ import annotations

import json
import math
from typing import Any

from django.utils.translation import gettext

# MariaDB reads no deeper JSON than 32 levels.
_DEEPEST = 8
_MOST_BYTES = 4_096
_LARGEST_NUMBER = 2**63 - 1


def complaint_about_metadata(value: Any) -> str:
    """Say why ``value`` cannot be an order's metadata; "" if it can.

    Metadata is a dict that every database returns as it was stored: JSON values with texts as keys,
    whole numbers of 64 bits, no NaN or infinity, at most 8 levels, and at most 4,096 bytes as JSON.
    """
    if type(value) is not dict:
        return gettext("This must be a dict.")
    if not _is_portable(value, _DEEPEST):
        return gettext(
            "Use texts as keys, and texts, numbers, True, False, None, lists and dicts as values,"
            " at most %(depth)d levels deep."
        ) % {"depth": _DEEPEST}
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    if size > _MOST_BYTES:
        text = gettext("This has %(size)d bytes as JSON. At most %(most)d are allowed.")
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
    """True if ``text`` is valid Unicode without NUL, which PostgreSQL refuses."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def is_same_json(one: Any, other: Any) -> bool:
    """True if ``one`` can read back as ``other``; unlike ``==``, it tells ``True`` from ``1``."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            is_same_json(item, other[name]) for name, item in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same_json, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) and isinstance(other, int):
        # PostgreSQL returns 1e20 as a whole number.
        return one == float(other)
    return bool(one == other)
