"""Shop code that runs on the customer's page: functions for the PIN, and middleware."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse

from giftcards.models import Order

# No line of this file contains the canary in one piece, because Sentry also shows lines.
CANARY = "CANARY"


def canary(_order: Order) -> str:
    return f"{CANARY}-CODE-pin"


def complaining(order: Order) -> str:
    """A PIN function of a shop that logs what it does, while the request is answered."""
    logging.getLogger("shop").error("The PIN of an order was looked up.")
    return canary(order)


class FailingMiddleware:
    """Shop middleware that fails when a form is posted, with the link in several variables."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> None:
        if request.method == "POST":
            where = request.get_full_path()
            known = {"seen": [where, {"link": next(iter(kwargs.values()))}], "as": str(kwargs)}
            raise RuntimeError(f"{len(known)} things of {request.resolver_match.url_name}")
