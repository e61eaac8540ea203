"""The provider's ledger entries about one order, for the order's page.

They tell what the provider charged, so only people who may see costs are shown them.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from giftcards.admin.pages import OrderPages
from giftcards.books.models import CREDIT
from giftcards.display import moment, money, signed_money
from giftcards.models import Order
from giftcards.refunds import refund_breakdown


@dataclass(frozen=True, slots=True)
class BookedEntry:
    """An entry about an order; its texts are HTML."""

    amount: str
    when: str
    is_guess: bool


@dataclass(frozen=True, slots=True)
class Bookings:
    """The provider's ledger entries about an order.

    ``promised`` and ``credited`` (HTML) are the refund that the provider promised and the refund in
    the ledger. Both are "" unless the ledger lacks what was promised.
    """

    entries: list[BookedEntry]
    promised: str
    credited: str

    @property
    def has_guess(self) -> bool:
        return any(entry.is_guess for entry in self.entries)


def bookings(order: Order) -> Bookings:
    """The ledger entries about ``order``, oldest first."""
    entries = list(order.ledger_entries.order_by("time", "pk"))
    promised = credited = ""
    if order.is_credited is False:
        breakdown = refund_breakdown(order)
        promised = money(breakdown.refunded_amount if breakdown else None)
        amounts = (entry.amount for entry in entries if entry.type == CREDIT)
        credited = money(sum(amounts, Decimal(0)))
    shown = [
        BookedEntry(signed_money(entry.amount), moment(entry.time), entry.is_guess)
        for entry in entries
    ]
    return Bookings(shown, promised, credited)


def section(_pages: OrderPages, request: HttpRequest, order: Order) -> SafeString | str:
    """The entries about ``order`` as HTML, for people who may see costs."""
    if not request.user.has_perm("giftcards.view_cost"):
        return ""
    context = {"bookings": bookings(order)}
    return render_to_string("admin/giftcards_books/bookings.html", context, request)
