"""Texts for the shop's developer on pages for staff: closed, and below a sentence for everybody."""

from __future__ import annotations

from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString

from giftcards.display import bdi

#: Who has it is shown hints: whoever ends a pause has to know why it began.
SEES_HINTS = "giftcards.resume_provider"


def for_developer(hint: object) -> SafeString:
    """``hint`` as HTML, closed; "" without one. A text is escaped."""
    context = {"hint": bdi(hint) if hint else ""}
    return SafeString(render_to_string("admin/giftcards/for_developer.html", context).strip())


def with_hint(text: object, hint: object, *, is_shown: bool) -> SafeString:
    """The sentence ``text`` for everybody, and the hint if ``is_shown``, as HTML."""
    return format_html("{} {}", text, for_developer(hint) if is_shown else "")
