"""The tag ``{% giftcards_desk %}``, which puts the tiles of the start page on any admin page."""

from __future__ import annotations

from typing import Any

from django import template
from django.template import RequestContext

register = template.Library()


@register.inclusion_tag("admin/giftcards/desk.html", takes_context=True)
def giftcards_desk(context: RequestContext) -> dict[str, Any]:
    """Return the context of the start page: search box, tiles and the line about today."""
    # Django imports this module in sites without an admin, too.
    from giftcards.admin.desk.start import show_desk

    return show_desk(context["request"])
