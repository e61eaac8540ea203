"""Orders on pages about other rows: each is named only if the person may see it.

The registered admin of orders, which may be the shop's own, decides which orders those are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext

from giftcards.display import bdi
from giftcards.models import Order

if TYPE_CHECKING:
    AnyModelAdmin = admin.ModelAdmin[Any]
else:
    AnyModelAdmin = object


class MentionsOrders(AnyModelAdmin):
    """A mixin for the admin of a model whose rows are about orders."""

    def order_of(self, row: Any) -> Order | None:
        """The order that ``row`` is about."""
        raise NotImplementedError

    def names_order(self, row: Any) -> bool:
        """True if the person who looks at ``row`` may see its order."""
        return getattr(row, "names_order", False)

    def order_link(self, row: Any) -> str:
        """A link to the order of ``row``; "an order" if the person may not see it."""
        return self.named_order(self.order_of(row) if self.names_order(row) else None)

    def named_order(self, order: Order | None) -> str:
        """A link to ``order``; "an order" for ``None``: an order that the person may not see."""
        if order is None:
            return gettext("an order")
        name, site = "admin:giftcards_order_change", self.admin_site.name
        address = reverse(name, args=[order.pk], current_app=site)
        return format_html('<a href="{}">{}</a>', address, bdi(order.reference))

    def visible_orders(self, request: HttpRequest, orders: Iterable[Order]) -> set[int]:
        """The primary keys of the ``orders`` that the person may see."""
        site = self.admin_site
        if not site.is_registered(Order):
            return set()
        page: Any = site.get_model_admin(Order)
        keys = {order.pk for order in orders if page.has_view_permission(request, order)}
        if not keys:
            return set()
        return set(page.get_queryset(request).filter(pk__in=keys).values_list("pk", flat=True))

    def visible_order(self, request: HttpRequest, reference: str) -> Order | None:
        """The order with this reference; ``None`` if there is none that the person may see."""
        order = Order.objects.filter(reference=reference).first()
        return order if order is not None and self.visible_orders(request, [order]) else None

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        found = super().get_changelist_instance(request)
        self._mark(request, found.result_list)
        return found

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            self._mark(request, [row])
        return row

    def _mark(self, request: HttpRequest, rows: Iterable[Any]) -> None:
        """Set ``names_order`` of each row: True if the person may see its order."""
        orders = [(row, self.order_of(row)) for row in rows]
        seen = self.visible_orders(request, [order for _row, order in orders if order is not None])
        for row, order in orders:
            row.names_order = order is not None and order.pk in seen
