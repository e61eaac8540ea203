"""The tag that puts the start page's cards on any page of the admin: ``{% giftcards_desk %}``."""

from __future__ import annotations

from typing import Any

from django import template
from django.template import RequestContext

register = template.Library()


@register.inclusion_tag("admin/giftcards/desk.html", takes_context=True)
def giftcards_desk(context: RequestContext) -> dict[str, Any]:
    """The cards for the person of the request; nothing for a person who may see none of it."""
    # Here, because Django imports this module in sites without an admin, too.
    from giftcards.admin.desk.start import show_desk

    return show_desk(context["request"])
