"""Texts about what a corrected address means for messages and links, before and afterwards."""

from __future__ import annotations

from collections.abc import Iterator

from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext

from giftcards.admin.pages import OrderPages
from giftcards.delivery.admin.labels import address_of
from giftcards.delivery.models import Delivery, DeliveryStatus
from giftcards.delivery.moving import addresses_of, sent_to
from giftcards.display import count_text, filled, moment
from giftcards.models import Order


def consequences(_pages: OrderPages, request: HttpRequest, order: Order) -> Iterator[SafeString]:
    """Sentences that say what a correction does to messages and links of the present address."""
    if not request.user.has_perm("giftcards_delivery.view_delivery"):
        return
    old = sent_to(order, addresses_of(order))
    unsent = old.unsent
    again = len({(each.kind, each.channel) for each in (*unsent, *old.unused)})
    if again:
        text = ngettext(
            "%(count)s message goes to the new address.",
            "%(count)s messages go to the new address.",
            again,
        )
        yield filled(text, count=count_text(again))
    if any(message.status == DeliveryStatus.SENDING for message in unsent):
        yield filled(gettext("A message is being sent at this moment: it may still arrive."))
    if links := old.links.filter(revoked_at=None).count():
        text = ngettext(
            "%(count)s link that was sent to the old address is withdrawn.",
            "%(count)s links that were sent to the old address are withdrawn.",
            links,
        )
        yield filled(text, count=count_text(links))
    for message in old.with_codes:
        yield _cannot_be_taken_back(message)


def codes_elsewhere(order: Order) -> list[SafeString]:
    """Sentences about codes that went to an address that is not the customer's any more."""
    now = addresses_of(order)
    former = {
        address
        for change in order.customer_changes.all()
        for address in addresses_of(change.before(order))
    }
    return [_cannot_be_taken_back(message) for message in sent_to(order, former - now).with_codes]


def _cannot_be_taken_back(message: Delivery) -> SafeString:
    text = gettext("The codes were sent to %(address)s at %(at)s. That cannot be taken back.")
    at = moment(message.sent_at or message.created_at)
    return filled(text, address=address_of(message), at=at)
