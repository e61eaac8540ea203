"""Descriptions of messages and links, as HTML for admin pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Q, QuerySet
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext

from giftcards.delivery.conf import languages
from giftcards.delivery.models import (
    CardLink,
    CardLinkQuerySet,
    Delivery,
    DeliveryStatus,
    LinkVisit,
)
from giftcards.delivery.tuning import tuning
from giftcards.text.display import bdi, count_text, duration_text, filled, moment

_What = LinkVisit.What
# Maps a message's status to the order status whose badge has the same colour.
_COLOURS = {
    DeliveryStatus.QUEUED: "pending",
    DeliveryStatus.SENDING: "handling",
    DeliveryStatus.RETRYING: "delayed",
    DeliveryStatus.SENT: "fulfilled",
    DeliveryStatus.FAILED: "unconfirmed",
    DeliveryStatus.CANCELLED: "pending",
}


def language_choices() -> list[tuple[str, str]]:
    # The name of a language that Django cannot translate stays as it is.
    return [(code, gettext(str(name))) for code, name in languages().items()]


def newest(rows: QuerySet[Any], limit: int) -> tuple[list[Any], bool]:
    """Return the newest rows up to a ``limit``, and whether there are more."""
    found = list(rows.order_by("-pk")[: limit + 1])
    return found[:limit], len(found) > limit


def with_use(links: CardLinkQuerySet) -> Any:
    """Annotate links with the number and the times of their uses.

    A single query reads these values, which :func:`use_in_words` needs.
    """
    opened, shown = Q(visits__what=_What.OPENED), Q(visits__what=_What.REVEALED)
    return links.annotate(
        times_opened=Count("visits", filter=opened),
        times_shown=Count("visits", filter=shown),
        opened_at=Max("visits__at", filter=opened),
        shown_at=Max("visits__at", filter=shown),
    )


def status_badge(message: Delivery) -> SafeString:
    """Return a badge with the status of a message."""
    badge = '<span class="giftcards-badge giftcards-{}">{}</span>'
    colour = _COLOURS[DeliveryStatus(message.status)]
    return format_html(badge, colour, message.get_status_display())


def address_of(message: Delivery) -> SafeString:
    """Return the address, or a note that the address has been erased."""
    return bdi(message.address or gettext("an erased address"))


def what_became(message: Delivery) -> SafeString:
    """Return a text about the result of the message.

    If the message has failed, the text also tells staff what to do next.
    """
    parts: dict[str, Any] = {"address": address_of(message)}
    match message.status:
        case DeliveryStatus.SENT:
            text = gettext("Sent to %(address)s %(age)s ago.")
            parts["age"] = _age(message.sent_at or message.created_at)
        case DeliveryStatus.QUEUED if message.is_put_off:
            text = gettext("The message will be sent to %(address)s on %(at)s.")
            parts["at"] = moment(message.not_before or timezone.now())
        case DeliveryStatus.QUEUED:
            text = gettext("The message is waiting to be sent to %(address)s.")
        case DeliveryStatus.SENDING:
            text = gettext("The message is being sent to %(address)s.")
        case DeliveryStatus.RETRYING:
            text = gettext(
                "The message could not be sent to %(address)s yet. The first attempt was %(age)s"
                " ago. The next attempt is on %(at)s."
            )
            parts["age"] = _age(message.created_at)
            parts["at"] = moment(message.next_attempt_at or timezone.now())
        case DeliveryStatus.FAILED:
            text = gettext(
                "The message was not sent to %(address)s, and the app will not try again. Ask the"
                " customer for a working address, and send the message again."
            )
        case _:
            text = gettext(
                "The message was not sent to %(address)s because it is no longer needed."
            )
    return filled(text, **parts)


def _age(at: datetime) -> str:
    return duration_text(timezone.now() - at)


def doubts(message: Delivery) -> str:
    """Return a sentence about attempts with an unknown result, or "".

    The sentence contains the number of these attempts.
    """
    if not message.unanswered:
        return ""
    text = ngettext(
        "The result of %(count)s attempt is unknown.",
        "The results of %(count)s attempts are unknown.",
        message.unanswered,
    )
    return text % {"count": count_text(message.unanswered)}


def who_asked(message: Delivery) -> SafeString | str:
    """Return a sentence that says who sent the message again and why, or ""."""
    if not message.requested_by:
        return ""
    text = gettext("%(by)s sent the message again: %(reason)s")
    return filled(text, by=bdi(message.requested_by), reason=bdi(message.reason))


def use_in_words(links: Sequence[Any]) -> SafeString | str:
    """Return a sentence that says how often and when the link was used."""
    opened = sum(link.times_opened for link in links)
    shown = sum(link.times_shown for link in links)
    if not (opened or shown):
        return gettext("Not opened yet.")
    said: list[str] = []
    if opened:
        text = ngettext("Opened %(count)s time", "Opened %(count)s times", opened)
        said.append(text % {"count": count_text(opened)})
        times = [link.opened_at for link in links]
    if shown:
        text = ngettext("cards shown %(count)s time", "cards shown %(count)s times", shown)
        said.append(text % {"count": count_text(shown)})
        times = [link.shown_at for link in links]
    else:
        said.append(gettext("cards not shown yet"))
    text = gettext("%(what)s. Last time: %(at)s.")
    return filled(text, what=bdi(_together(said)), at=moment(max(filter(None, times))))


def _together(said: Sequence[str]) -> str:
    if len(said) == 1:
        return said[0]
    return gettext("%(first)s; %(second)s") % {"first": said[0], "second": said[1]}


def state_of(link: CardLink, now: datetime) -> tuple[SafeString | str, bool]:
    """Return the state of the link, and whether staff must replace the link."""
    if link.revoked_at:
        text = gettext("Withdrawn on %(at)s by %(by)s.")
        return filled(text, at=moment(link.revoked_at), by=bdi(link.revoked_by or "-")), False
    if link.is_locked:
        return gettext("Locked because a wrong PIN was entered too often. Send a new link."), True
    if link.expires_at and link.expires_at <= now:
        return filled(gettext("Expired on %(at)s."), at=moment(link.expires_at)), False
    if link.reveals >= tuning.link_reveals:
        return gettext("No longer valid: the cards were shown the maximum number of times."), False
    if link.expires_at:
        return filled(gettext("Valid until %(at)s."), at=moment(link.expires_at)), False
    return gettext("Valid for the customer when they are logged in to the shop."), False


def origin_of(link: CardLink) -> SafeString | str:
    """Return the origin of the link in words.

    If staff created the link, the text contains the name of the person who created it.
    """
    if link.created_by and link.origin == CardLink.Origin.STAFF:
        text = gettext("Created by %(by)s, to be handed over")
        return filled(text, by=bdi(link.created_by))
    return link.get_origin_display()
