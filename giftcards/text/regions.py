"""Translate the provider's codes for the regions of cards.

The region of a card is the place where the card can be used.
"""

from __future__ import annotations

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from giftcards.text.spelling import folded

_NAMES: dict[str, str | Promise] = {
    "AE ARE UAE": _("United Arab Emirates"),
    "BE BEL": _("Belgium"),
    "BR BRA": _("Brazil"),
    "CA CAN": _("Canada"),
    "CH CHE": _("Switzerland"),
    "DE DEU": _("Germany"),
    "DZ DZA": _("Algeria"),
    "EG EGY": _("Egypt"),
    "ES ESP": _("Spain"),
    "EU": _("Europe"),
    "FR FRA": _("France"),
    "GB GBR UK": _("United Kingdom"),
    "GLOBAL WORLDWIDE": _("All countries"),
    "IN IND": _("India"),
    "IT ITA": _("Italy"),
    "KW KWT": _("Kuwait"),
    "MA MAR": _("Morocco"),
    "QA QAT": _("Qatar"),
    "SA SAU KSA": _("Saudi Arabia"),
    "TN TUN": _("Tunisia"),
    "TR TUR": _("Turkey"),
    "US USA": _("United States"),
}
_BY_CODE = {folded(code): name for codes, name in _NAMES.items() for code in codes.split()}


def region_name(region: str) -> str:
    """Return the name of a region in the active language.

    ``region`` is the provider's code for the region. Unknown codes are returned unchanged.
    """
    return str(_BY_CODE.get(folded(region.strip()), region))
