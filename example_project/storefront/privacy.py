"""The shop's data about its customers, for ``giftcards_customer``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.utils.translation import gettext

from example_project.storefront.models import Purchase
from giftcards.models import Order
from giftcards.privacy.person import Person, Traces


class Purchases:
    """The keeper of the e-mail address of each purchase; the other columns stay for accounting."""

    app_label = "storefront"

    def orders(self, _person: Person) -> Iterable[int]:
        return []  # an order has the same address itself

    def addresses(self, order: Order) -> Iterable[str]:
        purchase = Purchase.of(order)
        return [purchase.email] if purchase and purchase.email else []

    def describe(self, order: Order) -> dict[str, Any]:
        purchase = Purchase.of(order)
        return {gettext("In the shop"): purchase.email} if purchase else {}

    def erase(self, order: Order, traces: Traces) -> None:
        _erase_unpaid(traces)
        if purchase := Purchase.of(order):
            purchase.email = ""
            purchase.save(update_fields=["email"])


class Gifts:
    """The keeper of the recipients of gifts, which only unpaid purchases contain."""

    app_label = "storefront"

    def orders(self, _person: Person) -> Iterable[int]:
        return []

    def addresses(self, _order: Order) -> Iterable[str]:
        return []

    def describe(self, _order: Order) -> dict[str, Any]:
        return {}

    def erase(self, _order: Order, traces: Traces) -> None:
        _erase_unpaid(traces)


def _erase_unpaid(traces: Traces) -> None:
    """Delete unpaid purchases that contain the person's address; they have no order."""
    unpaid = Purchase.objects.unpaid()
    addresses = unpaid.values_list("pk", "email", "recipient_email")
    named = [pk for pk, *texts in addresses if any(map(traces.are_whole_in, texts))]
    unpaid.filter(pk__in=named).delete()


PURCHASES, GIFTS = Purchases(), Gifts()
