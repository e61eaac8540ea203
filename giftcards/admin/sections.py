"""The registry of other apps' sections on the page of an order; see :func:`register`."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest
from django.utils.safestring import SafeString

from giftcards.models import Order

Section = Callable[[HttpRequest, Order], "SafeString | str"]

_sections: list[Section] = []


def register(section: Section) -> Section:
    """Add the HTML that ``section`` returns for a request and an order; usable as a decorator.

    Call it once, from the ``ready`` method of an app. ``section`` has to check what the person may
    see; it returns "" to show nothing. The HTML stands inside the form of the page, so it must not
    hold a form: a button in it names the form ``giftcards-act`` and its own ``formaction``.
    """
    if section not in _sections:
        _sections.append(section)
    return section


def rendered(request: HttpRequest, order: Order) -> list[str]:
    """The sections that other apps add to the page of ``order``."""
    return [shown for section in _sections if (shown := section(request, order))]
