"""The list of products, and the page of a product with its types."""

from __future__ import annotations

from collections.abc import Iterator
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

from giftcards.admin.frame.rows import ReadOnlyRows
from giftcards.admin.frame.sections import Fact, Section
from giftcards.admin.shelf.editing import RowForms, may_change, sees_costs
from giftcards.admin.shelf.many import ask_about
from giftcards.admin.shelf.pages import history
from giftcards.admin.shelf.redemption import RedemptionPages
from giftcards.admin.shelf.words import (
    inherited_margin,
    inherited_sale,
    margin_of,
    rule_of,
    sale_of,
    yes_or_no,
)
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
from giftcards.models import OfferChange, Product, ProductType, Shelf, ShelfChange
from giftcards.models.catalogue import is_called
from giftcards.rules.prices import PriceSource, find_price
from giftcards.text.display import bdi, count_text, filled, labelled, linked, moment, money, named

_LONGEST_NAME = 200
# On the page of a row, Django shows None as "None", regardless of ``empty_value``.
_NOTHING = "-"


class ShelfFilter(admin.SimpleListFilter):
    """A filter by whether a product is for sale now.

    A product is for sale if customers can buy at least one of its types.
    """

    title = _("for sale")
    parameter_name = "shelf"

    def lookups(self, *_args: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Yes")), ("no", _("No"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Product]) -> QuerySet[Product]:
        if self.value() not in {"yes", "no"}:
            return queryset
        return queryset.filter(Q(("is_on_shelf", self.value() == "yes")))


_MOVES = {"changed": OfferChange.What.PRICE, "new": OfferChange.What.NEW}


class MovedFilter(admin.SimpleListFilter):
    """A filter for products with new costs or new types since yesterday.

    One choice selects products with a type whose cost has changed, and the other selects products
    with a new type.
    """

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


class _Named(ReadOnlyRows):
    """A mixin for lists that can be searched by words in the names of rows."""

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        typed = search_term[:_LONGEST_NAME].strip()
        found = queryset.filter(is_called(typed, *self.search_fields)) if typed else queryset
        return found, False


@admin.register(Product)
class ProductAdmin(_Named, RedemptionPages):
    help_topic = "products"
    list_display = ("title", "category", "region", "sold_here", "on_shelf", "read", "orders")
    list_select_related = ("category",)
    list_filter = (ShelfFilter, MovedFilter, "category")
    search_fields = ("name", "own_name", "product_id")
    actions = ("change_shelf",)
    change_list_template = "admin/giftcards/products.html"

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.read_view)
        return [path("read/", view, name="giftcards_catalogue_read"), *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if "draft" in request.POST and may_change(request):
            return self.confirm(request)
        wanted = reading_wanted()
        progress = ""
        if wanted is not None:
            text = gettext("The catalogue is being read: %(read)s of %(total)s products.")
            progress = text % dict(zip(("read", "total"), map(count_text, wanted), strict=True))
        more = {"may_read": may_change(request), "reading": progress}
        return super().changelist_view(request, {**(extra_context or {}), **more})

    def read_view(self, request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not (self.has_view_permission(request) and may_change(request)):
            raise PermissionDenied
        read_soon()
        text = gettext("The catalogue will be read within a few minutes.")
        self.message_user(request, text, messages.SUCCESS)
        return HttpResponseRedirect(self.list_url())

    def get_queryset(self, request: HttpRequest) -> QuerySet[Product]:
        products: QuerySet[Product] = super().get_queryset(request)
        return products.annotate(is_on_shelf=is_on_shelf("product"))  # type: ignore[no-redef]

    @admin.display(description=_("name"), ordering="name")
    def title(self, product: Product) -> str:
        return bdi(product)

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        names: list[Any] = list(super().get_list_display(request))
        if not _may_see_orders(request):
            names.remove("orders")
        if sees_costs(request):
            names.insert(names.index("on_shelf"), _margins(Shelf.objects.current()))
        return names

    @admin.display(description=_("sold here"))
    def sold_here(self, product: Product) -> str:
        return labelled(gettext("sold here"), sale_of(product))

    @admin.action(
        description=_("Change margin or sale status of selected products"), permissions=["shelf"]
    )
    def change_shelf(
        self, request: HttpRequest, queryset: QuerySet[Product]
    ) -> HttpResponse | None:
        return ask_about(self, request, queryset)

    @admin.display(description=_("for sale"), boolean=True)
    def on_shelf(self, product: Product) -> bool:
        return product.is_on_shelf

    @admin.display(description=_("orders"))
    def orders(self, product: Product) -> str:
        name, site = "admin:giftcards_order_changelist", self.admin_site.name
        query = urlencode({"product_id": product.product_id})
        url = f"{reverse(name, current_app=site)}?{query}"
        return format_html('<a href="{}">{}</a>', url, _("Show"))

    @admin.display(description=_("types last read"), ordering="types_read_at")
    def read(self, product: Product) -> str:
        return moment(product.types_read_at) if product.types_read_at else _NOTHING

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        product = self.get_object(request, unquote(object_id))
        if product is None:
            raise Http404
        types = ProductType.objects.filter(product=product).select_related("product__category")
        found = with_available(types, now=timezone.now())
        page = self.page(request, found.annotate(is_on_shelf=is_on_shelf()))  # type: ignore[no-redef]
        kinds = list(page)
        forms = RowForms(request, [product, *kinds])
        answer = self.edit(request, forms)
        if answer is not None:
            return answer
        changes = ShelfChange.objects.filter(
            Q(product=product) | Q(type__in=types.order_by().values("pk"))
        )
        return self.render_page(
            request,
            title=str(product),
            list_url=self.list_url(),
            seen=forms.seen if may_change(request) else "",
            errors=forms.errors,
            page=page,
            sections=[_sale(request, product, forms), _types(request, kinds, forms)],
            below=[
                Section("product", _("Product"), list(self._facts(request, product))),
                history(request, changes, row_heading=_("Product or type")),
            ],
        )

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Redirect to the page of the product.

        The page of the product contains its history.
        """
        name = "admin:giftcards_product_change"
        url = reverse(name, args=[object_id], current_app=self.admin_site.name)
        return HttpResponseRedirect(f"{url}#giftcards-history")

    def _texts(self, product: Product) -> str:
        told = of_products([product])[product.product_id]
        parts = [bdi(told.region)] if told.region else []
        parts += [linked(told.instructions)] if told.instructions else []
        name, site = "admin:giftcards_product_redemption", self.admin_site.name
        url = reverse(name, args=[product.pk], current_app=site)
        change = format_html('<a href="{}">{}</a>', url, _("Change the product information"))
        return format_html_join(mark_safe("<br>"), "{}", ((part,) for part in (*parts, change)))

    def _facts(self, request: HttpRequest, product: Product) -> Iterator[Fact]:
        yield Fact(_("Name"), bdi(product))
        yield Fact(_("Product"), bdi(product.product_id))
        yield Fact(_("category"), bdi(product.category))
        if product.region:
            yield Fact(_("region"), bdi(product.region))
        if may_change(request):
            yield Fact(_("product information"), self._texts(product))
        yield Fact(_("for sale"), yes_or_no(product.is_on_shelf))
        yield Fact(
            _("sold by the provider"),
            yes_or_no(product.is_enabled),
            is_wrong=not product.is_enabled,
        )
        yield Fact(_("last listed"), moment(product.listed_at))
        yield Fact(_("types last read"), self.read(product))
        if _may_see_orders(request):
            yield Fact(_("Orders"), self.orders(product))
        if sees_costs(request):
            yield Fact(_("prices changed since yesterday"), _moves(product))


@admin.register(ProductType)
class ProductTypeAdmin(_Named):
    """The admin class for product types, for use in ``autocomplete_fields``.

    The pages of a type redirect to the page of its product.
    """

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


def _margins(shelf: Shelf) -> Any:
    """Return a list column that shows the margin of each product."""

    @admin.display(description=_("margin"))
    def margin(product: Product) -> str:
        return labelled(gettext("margin"), margin_of(product, shelf))

    return margin


def _moves(product: Product) -> str:
    changes = OfferChange.objects.filter(
        since_yesterday(OfferChange.What.PRICE), type__product=product
    )
    lines = [(_told(move),) for move in price_moves(changes)]
    return format_html_join(mark_safe("<br>"), "{}", lines) or _NOTHING


def _sale(request: HttpRequest, product: Product, forms: RowForms) -> Section:
    """Return the section that shows whether the product is sold here.

    The section also shows the margin of the product if the person is allowed to see costs.
    """
    shelf, form = Shelf.objects.current(), forms[product]
    is_open = may_change(request)
    facts = [
        Fact(
            _("sold here"),
            _with_hint(form.cell("is_sold"), inherited_sale(product))
            if is_open
            else sale_of(product),
        )
    ]
    if sees_costs(request):
        margin = _with_hint(form.margin, inherited_margin(product, shelf))
        facts.append(Fact(_("Margin"), margin if is_open else margin_of(product, shelf)))
    return Section("sale", _("In your shop"), facts)


def _with_hint(field: str, inherited: str) -> str:
    text = gettext("If this field is empty or set to “inherited”, this applies: %(value)s.") % {
        "value": inherited
    }
    return format_html('{}<div class="giftcards-hint">{}</div>', field, text)


def _types(request: HttpRequest, kinds: list[ProductType], forms: RowForms) -> Section:
    shelf, shows_costs, is_open = Shelf.objects.current(), sees_costs(request), may_change(request)
    has_rule = any(kind.price_source != PriceSource.OWN for kind in kinds)
    # For each column: True if the column is shown, its heading, and a function that returns its
    # cell for a type.
    table: list[tuple[bool, Any, Any]] = [
        (True, _("Type"), lambda kind: named(kind.name, kind.type_id)),
        (shows_costs, _("cost per card"), lambda kind: money(kind.cost)),
        (has_rule, _("price in the shop"), lambda kind: _price(kind, shelf, shows_costs)),
        (has_rule and shows_costs, _("Profit per card"), _earned),
        (True, _("in stock"), lambda kind: _cards(kind.stock)),
        (True, _("available"), lambda kind: _cards(kind.available)),
        (True, _("for sale"), lambda kind: yes_or_no(kind.is_on_shelf)),
        (not is_open, _("sold here"), sale_of),
        (is_open, _("sold here"), lambda kind: forms[kind].cell("is_sold")),
        (is_open and shows_costs, _("Margin"), lambda kind: forms[kind].margin),
        (
            is_open and shows_costs,
            _("fixed price"),
            lambda kind: forms[kind].cell("fixed_price"),
        ),
    ]
    shown = [(heading, cell) for is_shown, heading, cell in table if is_shown]
    return Section(
        "types",
        _("types"),
        columns=[heading for heading, _cell in shown],
        cells=[[cell(kind) for _heading, cell in shown] for kind in kinds],
        note="" if kinds else gettext("The types have not been read yet."),
    )


def _price(kind: ProductType, shelf: Shelf, shows_costs: bool) -> str:
    shown = gettext("not for sale") if kind.price is None else money(kind.price)
    if kind.price_source == PriceSource.OWN:
        return _NOTHING
    if not shows_costs:
        return shown
    why_not = find_price(kind.terms, shelf.terms, function_price=kind.told_price).why_not
    hint = rule_of(kind, shelf) if why_not is None else why_not.label
    return format_html('{}<div class="giftcards-hint">{}</div>', shown, hint)


def _earned(kind: ProductType) -> str:
    price, cost = kind.price, kind.cost
    return _NOTHING if price is None or cost is None else money(price - cost)


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
    return gettext("not for sale") if amount is None else money(amount)
