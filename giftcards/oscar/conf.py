"""The settings in ``GIFTCARDS_OSCAR``."""

from __future__ import annotations

from typing import Any

from giftcards.conf import Setting, SettingsDict, Unusable, text

# The maximum length of a status in oscar's tables.
_LONGEST_STATUS = 100


def _status(setting: str, value: Any, hint: str) -> str:
    status = text(setting, value, hint)
    if 0 < len(status) <= _LONGEST_STATUS:
        return status
    raise Unusable("range", f"{setting} must have from 1 to {_LONGEST_STATUS} characters.", hint)


def _statuses(setting: str, value: Any) -> tuple[str, ...]:
    """a list of strings of 1 to 100 characters"""
    hint = "List statuses of OSCAR_ORDER_STATUS_PIPELINE, for example ('Paid',)."
    if not isinstance(value, list | tuple) or not value:
        raise Unusable("type", f"{setting} must be a list of at least one string.", hint)
    named = f"A status in {setting}"
    return tuple(_status(named, status, hint) for status in value)


class Conf(SettingsDict, dict_name="GIFTCARDS_OSCAR"):
    """The settings in ``GIFTCARDS_OSCAR`` as typed attributes.

    See the documentation page about django-oscar.
    """

    paid_statuses = Setting(
        _statuses,
        help="The order statuses in django-oscar that mean that an order is paid.",
        default=("Paid",),
    )


conf = Conf()
