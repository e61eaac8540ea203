"""System checks for shops that use django-oscar.

The checks report mistakes that prevent cards from being bought, checked or shown to customers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004

from giftcards.conf import CURRENCY
from giftcards.exceptions import ConfigurationError
from giftcards.oscar.conf import conf

# The id of the message for each ``SettingProblem.kind``.
IDS: Mapping[str, str] = {
    "unknown": "giftcards_oscar.E001",
    "type": "giftcards_oscar.E002",
    "range": "giftcards_oscar.E003",
}


def check_settings(**_: object) -> list[CheckMessage]:
    """Report invalid settings in ``GIFTCARDS_OSCAR``."""
    return [
        Error(problem.message, hint=problem.hint, id=IDS[problem.kind])
        for problem in conf.problems()
    ]


def check_shop(**_: object) -> list[CheckMessage]:
    """Report settings and views of the shop that do not work with this app."""
    try:
        return [*_check_statuses(), *_check_currency(), *_check_view()]
    except ConfigurationError:
        return []  # reported by check_settings


def _check_statuses() -> Iterator[CheckMessage]:
    known = getattr(settings, "OSCAR_ORDER_STATUS_PIPELINE", {})
    for status in conf.paid_statuses:
        if status not in known:
            yield Error(
                f"GIFTCARDS_OSCAR['PAID_STATUSES'] contains {status!r}, but no order can get"
                " this status. The cards would not be bought.",
                hint="List the statuses of OSCAR_ORDER_STATUS_PIPELINE that mean that an order is"
                " paid, or add this status to the pipeline.",
                id="giftcards_oscar.E004",
            )


def _check_currency() -> Iterator[CheckMessage]:
    default = getattr(settings, "OSCAR_DEFAULT_CURRENCY", "")
    if default != CURRENCY:
        yield Warning(
            f"OSCAR_DEFAULT_CURRENCY is {default!r}, but cards are sold in {CURRENCY}. Stock"
            " records in another currency get no price, and a basket with them is refused.",
            hint=f"Set it to {CURRENCY!r}, or set the currency of each stock record of a card to"
            f" {CURRENCY!r}.",
            id="giftcards_oscar.W001",
        )


def _check_view() -> Iterator[CheckMessage]:
    # The import is here because oscar's views import its forms and models.
    from oscar.core.loading import get_class

    from giftcards.oscar.checkout import GiftCardsCheckout

    if not issubclass(get_class("checkout.views", "PaymentDetailsView"), GiftCardsCheckout):
        yield Warning(
            "PaymentDetailsView is not a subclass of GiftCardsCheckout. Customers could pay"
            " for cards that are sold out, or pay less than the cards cost.",
            hint="Make GiftCardsCheckout the first base class of the view. Alternatively, call"
            " reserve_cards() where your shop takes the payment, and silence this warning.",
            id="giftcards_oscar.W002",
        )
