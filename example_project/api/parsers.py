"""The parser of requests to the API."""

from __future__ import annotations

import math
from typing import Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser


class SafeJSONParser(JSONParser):
    """Parses JSON like the framework, but rejects numbers and depths that no field expects."""

    def parse(self, *args: Any, **named: Any) -> Any:
        try:
            data = super().parse(*args, **named)
            is_finite = _is_finite(data)
        except RecursionError:
            raise ParseError("The JSON is too deep.") from None
        if not is_finite:
            # An example is 1e400.
            raise ParseError("A number is too large.")
        return data


def _is_finite(data: Any) -> bool:
    match data:
        case float():
            return math.isfinite(data)
        case dict():
            return all(map(_is_finite, data.values()))
        case list():
            return all(map(_is_finite, data))
    return True
