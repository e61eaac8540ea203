"""Shared parts of our pages about an order: permissions, addresses and the frame."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext

from giftcards.admin.order_rows import OrderRows
from giftcards.delivery.conf import languages
from giftcards.models import Order


def may_resend(request: HttpRequest) -> bool:
    """True if the person may have messages sent again, make links and withdraw them."""
    return request.user.has_perm("giftcards_delivery.resend_delivery")


def address_here(request: HttpRequest, page: str, *args: Any) -> str:
    """The address of one of our pages on this admin site; "" if the site lacks the page."""
    match = request.resolver_match
    site = match.namespace if match else None
    try:
        return reverse(f"admin:giftcards_delivery_{page}", args=args, current_app=site)
    except NoReverseMatch:
        return ""


def language_choices() -> list[tuple[str, str]]:
    """The languages of messages, for a form."""
    # Names that Django does not know are shown as they are.
    return [(code, gettext(str(name))) for code, name in languages().items()]


class DeliveryPages(OrderRows):
    """Base of our pages about an order, which are shown in the frame of the orders' pages."""

    class Media:
        css = {"all": ("giftcards_delivery/admin.css",)}

    def order_for(self, request: HttpRequest, order_id: int, *, allowed: bool) -> Order:
        """Return the order if the person may see it and is ``allowed`` to use the page.

        Raises :exc:`~django.core.exceptions.PermissionDenied` otherwise.
        """
        order = Order.objects.filter(pk=order_id).first()
        if order is None or not allowed or not self.visible_orders(request, [order]):
            raise PermissionDenied
        return order

    def address(self, page: str, *args: Any) -> str:
        """The address of one of our pages."""
        name = f"admin:giftcards_delivery_{page}"
        return reverse(name, args=args, current_app=self.admin_site.name)

    def order_address(self, order: Order) -> str:
        name = "admin:giftcards_order_change"
        return reverse(name, args=[order.pk], current_app=self.admin_site.name)

    def correction_address(self, request: HttpRequest, order: Order) -> str:
        """The URL of the page for correcting the customer's address; "" if the person may not."""
        if not request.user.has_perm("giftcards.correct_customer"):
            return ""
        name = "admin:giftcards_order_customer"
        return reverse(name, args=[order.pk], current_app=self.admin_site.name)

    def conclude(
        self, request: HttpRequest, order: Order, text: str, level: int = messages.SUCCESS
    ) -> HttpResponse:
        """Redirect to the page of the order, which then shows ``text``."""
        self.message_user(request, text, level)
        return HttpResponseRedirect(self.order_address(order))

    def render_page(
        self,
        request: HttpRequest,
        name: str,
        order: Order,
        *,
        title: str,
        **context: Any,
    ) -> HttpResponse:
        """Render ``admin/giftcards_delivery/<name>.html``, a page about ``order``."""
        request.current_app = self.admin_site.name
        frame = {
            **self.admin_site.each_context(request),
            "opts": self.admin_site.get_model_admin(Order).opts,
            "has_view_permission": True,
            "media": self.media,
            "original": order,
            "order_page": self.order_address(order),
            "title": title,
        }
        return TemplateResponse(
            request, f"admin/giftcards_delivery/{name}.html", {**frame, **context}
        )


def newest(rows: QuerySet[Any], most: int) -> tuple[list[Any], bool]:
    """The newest ``most`` of the rows, newest first, and whether there are more."""
    found = list(rows.order_by("-pk")[: most + 1])
    return found[:most], len(found) > most
