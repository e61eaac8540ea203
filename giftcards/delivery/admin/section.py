"""The section about messages and links on the page of an order, with its buttons."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext

from giftcards.admin.actions import OrderButton, buttons
from giftcards.admin.extensions import Extension, register
from giftcards.admin.pages import OrderPages
from giftcards.delivery.admin.dispute import PROOF
from giftcards.delivery.admin.handing_over import NEW_LINK, WITHDRAW
from giftcards.delivery.admin.labels import (
    Use,
    address_of,
    doubts,
    origin_of,
    state_of,
    status_badge,
    use_in_words,
    what_became,
    who_asked,
    with_use,
)
from giftcards.delivery.admin.pages import MAY_RESEND, address, newest
from giftcards.delivery.admin.resending import CANCEL, SEND_AGAIN, SEND_LINK, TRY_NOW
from giftcards.delivery.conf import conf
from giftcards.delivery.kinds import KIND_OF_STATUS, Mode
from giftcards.delivery.models import CardLink, Delivery, DeliveryStatus, Installation
from giftcards.delivery.moving import addresses_of, sent_to
from giftcards.display import bdi, count_text, filled, moment
from giftcards.models import Order

ABOUT_ORDER = (SEND_AGAIN, SEND_LINK, NEW_LINK, WITHDRAW, PROOF)
ABOUT_MESSAGE = (TRY_NOW, CANCEL)

# The most messages, and the most links, that the page of an order shows.
_MOST = 20
# Statuses with an error worth showing.
_TROUBLED = (DeliveryStatus.RETRYING, DeliveryStatus.SENDING, DeliveryStatus.FAILED)


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message as the page of its order shows it. The texts are HTML."""

    kind: str
    badge: SafeString
    said: SafeString
    #: Further sentences about the message.
    details: Sequence[SafeString | str]
    #: Class and place of the last error.
    error: str
    #: True if the message failed, and no later one makes up for it.
    is_untold: bool
    acts: Sequence[OrderButton]


@dataclass(frozen=True, slots=True)
class LinkRow:
    """A link as the page of its order shows it. The texts are HTML."""

    made: SafeString | str
    use: SafeString | str
    state: SafeString | str
    needs_look: bool
    url: str


class Section:
    """The section of one order, for one person. Takes the same few queries for any order."""

    def __init__(self, pages: OrderPages, request: HttpRequest, order: Order) -> None:
        self._pages, self._request, self._order = pages, request, order
        may = request.user.has_perm
        self._sees_messages = may("giftcards_delivery.view_delivery")
        self._sees_links = may("giftcards_delivery.view_cardlink")
        self._may_act = MAY_RESEND(pages, request)

    @property
    def is_allowed(self) -> bool:
        return self._sees_messages or self._sees_links or self._may_act

    def context(self) -> dict[str, Any]:
        """The context of the template; empty if there is nothing to show."""
        order, now = self._order, timezone.now()
        about = Delivery.objects.filter(order=order)
        messages, has_more_messages = newest(about, _MOST)
        links, has_more_links = newest(with_use(CardLink.objects.filter(order=order)), _MOST)
        if conf.is_off and not (messages or links):
            return {}
        acts = buttons(self._pages, self._request, order, ABOUT_ORDER)
        silence = self._why_silent({message.kind for message in messages})
        if not (messages or links or acts or silence):
            return {}
        untold = set(about.untold().values_list("pk", flat=True))
        name = urlencode({"q": order.reference})
        return {
            "original": order,
            "silence": silence,
            # An order without messages needs no query.
            "codes_elsewhere": _codes_elsewhere(order) if messages else [],
            "sees_messages": self._sees_messages,
            "messages": [self._message_row(each, untold, links) for each in messages],
            "all_messages": f"{self._url('delivery_changelist')}?{name}"
            if has_more_messages
            else "",
            "sees_links": self._sees_links,
            "links": [self._link_row(link, now) for link in links],
            "all_links": f"{self._url('cardlink_changelist')}?{name}" if has_more_links else "",
            "buttons": acts,
        }

    def _url(self, page: str, *args: Any) -> str:
        return address(self._pages.admin_site, page, *args)

    def _why_silent(self, told: Collection[str]) -> str:
        """The reason why the customer is not told of the status; "" if they are, or need not be.

        ``told`` holds the kinds of the existing messages: they count as told.
        """
        order = self._order
        kind = KIND_OF_STATUS.get(order.status)
        if kind is None or kind in told or conf.mode[kind] == Mode.OFF:
            return ""
        if not any(channel.address_of(order) for channel in conf.make_channels()):
            return gettext(
                "The customer was not told, because the order has no address. Ask for one, and send"
                " a message there; or hand over a link."
            )
        if (order.settled_at or timezone.now()) < Installation.begin():
            return gettext(
                "The customer was not told: it happened before messages to customers were set up."
            )
        return gettext("The customer has yet to be told. This happens by itself in a moment.")

    def _message_row(
        self, message: Delivery, untold: Container[int], links: Sequence[CardLink]
    ) -> MessageRow:
        return MessageRow(
            message.get_kind_display(),
            status_badge(message),
            what_became(message),
            _details(message, links),
            bdi(message.error) if message.error and message.status in _TROUBLED else "",
            message.pk in untold,
            buttons(self._pages, self._request, message, ABOUT_MESSAGE),
        )

    def _link_row(self, link: CardLink, now: Any) -> LinkRow:
        state, needs_look = state_of(link, now)
        made = format_html("{} · {}", origin_of(link), moment(link.created_at))
        url = self._url("cardlink_change", link.pk)
        return LinkRow(made, use_in_words(Use.of([link])), state, needs_look, url)


def _details(message: Delivery, links: Sequence[CardLink]) -> list[SafeString | str]:
    """Sentences on who had the message sent again, unknown outcomes, and the use of its links."""
    details = [who_asked(message), doubts(message)]
    own = [link for link in links if link.delivery_id == message.pk]
    if own:
        details.append(use_in_words(Use.of(own)))
    return [detail for detail in details if detail]


def _section(pages: OrderPages, request: HttpRequest, order: Order) -> SafeString | str:
    """The HTML of the section on the page of ``order``; "" if there is nothing to show."""
    shown = Section(pages, request, order)
    context = shown.context() if shown.is_allowed else {}
    if not context:
        return ""
    return render_to_string("admin/giftcards_delivery/section.html", context, request)


# What a corrected address means for messages and links, before and afterwards.


def _consequences(_pages: OrderPages, request: HttpRequest, order: Order) -> Iterator[SafeString]:
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


def _codes_elsewhere(order: Order) -> list[SafeString]:
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


EXTENSION = Extension(
    actions=(*ABOUT_ORDER, *ABOUT_MESSAGE), section=_section, consequences=_consequences
)
register(EXTENSION)
