"""The columns of the list of orders. Each cell can be understood without its heading."""

from __future__ import annotations

from django.contrib import admin
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.timesince import timesince
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.pages import OrderPages
from giftcards.display import bdi, filled, isolated, money, status_badge, wrapped_moment
from giftcards.models import Order
from giftcards.refunds import refund_breakdown
from giftcards.settlement import CustomerBreakdown, customer_breakdown

# Columns that tell the provider's prices, of the list and of the database table.
COSTS = frozenset(
    {
        "cost",
        "credited_back",
        "fulfilled_amount",
        "price_per_card",
        "price_at_placing",
        "approved_price",
        "max_price",
    }
)


class OrderColumns(OrderPages):
    list_display = (
        "name",
        "badge",
        "bought",
        "sold_to",
        "delivered",
        "cost",
        "credited_back",
        "owed",
        "when",
    )
    # Only this column has an index to sort by.
    sortable_by = ("when",)

    @admin.display(description=_("reference"))
    def name(self, order: Order) -> SafeString:
        return _two_lines(order.reference, order.group)

    @admin.display(description=_("status"))
    def badge(self, order: Order) -> SafeString:
        badge = status_badge(order.status)
        if not order.needs_attention:
            return badge
        mark = '{} <span class="giftcards-mark" role="img" aria-label="{}" title="{}">⚠</span>'
        texts = " ".join(
            problem.explain(show=isolated, shows_costs=False).text
            for problem in order.open_problems
        )
        return format_html(mark, badge, _("To do"), texts)

    @admin.display(description=_("product"))
    def bought(self, order: Order) -> SafeString:
        return _two_lines(order.product_name or order.product_id, order.type_name or order.type_id)

    @admin.display(description=_("customer"), empty_value="")
    def sold_to(self, order: Order) -> SafeString | None:
        known = order.customer_name or order.customer_email or order.customer_phone
        return bdi(known) if known else None

    @admin.display(description=_("delivered"))
    def delivered(self, order: Order) -> SafeString:
        # In words, because right-to-left text reverses two numbers with a slash between them.
        words = gettext("%(delivered)d of %(ordered)d") % {
            "delivered": order.fulfilled_quantity,
            "ordered": order.quantity,
        }
        return format_html("<span>{}</span>{}", words, _bar(order))

    @admin.display(description=_("cost"), empty_value="")
    def cost(self, order: Order) -> SafeString | None:
        breakdown = refund_breakdown(order)
        if breakdown is None:
            return None
        return labelled(gettext("cost"), money(breakdown.charged_amount))

    @admin.display(description=_("credited back"), empty_value="")
    def credited_back(self, order: Order) -> SafeString | None:
        breakdown = refund_breakdown(order)
        if breakdown is None:
            return None
        return labelled(gettext("credited back"), money(breakdown.refunded_amount))

    @admin.display(description=_("still owed"), empty_value="")
    def owed(self, order: Order) -> SafeString | str | None:
        if order.reordered_amount is not None:
            # The customer's money went to the new order.
            return gettext("ordered again")
        breakdown = customer_breakdown(order)
        if breakdown:
            still_owed = labelled(gettext("still owed"), money(breakdown.open_amount))
            return _with_refunds(still_owed, breakdown)
        if order.is_final and order.fulfilled_quantity < order.quantity:
            # Something may be owed: the shop has not said what was paid.
            return labelled(gettext("still owed"), money(None))
        return None

    @admin.display(description=_("when"), ordering="-created_at")
    def when(self, order: Order) -> SafeString:
        age = gettext("%(age)s ago") % {"age": timesince(order.created_at, depth=1)}
        return format_html(
            '<span class="giftcards-when" title="{}">{}'
            ' <span class="giftcards-unseen">{}</span></span>',
            age,
            wrapped_moment(order.created_at),
            age,
        )


def _two_lines(first: str, second: str) -> SafeString:
    if not second:
        return bdi(first)
    return format_html('{} <span class="giftcards-second">{}</span>', bdi(first), bdi(second))


def labelled(label: str, figure: str) -> SafeString:
    """``figure`` after the name of its column, which is shown only where there is no heading."""
    return format_html('<span class="giftcards-label">{}</span> {}', capfirst(label), figure)


def _with_refunds(still_owed: SafeString, breakdown: CustomerBreakdown) -> SafeString:
    """The amount still owed, and the paid and planned refunds, if there are any."""
    parts = [
        (gettext("paid back: %(amount)s"), breakdown.refunded_amount),
        (gettext("to be paid: %(amount)s"), breakdown.planned_amount),
    ]
    refunds = ((filled(text, amount=money(amount)),) for text, amount in parts if amount)
    line = ' <span class="giftcards-second">{}</span>'
    return format_html("{}{}", still_owed, format_html_join("", line, refunds))


def _bar(order: Order) -> SafeString:
    """A small bar of the delivered share; the words beside it say the same."""
    return format_html(
        '<svg class="giftcards-small-bar" viewBox="0 0 100 8" preserveAspectRatio="none"'
        ' aria-hidden="true" focusable="false"><rect width="100" height="8" fill="currentColor"'
        ' fill-opacity="0.3"/><rect width="{}" height="8" fill="currentColor"/></svg>',
        str(100 * order.fulfilled_quantity // order.quantity),
    )
