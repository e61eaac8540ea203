"""Template tags for admin pages.

The tags are ``{% giftcards_desk %}`` and ``{% giftcards_help %}``.
"""

from __future__ import annotations

from typing import Any

from django import template
from django.template import RequestContext

register = template.Library()


@register.inclusion_tag("admin/giftcards/desk.html", takes_context=True)
def giftcards_desk(context: RequestContext) -> dict[str, Any]:
    """Return the context for the tiles of the start page.

    Any admin page can include these tiles.
    """
    # Django imports this module in sites without an admin, too.
    from giftcards.admin.desk.start import show_desk

    return show_desk(context["request"])


@register.inclusion_tag("admin/giftcards/help_link.html", takes_context=True)
def giftcards_help(context: RequestContext, topic: str = "") -> dict[str, Any]:
    """Return the context for a link to a topic of the manual.

    By default, the link leads to the topic of the page.
    """
    from giftcards.admin.frame.manual import help_url

    return {"url": help_url(context["request"], topic)}
