"""Shared parts of our pages: their look, addresses and permission."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.admin import AdminSite
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext

from giftcards.admin.actions import may
from giftcards.admin.pages import OrderPages
from giftcards.admin.rows import OrderRows
from giftcards.delivery.conf import languages
from giftcards.models import Order

#: The permission to have messages sent again, and to make links and withdraw them.
MAY_RESEND = may("giftcards_delivery.resend_delivery")
#: The templates of our pages about an order, by name.
TEMPLATE = "admin/giftcards_delivery/{name}.html"
_CSS: dict[str, Any] = {"all": ("giftcards_delivery/admin.css",)}


class DeliveryRows(OrderRows):
    """Base of our lists, whose rows are about orders."""

    class Media:
        css = _CSS


def render_page(
    pages: OrderPages, request: HttpRequest, name: str, order: Order, **context: Any
) -> HttpResponse:
    """Render one of our pages about ``order`` in the frame of the orders' pages."""
    media = pages.media + forms.Media(css=_CSS)
    template = TEMPLATE.format(name=name)
    return pages.render_page(request, template, media=media, original=order, **context)


def address(site: AdminSite, page: str, *args: Any) -> str:
    """The address of one of our pages on this admin site; "" if the site lacks the page."""
    try:
        return reverse(f"admin:giftcards_delivery_{page}", args=args, current_app=site.name)
    except NoReverseMatch:
        return ""


def language_choices() -> list[tuple[str, str]]:
    """The languages of messages, for a form."""
    # Names that Django does not know are shown as they are.
    return [(code, gettext(str(name))) for code, name in languages().items()]


def newest(rows: QuerySet[Any], most: int) -> tuple[list[Any], bool]:
    """The newest ``most`` of the rows, newest first, and whether there are more."""
    found = list(rows.order_by("-pk")[: most + 1])
    return found[:most], len(found) > most
