"""Parse request bodies, and refuse invalid ones."""

from __future__ import annotations

import json
from typing import Any

from giftcards.simulator.account import Refusal


def invalid(details: list[str]) -> Refusal:
    return Refusal("ERR_VALIDATION", "The request is not valid.", details=details)


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in ``body``.

    Raises :exc:`Refusal` if ``body`` does not contain a JSON object.
    """
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise invalid(["the body must be a JSON object"])
    return parsed
