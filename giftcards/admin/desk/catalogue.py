"""Pages of the provider's catalogue, with the shop's prices and margins.

The pages are read-only, because the next reading of the catalogue would overwrite changes.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.desk.redemption import RedemptionPages, may_write
from giftcards.admin.frame.rows import ReadOnly, ReadOnlyRows, column
from giftcards.catalogue import (
    PriceMove,
    is_on_shelf,
    price_moves,
    read_soon,
    reading_wanted,
    since_yesterday,
    with_available,
)
from giftcards.catalogue.descriptions import of_products
from giftcards.models import OfferChange, Product, ProductType
from giftcards.models.catalogue import is_called
from giftcards.rules.prices import PriceSource
from giftcards.text.display import bdi, count_text, filled, linked, moment, money, named

_LONGEST_NAME = 200
# On the page of a row, Django shows None as "None", whatever the ``empty_value`` is.
_NOTHING = "-"


class ProductTypes(ReadOnly, admin.TabularInline):  # type: ignore[type-arg]
    """The types of a product; only people who may see costs see cost and margin."""

    model = ProductType
    readonly_fields = (
        "title",
        "cost_per_card",
        "price_in_shop",
        "margin",
        "cards",
        "left",
        "on_shelf",
        "read",
    )
    extra = 0

    title = column(ProductType, "type_id", lambda kind, key: named(kind.name, key))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Types have no permission of their own.
        return request.user.has_perm("giftcards.view_product")

    def get_fields(self, request: HttpRequest, obj: Product | None = None) -> Any:
        hidden = set() if _may_see_costs(request) else {"cost_per_card", "margin"}
        if obj is not None and not obj.types.exclude(price_source=PriceSource.OWN).exists():
            hidden |= {"price_in_shop", "margin"}
        return [name for name in self.readonly_fields if name not in hidden]

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProductType]:
        kinds = super().get_queryset(request).select_related("product__category")
        kinds = with_available(kinds, now=timezone.now())
        return kinds.annotate(is_on_shelf=is_on_shelf())  # type: ignore[no-redef]

    @admin.display(description=_("cost per card"))
    def cost_per_card(self, kind: ProductType) -> str:
        return money(kind.cost)

    @admin.display(description=_("price in the shop"))
    def price_in_shop(self, kind: ProductType) -> str:
        if kind.price is None:
            return _NOTHING if kind.price_source == PriceSource.OWN else gettext("off the shelf")
        return money(kind.price)

    @admin.display(description=_("margin"))
    def margin(self, kind: ProductType) -> str:
        price, cost = kind.price, kind.cost
        return _NOTHING if price is None or cost is None else money(price - cost)

    @admin.display(description=_("last read"))
    def read(self, kind: ProductType) -> str:
        return moment(kind.read_at) if kind.read_at else _NOTHING

    @admin.display(description=_("in stock"))
    def cards(self, kind: ProductType) -> str:
        return _cards(kind.stock)

    @admin.display(description=_("available"))
    def left(self, kind: ProductType) -> str:
        return _cards(kind.available)

    @admin.display(description=_("on the shelf"), boolean=True)
    def on_shelf(self, kind: ProductType) -> bool:
        return kind.is_on_shelf


class ShelfFilter(admin.SimpleListFilter):
    """A filter by whether customers can buy at least one type of a product now."""

    title = _("on the shelf")
    parameter_name = "shelf"

    def lookups(self, *_args: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Yes")), ("no", _("No"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Product]) -> QuerySet[Product]:
        if self.value() not in {"yes", "no"}:
            return queryset
        return queryset.filter(Q(("is_on_shelf", self.value() == "yes")))


_MOVES = {"changed": OfferChange.What.PRICE, "new": OfferChange.What.NEW}


class MovedFilter(admin.SimpleListFilter):
    """A filter for products with a type that is new, or costs more or less, since yesterday."""

    title = _("price")
    parameter_name = "price"

    def lookups(self, *_args: Any) -> list[tuple[str, Any]]:
        return [("changed", _("Changed since yesterday")), ("new", _("New since yesterday"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Product]) -> QuerySet[Product]:
        what = _MOVES.get(self.value() or "")
        if what is None:
            return queryset
        changes = OfferChange.objects.filter(since_yesterday(what))
        return queryset.filter(pk__in=changes.values("type__product"))


@admin.register(Product)
class ProductAdmin(RedemptionPages, ReadOnlyRows):
    help_topic = "products"
    list_display = ("title", "category", "region", "on_shelf", "read", "orders")
    list_filter = (ShelfFilter, MovedFilter, "category")
    search_fields = ("name", "own_name", "product_id")
    readonly_fields = (
        "title",
        "identifier",
        "category",
        "region",
        "texts",
        "on_shelf",
        "is_enabled",
        "listed",
        "read",
        "orders",
        "moves",
    )
    inlines = (ProductTypes,)
    actions = None
    change_list_template = "admin/giftcards/products.html"

    listed = column(Product, "listed_at", lambda _product, at: moment(at))
    identifier = column(Product, "product_id")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.read_view)
        return [path("read/", view, name="giftcards_catalogue_read"), *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        wanted = reading_wanted()
        progress = ""
        if wanted is not None:
            text = gettext("The catalogue is being read: %(read)s of %(total)s products.")
            progress = text % dict(zip(("read", "total"), map(count_text, wanted), strict=True))
        more = {"may_read": _may_read(request), "reading": progress}
        return super().changelist_view(request, {**(extra_context or {}), **more})

    def read_view(self, request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not (self.has_view_permission(request) and _may_read(request)):
            raise PermissionDenied
        read_soon()
        text = gettext("The catalogue will be read within the next minutes.")
        self.message_user(request, text, messages.SUCCESS)
        url = reverse("admin:giftcards_product_changelist", current_app=self.admin_site.name)
        return HttpResponseRedirect(url)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Product]:
        products: QuerySet[Product] = super().get_queryset(request)
        return products.annotate(is_on_shelf=is_on_shelf("product"))  # type: ignore[no-redef]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Product], search_term: str
    ) -> tuple[QuerySet[Product], bool]:
        typed = search_term[:_LONGEST_NAME].strip()
        return (
            queryset.filter(is_called(typed, *self.search_fields)) if typed else queryset
        ), False

    @admin.display(description=_("name"), ordering="name")
    def title(self, product: Product) -> str:
        return bdi(product)

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        names = super().get_list_display(request)
        return [name for name in names if name != "orders" or _may_see_orders(request)]

    @admin.display(description=_("on the shelf"), boolean=True)
    def on_shelf(self, product: Product) -> bool:
        return product.is_on_shelf

    @admin.display(description=_("texts for customers"))
    def texts(self, product: Product) -> str:
        told = of_products([product])[product.pk]
        parts = [bdi(told.region)] if told.region else []
        parts += [linked(told.instructions)] if told.instructions else []
        name, site = "admin:giftcards_product_redemption", self.admin_site.name
        url = reverse(name, args=[product.pk], current_app=site)
        change = format_html('<a href="{}">{}</a>', url, _("Change the texts"))
        return format_html_join(mark_safe("<br>"), "{}", ((part,) for part in (*parts, change)))

    @admin.display(description=_("orders"))
    def orders(self, product: Product) -> str:
        name, site = "admin:giftcards_order_changelist", self.admin_site.name
        query = urlencode({"product_id": product.product_id})
        url = f"{reverse(name, current_app=site)}?{query}"
        return format_html('<a href="{}">{}</a>', url, _("Show"))

    @admin.display(description=_("types last read"), ordering="types_read_at")
    def read(self, product: Product) -> str:
        return moment(product.types_read_at) if product.types_read_at else _NOTHING

    def get_fields(self, request: HttpRequest, obj: Product | None = None) -> Any:
        hidden = set() if _may_see_costs(request) else {"moves"}
        if not may_write(request):
            hidden.add("texts")
        if not _may_see_orders(request):
            hidden.add("orders")
        return [name for name in self.readonly_fields if name not in hidden]

    @admin.display(description=_("prices changed since yesterday"))
    def moves(self, product: Product) -> str:
        changes = OfferChange.objects.filter(
            since_yesterday(OfferChange.What.PRICE), type__product=product
        )
        lines = [(_told(move),) for move in price_moves(changes)]
        return format_html_join(mark_safe("<br>"), "{}", lines) or _NOTHING


@admin.register(ProductType)
class ProductTypeAdmin(ReadOnlyRows):
    """The types for ``autocomplete_fields`` of a shop's models; their pages are the product's."""

    help_topic = "products"
    search_fields = (
        "name",
        "type_id",
        "product__name",
        "product__own_name",
        "product__product_id",
    )
    ordering = ("product__name", "product_id", "cost", "pk")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_allowed: bool = super().has_view_permission(request, obj)
        return is_allowed or request.user.has_perm("giftcards.view_product")

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProductType]:
        return super().get_queryset(request).select_related("product")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[ProductType], search_term: str
    ) -> tuple[QuerySet[ProductType], bool]:
        typed = search_term[:_LONGEST_NAME].strip()
        found = queryset.filter(is_called(typed, *self.search_fields)) if typed else queryset
        return found, False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        return self._to_product(request, "changelist")

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        kind = self.get_object(request, unquote(object_id))
        if kind is None:
            raise Http404
        return self._to_product(request, "change", kind.product_id)

    def _to_product(self, request: HttpRequest, page: str, *args: Any) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        site = self.admin_site.name
        url = reverse(f"admin:giftcards_product_{page}", args=args, current_app=site)
        return HttpResponseRedirect(url)


def _may_read(request: HttpRequest) -> bool:
    return request.user.has_perm("giftcards.change_shelf")


def _may_see_costs(request: HttpRequest) -> bool:
    return request.user.has_perm("giftcards.view_cost")


def _may_see_orders(request: HttpRequest) -> bool:
    return request.user.has_perm("giftcards.view_order")


def _cards(count: int | None) -> str:
    return money(None) if count is None else count_text(count)


def _told(move: PriceMove) -> str:
    text = gettext("%(type)s: %(old)s → %(new)s, noticed on %(date)s.")
    names = {"type": bdi(move.kind), "date": moment(move.at)}
    told = filled(text, old=money(move.old_cost), new=money(move.cost), **names)
    if move.old_price is None and move.kind.price_source == PriceSource.OWN:
        return told
    text = gettext("Margin: %(old)s → %(new)s.")
    margin = filled(text, old=_margin(move.old_margin), new=_margin(move.margin))
    return format_html("{} {}", told, margin)


def _margin(amount: Decimal | None) -> str:
    return gettext("off the shelf") if amount is None else money(amount)
