"""The proof of delivery page, which shows an order without its codes.

The page shows all facts about the order except the codes. Staff use the page if a customer says
that a code has already been used.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django import forms
from django.db.models import Min
from django.http import HttpRequest, HttpResponse
from django.utils import timezone, translation
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import get_language_bidi, gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.actions import OrderAction, Pages, may
from giftcards.admin.orders.describing import told_to_customers
from giftcards.admin.orders.page import cards_shown
from giftcards.admin.orders.timeline import Timeline
from giftcards.delivery.admin.labels import (
    address_of,
    doubts,
    newest,
    origin_of,
    state_of,
    who_asked,
)
from giftcards.delivery.admin.labels import status_badge as message_badge
from giftcards.delivery.models import CardLink, Delivery, LinkVisit
from giftcards.models import CardReveal, Order
from giftcards.rules.money import customer_breakdown
from giftcards.text.display import bdi, filled, money, named, status_badge, zoned_moment

# The maximum number of messages, of links and of visits on the page.
_MOST = 200
# If there are more codes than this, the provider is not told their last characters.
_FEW = 10
#: The languages of the texts for the provider.
_LANGUAGES = ("fr", "ar", "en")


def _view(pages: Pages, request: HttpRequest, key: str) -> HttpResponse:
    now = timezone.now()
    has_perm = request.user.has_perm
    order = pages.order_for(request, key, allowed=has_perm("giftcards_delivery.view_delivery"))
    # People who may see the last characters of codes on an order's page also see them here.
    cards = cards_shown(order, with_tails=pages.may_see_tails(request))
    sees_reveals = has_perm("giftcards.view_cardreveal")
    past = Timeline(
        order,
        shows_costs=pages.may_see_costs(request),
        shows_reasons=sees_reveals,
        repeats=None,
        reordered_as=None,
    )
    messages, has_more_messages = newest(Delivery.objects.filter(order=order), _MOST)
    context: dict[str, Any] = {
        "title": gettext("Proof of delivery"),
        "media": pages.media + forms.Media(css={"all": ("giftcards_delivery/admin.css",)}),
        "original": order,
        "made_at": zoned_moment(now),
        "zone": timezone.get_current_timezone_name(),
        "made_by": request.user.get_username(),
        "bought": _bought(order),
        "at_provider": _at_provider(order),
        **cards,
        "messages_sent": [_message_row(message) for message in messages],
        "has_more": has_more_messages,
        "timeline": past.events,
        "quotes": _quotes(order, _tails(order, cards["cards"])),
    }
    if has_perm("giftcards_delivery.view_cardlink"):
        links, has_more = newest(CardLink.objects.filter(order=order), _MOST)
        context |= {
            "sees_links": True,
            "links": [(link, origin_of(link), state_of(link, now)[0]) for link in links],
            "has_more_links": has_more,
        }
        if has_perm("giftcards_delivery.view_linkvisit"):
            visits, has_more = newest(LinkVisit.objects.filter(link__order=order), _MOST)
            context |= {"sees_visits": True, "visits": visits, "has_more_visits": has_more}
    if sees_reveals:
        reveals = CardReveal.objects.filter(card__order=order).select_related("card", "user")
        context |= {"sees_reveals": True, "reveals": reveals.defer("card__sealed").order_by("pk")}
    return pages.render_page(request, "admin/giftcards_delivery/dispute.html", **context)


def _known(facts: list[tuple[str, object]]) -> list[tuple[str, object]]:
    return [(label, value) for label, value in facts if value not in {None, ""}]


def _when(at: datetime | None) -> SafeString | str:
    return zoned_moment(at) if at else ""


def _bought(order: Order) -> list[tuple[str, object]]:
    sale = customer_breakdown(order)
    count = gettext("%(delivered)d of %(ordered)d") % {
        "delivered": order.fulfilled_quantity,
        "ordered": order.quantity,
    }
    return _known(
        [
            (gettext("reference"), order.reference),
            (gettext("status"), status_badge(order.status)),
            (gettext("product"), named(order.product_name, order.product_id)),
            (gettext("type"), named(order.type_name, order.type_id)),
            *told_to_customers(order),
            (gettext("delivered"), count),
            (gettext("paid by the customer"), money(sale.paid_amount) if sale else ""),
            (gettext("ordered"), _when(order.created_at)),
            (gettext("customer"), order.customer_name),
            (gettext("e-mail"), order.customer_email),
            (gettext("phone"), order.customer_phone),
            (gettext("recipient"), order.recipient_name),
            (gettext("recipient's e-mail"), order.recipient_email),
            (gettext("to be delivered on"), _when(order.deliver_at)),
        ]
    )


def _at_provider(order: Order) -> list[tuple[str, object]]:
    return _known(
        [
            (gettext("provider's order ID"), order.provider_order_id),
            (gettext("reference at the provider"), order.provider_reference),
            (gettext("environment"), order.get_environment_display()),
            (gettext("sent"), _when(order.sent_at)),
            (gettext("accepted"), _when(order.accepted_at)),
            (gettext("settled"), _when(order.finalized_at)),
        ]
    )


def _message_row(message: Delivery) -> dict[str, Any]:
    details = (who_asked(message), doubts(message))
    return {
        "message": message,
        "badge": message_badge(message),
        "address": address_of(message),
        "details": [detail for detail in details if detail],
    }


def _tails(order: Order, cards: list[Any]) -> list[str]:
    """Return the last characters of the disputed codes.

    Codes whose last characters are unknown are left out. If no card is disputed, the codes of all
    cards are included.
    """
    disputed = order.disputed_cards
    return [
        tail
        for card, _at, tail, _why in cards
        if tail and (not disputed or card.position in disputed)
    ]


def _quotes(order: Order, tails: list[str]) -> list[dict[str, Any]]:
    """Return a text that staff can send to the provider, in each language.

    The result is empty if the order has no id at the provider.
    """
    if not order.provider_order_id:
        return []
    shown = LinkVisit.objects.filter(link__order=order, what=LinkVisit.What.REVEALED)
    first_shown: datetime | None = shown.aggregate(at=Min("at"))["at"]
    quotes: list[dict[str, Any]] = []
    for language in _LANGUAGES:
        with translation.override(language):
            parts = _quoted(order, tails, first_shown)
            text = format_html_join(" ", "{}", ((part,) for part in parts))
            quotes.append({"language": language, "is_rtl": get_language_bidi(), "text": text})
    return quotes


def _quoted(order: Order, tails: list[str], first_shown: datetime | None) -> Iterator[SafeString]:
    yield filled(
        gettext(
            "Our customer reports that a code from your order %(order)s has already been used."
        ),
        order=bdi(order.provider_order_id),
    )
    yield filled(
        gettext("We placed the order on %(at)s."),
        at=zoned_moment(order.sent_at or order.created_at),
    )
    if order.finalized_at:
        yield filled(
            gettext("You delivered the order on %(at)s."), at=zoned_moment(order.finalized_at)
        )
    if tails and len(tails) <= _FEW:
        ends = format_html_join(", ", "{}", ((bdi(tail),) for tail in tails))
        yield filled(gettext("The codes end in %(ends)s."), ends=ends)
    if first_shown:
        text = gettext("The customer first saw the codes on %(at)s.")
        yield filled(text, at=zoned_moment(first_shown))
    yield filled(gettext("Please tell us when and where each of these codes was used."))


PROOF = OrderAction(
    name="delivery_dispute",
    help_topic="complaints",
    route="<key>/proof/",
    label=_("Proof of delivery"),
    permission=may("giftcards_delivery.view_delivery"),
    place="messages",
    is_offered=lambda order: order.fulfilled_quantity > 0,
    is_minor=True,
    view=_view,
)
