"""The base of read-only lists about orders; a row names its order if the person may see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from giftcards.admin.listing import LimitedPaginator
from giftcards.admin.lookups import OnlyFilters
from giftcards.admin.order_links import MentionsOrders
from giftcards.admin.readonly import ReadOnly

if TYPE_CHECKING:
    RowModelAdmin = admin.ModelAdmin[Any]
else:
    RowModelAdmin = admin.ModelAdmin


class OrderRows(ReadOnly, OnlyFilters, MentionsOrders, RowModelAdmin):
    """The base class of lists whose rows are about orders, 50 a page."""

    list_display_links: tuple[Any, ...] | None = None
    sortable_by = ()
    paginator = LimitedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50

    class Media:
        css = {"all": ("giftcards/admin.css",)}

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        name = search_term.strip()
        return (self.search_rows(request, queryset, name) if name else queryset), False

    def search_rows(self, request: HttpRequest, rows: QuerySet[Any], name: str) -> QuerySet[Any]:
        """The ``rows`` that a search for ``name`` finds.

        A row about an order is found only if the person may see that order.
        """
        raise NotImplementedError

    # Not "order": Django would show the column of that name, where the model has one.
    @admin.display(description=_("order"))
    def its_order(self, row: Any) -> str:
        return self.order_link(row)
