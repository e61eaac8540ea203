"""The head of the list of orders: the balance at the provider, and how long it will last.

Only people who may see costs are shown it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.pages import OrderPages
from giftcards.admin.provider_sections import distance
from giftcards.books.forecast import OpenMoney, lasts, money_in_open_orders
from giftcards.conditions import Standing
from giftcards.display import count_text, filled, money
from giftcards.models import ProviderState

# The query parameters with which the list still shows all orders: sorting and paging.
_OF_WHOLE_LIST = {"o", "p", "all"}
_HOUR = timedelta(hours=1)
_YEAR = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Figure:
    """A labelled amount or time; ``about`` says more. Texts or safe HTML."""

    label: Any
    value: str
    about: str = ""


def above_list(pages: OrderPages, request: HttpRequest, standing: Standing) -> SafeString | str:
    """The figures of the account, as HTML, for people who may see costs.

    While the list is filtered or searched, the cost of open orders is left out to save queries.
    """
    if not request.user.has_perm("giftcards.view_cost"):
        return ""
    is_whole = not request.GET.keys() - _OF_WHOLE_LIST
    in_orders = standing.once(money_in_open_orders) if is_whole else None
    context = {
        "figures": list(_figures(standing.state, in_orders)),
        "provider": _provider_page(request, pages.admin_site),
    }
    return render_to_string("admin/giftcards_books/balance.html", context, request)


def _provider_page(request: HttpRequest, site: AdminSite) -> str:
    """The address of the provider's page; "" for a person who may not open it."""
    if not site.is_registered(ProviderState):
        return ""
    if not site.get_model_admin(ProviderState).has_view_permission(request):
        return ""
    return reverse("admin:giftcards_providerstate_changelist", current_app=site.name)


def _figures(state: ProviderState, in_orders: OpenMoney | None) -> Iterator[Figure]:
    if state.balance is None or state.balance_read_at is None:
        yield Figure(_("Balance"), gettext("not read yet"))
    else:
        age = distance(state.balance_read_at, timezone.now())
        yield Figure(_("Balance"), money(state.balance), age)
    if in_orders is not None:
        yield Figure(_("In open orders"), money(in_orders.total), _of_open(in_orders))
    if (span := lasts(state)) is not None:
        about = gettext("at the pace of the last 24 hours")
        yield Figure(_("Enough for"), _in_words(span), about)


def _of_open(in_orders: OpenMoney) -> str:
    """The part of the amount that is not sent yet, and the count of orders of unknown price."""
    texts = []
    if in_orders.unsent:
        text = gettext("%(amount)s of it still to be sent")
        texts.append(filled(text, amount=money(in_orders.unsent)))
    if in_orders.unknown:
        texts.append(orders_of_unknown_price(in_orders.unknown))
    return format_html_join(" ", "{}", ((text,) for text in texts))


def orders_of_unknown_price(count: int) -> SafeString:
    """The count of orders without a known price, as HTML to follow the amount of the others."""
    text = ngettext(
        "and %(count)s order of unknown price", "and %(count)s orders of unknown price", count
    )
    return filled(text, count=count_text(count))


def _in_words(span: timedelta) -> str:
    if span < _HOUR:
        return gettext("less than an hour")
    if span > _YEAR:
        return gettext("more than a year")
    now = timezone.now()
    return gettext("about %(time)s") % {"time": timesince(now - span, now, depth=1)}
