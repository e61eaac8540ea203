"""The kinds of messages to customers, and the forms in which they are sent."""

from __future__ import annotations

from collections.abc import Mapping

from django.db import models
from django.utils.translation import gettext_lazy as _

from giftcards.rules.states import STATES


class Kind(models.TextChoices):
    DELIVERED = "delivered", _("Cards delivered")
    PARTLY_DELIVERED = "partly_delivered", _("Cards delivered in part")
    REFUNDED = "refunded", _("Not delivered")
    DELAYED = "delayed", _("Please wait")
    PAID_BACK = "paid_back", _("Paid back")
    #: Of a gift, instead of the first two: the cards, for its recipient.
    GIFT = "gift", _("Gift")
    #: And what became of them, for the customer.
    RECEIPT = "receipt", _("Receipt for a gift")


class Mode(models.TextChoices):
    #: Cards are shown on a page that the message links to.
    LINK = "link"
    #: Cards are in the message.
    CODES = "codes"
    OFF = "off"


#: The kind of message by the status that an order moves to: for each news, the kind of that name.
KIND_OF_STATUS: Mapping[str, Kind] = {
    status: Kind(state.customer_news) for status, state in STATES.items() if state.customer_news
}
#: The messages that hand over cards.
WITH_CARDS = frozenset({Kind.DELIVERED, Kind.PARTLY_DELIVERED, Kind.GIFT})
#: The messages that are not for the customer, but for the recipient of a gift.
TO_RECIPIENT = frozenset({Kind.GIFT})


def kinds_of(status: str, *, is_gift: bool) -> tuple[Kind, ...]:
    """The kinds of messages about an order that has moved to ``status``."""
    kind = KIND_OF_STATUS.get(status)
    if is_gift and kind in WITH_CARDS:
        # Nobody but its recipient is told where the cards of a gift are.
        return Kind.GIFT, Kind.RECEIPT
    return () if kind is None else (kind,)
