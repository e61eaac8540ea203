"""The views of the customer's pages: which page answers a request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import SuspiciousOperation
from django.core.paginator import Page, Paginator
from django.db import Error as DatabaseFailure
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.http.multipartparser import MultiPartParserError
from django.middleware.csrf import get_token
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.debug import sensitive_post_parameters

from giftcards.delivery import my_orders, page_tokens, pages
from giftcards.delivery.codes import Code
from giftcards.delivery.conf import conf
from giftcards.delivery.links import find
from giftcards.delivery.models import CardLink
from giftcards.delivery.pins import guess, pin_of
from giftcards.delivery.revealing import Visitor, is_spent, note_opening, reveal, shown_at
from giftcards.keys.secrecy import Masked, apart, contained
from giftcards.models import Order

logger = logging.getLogger(__name__)

_PER_PAGE = 20


@csrf_exempt  # the page has a token of its own
@transaction.non_atomic_requests  # a reveal is committed before the cards are shown
@sensitive_post_parameters("token", "password")
def cards(request: HttpRequest, token: str) -> HttpResponse:
    """The page behind a link. GET shows no card and uses up nothing, because programs fetch."""
    token = Masked(token)
    return _kept_in(request, lambda: _answer_link(request, token))


@transaction.non_atomic_requests
@sensitive_post_parameters("token")
@csrf_protect
def my_cards(request: HttpRequest) -> HttpResponse:
    """The orders and gifts of the user who is logged in; POST shows the cards of ``order``."""
    if request.method not in pages.METHODS:
        return pages.refuse_method()
    if conf.orders_of is None and conf.gifts_of is None:
        return pages.gone(request)
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return redirect_to_login(request.path)
    if request.method == "POST":
        return _kept_in(request, lambda: _show_owned(request, user))
    orders = _page_of(my_orders.orders_of(user).prefetch_related("refunds"), request, "page")
    gifts = _page_of(my_orders.gifts_of(user).prefetch_related("refunds"), request, "gifts")
    context = {
        "orders": my_orders.shown_orders(user, orders),
        "paginated": orders,
        "gifts": my_orders.shown_gifts(user, gifts),
        "paginated_gifts": gifts,
        "back": request.get_full_path(),
    }
    return pages.owned(request, context)


def _page_of(listed: QuerySet[Order], request: HttpRequest, parameter: str) -> Page[Order]:
    return Paginator(listed, _PER_PAGE).get_page(request.GET.get(parameter))


def _kept_in(request: HttpRequest, answer: Callable[[], HttpResponse]) -> HttpResponse:
    """Return ``answer()``; on an error, return a page that does not show the secret address.

    The error is logged by its class and the lines that it passed: its text could hold a code. With
    ``DEBUG``, it is raised.
    """
    try:
        return answer()
    except Exception as error:  # whatever a template, a hook or the database raises
        if settings.DEBUG:
            raise
        kind, lines = type(error).__qualname__, "\n".join(getattr(error, "__notes__", ()))
        apart(logger.error, "A customer's page was not shown: %s. %s", kind, lines)
        return pages.trouble(request)


@contained
def _answer_link(request: HttpRequest, token: str) -> HttpResponse:
    if request.method not in pages.METHODS:
        return pages.refuse_method()
    if request.method == "POST":
        return _answer_press(request, token)
    link = find(token)
    if link is None:
        return pages.gone(request)
    if request.method == "GET":
        try:
            note_opening(link, Visitor.of(request))
        except DatabaseFailure as error:
            # The customer can go on without this record.
            kind = type(error).__qualname__
            apart(logger.warning, "That link %s was opened is not written down: %s.", link.pk, kind)
    return pages.ask(link, token, asks_pin=bool(pin_of(link.order)))


@contained
def _answer_press(request: HttpRequest, token: str) -> HttpResponse:
    posted = _posted(request)
    page = Masked(posted.get("token", ""))
    key = page_tokens.read(page, token, quickest=conf.press_after)
    link = find(token, again=key)
    if link is None:
        return pages.gone(request)
    secret = pin_of(link.order)
    asks_pin = bool(secret)
    if key is None or is_spent(link, key):
        return pages.ask(link, token, asks_pin=asks_pin, complaint="again")
    visitor = Visitor.of(request)
    # A page that has shown the cards was given the PIN.
    is_asked = asks_pin and shown_at(link, key) is None
    if is_asked and not guess(link, Masked(posted.get("password", "")), secret, visitor):
        return pages.ask(link, token, asks_pin=True, complaint="pin")
    shown = reveal(link, key, visitor, most=conf.link_reveals)
    return _shown(request, link, shown, key, {"token": page}, pages.SECRET_ADDRESS)


@contained
def _show_owned(request: HttpRequest, user: Any) -> HttpResponse:
    order = my_orders.order_with_cards(user, request.POST.get("order", ""))
    if order is None:
        return pages.gone(request)
    link = CardLink.objects.of_account(order)
    page = request.POST.get("token", "")
    key = page_tokens.read(page, my_orders.place_of(user, order), quickest=0)
    if key is None or is_spent(link, key):
        # Django's token has proven that the form was sent on purpose, so ours may be too old.
        page, key = page_tokens.make(my_orders.place_of(user, order))
    visitor = Visitor.of(request, user.get_username())
    form = {"token": page, "order": str(order.pk), "csrfmiddlewaretoken": get_token(request)}
    shown = reveal(link, key, visitor, most=None)
    masked = {name: Masked(value) for name, value in form.items()}
    return _shown(request, link, shown, key, masked, pages.PLAIN_ADDRESS)


@contained
def _shown(
    request: HttpRequest,
    link: CardLink,
    shown: list[Code] | None,
    key: str,
    form: Mapping[str, str],
    referrer: str,
) -> HttpResponse:
    if not shown:
        return pages.gone(request)
    if "file" in request.POST:
        return pages.file_of(link.order, shown)
    return pages.show(link.order, shown, key, form, referrer, back=_back(request))


def _back(request: HttpRequest) -> str:
    """The page of this site with the button that was pressed; "" behind a link, which has none."""
    back = request.POST.get("back", "")
    return back if url_has_allowed_host_and_scheme(back, allowed_hosts=None) else ""


def _posted(request: HttpRequest) -> Any:
    """The fields of the form; none if the request is malformed or too large."""
    try:
        return request.POST
    except (MultiPartParserError, OSError, SuspiciousOperation):
        return {}
