"""Tags and filters for shop templates: ``{% load giftcards_delivery %}``.

The tags need the ``request`` in the template context.
"""

from __future__ import annotations

from typing import Any

from django import template
from django.template import RequestContext

from giftcards.delivery import views
from giftcards.models import Order
from giftcards.text.display import day_text, linked, moment, money

register = template.Library()

register.filter("money", money)
register.filter("moment", moment)
register.filter("day", day_text)
register.filter("linked", linked)

# The maximum number of orders that the tag lists. The customer's page lists all orders.
_MOST_LISTED = 20


@register.inclusion_tag("giftcards_delivery/tags/my_cards.html", takes_context=True)
def my_cards(context: RequestContext) -> dict[str, Any]:
    """Return the newest orders of the logged-in user."""
    user, back = _person_and_page(context)
    found = list(Order.objects.of_user(user).prefetch_related("refunds")[: _MOST_LISTED + 1])
    return {
        "orders": views.shown_orders(user, found[:_MOST_LISTED]),
        "has_more": len(found) > _MOST_LISTED,
        "back": back,
    }


@register.inclusion_tag("giftcards_delivery/tags/order_cards.html", takes_context=True)
def order_cards(context: RequestContext, order: Order) -> dict[str, Any]:
    """Return the state of ``order`` and a button for its cards.

    The tag is empty unless the logged-in user owns the order.
    """
    user, back = _person_and_page(context)
    # The order is read again, because the template's instance may be out of date.
    found = Order.objects.of_user(user).filter(pk=order.pk)[:1]
    return {"orders": views.shown_orders(user, found), "back": back}


def _person_and_page(context: RequestContext) -> tuple[Any, str]:
    request = context.get("request")
    return getattr(request, "user", None), request.get_full_path() if request else ""
