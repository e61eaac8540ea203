"""Base classes for lists in the admin.

The lists are limited to the orders that a person is allowed to see.
"""

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
    """A change list that only sorts by the columns in ``sortable_by``.

    Django's change list allows the URL to sort by any column.
    """

    def get_ordering_field(self, field_name: Any) -> Any:
        is_offered = self.sortable_by is None or field_name in self.sortable_by
        return super().get_ordering_field(field_name) if is_offered else None

    @property
    def counted(self) -> Counted:
        """The :class:`Counted` wrapper of this list, for the pagination template."""
        return Counted(self)


class Counted:
    """A change list that shows its row count with a noun, such as "12 orders".

    Django and themes put the number before the plural name, which is wrong in Arabic.
    """

    def __init__(self, rows: ChangeList) -> None:
        self._rows = rows
        # The grappelli theme shows its own text, for which it needs the number of rows.
        self.result_count = rows.result_count if apps.is_installed("grappelli") else ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    @property
    def opts(self) -> dict[str, str]:
        """The singular and plural names of the model for templates.

        Both names are :attr:`text`.
        """
        return dict.fromkeys(("verbose_name", "verbose_name_plural"), self.text)

    @property
    def text(self) -> str:
        """The row count with a noun, such as "12 orders"."""
        rows: Any = self._rows
        return str(rows.model_admin.counted % {"count": rows.result_count})

    @property
    def noun(self) -> str:
        """The text of the row count without the number, such as "orders"."""
        return self.text.removeprefix(str(self._rows.result_count)).strip()


# The maximum number of values for one lookup. More values may be too many for a query in SQLite.
# The filters of the app use one value.
_MOST_VALUES = 100
# The attribute of a request that caches the allowed lookups, because a URL may have many lookups.
_PARAMETERS = "giftcards_parameters"


class OnlyFilters(admin.ModelAdmin):  # type: ignore[type-arg]
    """A mixin that limits how the URL can filter and sort a list.

    The URL can filter only by ``list_filter``, and can sort only by the columns that the list
    offers.
    """

    #: The mixin that is put before the change list class of Django or of a theme.
    changelist_mixin: type[ChangeList] = SortedAsOffered
    #: The text that shows the number of rows. It is a result of ``ngettext_lazy`` with ``count``.
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
            # ``__init__`` is not called, because it may make queries for choices that are not
            # needed here.
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
            # Django's title is "Select … to change", even if rows cannot be changed.
            if not (rows.is_popup or "title" in (extra_context or {})):
                context["title"] = capfirst(self.opts.verbose_name_plural)
        return response

    def get_changelist(self, request: HttpRequest, **named: Any) -> type[ChangeList]:
        base = super().get_changelist(request, **named)
        return type("ChangeList", (self.changelist_mixin, base), {})


class LimitedPaginator(Paginator):  # type: ignore[type-arg]
    """A paginator that shows only a limited number of rows.

    The paginator does not count the rows beyond this limit.
    """

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
    """A mixin for lists that can have millions of rows.

    The queries of such a list do not count all rows.
    """

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
    """Render ``template`` with the page layout of the admin."""
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
    """A mixin for rows that cannot be added, changed or deleted in the admin."""

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
    """Return a display function for a column of a list or a field of a page.

    The function displays the column ``name`` of ``model``. ``show(row, value)`` returns HTML.
    Without ``show``, amounts are formatted, times are shown with seconds, and other values are
    wrapped in a ``<bdi>`` element. An empty value is shown as "-". The returned function has an
    ``of`` attribute, which contains the column's name.
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
    """Return the orders that the person is allowed to see.

    The site's ``OrderAdmin`` decides. Every list and page is limited to these orders, and to rows
    about them.
    """
    is_there = site.is_registered(Order)
    if not (is_there and site.get_model_admin(Order).has_view_permission(request)):
        return Order.objects.none()
    return unhidden_orders(request, site)


def sees_orders(request: HttpRequest, site: AdminSite) -> bool:
    """Return True if the person is allowed to see orders.

    The result can be True even if there are no orders yet.
    """
    return not visible_orders(request, site).query.is_empty()


def unhidden_orders(request: HttpRequest, site: AdminSite) -> QuerySet[Order]:
    """Return orders that the site's ``OrderAdmin`` does not hide.

    Even a person without the permission to see orders is allowed to know how many of these orders
    there are.
    """
    is_there = site.is_registered(Order)
    return site.get_model_admin(Order).get_queryset(request) if is_there else Order.objects.all()


def hides_orders(request: HttpRequest, site: AdminSite) -> bool:
    return leaves_some_out(unhidden_orders(request, site))


def orders_shown_to(user: Any) -> QuerySet[Order]:
    """Return the orders that ``user`` is allowed to see in the admin.

    This function is for digests, which do not have a request.
    """
    sites = [site for site in (admin.site, *all_sites) if site.is_registered(Order)]
    request = HttpRequest()
    request.user = user
    return visible_orders(request, sites[0]) if sites else Order.objects.all()


def order_link(site: AdminSite, order: Order) -> str:
    """Return a link to ``order``, as HTML."""
    url = reverse("admin:giftcards_order_change", args=[order.pk], current_app=site.name)
    return format_html('<a href="{}">{}</a>', url, bdi(order.reference))


# The maximum number of orders whose rows a search looks up. With many more orders, MariaDB would
# read the whole table.
_MOST_NAMED = 100


def orders_named(text: str) -> Found:
    """Return the newest orders whose reference begins with ``text``.

    The text can also be the beginning of a number inside the reference.
    """
    return Order.objects.search(text, limit=_MOST_NAMED, kinds=NAMING)


class OrderRows(ReadOnlyRows, LongList):
    """The base class of lists whose rows are about orders.

    Staff see the rows of orders that they are allowed to see, and all rows that have no order.
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

    # If the method had the name "order", the model's "order" column would replace it.
    @admin.display(description=_("order"))
    def its_order(self, row: Any) -> str:
        order = attrgetter(self.order_lookup.replace("__", "."))(row)
        return order_link(self.admin_site, order) if order else "-"


#: The permission that also lets people see hints for developers. A person who ends a pause needs
#: the hints to find its cause.
SEES_HINTS = "giftcards.resume_provider"


def for_developer(hint: object) -> SafeString:
    """Return ``hint`` as an HTML element that expands when it is clicked.

    If ``hint`` is not marked as safe HTML, it is escaped. If ``hint`` is empty, the result is "".
    """
    context = {"hint": bdi(hint) if hint else ""}
    return SafeString(render_to_string("admin/giftcards/for_developer.html", context).strip())


def with_hint(text: object, hint: object, *, is_shown: bool) -> SafeString:
    """Return ``text`` as HTML, followed by the hint if ``is_shown`` is True."""
    return format_html("{} {}", text, for_developer(hint) if is_shown else "")
