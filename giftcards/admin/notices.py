"""Where further apps add notices above the list of orders: :func:`register`."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest
from django.utils.safestring import SafeString

Notice = Callable[[HttpRequest], "SafeString | str"]

_notices: list[Notice] = []


def register(notice: Notice) -> Notice:
    """Show what ``notice`` returns for a request, as HTML; usable as a decorator.

    Call it once, from the ``ready`` method of an app, or from its admin module. The notice looks at
    what the person may see: it returns "" for nothing.
    """
    if notice not in _notices:
        _notices.append(notice)
    return notice


def rendered(request: HttpRequest) -> list[str]:
    """The notices that there are for the person."""
    return [shown for notice in _notices if (shown := notice(request))]
