"""The list of orders: its search, its pages and its actions. Fast at a million orders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import get_template
from django.utils.functional import cached_property
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from giftcards.admin import extensions
from giftcards.admin.columns import COSTS, OrderColumns
from giftcards.admin.filters import (
    AttentionFilter,
    ChoicesFilter,
    ContradictoryFilter,
    DateFilter,
    GroupFilter,
    OrderChangeList,
    ProductFilter,
    RefundFilter,
    SettledFilter,
    shown_filters,
)
from giftcards.admin.forms import FindCardForm
from giftcards.admin.lookups import OnlyFilters
from giftcards.conditions import Standing, above_list
from giftcards.models import Order, OrderQuerySet
from giftcards.statuses import FINAL, FOLLOWED, Status

if TYPE_CHECKING:
    RowPaginator = Paginator[Any]
else:
    RowPaginator = Paginator

# The most orders that a search shows.
_MOST_FOUND = 1_000
# The reasons why "Check now" leaves orders alone, by status.
_LEFT_ALONE = (
    (
        FINAL,
        ngettext_lazy(
            "%(count)d order is left alone: it is final.",
            "%(count)d orders are left alone: they are final.",
            "count",
        ),
    ),
    (
        (Status.PENDING, Status.PLACING),
        ngettext_lazy(
            "%(count)d order is left alone: it has not been sent yet.",
            "%(count)d orders are left alone: they have not been sent yet.",
            "count",
        ),
    ),
    (
        (Status.UNCONFIRMED,),
        ngettext_lazy(
            "%(count)d order is left alone: it is unconfirmed, and is looked for by itself.",
            "%(count)d orders are left alone: they are unconfirmed, and are looked for by"
            " themselves.",
            "count",
        ),
    ),
    (
        FOLLOWED,
        ngettext_lazy(
            "%(count)d order is left alone: it was just checked.",
            "%(count)d orders are left alone: they were just checked.",
            "count",
        ),
    ),
)


class LimitedPaginator(RowPaginator):
    """A paginator of the first ``limit`` rows; it counts no further."""

    limit = 10_000

    @cached_property
    def _counted(self) -> int:
        rows = cast("QuerySet[Any]", self.object_list)
        return rows.order_by()[: self.limit + 1].count()

    @cached_property
    def count(self) -> int:
        return min(self._counted, self.limit)

    @property
    def has_more(self) -> bool:
        """True if there are rows beyond the last page."""
        return self._counted > self.limit


class ListPage(OnlyFilters, OrderColumns):
    """The list of orders."""

    list_filter = (
        AttentionFilter,
        ("status", ChoicesFilter),
        RefundFilter,
        ProductFilter,
        GroupFilter,
        ("environment", ChoicesFilter),
        ("settled_at", SettledFilter),
        ("created_at", DateFilter),
        ContradictoryFilter,
    )
    # Shows the search box; get_search_results does the search. One field only: a theme writes the
    # names of all fields into a script without escaping, and an apostrophe would break it.
    search_fields = ("reference",)
    search_help_text = _(
        "A reference, a group, the provider's order id, a customer's e-mail, phone number or name,"
        " or the beginning of one."
    )
    # Nothing counts all orders, or sorts them without an index: both are slow at a million orders.
    paginator = LimitedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    actions = ("check_now",)

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        columns = list(super().get_list_display(request))
        if self.may_see_costs(request):
            return columns
        return [column for column in columns if column not in COSTS]

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        filters = list(super().get_list_filter(request))
        if self.may_see_costs(request):
            filters += [each for added in extensions.each("filters") for each in added]
        return filters

    def get_changelist(self, request: HttpRequest, **named: Any) -> type[ChangeList]:
        # A theme may have a change list of its own.
        base = super().get_changelist(request, **named)
        return type("ChangeList", (OrderChangeList, base), {})

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        name = search_term.strip()
        if not name:
            return queryset, False
        found = Order.objects.search(name, limit=_MOST_FOUND + 1)
        if len(found) > _MOST_FOUND:
            text = gettext("Too many orders begin like this to show them all. Type more of it.")
            self.message_user(request, text, messages.WARNING)
        return queryset.filter(pk__in=found[:_MOST_FOUND]), False

    @admin.action(description=_("Check selected orders now"), permissions=["check"])
    def check_now(self, request: HttpRequest, queryset: OrderQuerySet) -> None:
        selected = queryset.order_by()
        due = self.ask_for_checks(request, selected)
        if due:
            text = ngettext(
                "%(count)d order will be checked in a moment.",
                "%(count)d orders will be checked in a moment.",
                due,
            )
            self.message_user(request, text % {"count": due})
        for text in _reasons_left_alone(selected, due):
            self.message_user(request, text, messages.WARNING)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        standing = Standing()
        context = {
            "pause": standing.state.why_paused(),
            "warnings": list(above_list(request.user.has_perm, standing)),
            "notices": extensions.rendered("above_list", request, self.admin_site, standing),
            "has_report_permission": self.has_report_permission(request),
            "find_form": FindCardForm(auto_id="giftcards-find-%s")
            if self.has_find_permission(request)
            else None,
        }
        response = super().changelist_view(request, context | (extra_context or {}))
        shown = getattr(response, "context_data", None)
        if shown and "cl" in shown and has_stock_lists():
            shown["shown_filters"] = list(shown_filters(shown["cl"]))
        return response


def has_stock_lists() -> bool:
    """True if change lists have Django's own template; a theme's has its own place for filters."""
    page: Any = get_template("admin/change_list.html")
    return Path(page.origin.name).is_relative_to(Path(admin.__file__).parent)


def _reasons_left_alone(selected: OrderQuerySet, due: int) -> list[str]:
    """The reasons why some ``selected`` orders are left alone; ``due`` of them are checked."""
    counts = dict(selected.values_list("status").annotate(Count("pk")))
    reasons = []
    for statuses, text in _LEFT_ALONE:
        count = sum(counts.get(status, 0) for status in statuses)
        if statuses is FOLLOWED:
            count -= due
        if count > 0:
            reasons.append(str(text % {"count": count}))
    return reasons
