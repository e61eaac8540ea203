"""Read-only pages of the provider's catalogue as last read, with the ids of products and types.

Nothing can be edited, because the next reading would overwrite it.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from giftcards.admin.rows import ReadOnly, ReadOnlyRows, column
from giftcards.display import bdi, count_text, moment, money, named
from giftcards.models import Product, ProductType

_LONGEST_NAME = 200


class ProductTypes(ReadOnly, admin.TabularInline):  # type: ignore[type-arg]
    """The types of a product, without prices for people who may not see costs."""

    model = ProductType
    readonly_fields = ("title", "cost", "cards", "read")
    extra = 0

    title = column(ProductType, "type_id", lambda kind, key: named(kind.name, key))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Everybody who may see the product may see its types.
        return request.user.has_perm("giftcards.view_product")

    def get_fields(self, request: HttpRequest, obj: Product | None = None) -> Any:
        sees_costs = request.user.has_perm("giftcards.view_cost")
        return [name for name in self.readonly_fields if sees_costs or name != "cost"]

    @admin.display(description=_("price per card"))
    def cost(self, kind: ProductType) -> str:
        return money(kind.price)

    @admin.display(description=_("last read"), empty_value="-")
    def read(self, kind: ProductType) -> str | None:
        return moment(kind.read_at) if kind.read_at else None

    @admin.display(description=_("in stock"))
    def cards(self, kind: ProductType) -> str:
        return money(None) if kind.stock is None else count_text(kind.stock)


@admin.register(Product)
class ProductAdmin(ReadOnlyRows):
    list_display = ("title", "category", "region", "is_enabled", "read")
    list_filter = ("is_enabled", "category")
    search_fields = ("name", "product_id")
    readonly_fields = (
        "title",
        "identifier",
        "category",
        "region",
        "is_enabled",
        "listed",
        "read",
    )
    inlines = (ProductTypes,)
    actions = None

    listed = column(Product, "listed_at", lambda _product, at: moment(at))
    identifier = column(Product, "product_id")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Product], search_term: str
    ) -> tuple[QuerySet[Product], bool]:
        # No name is longer, and SQLite limits the number of words in a search.
        return super().get_search_results(request, queryset, search_term[:_LONGEST_NAME])

    @admin.display(description=_("name"), ordering="name")
    def title(self, product: Product) -> str:
        return bdi(product)

    @admin.display(description=_("types last read"), ordering="types_read_at", empty_value="-")
    def read(self, product: Product) -> str | None:
        return moment(product.types_read_at) if product.types_read_at else None
