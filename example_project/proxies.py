"""The address of a visitor, where proxies stand before the shop."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse


class VisitorAddress:
    """Middleware that makes ``REMOTE_ADDR`` the visitor's: throttles and traces go by it.

    Each of the ``settings.PROXIES`` adds the address of whoever it answers to the end of
    ``X-Forwarded-For``. What stands before these, anybody may have made up.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        told = [*filter(None, request.headers.get("X-Forwarded-For", "").split(","))]
        if len(told) >= settings.PROXIES:
            request.META["REMOTE_ADDR"] = told[-settings.PROXIES].strip()
        return self.get_response(request)
