"""The list of the codes that were revealed: by whom, when, from where and why. Only to look at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.display import bdi, exact_moment
from giftcards.admin.listing import OrderPaginator
from giftcards.admin.readonly import ReadOnly
from giftcards.models import CardReveal, Order

if TYPE_CHECKING:
    RevealModelAdmin = admin.ModelAdmin[CardReveal]
else:
    RevealModelAdmin = admin.ModelAdmin


@admin.register(CardReveal)
class CardRevealAdmin(ReadOnly, RevealModelAdmin):
    """The revealed codes, the latest first."""

    list_display = ("when", "by", "order", "which", "came_from", "why")
    list_display_links = None
    list_select_related = ("user", "card__order")
    fields = readonly_fields = list_display
    # Shows the search box; get_search_results does the search.
    search_fields = ("card__order__reference",)
    search_help_text = _("The reference of an order.")
    # As they were written: by time, there is no index of all people's.
    ordering = ("-pk",)
    sortable_by = ()
    paginator = OrderPaginator
    show_full_result_count = False
    list_per_page = 50

    class Media:
        css = {"all": ("giftcards/admin.css",)}

    def get_queryset(self, request: HttpRequest) -> QuerySet[CardReveal]:
        return super().get_queryset(request).defer("card__sealed")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        name = search_term.strip()
        if not name:
            return queryset, False
        # Only an order that the person may see is found.
        wanted = Order.objects.filter(reference=name).first()
        is_found = wanted is not None and self._seen(request, [wanted])
        return queryset.filter(card__order=wanted) if is_found else queryset.none(), False

    # Orders are named as far as the page of the orders, which may be the shop's own, shows them.

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        found = super().get_changelist_instance(request)
        self._mark(request, found.result_list)
        return found

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> CardReveal | None:
        reveal = super().get_object(request, object_id, from_field)
        if reveal is not None:
            self._mark(request, [reveal])
        return reveal

    def _mark(self, request: HttpRequest, reveals: Iterable[Any]) -> None:
        """Note of each row whether it may name its order, and the reason, which is about that."""
        seen = self._seen(request, [reveal.card.order for reveal in reveals])
        for reveal in reveals:
            reveal.names_order = reveal.card.order_id in seen

    def _seen(self, request: HttpRequest, orders: list[Order]) -> set[int]:
        """The keys of those of the ``orders`` that the person may see."""
        site = self.admin_site
        if not site.is_registered(Order):
            return set()
        page: Any = site.get_model_admin(Order)
        keys = {order.pk for order in orders if page.has_view_permission(request, order)}
        return set(page.get_queryset(request).filter(pk__in=keys).values_list("pk", flat=True))

    @admin.display(description=_("when"))
    def when(self, reveal: CardReveal) -> str:
        return exact_moment(reveal.at)

    @admin.display(description=_("by"))
    def by(self, reveal: CardReveal) -> SafeString:
        return bdi(reveal.user.get_username())

    @admin.display(description=_("order"))
    def order(self, reveal: CardReveal) -> str:
        if not _names_order(reveal):
            return gettext("an order")
        order = reveal.card.order
        name, site = "admin:giftcards_order_change", self.admin_site.name
        address = reverse(name, args=[order.pk], current_app=site)
        return format_html('<a href="{}">{}</a>', address, bdi(order.reference))

    @admin.display(description=_("card"))
    def which(self, reveal: CardReveal) -> str:
        return str(reveal.card)

    @admin.display(description=_("address"), empty_value="-")
    def came_from(self, reveal: CardReveal) -> SafeString | None:
        return bdi(reveal.address) if reveal.address else None

    @admin.display(description=_("reason"), empty_value="-")
    def why(self, reveal: CardReveal) -> SafeString | None:
        return bdi(reveal.reason) if reveal.reason and _names_order(reveal) else None


def _names_order(reveal: CardReveal) -> bool:
    """Whether the person who looks at the row may see its order."""
    return getattr(reveal, "names_order", False)
