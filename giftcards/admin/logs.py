"""The read-only lists of the refunds to customers, and of the revealed codes."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from giftcards.admin.filters import DateFilter
from giftcards.admin.rows import OrderRows, column, orders_named
from giftcards.display import bdi, refund_badge
from giftcards.models import CardReveal, CustomerRefund

# The most refunds that a search shows.
_MOST_FOUND = 1_000


@admin.register(CustomerRefund)
class CustomerRefundAdmin(OrderRows):
    """The refunds to customers, the latest first. They are recorded on the pages of the orders."""

    list_display = (
        "when",
        "its_order",
        "how_much",
        "its_state",
        "its_method",
        "its_reference",
        "by",
    )
    list_select_related = ("order",)
    list_filter = (("state", admin.ChoicesFieldListFilter), ("created_at", DateFilter))
    fields = readonly_fields = (*list_display, "its_comment")
    # Shows the search box; search_rows() does the search.
    search_fields = ("reference",)
    search_help_text = _("The reference of an order, or of a refund, or the beginning of one.")

    when = column(CustomerRefund, "created_at")
    how_much = column(CustomerRefund, "amount")
    its_state = column(CustomerRefund, "state", lambda refund, _state: refund_badge(refund))
    its_reference = column(CustomerRefund, "reference")
    its_comment = column(CustomerRefund, "comment")

    def search_rows(self, rows: QuerySet[Any], name: str) -> QuerySet[Any]:
        orders = orders_named(name)
        refunds = [] if orders.is_whole else CustomerRefund.objects.search(name, limit=_MOST_FOUND)
        if refunds:
            return rows.filter(pk__in=[refund.pk for refund in refunds])
        return self.rows_of(rows, orders)

    @admin.display(description=_("method"), empty_value="")
    def its_method(self, refund: CustomerRefund) -> str:
        return bdi(refund.method) if refund.method else ""

    @admin.display(description=_("by"))
    def by(self, refund: CustomerRefund) -> SafeString:
        return bdi(refund.created_by or refund.get_source_display())


@admin.register(CardReveal)
class CardRevealAdmin(OrderRows):
    order_lookup = "card__order"
    list_display = ("when", "by", "its_order", "which", "came_from", "why")
    list_select_related = ("user", "card__order")
    fields = readonly_fields = list_display
    # Shows the search box; search_rows() does the search.
    search_fields = ("card__order__reference",)
    search_help_text = _("The reference of an order.")
    # By primary key, because no index has the reveals of all people by time.
    ordering = ("-pk",)

    when = column(CardReveal, "at")
    came_from = column(CardReveal, "address")
    why = column(CardReveal, "reason")

    def get_queryset(self, request: HttpRequest) -> QuerySet[CardReveal]:
        return super().get_queryset(request).defer("card__sealed")

    @admin.display(description=_("by"))
    def by(self, reveal: CardReveal) -> SafeString:
        return bdi(reveal.user.get_username())

    @admin.display(description=_("card"))
    def which(self, reveal: CardReveal) -> str:
        return str(reveal.card)
