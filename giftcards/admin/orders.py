"""Orders in the Django admin: viewing, placing and checking them. Only revealing shows a code.

:class:`OrderAdmin` is public: shops subclass it for their theme or their own columns.
"""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from giftcards.admin.finding import FindingPages
from giftcards.admin.listing import ListPage
from giftcards.admin.order_page import OrderPage
from giftcards.admin.placing import PlacingPage
from giftcards.admin.refunding import RefundingPages
from giftcards.admin.repeating import RepeatingPages
from giftcards.admin.revealing import RevealingPages
from giftcards.models import Order


@admin.register(Order)
class OrderAdmin(
    ListPage,
    OrderPage,
    RepeatingPages,
    RefundingPages,
    PlacingPage,
    FindingPages,
    RevealingPages,
):
    """The orders' pages. To use a subclass, unregister this class first, and register yours."""

    class Media:
        css = {"all": ("giftcards/admin.css",)}

    # Orders are history: they are viewed, placed and checked, but never edited or deleted.

    def has_change_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        return False
