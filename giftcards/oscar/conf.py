"""The settings in ``settings.GIFTCARDS_OSCAR``, which only this module reads."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from giftcards.conf import Setting, SettingsDict, Unusable, text

# The length of the columns of statuses in oscar's tables.
_LONGEST_STATUS = 100


class LineState(StrEnum):
    """The state of a line's cards; by default, the line's status has the same name."""

    ORDERED = "Ordered"
    DELAYED = "Delayed"
    DELIVERED = "Delivered"
    PARTLY_DELIVERED = "Partly delivered"
    NOT_DELIVERED = "Not delivered"


def _status(setting: str, value: Any, hint: str) -> str:
    status = text(setting, value, hint)
    if 0 < len(status) <= _LONGEST_STATUS:
        return status
    raise Unusable("range", f"{setting} must have from 1 to {_LONGEST_STATUS} characters.", hint)


def _statuses(setting: str, value: Any) -> tuple[str, ...]:
    """a list of texts of 1 to 100 characters"""
    hint = "List statuses of OSCAR_ORDER_STATUS_PIPELINE, such as ('Paid',)."
    if not isinstance(value, list | tuple) or not value:
        raise Unusable("type", f"{setting} must be a list of at least one text.", hint)
    named = f"A status in {setting}"
    return tuple(_status(named, status, hint) for status in value)


def _line_statuses(setting: str, value: Any) -> dict[LineState, str]:
    """a dict of texts by state"""
    hint = f"The keys are {', '.join(LineState.__members__)}."
    if not isinstance(value, Mapping):
        raise Unusable("type", f"{setting} must be a dict.", hint)
    if unknown := [str(key) for key in value if key not in LineState.__members__]:
        raise Unusable("unknown", f"{setting} has an unknown key {unknown[0]!r}.", hint)
    words = {
        LineState[key]: _status(f"{setting}[{key!r}]", word, hint) for key, word in value.items()
    }
    return {state: words.get(state, state.value) for state in LineState}


class Conf(SettingsDict, dict_name="GIFTCARDS_OSCAR"):
    """The settings, each as a typed attribute; see the page about django-oscar in the docs."""

    paid_statuses = Setting(
        _statuses, help="The statuses of an order that say that it is paid.", default=("Paid",)
    )
    line_statuses = Setting(
        _line_statuses,
        help='Your words for the statuses of lines, such as `{"DELIVERED": "Livrée"}`.',
        default={},
    )


conf = Conf()
