"""Shared parts of our pages: their look, their permission and their lists."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.actions import may
from giftcards.admin.pages import OrderPages
from giftcards.admin.rows import OrderRows
from giftcards.delivery.conf import languages
from giftcards.display import exact_moment
from giftcards.models import Order

#: The permission to have messages sent again, and to make links and withdraw them.
MAY_RESEND = may("giftcards_delivery.resend_delivery")
#: The templates of our pages about an order, by name.
TEMPLATE = "admin/giftcards_delivery/{name}.html"
_CSS: dict[str, Any] = {"all": ("giftcards_delivery/admin.css",)}


class DeliveryRows(OrderRows):
    """Base of our lists, whose rows are about orders; the latest row comes first."""

    list_display_links = ("when",)
    list_select_related = ("order",)
    # Shows the search box; search_rows() does the search.
    search_fields = ("order__reference",)

    class Media:
        css = _CSS

    @admin.display(description=_("created"))
    def when(self, row: Any) -> str:
        return exact_moment(row.created_at)


def render_page(
    pages: OrderPages, request: HttpRequest, name: str, order: Order, **context: Any
) -> HttpResponse:
    """Render one of our pages about ``order`` in the frame of the orders' pages."""
    media = pages.media + forms.Media(css=_CSS)
    template = TEMPLATE.format(name=name)
    return pages.render_page(request, template, media=media, original=order, **context)


def language_choices() -> list[tuple[str, str]]:
    """The languages of messages, for a form."""
    # Names that Django does not know are shown as they are.
    return [(code, gettext(str(name))) for code, name in languages().items()]


def newest(rows: QuerySet[Any], most: int) -> tuple[list[Any], bool]:
    """The newest ``most`` of the rows, newest first, and whether there are more."""
    found = list(rows.order_by("-pk")[: most + 1])
    return found[:most], len(found) > most
