"""Base classes of lists in the admin, limited to the orders that a person may see."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any, cast

from django.apps import apps
from django.contrib import admin
from django.contrib.admin import AdminSite, FieldListFilter, ListFilter, SimpleListFilter
from django.contrib.admin.sites import all_sites
from django.contrib.admin.utils import get_fields_from_path, label_for_field
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.core.validators import EMPTY_VALUES
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from giftcards.models import Order
from giftcards.models.order_queries import leaves_some_out
from giftcards.models.searching import Found
from giftcards.text.display import bdi, exact_moment, money
from giftcards.text.search_terms import NAMING


class SortedAsOffered(ChangeList):
    """A change list that only sorts by ``sortable_by``; Django's sorts by any column in the URL."""

    def get_ordering_field(self, field_name: Any) -> Any:
        is_offered = self.sortable_by is None or field_name in self.sortable_by
        return super().get_ordering_field(field_name) if is_offered else None

    @property
    def counted(self) -> Counted:
        """The list for the pagination template, with the number of rows in words."""
        return Counted(self)


class Counted:
    """A change list whose number of rows is a text of our own, such as "12 orders".

    Django and themes put the number before the plural name, which is wrong in Arabic.
    """

    def __init__(self, rows: ChangeList) -> None:
        self._rows = rows
        # The theme grappelli writes its own text, for which it needs the number of rows.
        self.result_count = rows.result_count if apps.is_installed("grappelli") else ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    @property
    def opts(self) -> dict[str, str]:
        """The singular and the plural name of the model for templates; both are :attr:`text`."""
        return dict.fromkeys(("verbose_name", "verbose_name_plural"), self.text)

    @property
    def text(self) -> str:
        """The number of rows with its noun, such as "12 orders"."""
        rows: Any = self._rows
        return str(rows.model_admin.counted % {"count": rows.result_count})

    @property
    def noun(self) -> str:
        """The noun in :attr:`text`, without the number."""
        return self.text.removeprefix(str(self._rows.result_count)).strip()


# The maximum number of values for one lookup. More may be too many for a query in SQLite; our
# filters use one value.
_MOST_VALUES = 100
# The attribute of a request that caches the allowed lookups, because a URL may have many lookups.
_PARAMETERS = "giftcards_parameters"


class OnlyFilters(admin.ModelAdmin):  # type: ignore[type-arg]
    """A mixin for lists that limits what the URL can do.

    The URL can only filter by ``list_filter`` and sort by the columns that the list offers.
    """

    #: The mixin that is put before the change list class of Django or of a theme.
    changelist_mixin: type[ChangeList] = SortedAsOffered
    #: The number of rows in words: a result of ``ngettext_lazy`` with ``count``.
    counted: Any = ngettext_lazy("%(count)s result", "%(count)s results", "count")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        if len(request.GET.getlist(lookup)) > _MOST_VALUES:
            return False
        # PostgreSQL raises an error for the character NUL.
        return "\0" not in value and lookup in self._parameters(request)

    def _parameters(self, request: HttpRequest) -> Collection[str | None]:
        known: dict[Any, set[str | None]] = vars(request).setdefault(_PARAMETERS, {})
        if self not in known:
            filters = self.get_list_filter(request)
            known[self] = {name for each in filters for name in self._asked_by(each, request)}
        return known[self]

    def _asked_by(self, each: Any, request: HttpRequest) -> Iterable[str | None]:
        """Return the URL parameters that an item of ``list_filter`` reads."""
        if isinstance(each, type) and issubclass(each, SimpleListFilter):
            # The filter is made without ``__init__``, which may make queries for choices that are
            # not needed.
            made: ListFilter = each.__new__(each)
        elif callable(each):
            made = each(request, {}, self.model, self)
        else:
            path, kind = each if isinstance(each, (tuple, list)) else (each, FieldListFilter.create)
            field = get_fields_from_path(self.model, path)[-1]
            made = kind(field, request, {}, self.model, self, field_path=path)
        return made.expected_parameters()

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None) or {}
        if rows := context.get("cl"):
            # Django writes ``module_name`` after the number, as in "Select all 120 orders".
            context["module_name"] = rows.counted.noun
            # Django's title is "Select … to change", also where there is nothing to change.
            if not (rows.is_popup or "title" in (extra_context or {})):
                context["title"] = capfirst(self.opts.verbose_name_plural)
        return response

    def get_changelist(self, request: HttpRequest, **named: Any) -> type[ChangeList]:
        base = super().get_changelist(request, **named)
        return type("ChangeList", (self.changelist_mixin, base), {})


class LimitedPaginator(Paginator):  # type: ignore[type-arg]
    """A paginator of the first ``limit`` rows, which counts no rows beyond them."""

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


class LongList(OnlyFilters):
    """A mixin for lists that may have millions of rows: no query counts all rows."""

    paginator = LimitedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50


def framed(
    pages: admin.ModelAdmin[Any],
    request: HttpRequest,
    template: str,
    *,
    title: Any,
    status: int = 200,
    **context: Any,
) -> HttpResponse:
    """Render ``template`` in the frame of the admin."""
    request.current_app = pages.admin_site.name
    frame = {
        **pages.admin_site.each_context(request),
        "opts": pages.opts,
        "title": title,
        "has_view_permission": pages.has_view_permission(request),
        "media": pages.media,
    }
    return TemplateResponse(request, template, {**frame, **context}, status=status)


class ReadOnly:
    """A mixin for rows that nobody adds, changes or deletes."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyRows(ReadOnly, OnlyFilters):
    """The base class of read-only pages."""

    class Media:
        css = {"all": ("giftcards/admin.css",)}


def column(
    model: type[Model], name: str, show: Callable[[Any, Any], str] | None = None
) -> Callable[[Any, Any], str]:
    """Make a column of a list, or a field of a page, for the column ``name`` of ``model``.

    ``show(row, value)`` returns HTML. By default, amounts and moments (with seconds) are formatted,
    and other values are isolated as foreign text. An empty value is shown as "-". The attribute
    ``of`` of the result is ``name``.
    """

    @admin.display(description=label_for_field(name, model, return_attr=False))
    def cell(_admin: Any, row: Any) -> str:
        value = getattr(row, name)
        if value in EMPTY_VALUES:
            return "-"
        if show is not None:
            return show(row, value)
        if isinstance(value, Decimal):
            return money(value)
        return exact_moment(value) if isinstance(value, datetime) else bdi(value)

    cell.of = name  # type: ignore[attr-defined]
    return cell


def visible_orders(request: HttpRequest, site: AdminSite) -> QuerySet[Order]:
    """Return the orders that the person may see, according to the site's ``OrderAdmin``.

    Every list and page is limited to these orders, and to rows about them.
    """
    is_there = site.is_registered(Order)
    if not (is_there and site.get_model_admin(Order).has_view_permission(request)):
        return Order.objects.none()
    return unhidden_orders(request, site)


def sees_orders(request: HttpRequest, site: AdminSite) -> bool:
    """True if the person may see orders at all, even if there are no orders yet."""
    return not visible_orders(request, site).query.is_empty()


def unhidden_orders(request: HttpRequest, site: AdminSite) -> QuerySet[Order]:
    """Return the orders that the site's ``OrderAdmin`` does not hide from this person.

    Even a person who may not see orders may learn the number of orders that are not hidden.
    """
    is_there = site.is_registered(Order)
    return site.get_model_admin(Order).get_queryset(request) if is_there else Order.objects.all()


def hides_orders(request: HttpRequest, site: AdminSite) -> bool:
    return leaves_some_out(unhidden_orders(request, site))


def orders_shown_to(user: Any) -> QuerySet[Order]:
    """Return the orders that ``user`` may see in the admin, for digests, which have no request."""
    sites = [site for site in (admin.site, *all_sites) if site.is_registered(Order)]
    request = HttpRequest()
    request.user = user
    return visible_orders(request, sites[0]) if sites else Order.objects.all()


def order_link(site: AdminSite, order: Order) -> str:
    """Return a link to ``order``, as HTML."""
    url = reverse("admin:giftcards_order_change", args=[order.pk], current_app=site.name)
    return format_html('<a href="{}">{}</a>', url, bdi(order.reference))


# The maximum number of orders whose rows are searched. With many more, MariaDB would read the whole
# table.
_MOST_NAMED = 100


def orders_named(text: str) -> Found:
    """Return the newest orders whose reference, or a number in it, begins with ``text``."""
    return Order.objects.search(text, limit=_MOST_NAMED, kinds=NAMING)


class OrderRows(ReadOnlyRows, LongList):
    """The base class of lists whose rows are about orders.

    A person sees the rows about the orders that they may see, and the rows without an order.
    """

    #: The lookup from a row to its order.
    order_lookup: str = "order"
    #: True if each row has an order.
    has_order = True
    list_display_links: tuple[Any, ...] | None = None
    sortable_by = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows, orders = super().get_queryset(request), visible_orders(request, self.admin_site)
        if not leaves_some_out(orders):
            return rows
        about = Q(**{f"{self.order_lookup}__in": orders.order_by().values("pk")})
        if not self.has_order:
            about |= Q(**{self.order_lookup: None})
        return rows.filter(about)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        name = search_term.strip()
        return (self.search_rows(queryset, name) if name else queryset), False

    def search_rows(self, rows: QuerySet[Any], name: str) -> QuerySet[Any]:
        """Return the ``rows`` about orders whose reference matches ``name``."""
        return self.rows_of(rows, orders_named(name))

    def rows_of(self, rows: QuerySet[Any], found: Found) -> QuerySet[Any]:
        return rows.filter(**{f"{self.order_lookup}__in": found.keys})

    # A method with the name "order" would be replaced by the model's column "order".
    @admin.display(description=_("order"))
    def its_order(self, row: Any) -> str:
        order = attrgetter(self.order_lookup.replace("__", "."))(row)
        return order_link(self.admin_site, order) if order else "-"


#: The permission to see hints for developers: a person who ends a pause has to know its cause.
SEES_HINTS = "giftcards.resume_provider"


def for_developer(hint: object) -> SafeString:
    """Return ``hint`` as HTML that is collapsed until a click; "" without a hint.

    A plain text is escaped.
    """
    context = {"hint": bdi(hint) if hint else ""}
    return SafeString(render_to_string("admin/giftcards/for_developer.html", context).strip())


def with_hint(text: object, hint: object, *, is_shown: bool) -> SafeString:
    """Return ``text``, followed by the hint if ``is_shown``, as HTML."""
    return format_html("{} {}", text, for_developer(hint) if is_shown else "")
