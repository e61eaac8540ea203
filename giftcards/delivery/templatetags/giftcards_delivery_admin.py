"""Template tags for admin pages."""

from __future__ import annotations

from django import template
from django.utils.translation import ngettext

from giftcards.delivery.models import Delivery
from giftcards.text.display import count_text, zoned_moment
from giftcards.watch.conditions import MOST

register = template.Library()
register.filter("zoned_moment", zoned_moment)


@register.simple_tag
def customers_not_told() -> str:
    """Return a sentence with the number of messages that were not sent, or ""."""
    count = Delivery.objects.untold().order_by()[:MOST].count()
    if not count:
        return ""
    text = ngettext(
        "%(count)s message to a customer was not sent.",
        "%(count)s messages to customers were not sent.",
        count,
    )
    return text % {"count": count_text(count)}
