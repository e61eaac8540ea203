"""What the pages of the admin say that no view of ours makes."""

from __future__ import annotations

from django import template
from django.utils.translation import ngettext

from giftcards.delivery.models import Delivery
from giftcards.display import count_text

register = template.Library()
# No more are counted.
_MOST = 1_000


@register.simple_tag
def customers_not_told() -> str:
    """How many messages were not sent, in a sentence; "" if there is none."""
    count = Delivery.objects.untold().order_by()[:_MOST].count()
    if not count:
        return ""
    text = ngettext(
        "%(count)s message to a customer was not sent.",
        "%(count)s messages to customers were not sent.",
        count,
    )
    return text % {"count": count_text(count)}
