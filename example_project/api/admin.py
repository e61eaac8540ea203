from __future__ import annotations

from django.contrib import admin

from example_project.api.models import Reveal
from giftcards.admin.frame.rows import OrderRows


@admin.register(Reveal)
class RevealAdmin(OrderRows):
    """Staff see who was shown codes, and when, for orders that they may see; it is read-only."""

    list_display = ("its_order", "user", "at")
    list_select_related = ("order", "user")
    fields = readonly_fields = list_display
    # Django shows the search box; OrderRows searches by the reference of an order.
    search_fields = ("order__reference",)
