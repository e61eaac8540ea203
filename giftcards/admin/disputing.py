"""Recording complaints of customers about a code; the order then needs a person."""

from __future__ import annotations

from django.contrib import messages
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern, path
from django.utils.translation import gettext

from giftcards.admin.pages import OrderButton, OrderPages
from giftcards.models import Order


class DisputingPages(OrderPages):
    """The button that records a complaint. Staff tick it off like any lasting problem."""

    def get_order_buttons(self, request: HttpRequest, order: Order) -> list[OrderButton]:
        buttons = super().get_order_buttons(request, order)
        is_offered = order.may_be_disputed and not order.is_disputed
        if is_offered and self.has_check_permission(request):
            label = gettext("The customer complains about a code")
            address = self.address("dispute", order.pk)
            return [*buttons, OrderButton(label, address, is_post=True)]
        return buttons

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.dispute_view)
        page = path("<path:object_id>/dispute/", view, name="giftcards_order_dispute")
        return [page, *super().get_urls()]

    def dispute_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        order = self.order_for(request, object_id, allowed=self.has_check_permission(request))
        if not order.may_be_disputed or not self.is_current(request, order):
            return self.refuse_late(request, order)
        # Both or neither: no complaint without a trace.
        with transaction.atomic(using=router.db_for_write(Order)):
            # False for the second request of a double click.
            if order.dispute(by=request.user.get_username()):
                self.log_change(request, order, "Noted that the customer complains about a code.")
        text = gettext("The complaint was noted. The codes are kept until it is ticked off.")
        self.message_user(request, text, messages.SUCCESS)
        return self.to_order(order)
