"""The registry of other apps' notices above the list of orders; see :func:`register`."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest
from django.utils.safestring import SafeString

Notice = Callable[[HttpRequest], "SafeString | str"]

_notices: list[Notice] = []


def register(notice: Notice) -> Notice:
    """Show the HTML that ``notice`` returns for a request; usable as a decorator.

    Call it once, from the ``ready`` method of an app, or from its admin module. ``notice`` has to
    check what the person may see; it returns "" to show nothing.
    """
    if notice not in _notices:
        _notices.append(notice)
    return notice


def rendered(request: HttpRequest) -> list[str]:
    """The notices for the person, without empty ones."""
    return [shown for notice in _notices if (shown := notice(request))]
