"""Deciding about a held order: staff see the price that held it, then buy or reject the order."""

from __future__ import annotations

from decimal import Decimal

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext

from giftcards.admin.forms import PriceForm, facts
from giftcards.admin.pages import OrderButton, OrderPages, state_token
from giftcards.display import explained, money
from giftcards.engine.price_holds import approve_price, held_price, reject_held
from giftcards.models import Order


class PricingPages(OrderPages):
    """The page for the decision about an order whose cards cost more than they may."""

    def may_decide_prices(self, request: HttpRequest) -> bool:
        """True if the person may decide about prices: if they may resolve orders and see costs."""
        return self.has_resolve_permission(request) and self.may_see_costs(request)

    def get_order_buttons(self, request: HttpRequest, order: Order) -> list[OrderButton]:
        mine = []
        if order.is_held and self.may_decide_prices(request):
            label = gettext("What may a card cost?")
            mine.append(OrderButton(label, self.address("price", order.pk)))
        return [*mine, *super().get_order_buttons(request, order)]

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.price_view)
        page = path("<path:object_id>/price/", view, name="giftcards_order_price")
        return [page, *super().get_urls()]

    def price_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        order = self.order_for(request, object_id, allowed=self.may_decide_prices(request))
        price = held_price(order)
        if price is None or (request.method == "POST" and not self.is_current(request, order)):
            return self.refuse_late(request, order)
        form = PriceForm(order, price, request.POST or None)
        if form.is_valid():
            by = request.user.get_username()
            if form.cleaned_data["outcome"] == PriceForm.APPROVE:
                decision = approve_price(order, price, by=by)
            else:
                decision = reject_held(order, by=by)
            if decision is None:
                return self.refuse_late(request, order)
            return self.conclude(request, order, decision)
        return self.render_page(
            request,
            "price",
            title=gettext("What may a card cost?"),
            original=order,
            state_token=state_token(order),
            facts=[*facts(order), *_amounts(order, price)],
            problems=[explained(problem, shows_costs=True) for problem in order.open_problems],
            form=form,
            errors=form.errors,
        )


def _amounts(order: Order, price: Decimal) -> list[tuple[str, object]]:
    """The known amounts, with labels: of the sale, the price limit, and the provider's price."""
    amounts = {
        gettext("sale price"): order.sale_price,
        gettext("sale amount"): order.sale_amount,
        gettext("highest price"): order.price_ceiling,
        gettext("price at the provider"): price,
    }
    return [(label, money(amount)) for label, amount in amounts.items() if amount is not None]
