"""Shared parts of our pages: their permission, their lists and their style sheet."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext

from giftcards.admin.actions import may
from giftcards.admin.rows import OrderRows, column
from giftcards.delivery.conf import languages
from giftcards.delivery.models import Delivery

#: The permission to have messages sent again, and to make links and withdraw them.
MAY_RESEND = may("giftcards_delivery.resend_delivery")
#: The style sheet of our pages.
CSS: dict[str, Any] = {"all": ("giftcards_delivery/admin.css",)}


class DeliveryRows(OrderRows):
    """Base of our lists, whose rows are about orders; the latest row comes first."""

    list_display_links = ("when",)
    list_select_related = ("order",)
    # Shows the search box; search_rows() does the search.
    search_fields = ("order__reference",)

    class Media:
        css = CSS

    when = column(Delivery, "created_at")


def language_choices() -> list[tuple[str, str]]:
    """The languages of messages, for a form."""
    # Names that Django does not know are shown as they are.
    return [(code, gettext(str(name))) for code, name in languages().items()]


def newest(rows: QuerySet[Any], most: int) -> tuple[list[Any], bool]:
    """The newest ``most`` of the rows, newest first, and whether there are more."""
    found = list(rows.order_by("-pk")[: most + 1])
    return found[:most], len(found) > most
