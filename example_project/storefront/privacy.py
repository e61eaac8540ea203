"""The shop's data about its customers, for ``giftcards_customer``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.utils.translation import gettext

from example_project.storefront.models import Purchase
from giftcards.models import Order
from giftcards.privacy.person import Person, Traces


class Purchases:
    """The keeper of the e-mail address of each purchase; the rest stays, for the books."""

    app_label = "storefront"

    def orders(self, _person: Person) -> Iterable[int]:
        return []  # an order has the same address itself

    def addresses(self, order: Order) -> Iterable[str]:
        purchase = Purchase.of(order)
        return [purchase.email] if purchase and purchase.email else []

    def describe(self, order: Order) -> dict[str, Any]:
        purchase = Purchase.of(order)
        return {gettext("In the shop"): purchase.email} if purchase else {}

    def erase(self, order: Order, _traces: Traces) -> None:
        if purchase := Purchase.of(order):
            # What was never paid has no order, and nobody needs it.
            Purchase.objects.filter(paid_at=None, email__iexact=purchase.email).delete()
            purchase.email = ""
            purchase.save(update_fields=["email"])


PURCHASES = Purchases()
