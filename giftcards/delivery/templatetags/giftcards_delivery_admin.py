"""Tags for admin pages that Django's own views render."""

from __future__ import annotations

from django import template
from django.utils.translation import ngettext

from giftcards.delivery.models import Delivery
from giftcards.display import count_text

register = template.Library()
# Upper bound of the count.
_MOST = 1_000


@register.simple_tag
def customers_not_told() -> str:
    """A sentence with the number of messages that were not sent; "" if there is none."""
    count = Delivery.objects.untold().order_by()[:_MOST].count()
    if not count:
        return ""
    text = ngettext(
        "%(count)s message to a customer was not sent.",
        "%(count)s messages to customers were not sent.",
        count,
    )
    return text % {"count": count_text(count)}
