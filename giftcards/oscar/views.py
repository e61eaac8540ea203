"""The "My cards" page in the customer's account."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.mixins import LoginRequiredMixin
from django.utils.translation import gettext_lazy as _
from django.views.generic import TemplateView
from oscar.apps.customer.mixins import PageTitleMixin

from giftcards.models import Order


class MyCardsView(LoginRequiredMixin, PageTitleMixin, TemplateView):  # type: ignore[misc]  # untyped
    """Show the customer's orders and buttons, as in ``giftcards.delivery``."""

    template_name = "giftcards_oscar/my_cards.html"
    page_title = _("Gift cards")
    active_tab = "giftcards"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        has_orders = Order.objects.of_user(self.request.user).exists()
        return super().get_context_data(has_orders=has_orders, **kwargs)
