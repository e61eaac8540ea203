"""The section of the order page with buttons, messages and links."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.actions import Pages, buttons
from giftcards.admin.frame.extensions import Extension, OnList, OnOrder
from giftcards.admin.frame.rows import SEES_HINTS
from giftcards.admin.frame.sections import Fact, Section
from giftcards.delivery.admin.dispute import PROOF
from giftcards.delivery.admin.handing_over import MAY_RESEND, NEW_LINK, WITHDRAW
from giftcards.delivery.admin.labels import (
    address_of,
    doubts,
    newest,
    origin_of,
    state_of,
    status_badge,
    use_in_words,
    what_became,
    who_asked,
    with_use,
)
from giftcards.delivery.admin.resending import CANCEL, SEND_AGAIN, SEND_LINK, SEND_NOW, TRY_NOW
from giftcards.delivery.channels import make_channels
from giftcards.delivery.conf import TO_RECIPIENT, Kind, Mode, conf, kinds_now
from giftcards.delivery.models import (
    CardLink,
    Delivery,
    DeliveryStatus,
    Installation,
)
from giftcards.delivery.queueing import address_of as find_address
from giftcards.delivery.queueing import addresses_of, sent_to
from giftcards.delivery.staff import unreached
from giftcards.models import Order
from giftcards.rules.roles import whom_to_ask
from giftcards.text.display import bdi, count_text, filled, moment
from giftcards.watch.conditions import Standing

ABOUT_ORDER = (SEND_AGAIN, SEND_LINK, NEW_LINK, WITHDRAW, PROOF)
ABOUT_MESSAGE = (TRY_NOW, SEND_NOW, CANCEL)

# The maximum number of messages, and of links, on the page of an order.
_MOST = 20
# The statuses of messages whose last error is shown.
_TROUBLED = (DeliveryStatus.RETRYING, DeliveryStatus.SENDING, DeliveryStatus.FAILED)


def _on_order(pages: Pages, request: HttpRequest, order: Order) -> OnOrder:
    lost = _not_received(request, [order])
    return OnOrder(section=_section(pages, request, order), not_received=lost.get(order.pk, ""))


def _on_list(
    _pages: Pages, request: HttpRequest, _standing: Standing, orders: Sequence[Order]
) -> OnList:
    return OnList(not_received=_not_received(request, orders))


def _section(pages: Pages, request: HttpRequest, order: Order) -> SafeString | str:
    sees_messages = request.user.has_perm("giftcards_delivery.view_delivery")
    sees_links = request.user.has_perm("giftcards_delivery.view_cardlink")
    if not (sees_messages or sees_links or MAY_RESEND(pages, request)):
        return ""
    context = _context(pages, request, order)
    if not context:
        return ""
    context |= {"sees_messages": sees_messages, "sees_links": sees_links}
    context["shows_hints"] = request.user.has_perm(SEES_HINTS)
    return render_to_string("admin/giftcards_delivery/section.html", context, request)


def _context(pages: Pages, request: HttpRequest, order: Order) -> dict[str, Any]:
    """Return the context for the template, or {} to hide the section."""
    about = Delivery.objects.filter(order=order)
    messages, has_more_messages = newest(about, _MOST)
    links, has_more_links = newest(with_use(CardLink.objects.filter(order=order)), _MOST)
    if conf.is_off and not (messages or links):
        return {}
    acts = buttons(pages, request, order, ABOUT_ORDER)
    # A message also counts if it was not sent successfully, because the section lists it with its
    # status.
    silence = _why_silent(order, {message.kind for message in messages})
    if not (messages or links or acts or silence):
        return {}
    untold = set(about.untold().values_list("pk", flat=True))
    return {
        "original": order,
        "silence": silence,
        # If there are no messages about the order, codes cannot have been sent to a former address.
        "codes_elsewhere": _codes_elsewhere(order) if messages else [],
        "messages": [
            {
                **_message_row(message, links),
                "is_untold": message.pk in untold,
                "acts": buttons(pages, request, message, ABOUT_MESSAGE),
            }
            for message in messages
        ],
        "has_more_messages": has_more_messages,
        "links": list(map(_link_row, links)),
        "has_more_links": has_more_links,
        "buttons": acts,
    }


def _why_silent(order: Order, told: Collection[str]) -> str:
    """Return the reason why the customer has not been notified, or ""."""
    untold = [kind for kind in kinds_now(order) if kind not in told and conf.mode[kind] != Mode.OFF]
    if not untold:
        return ""
    if not any(_is_reached(order, kind) for kind in untold):
        return gettext(
            "The customer was not notified because the order has no address. Ask for an address and"
            " send a message, or hand over a link."
        )
    if (order.finalized_at or timezone.now()) < Installation.begin():
        return gettext(
            "The customer was not notified because messages to customers were not set up at that"
            " time."
        )
    return gettext(
        "The customer has not been notified yet. The app will notify the customer automatically in"
        " a moment."
    )


def _is_reached(order: Order, kind: Kind) -> bool:
    return any(
        find_address(channel, order, for_recipient=kind in TO_RECIPIENT)
        for channel in make_channels()
    )


def _message_row(message: Delivery, links: Sequence[CardLink]) -> dict[str, Any]:
    # The details say who asked for the message, and count the attempts with unknown outcome. They
    # also say how often the message's links were used.
    details = [who_asked(message), doubts(message)]
    own = [link for link in links if link.delivery_id == message.pk]
    if own:
        details.append(use_in_words(own))
    return {
        "kind": message.get_kind_display(),
        "badge": status_badge(message),
        "said": what_became(message),
        "details": [detail for detail in details if detail],
        "error": message.error if message.status in _TROUBLED else "",
    }


def _link_row(link: CardLink) -> dict[str, Any]:
    state, needs_look = state_of(link, timezone.now())
    return {
        "key": link.pk,
        "made": format_html("{} · {}", origin_of(link), moment(link.created_at)),
        "use": use_in_words([link]),
        "state": state,
        "needs_look": needs_look,
    }


def _consequences(_pages: Pages, request: HttpRequest, order: Order) -> Iterator[SafeString]:
    """Yield sentences about what a correction does to messages.

    The admin page for corrections shows these sentences to staff before they correct an address.
    """
    if not request.user.has_perm("giftcards_delivery.view_delivery"):
        return
    if not order.is_gift:
        yield from _if_moved(order, for_recipient=False)
        return
    for for_recipient, text in (
        (False, gettext("To the customer: %(what)s")),
        (True, gettext("To the recipient: %(what)s")),
    ):
        for what in _if_moved(order, for_recipient=for_recipient):
            yield filled(text, what=what)


def _if_moved(order: Order, *, for_recipient: bool) -> Iterator[SafeString]:
    addresses = addresses_of(order, for_recipient=for_recipient)
    old = sent_to(order, addresses, for_recipient=for_recipient)
    unsent = old.unsent
    again = len({(each.kind, each.channel) for each in (*unsent, *old.unused)})
    if again:
        text = ngettext(
            "%(count)s message will be sent to the new address.",
            "%(count)s messages will be sent to the new address.",
            again,
        )
        yield filled(text, count=count_text(again))
    if any(message.status == DeliveryStatus.SENDING for message in unsent):
        yield filled(
            gettext(
                "A message is being sent at this moment and may still arrive at the old address."
            )
        )
    if links := old.links.filter(revoked_at=None).count():
        text = ngettext(
            "%(count)s link that was sent to the old address will be withdrawn.",
            "%(count)s links that were sent to the old address will be withdrawn.",
            links,
        )
        yield filled(text, count=count_text(links))
    for message in old.with_codes:
        yield _cannot_be_taken_back(message)


def _codes_elsewhere(order: Order) -> list[SafeString]:
    """Return sentences about codes that were sent to former addresses.

    A former address belonged to the order before a correction.
    """
    found: list[SafeString] = []
    for for_recipient in (False, True):
        now = addresses_of(order, for_recipient=for_recipient)
        former = {
            address
            for change in order.customer_changes.all()
            for address in addresses_of(change.before(order), for_recipient=for_recipient)
        }
        old = sent_to(order, former - now, for_recipient=for_recipient)
        found += map(_cannot_be_taken_back, old.with_codes)
    return found


def _cannot_be_taken_back(message: Delivery) -> SafeString:
    text = gettext("The codes were sent to %(address)s on %(at)s. This cannot be undone.")
    at = moment(message.sent_at or message.created_at)
    return filled(text, address=address_of(message), at=at)


def _not_received(request: HttpRequest, orders: Sequence[Order]) -> dict[int, SafeString]:
    """Return advice on orders whose cards were not received, by primary key."""
    keys = [order.pk for order in orders if order.fulfilled_quantity]
    messages = Delivery.objects.filter(order__in=keys).unreceived().order_by()
    lost = set(messages.values_list("order_id", flat=True)) if keys else set()
    whom = whom_to_ask(request.user.has_perm, ["giftcards.correct_customer"]) if lost else ""
    return {
        order.pk: format_html("{} {}", _what_to_do(order), whom)
        for order in orders
        if order.pk in lost
    }


def _what_to_do(order: Order) -> SafeString:
    if order.is_gift:
        text = ngettext(
            "The recipient has not received the card because no message could be delivered. Ask for"
            " a working address, and enter it in the order. The card will then be sent"
            " automatically.",
            "The recipient has not received the cards because no message could be delivered. Ask"
            " for a working address, and enter it in the order. The cards will then be sent"
            " automatically.",
            order.fulfilled_quantity,
        )
    else:
        text = ngettext(
            "The customer has not received the card because no message could be delivered. Ask for"
            " a working address, and enter it in the order. The card will then be sent"
            " automatically.",
            "The customer has not received the cards because no message could be delivered. Ask for"
            " a working address, and enter it in the order. The cards will then be sent"
            " automatically.",
            order.fulfilled_quantity,
        )
    return filled(text)


def _provider_sections(request: HttpRequest) -> list[Section]:
    """Return a section about the staff who should receive digests but do not."""
    found = unreached() if request.user.has_perm("giftcards_delivery.view_staffdigest") else {}
    facts = [Fact(bdi(address), reason, is_wrong=True) for address, reason in found.items()]
    return [Section("unreached", _("Staff who do not receive digests"), facts)] if facts else []


EXTENSION = Extension(
    help_topics=("messages",),
    actions=(*ABOUT_ORDER, *ABOUT_MESSAGE),
    on_order=_on_order,
    on_list=_on_list,
    consequences=_consequences,
    provider_sections=_provider_sections,
)
