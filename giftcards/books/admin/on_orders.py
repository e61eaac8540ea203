"""The additions of this plugin to the order pages and the start page.

These are the account figures above the order list and on the start page, the ledger entries on the
page of an order, a filter for the order list, and the pages for reports and for closing a month.
The account figures and the entries require the permission to see costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.actions import Pages
from giftcards.admin.frame.extensions import Extension, OnList, OnOrder
from giftcards.admin.orders.filters import ConditionFilter
from giftcards.books.admin import closing, reports
from giftcards.books.admin.reports import orders_of_unknown_price
from giftcards.books.conditions import OpenMoney, lasts, money_in_open_orders
from giftcards.books.matching import refund_amount
from giftcards.books.models import CREDIT
from giftcards.books.reports import report
from giftcards.models import Order, ProviderState
from giftcards.models.order_queries import NOT_CREDITED
from giftcards.rules.times import today
from giftcards.text.display import distance_text, duration_text, filled, moment, money, signed_money
from giftcards.watch.conditions import Standing

# The parameters for sorting and paging, which do not filter the list.
_OF_WHOLE_LIST = {"o", "p", "all"}
_HOUR = timedelta(hours=1)
_YEAR = timedelta(days=365)


def above_list(pages: Pages, request: HttpRequest, standing: Standing) -> SafeString | str:
    """Return the account figures above the order list as HTML.

    If the list is filtered or searched, the cost of open orders is left out to save queries. Users
    who cannot see all orders see only the balance.
    """
    if not request.user.has_perm("giftcards.view_cost"):
        return ""
    sees_sums = pages.has_report_permission(request)
    is_whole = sees_sums and not request.GET.keys() - _OF_WHOLE_LIST
    in_orders = standing.once(money_in_open_orders) if is_whole else None
    figures = _figures(standing.state, in_orders)
    context = {
        "figures": list(figures if sees_sums else islice(figures, 1)),
        "provider": _provider_page(request, pages.admin_site),
    }
    return render_to_string("admin/giftcards_books/balance.html", context, request)


def _provider_page(request: HttpRequest, site: AdminSite) -> str:
    is_there = site.is_registered(ProviderState)
    if is_there and site.get_model_admin(ProviderState).has_view_permission(request):
        return reverse("admin:giftcards_providerstate_changelist", current_app=site.name)
    return ""


def _figures(state: ProviderState, in_orders: OpenMoney | None) -> Iterator[tuple[Any, str, str]]:
    if state.balance is None or state.balance_read_at is None:
        yield _("Balance"), gettext("not read yet"), ""
    else:
        age = distance_text(state.balance_read_at, timezone.now())
        yield _("Balance"), money(state.balance), age
    if in_orders is not None:
        yield _("Cost of open orders"), money(in_orders.total), _of_open(in_orders)
    if (span := lasts(state)) is not None:
        yield _("Enough for"), _in_words(span), gettext("based on the last 24 hours")


def _of_open(in_orders: OpenMoney) -> str:
    """Return an HTML note about unsent orders and unknown prices."""
    texts = []
    if in_orders.unsent:
        text = gettext("including %(amount)s for orders that are not sent yet")
        texts.append(filled(text, amount=money(in_orders.unsent)))
    if in_orders.unknown:
        texts.append(orders_of_unknown_price(in_orders.unknown))
    return format_html_join(" ", "{}", ((text,) for text in texts))


def _in_words(span: timedelta) -> str:
    if span < _HOUR:
        return gettext("less than an hour")
    if span > _YEAR:
        return gettext("more than a year")
    return gettext("about %(time)s") % {"time": duration_text(span)}


def entries(request: HttpRequest, order: Order) -> SafeString | str:
    """Return the ledger entries of ``order`` as HTML, oldest first.

    If the refund for the order is missing, the promised and the credited amounts are also shown.
    The result is "" for users who are not allowed to see costs.
    """
    if not request.user.has_perm("giftcards.view_cost"):
        return ""
    entries = list(order.ledger_entries.order_by("time", "pk"))
    context: dict[str, Any] = {
        "entries": [
            (signed_money(entry.amount), moment(entry.time), entry.is_guess) for entry in entries
        ],
        "has_guess": any(entry.is_guess for entry in entries),
    }
    if order.is_credited is False:
        amounts = (entry.amount for entry in entries if entry.type == CREDIT)
        context["promised"] = money(refund_amount(order))
        context["credited"] = money(sum(amounts, Decimal(0)))
    return render_to_string("admin/giftcards_books/entries.html", context, request)


class NotCreditedFilter(ConditionFilter):
    title = _("ledger")
    parameter_name = "ledger"
    conditions = {"credits_missing": (_("Not credited back"), NOT_CREDITED)}


def _on_order(_pages: Pages, request: HttpRequest, order: Order) -> OnOrder:
    return OnOrder(money=entries(request, order))


def _on_list(
    pages: Pages, request: HttpRequest, standing: Standing, _orders: Sequence[Order]
) -> OnList:
    return OnList(notice=above_list(pages, request, standing))


# The number of days in the chart on the start page, including today.
_DAYS = 14


def _on_start(pages: Pages, request: HttpRequest, standing: Standing) -> SafeString | str:
    """Return the account figures and a chart of the last two weeks, as HTML."""
    chart = None
    if pages.has_report_permission(request):
        chart = reports.chart(report(today() - timedelta(days=_DAYS - 1), today()))
    context = {"account": above_list(pages, request, standing), "chart": chart}
    return render_to_string("admin/giftcards_books/start.html", context, request)


EXTENSION = Extension(
    help_topics=("reports", "closing", "ledger"),
    on_start=_on_start,
    on_order=_on_order,
    on_list=_on_list,
    filters=(NotCreditedFilter,),
    pages=(*reports.PAGES, *closing.PAGES),
)
