"""The start page for staff, which shows open tasks and figures.

Each tile shows a condition that the person can resolve, for example a refused API key. If the
person lacks the permissions to resolve a condition, the page shows the condition in a single line.
E-mail digests and monitors use the same texts for the conditions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from django.contrib import admin
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, URLPattern, path, resolve, reverse
from django.utils.text import capfirst
from django.utils.translation import gettext, ngettext

from giftcards.admin.frame import extensions
from giftcards.admin.frame.extensions import Html
from giftcards.admin.frame.manual import manual, may_read
from giftcards.admin.frame.pages import OrderPages
from giftcards.admin.frame.rows import ReadOnlyRows, framed, order_link, sees_orders, visible_orders
from giftcards.admin.orders.searching import SearchForm
from giftcards.models import Desk, Order
from giftcards.rules.money import customer_breakdown, refund_breakdown
from giftcards.rules.roles import roles_with
from giftcards.rules.times import begin_of, today
from giftcards.text.display import count_text, filled, money
from giftcards.watch.conditions import (
    CONDITIONS,
    MOST,
    Condition,
    Severity,
    Standing,
    most_urgent_first,
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile on the start page about a condition that requires action.

    The tile contains sentences and links.
    """

    severity: Severity
    title: str
    sentences: tuple[str, ...]
    #: The URL of a list of the rows with the condition, or "" if the person may not open the list.
    url: str
    #: Links, as HTML, to the first orders with the condition. ``unnamed`` is the number of further
    #: orders, which have no link.
    orders: tuple[str, ...] = ()
    unnamed: int = 0
    #: The roles that can act, if this person cannot. Otherwise "".
    roles: str = ""
    is_about_shelf: bool = False

    @property
    def is_urgent(self) -> bool:
        return self.severity is Severity.URGENT


def show_desk(request: HttpRequest) -> dict[str, Any]:
    """Return the template context of the start page.

    The context contains the search box, the tiles, and a line with the orders and sales of today.
    The context is empty if the person is not allowed to see any tiles or orders.
    """
    site = _site_of(request)
    told = [
        condition
        for condition in CONDITIONS.values()
        if condition.headline and condition.is_on_start_page
        if request.user.has_perm(condition.permission)
    ]
    if not (told or sees_orders(request, site)):
        return {}
    standing = Standing(
        leaves_out_problems=request.user.has_perm(CONDITIONS["order_problems"].permission)
    )
    tiles = list(_tiles(request, site, standing, most_urgent_first(told)))
    return {
        "is_shown": True,
        **_search_box(request, site),
        "standstill": _standstill(request, site, standing),
        "tiles": [tile for tile in tiles if not (tile.roles or tile.is_about_shelf)],
        "for_others": [tile for tile in tiles if tile.roles],
        "shelf": [tile for tile in tiles if tile.is_about_shelf and not tile.roles],
        "today": _today(request, site),
        "figures": _figures(request, site, standing),
    }


def _standstill(request: HttpRequest, site: AdminSite, standing: Standing) -> str:
    """Return a sentence about orders that are waiting for the provider, or "".

    These orders are waiting because the provider does not answer. The sentence is shown after the
    first failed request, because customers wait from that moment on.
    """
    silence = standing.state.explain_silence()
    if not (silence and sees_orders(request, site)):
        return ""
    waiting = visible_orders(request, site).filter(pk__in=Order.objects.unsent().values("pk"))
    count = waiting.order_by()[: MOST + 1].count()
    text = ngettext(
        "Cards cannot be bought at the moment. %(count)s order is waiting.",
        "Cards cannot be bought at the moment. %(count)s orders are waiting.",
        count,
    )
    return f"{text % {'count': count_text(count)}} {silence}"


def _figures(request: HttpRequest, site: AdminSite, standing: Standing) -> list[Html]:
    """Return the figures of the optional apps.

    Each app checks whether the person is allowed to see its figures.
    """
    pages = _order_pages(site)
    if pages is None:
        return []
    return [html for html in extensions.called("on_start", pages, request, standing) if html]


def _order_pages(site: AdminSite) -> OrderPages | None:
    """Return the site's admin class for orders if it uses the app's pages.

    Returns ``None`` if orders are not registered, or if the shop's admin class is not a subclass of
    ``OrderPages``.
    """
    pages = site.get_model_admin(Order) if site.is_registered(Order) else None
    return pages if isinstance(pages, OrderPages) else None


def _search_box(request: HttpRequest, site: AdminSite) -> dict[str, Any]:
    may_find = request.user.has_perm("giftcards.find_card")
    if not site.is_registered(Order) or not (may_find or sees_orders(request, site)):
        return {}
    return {
        "search_form": SearchForm(auto_id="giftcards-desk-search-%s"),
        "may_find": may_find,
        "help": site.get_model_admin(Order).search_help_text,
    }


def _site_of(request: HttpRequest) -> AdminSite:
    view: Any = request.resolver_match and request.resolver_match.func
    # Two admin sites may share a name, so the name in the URL does not identify the site.
    site: AdminSite = getattr(view, "admin_site", admin.site)
    return site


# The maximum number of orders that a tile names.
_NAMED = 5


def _tiles(
    request: HttpRequest, site: AdminSite, standing: Standing, told: list[Condition]
) -> Iterator[Tile]:
    may = request.user.has_perm
    visible = visible_orders(request, site)
    for condition in told:
        if finding := condition.find(standing, visible):
            first = visible.in_bulk(list(islice(finding.orders, _NAMED)))
            named = tuple(order_link(site, order) for order in first.values())
            url = _list_url(request, site, finding.page or condition.page)
            if url:
                url += finding.query or condition.query
            if url and standing.leaves_out_problems and condition.overlaps_problems:
                url += "&attention=none"
            yield Tile(
                condition.severity,
                capfirst(condition.in_words(finding.count, has_more=finding.has_more)),
                tuple(filter(None, (finding.explain(), str(condition.remedy)))),
                url,
                named,
                finding.count - len(named) if named else 0,
                "" if all(map(may, condition.takes)) else roles_with(condition.takes),
                condition.is_about_shelf,
            )


def _list_url(request: HttpRequest, site: AdminSite, name: str) -> str:
    """Return the URL of the admin page called ``name``.

    Returns "" if the person cannot open the page.
    """
    try:
        page = reverse(f"admin:{name}", current_app=site.name)
    except NoReverseMatch:
        return ""
    # Django sets ``model_admin`` on the views of a ModelAdmin.
    pages = getattr(resolve(page).func, "model_admin", None)
    may_open = pages is None or pages.has_view_permission(request)
    return page if may_open else ""


def _today(request: HttpRequest, site: AdminSite) -> str:
    pages = _order_pages(site)
    if pages is None or not pages.has_report_permission(request):
        return ""
    since = begin_of(today())
    placed = Order.objects.filter(created_at__gte=since).order_by().count()
    cards, sold, margin = _sums_since(since)
    if not (placed or cards):
        return gettext("There have been no orders today.")
    parts = [
        ngettext("%(count)s order", "%(count)s orders", placed) % {"count": count_text(placed)},
        ngettext("%(count)s card delivered", "%(count)s cards delivered", cards)
        % {"count": count_text(cards)},
        filled(gettext("sold for %(amount)s"), amount=money(sold)),
    ]
    if request.user.has_perm("giftcards.view_cost"):
        parts.append(filled(gettext("margin %(amount)s"), amount=money(margin)))
    return filled(gettext("Today: %(figures)s"), figures=" · ".join(parts))


_FIGURES = (
    "status",
    "quantity",
    "fulfilled_quantity",
    "sale_amount",
    "price_per_card",
    "fulfilled_amount",
    "reordered_amount",
)


def _sums_since(since: datetime) -> tuple[int, Decimal, Decimal]:
    """Return the number of delivered cards, the sales and the margin.

    The parameter ``since`` is the earliest time at which the counted orders became final. Unknown
    amounts are left out. The query groups orders with equal figures and counts each group. Python
    then adds the amounts, because SQLite would add them as binary floating-point numbers.
    """
    final = Order.objects.filter(finalized_at__gte=since).order_by()
    cards, sold, margin = 0, Decimal(0), Decimal(0)
    for *values, number in final.values_list(*_FIGURES).annotate(Count("pk")):
        order = Order(**dict(zip(_FIGURES, values, strict=True)))
        customer, provider = customer_breakdown(order), refund_breakdown(order)
        cards += number * order.fulfilled_quantity
        if customer is None:
            continue
        sold += number * customer.kept_amount
        if provider is not None and provider.charged_amount is not None:
            margin += number * (customer.kept_amount - provider.charged_amount)
    return cards, sold, margin


@admin.register(Desk)
class DeskAdmin(ReadOnlyRows):
    """A menu entry for the start page.

    The entry is for themes that replace the ``app_index`` template.
    """

    change_list_template = "admin/giftcards/start.html"
    help_topic = "start"

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return sees_orders(request, self.admin_site)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        title = capfirst(self.opts.verbose_name_plural)
        context = {"title": title, **(extra_context or {})}
        return framed(self, request, self.change_list_template, **context)

    def help_view(self, request: HttpRequest) -> HttpResponse:
        if not may_read(request):
            raise PermissionDenied
        template, title = "admin/giftcards/help.html", gettext("Help")
        return framed(self, request, template, title=title, manual=manual())

    def get_urls(self) -> list[URLPattern]:
        # The start page does not have rows, so pages to add or change a row are not needed.
        view: Any = self.admin_site.admin_view(self.changelist_view)
        # :func:`_site_of` reads ``admin_site``, which Django sets only on views of the AdminSite
        # itself.
        view.admin_site = self.admin_site
        view.help_topic = self.help_topic
        help_view = self.admin_site.admin_view(self.help_view)
        return [
            path("", view, name="giftcards_desk_changelist"),
            path("help/", help_view, name="giftcards_help"),
        ]
