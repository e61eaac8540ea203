"""Guest accounts: customers without an account get one that only their browser can use.

When a guest logs in to a different account, for example that of the shop's staff, their purchases
and orders move to it. This way, the whole demo works in one window.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model, login
from django.contrib.auth.signals import user_logged_in
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from example_project.storefront.models import Purchase
from giftcards.catalogue import Guest, client_network, customer_of
from giftcards.models import Order

_COOKIE = "visitor"
_SALT = "example_project.storefront.visitors"
_DAYS = 30


def connect() -> None:
    user_logged_in.connect(_take_along, dispatch_uid="storefront")


def remember(request: HttpRequest, response: HttpResponse) -> None:
    """Give the browser a name in a signed cookie, unless it already has one."""
    if not _name(request):
        response.set_signed_cookie(
            _COOKIE,
            uuid.uuid4().hex,
            salt=_SALT,
            max_age=_DAYS * 24 * 60 * 60,
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Lax",
        )


def log_in(request: HttpRequest) -> Any:
    """Return the user, logging in a guest if needed; ``None`` if the browser has no name."""
    if request.user.is_authenticated:
        return request.user
    name = _name(request)
    if not name:
        return None
    guest, is_new = get_user_model().objects.get_or_create(username=name)
    if is_new:
        guest.set_unusable_password()
        guest.save(update_fields=["password"])
    login(request, guest, backend="django.contrib.auth.backends.ModelBackend")
    return guest


def customer(request: HttpRequest) -> str | Guest:
    """Return the customer of a reservation; guests count by network, because cookies are free."""
    found, user = customer_of(request), request.user
    is_guest = user.is_authenticated and not user.has_usable_password()
    return Guest(f"user {user.pk}", client_network(request)) if is_guest else found


def _name(request: HttpRequest) -> str:
    found = request.get_signed_cookie(_COOKIE, "", salt=_SALT, max_age=_DAYS * 24 * 60 * 60)
    return f"guest-{found}" if found else ""


def _take_along(request: HttpRequest | None, user: Any, **_: Any) -> None:
    name = "" if request is None else _name(request)
    if name and user.get_username() != name:
        with transaction.atomic():
            for orders in (Purchase.objects, Order.objects):
                orders.filter(user__username=name).update(user=user)
