"""The base of lists in the admin: read-only rows, few queries, and the orders a person may see."""

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
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from giftcards.models import Order
from giftcards.models.order_queries import leaves_some_out
from giftcards.models.searching import Found
from giftcards.text.display import bdi, exact_moment, money, status_badge
from giftcards.text.search_terms import NAMING

# The most values of one lookup: with more, the condition would be too long for SQLite. The links of
# a filter give one.
_MOST_VALUES = 100
# The most orders whose rows a search shows. For many more, MariaDB reads the whole table.
_MOST_NAMED = 100
# The attribute in which a request caches the allowed lookups: it may ask for a thousand.
_KNOWN = "giftcards_parameters"
#: The attribute of an order on a page or in a list: see :func:`not_received`.
NOT_RECEIVED = "giftcards_not_received"


class SortedAsOffered(ChangeList):
    """A change list sorted only by the columns it offers; Django lets an address sort by any."""

    def get_ordering_field(self, field_name: Any) -> Any:
        is_offered = self.sortable_by is None or field_name in self.sortable_by
        return super().get_ordering_field(field_name) if is_offered else None

    @property
    def counted(self) -> Counted:
        """This list for the template below it, which tells the number of rows."""
        return Counted(self)


class Counted:
    """A change list whose number of rows is a text of ours: "12 orders".

    Django and the themes put the number before the plural, which is wrong in Arabic.
    """

    def __init__(self, rows: ChangeList) -> None:
        self._rows = rows
        # Grappelli counts in words of its own, and needs the number.
        self.result_count = rows.result_count if apps.is_installed("grappelli") else ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    @property
    def opts(self) -> dict[str, str]:
        """The names that the templates show, of one row and of any other number of rows."""
        return dict.fromkeys(("verbose_name", "verbose_name_plural"), self.text)

    @property
    def text(self) -> str:
        """The number of rows, with what they are."""
        rows: Any = self._rows
        return str(rows.model_admin.counted % {"count": rows.result_count})

    @property
    def noun(self) -> str:
        """The text without the number."""
        return self.text.removeprefix(str(self._rows.result_count)).strip()


class OnlyFilters(admin.ModelAdmin):  # type: ignore[type-arg]
    """A mixin for the admin of a model: the address of its list may ask only for ``list_filter``.

    The list can also be sorted only by the columns that the page offers for sorting.
    """

    #: Stands before Django's change list, or that of a theme.
    changelist_mixin: type[ChangeList] = SortedAsOffered
    #: A number of rows in words: ``ngettext_lazy`` of texts with ``count``.
    counted: Any = ngettext_lazy("%(count)s result", "%(count)s results", "count")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        if len(request.GET.getlist(lookup)) > _MOST_VALUES:
            return False
        # No text in a database has this character, and PostgreSQL raises an error for it.
        return "\0" not in value and lookup in self._parameters(request)

    def _parameters(self, request: HttpRequest) -> Collection[str | None]:
        known: dict[Any, set[str | None]] = vars(request).setdefault(_KNOWN, {})
        if self not in known:
            filters = self.get_list_filter(request)
            known[self] = {name for each in filters for name in self._asked_by(each, request)}
        return known[self]

    def _asked_by(self, each: Any, request: HttpRequest) -> Iterable[str | None]:
        """The parameters of the filter ``each``, which is made as Django makes it."""
        if isinstance(each, type) and issubclass(each, SimpleListFilter):
            # But without __init__: its choices may take queries, which the parameters do not need.
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
            # Django writes this after the number, in "Select all 120 orders".
            context["module_name"] = rows.counted.noun
        return response

    def get_changelist(self, request: HttpRequest, **named: Any) -> type[ChangeList]:
        base = super().get_changelist(request, **named)
        return type("ChangeList", (self.changelist_mixin, base), {})


class LimitedPaginator(Paginator):  # type: ignore[type-arg]
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


class LongList(OnlyFilters):
    """A mixin for lists of any length, 50 rows a page: nothing counts a million rows."""

    paginator = LimitedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50


class ReadOnly:
    """A mixin for rows that nobody adds, changes or deletes."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyRows(ReadOnly, OnlyFilters):
    """Rows that are only to look at."""

    class Media:
        css = {"all": ("giftcards/admin.css",)}


def column(
    model: type[Model], name: str, show: Callable[[Any, Any], str] | None = None
) -> Callable[[Any, Any], str]:
    """A column of a list, or a field of a page, labelled like the column ``name`` of ``model``.

    It is "-" while that is empty; ``cell.of`` is the name of the column. ``show`` gets the row and
    the value, and returns HTML. Without it, amounts and moments (with seconds) are formatted, and
    the rest is shown as foreign text.
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
    """The orders that the person may see: those of the site's admin of orders.

    That may be the shop's own. Every list and page shows these orders, and rows about them, only.
    """
    is_there = site.is_registered(Order)
    if not (is_there and site.get_model_admin(Order).has_view_permission(request)):
        return Order.objects.none()
    return unhidden_orders(request, site)


def unhidden_orders(request: HttpRequest, site: AdminSite) -> QuerySet[Order]:
    """The orders that the site's admin of orders does not hide from this person.

    People who may not see orders at all may still be told the number of these.
    """
    is_there = site.is_registered(Order)
    return site.get_model_admin(Order).get_queryset(request) if is_there else Order.objects.all()


def hides_orders(request: HttpRequest, site: AdminSite) -> bool:
    return leaves_some_out(unhidden_orders(request, site))


def not_received(order: Order) -> SafeString | str:
    """Sentences, as HTML, if the cards of ``order`` did not get to whom they are for; or ""."""
    return getattr(order, NOT_RECEIVED, "")


def order_badge(order: Order) -> SafeString:
    return status_badge(order.status, is_received=not not_received(order))


def orders_shown_to(user: Any) -> QuerySet[Order]:
    """The orders that ``user`` may see in the admin, for a digest: outside any request."""
    sites = [site for site in (admin.site, *all_sites) if site.is_registered(Order)]
    request = HttpRequest()
    request.user = user
    return visible_orders(request, sites[0]) if sites else Order.objects.all()


def order_link(site: AdminSite, order: Order) -> str:
    """A link to ``order`` by its reference, as HTML."""
    address = reverse("admin:giftcards_order_change", args=[order.pk], current_app=site.name)
    return format_html('<a href="{}">{}</a>', address, bdi(order.reference))


def orders_named(text: str) -> Found:
    """The newest orders whose reference, or a number in it, is ``text``, or else begins like it."""
    return Order.objects.search(text, limit=_MOST_NAMED, kinds=NAMING)


class OrderRows(ReadOnlyRows, LongList):
    """The base class of lists whose rows are about orders.

    A person sees the rows about the orders that they may see, and those about none.
    """

    #: The lookup from a row to its order.
    order_lookup = "order"
    #: False if a row may be about no order.
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
        """The ``rows`` that a search for ``name`` finds: by default, those of these orders."""
        return self.rows_of(rows, orders_named(name))

    def rows_of(self, rows: QuerySet[Any], found: Found) -> QuerySet[Any]:
        """The ``rows`` about the orders that were found."""
        return rows.filter(**{f"{self.order_lookup}__in": found.keys})

    # Not "order": Django would show the column of that name, where the model has one.
    @admin.display(description=_("order"))
    def its_order(self, row: Any) -> str:
        order = attrgetter(self.order_lookup.replace("__", "."))(row)
        return order_link(self.admin_site, order) if order else "-"


#: Who has it is shown hints: whoever ends a pause has to know why it began.
SEES_HINTS = "giftcards.resume_provider"


def for_developer(hint: object) -> SafeString:
    """``hint`` as HTML, closed; "" without one. A text is escaped."""
    context = {"hint": bdi(hint) if hint else ""}
    return SafeString(render_to_string("admin/giftcards/for_developer.html", context).strip())


def with_hint(text: object, hint: object, *, is_shown: bool) -> SafeString:
    """The sentence ``text`` for everybody, and the hint if ``is_shown``, as HTML."""
    return format_html("{} {}", text, for_developer(hint) if is_shown else "")
