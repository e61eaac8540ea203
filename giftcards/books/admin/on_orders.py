"""What is added to the pages of orders."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from giftcards.admin.extensions import Extension, register
from giftcards.admin.filters import IndexedFilter
from giftcards.books.admin.balance import above_list
from giftcards.books.admin.bookings import section
from giftcards.books.admin.reports import PAGES
from giftcards.models.order_queries import NOT_CREDITED


class NotCreditedFilter(IndexedFilter, admin.SimpleListFilter):
    title = _("ledger")
    parameter_name = "ledger"

    def lookups(self, *_args: Any) -> list[tuple[str, Any]]:
        return [("missing", _("Not credited back"))]

    def condition(self) -> Q:
        return NOT_CREDITED if self.value() == "missing" else Q()


EXTENSION = Extension(
    above_list=above_list, money=section, filters=(NotCreditedFilter,), pages=PAGES
)
register(EXTENSION)
