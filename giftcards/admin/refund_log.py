"""The read-only list of the refunds to customers: when, how much, how and by whom."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from giftcards.admin.filters import DateFilter
from giftcards.admin.order_rows import OrderRows
from giftcards.display import bdi, exact_moment, money, refund_badge
from giftcards.models import CustomerRefund, Order

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

    def order_of(self, row: CustomerRefund) -> Order:
        return row.order

    def search_rows(self, request: HttpRequest, rows: QuerySet[Any], name: str) -> QuerySet[Any]:
        if wanted := self.visible_order(request, name):
            return rows.filter(order=wanted)
        refunds = CustomerRefund.objects.search(name, limit=_MOST_FOUND)
        orders = self.visible_orders(request, [refund.order for refund in refunds])
        return rows.filter(pk__in=[refund.pk for refund in refunds if refund.order_id in orders])

    @admin.display(description=_("recorded"))
    def when(self, refund: CustomerRefund) -> str:
        return exact_moment(refund.created_at)

    @admin.display(description=_("amount"))
    def how_much(self, refund: CustomerRefund) -> str:
        return money(refund.amount)

    @admin.display(description=_("state"))
    def its_state(self, refund: CustomerRefund) -> SafeString:
        return refund_badge(refund)

    # Typed texts are about the order, so only people who may see the order see them.

    @admin.display(description=_("method"), empty_value="")
    def its_method(self, refund: CustomerRefund) -> str:
        return self._told(refund, refund.method, empty="")

    @admin.display(description=_("reference"))
    def its_reference(self, refund: CustomerRefund) -> str:
        return self._told(refund, refund.reference)

    @admin.display(description=_("comment"))
    def its_comment(self, refund: CustomerRefund) -> str:
        return self._told(refund, refund.comment)

    def _told(self, refund: CustomerRefund, text: str, *, empty: str = "-") -> str:
        return bdi(text) if text and self.names_order(refund) else empty

    @admin.display(description=_("by"))
    def by(self, refund: CustomerRefund) -> SafeString:
        return bdi(refund.created_by or refund.get_source_display())
