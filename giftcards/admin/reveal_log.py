"""The read-only list of the revealed codes: by whom, when, from where and why."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from giftcards.admin.order_rows import OrderRows
from giftcards.display import bdi, exact_moment
from giftcards.models import CardReveal, Order


@admin.register(CardReveal)
class CardRevealAdmin(OrderRows):
    """The revealed codes, the latest first."""

    list_display = ("when", "by", "its_order", "which", "came_from", "why")
    list_select_related = ("user", "card__order")
    fields = readonly_fields = list_display
    # Shows the search box; search_rows() does the search.
    search_fields = ("card__order__reference",)
    search_help_text = _("The reference of an order.")
    # By primary key, because no index has the reveals of all people by time.
    ordering = ("-pk",)

    def order_of(self, row: CardReveal) -> Order:
        return row.card.order

    def get_queryset(self, request: HttpRequest) -> QuerySet[CardReveal]:
        return super().get_queryset(request).defer("card__sealed")

    def search_rows(self, request: HttpRequest, rows: QuerySet[Any], name: str) -> QuerySet[Any]:
        wanted = self.visible_order(request, name)
        return rows.filter(card__order=wanted) if wanted else rows.none()

    @admin.display(description=_("when"))
    def when(self, reveal: CardReveal) -> str:
        return exact_moment(reveal.at)

    @admin.display(description=_("by"))
    def by(self, reveal: CardReveal) -> SafeString:
        return bdi(reveal.user.get_username())

    @admin.display(description=_("card"))
    def which(self, reveal: CardReveal) -> str:
        return str(reveal.card)

    @admin.display(description=_("address"))
    def came_from(self, reveal: CardReveal) -> str:
        return bdi(reveal.address) if reveal.address else "-"

    @admin.display(description=_("reason"))
    def why(self, reveal: CardReveal) -> str:
        return bdi(reveal.reason) if reveal.reason and self.names_order(reveal) else "-"
