"""The links to cards and their visits. Read-only; the tokens of links are stored nowhere."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.delivery.admin.labels import origin_of, state_of, visit_rows
from giftcards.delivery.admin.pages import DeliveryRows, newest
from giftcards.delivery.models import CardLink, LinkVisit
from giftcards.display import bdi, exact_moment, labelled

# The most visits on the page of a link: programs may open it any number of times.
MOST_VISITS = 200


@admin.register(CardLink)
class CardLinkAdmin(DeliveryRows):
    """The links, the latest first."""

    list_display = ("when", "its_order", "made", "its_state", "times_shown")
    list_display_links = ("when",)
    list_select_related = ("order",)
    fields = readonly_fields = (
        "its_order",
        "made",
        "its_message",
        "why",
        "when",
        "expires",
        "its_state",
        "times_shown",
        "guesses",
    )
    # Shows the search box; search_rows() does the search.
    search_fields = ("order__reference",)
    search_help_text = _("The reference of an order.")

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **named: Any
    ) -> HttpResponse:
        link = context["original"]
        if request.user.has_perm("giftcards_delivery.view_linkvisit"):
            visits, has_more = newest(LinkVisit.objects.filter(link=link), MOST_VISITS)
            context |= {
                "visits": visit_rows(visits),
                "has_more_visits": has_more,
                "may_see_visits": True,
            }
        return super().render_change_form(request, context, *args, **named)

    @admin.display(description=_("created"))
    def when(self, link: CardLink) -> str:
        return exact_moment(link.created_at)

    @admin.display(description=_("origin"))
    def made(self, link: CardLink) -> SafeString | str:
        return origin_of(link)

    @admin.display(description=_("message"))
    def its_message(self, link: CardLink) -> str:
        return link.delivery.get_kind_display() if link.delivery else "-"

    @admin.display(description=_("reason"))
    def why(self, link: CardLink) -> str:
        return bdi(link.reason) if link.reason else "-"

    @admin.display(description=_("expires"))
    def expires(self, link: CardLink) -> str:
        return exact_moment(link.expires_at) if link.expires_at else "-"

    @admin.display(description=_("state"))
    def its_state(self, link: CardLink) -> SafeString | str:
        return state_of(link, timezone.now())[0]

    @admin.display(description=_("cards shown"))
    def times_shown(self, link: CardLink) -> SafeString:
        return labelled(gettext("cards shown"), str(link.reveals))

    @admin.display(description=_("wrong PINs"))
    def guesses(self, link: CardLink) -> int:
        return link.wrong_pins
