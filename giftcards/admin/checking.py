"""The button that has an open order checked now, and the poll that tells its page of changes."""

from __future__ import annotations

import json

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from django.urls import URLPattern, path
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext

from giftcards.admin.pages import OrderButton, OrderPages, state_token
from giftcards.models import Order
from giftcards.statuses import FOLLOWED, Status


def fingerprint(order: Order) -> str:
    """A hash that changes once the page of ``order`` has something new to say.

    A check that finds nothing new does not change it.
    """
    shown = json.dumps(
        [state_token(order), order.problems, order.fulfilled_quantity], sort_keys=True
    )
    return salted_hmac("giftcards.admin.fingerprint", shown, algorithm="sha256").hexdigest()


class CheckingPages(OrderPages):
    """The button that has an order checked, and the address that the page's script polls."""

    def get_order_buttons(self, request: HttpRequest, order: Order) -> list[OrderButton]:
        mine = []
        if order.status in FOLLOWED and self.has_check_permission(request):
            mine.append(
                OrderButton(gettext("Check now"), self.address("check", order.pk), is_post=True)
            )
        return [*mine, *super().get_order_buttons(request, order)]

    def get_urls(self) -> list[URLPattern]:
        views = {"check": self.check_view, "fingerprint": self.fingerprint_view}
        return [
            path(
                f"<path:object_id>/{name}/",
                self.admin_site.admin_view(view),
                name=f"giftcards_order_{name}",
            )
            for name, view in views.items()
        ] + super().get_urls()

    def check_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        order = self.order_for(request, object_id, allowed=self.has_check_permission(request))
        if self.ask_for_checks(request, Order.objects.filter(pk=order.pk)):
            text = gettext("The order will be checked in a moment.")
            self.message_user(request, text, messages.SUCCESS)
        else:
            order.refresh_from_db()
            self.message_user(request, _why_not(order), messages.WARNING)
        return self.to_order(order)

    def fingerprint_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        order = self.order_for(request, object_id, allowed=True)
        return JsonResponse({"fingerprint": fingerprint(order)})


def _why_not(order: Order) -> str:
    """The reason, in a sentence, why the provider is not asked about ``order`` now."""
    if order.is_final:
        return gettext("The order is final: there is nothing left to ask the provider.")
    if order.status == Status.UNCONFIRMED:
        return gettext("The order is unconfirmed, and is looked for by itself.")
    if order.status not in FOLLOWED:
        return gettext("The order has not been sent yet: there is nothing to ask about.")
    return gettext("The order was checked a moment ago. It is checked again by itself.")
