"""The IP address of a visitor if there are proxies in front of the shop."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse


class VisitorAddress:
    """Middleware that sets ``REMOTE_ADDR`` to the visitor's address, for throttles and records.

    Each of the ``settings.PROXIES`` proxies adds the address of its client to the end of
    ``X-Forwarded-For``. Anybody can invent the entries before these.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        told = [*filter(None, request.headers.get("X-Forwarded-For", "").split(","))]
        if len(told) >= settings.PROXIES:
            request.META["REMOTE_ADDR"] = told[-settings.PROXIES].strip()
        return self.get_response(request)
