"""Ordering an order's missing cards again: staff see what that means, and do it."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext, ngettext

from giftcards.admin.pages import OrderButton, OrderPages, state_token
from giftcards.display import isolated, money
from giftcards.engine.reordering import check_reorderable, missing_part, reorder_missing, repetition
from giftcards.exceptions import ReorderError
from giftcards.models import Order
from giftcards.problems import Problem


class RepeatingPages(OrderPages):
    """The page that orders the missing cards again."""

    def may_repeat(self, request: HttpRequest, order: Order) -> bool:
        is_untouched = order.reordered_amount is None and not order.is_being_paid_back
        is_allowed = is_untouched and self.has_add_permission(request)
        return is_allowed and bool(order.missing_quantity)

    def get_order_buttons(self, request: HttpRequest, order: Order) -> list[OrderButton]:
        mine = []
        if self.may_repeat(request, order):
            label = gettext("Order the missing cards again")
            mine.append(OrderButton(label, self.address("repeat", order.pk)))
        return [*mine, *super().get_order_buttons(request, order)]

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.repeat_view)
        page = path("<path:object_id>/repeat/", view, name="giftcards_order_repeat")
        return [page, *super().get_urls()]

    def repeat_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        order = self.order_for(request, object_id, allowed=self.has_add_permission(request))
        if request.method == "POST":
            return self._repeat(request, order)
        if (known := repetition(order)) is not None:
            return self._show_known(request, order, known)
        obstacle, new = _obstacle(order), missing_part(order)
        if not new.quantity:
            return self._refuse(request, order, obstacle)
        return self.render_page(
            request,
            "repeat",
            title=gettext("Order the missing cards again"),
            original=order,
            state_token=state_token(order),
            consequence=_consequence(new.quantity),
            facts=self._facts(request, order, new),
            has_ceiling=new.price_ceiling is not None,
            is_owed=bool(new.sale_amount),
            obstacle=obstacle,
            action=_action(new.quantity),
            form=forms.Form(),
        )

    def _repeat(self, request: HttpRequest, order: Order) -> HttpResponse:
        if not self.is_current(request, order):
            return self.refuse_late(request, order)
        by = request.user.get_username()
        try:
            new = reorder_missing(order, by=by)
        except (ReorderError, ValidationError) as error:
            return self._refuse(request, order, *getattr(error, "messages", [str(error)]))
        if not new.is_new:
            return self._show_known(request, order, new)
        decision = Problem("staff_reordered", {"by": by, "order": new.reference})
        self.log_change(request, order, str(decision))
        self.log_addition(request, new, f"Orders again the missing cards of {order}.")
        self.say_recorded(request, new)
        return self._to_first_seen(request, new, order)

    def _refuse(self, request: HttpRequest, order: Order, *texts: str) -> HttpResponse:
        for text in texts:
            self.message_user(request, text, messages.ERROR)
        return self.to_order(order)

    def _show_known(self, request: HttpRequest, order: Order, known: Order) -> HttpResponse:
        text = gettext(
            "The missing cards of %(order)s were ordered again already. They are not ordered twice."
        )
        self.message_user(request, text % {"order": isolated(order)}, messages.INFO)
        return self._to_first_seen(request, known, order)

    def _to_first_seen(self, request: HttpRequest, new: Order, old: Order) -> HttpResponse:
        """Redirect to the new order, or to the old one if the person may not see the new one."""
        return self.to_order(new if self.may_see(request, new) else old)

    def _facts(self, request: HttpRequest, order: Order, new: Order) -> list[tuple[str, object]]:
        """The facts about the new order, with costs for people who may see them."""
        last = order.price_per_card
        texts = {
            # Also for themes that show no breadcrumbs.
            gettext("orders again what is missing from"): order.reference,
            gettext("product"): new.product_name or new.product_id,
            gettext("type"): new.type_name or new.type_id,
            gettext("quantity"): new.quantity,
            # The old order's: that of the key in use, which buys the new one, may not be known.
            gettext("environment"): order.get_environment_display(),
            gettext("customer"): new.customer_name or new.customer_email or new.customer_phone,
        }
        amounts = {gettext("paid by the customer"): new.sale_amount}
        if self.may_see_costs(request):
            amounts |= {
                gettext("price per card, last time"): last,
                gettext("in all, at that price"): last and last * new.quantity,
                gettext("highest price"): new.price_ceiling,
            }
        shown = {label: money(amount) for label, amount in amounts.items() if amount is not None}
        return [*((label, text) for label, text in texts.items() if text), *shown.items()]


def _obstacle(order: Order) -> str:
    """The reason why nothing of ``order`` can be ordered again now; "" if there is none."""
    try:
        check_reorderable(order)
    except ReorderError as error:
        return str(error)
    return ""


def _consequence(missing: int) -> str:
    text = ngettext(
        "%(count)s card of this order did not come. It is bought in a new order, once; the two"
        " orders name each other.",
        "%(count)s cards of this order did not come. They are bought in a new order, once; the two"
        " orders name each other.",
        missing,
    )
    return text % {"count": missing}


def _action(missing: int) -> str:
    text = ngettext("Order %(count)s card", "Order %(count)s cards", missing)
    return text % {"count": missing}
