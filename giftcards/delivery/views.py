"""Views for customers: the page of a card link, and the list of orders."""

from __future__ import annotations

import importlib.util
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import SuspiciousOperation
from django.core.paginator import Paginator
from django.db import Error as DatabaseFailure
from django.db import transaction
from django.db.models import Min
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.http.multipartparser import MultiPartParserError
from django.middleware.csrf import get_token
from django.template.loader import render_to_string
from django.utils import translation
from django.utils.crypto import salted_hmac
from django.utils.http import content_disposition_header, url_has_allowed_host_and_scheme
from django.utils.translation import gettext
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.debug import sensitive_post_parameters

from giftcards.catalogue import descriptions
from giftcards.delivery import links
from giftcards.delivery.conf import WITH_CARDS, Kind, Mode, conf
from giftcards.delivery.facts import (
    Facts,
    Gift,
    facts_for_recipient,
    facts_of,
    has_cards,
    known_as,
    language_of,
    with_cards,
)
from giftcards.delivery.links import find
from giftcards.delivery.models import MOST_WRONG_PINS, CardLink, Delivery, DeliveryStatus
from giftcards.delivery.pins import guess, help_text, pin_of
from giftcards.delivery.revealing import (
    MOST_CODES,
    Code,
    Visitor,
    earlier_reveals,
    is_spent,
    note_opening,
    reveal,
    shown_at,
)
from giftcards.delivery.tuning import tuning
from giftcards.keys.secrecy import Masked, apart, contained
from giftcards.models import Order
from giftcards.rules.states import Status

logger = logging.getLogger(__name__)

_PER_PAGE = 20


@csrf_exempt  # the page has a token of its own
@transaction.non_atomic_requests  # a reveal is committed before the cards are shown
@sensitive_post_parameters("token", "password")
def cards(request: HttpRequest, token: str) -> HttpResponse:
    """Return the page of the card link with this ``token``.

    Only POST shows cards, because programs such as mail scanners make GET requests.
    """
    token = Masked(token)
    return _kept_in(request, lambda: _answer_link(request, token))


@transaction.non_atomic_requests
@sensitive_post_parameters("token")
@csrf_protect
def my_cards(request: HttpRequest) -> HttpResponse:
    """Return the page with the orders of the logged-in user.

    If the request is a POST request, the view shows the cards of the posted ``order`` instead.
    """
    if request.method not in METHODS:
        return refuse_method()
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return redirect_to_login(request.path)
    if request.method == "POST":
        return _kept_in(request, lambda: _show_owned(request, user))
    listed = Order.objects.of_user(user).prefetch_related("refunds")
    orders = Paginator(listed, _PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "orders": shown_orders(user, orders),
        "paginated": orders,
        "back": request.get_full_path(),
    }
    return owned(request, context)


def _kept_in(request: HttpRequest, answer: Callable[[], HttpResponse]) -> HttpResponse:
    """Return the result of ``answer``, or an error page if it fails.

    The error page does not contain the URL, which might be secret. The message of the exception
    might contain a card code, so only the class of the exception and the lines of code that raised
    it are logged.
    """
    try:
        return answer()
    except Exception as error:  # whatever a template, a hook or the database raises
        if settings.DEBUG:
            raise
        kind, lines = type(error).__qualname__, "\n".join(getattr(error, "__notes__", ()))
        apart(logger.error, "A page for a customer could not be shown: %s. %s", kind, lines)
        return trouble(request)


@contained
def _answer_link(request: HttpRequest, token: str) -> HttpResponse:
    if request.method not in METHODS:
        return refuse_method()
    if request.method == "POST":
        return _answer_press(request, token)
    link = find(token)
    if link is None:
        return gone(request)
    if request.method == "GET":
        try:
            note_opening(link, Visitor.of(request))
        except DatabaseFailure as error:
            # The customer can continue even if the opening was not recorded.
            kind = type(error).__qualname__
            apart(
                logger.warning, "The opening of link %s could not be recorded: %s.", link.pk, kind
            )
    return ask(link, token, asks_pin=bool(pin_of(link.order)))


@contained
def _answer_press(request: HttpRequest, token: str) -> HttpResponse:
    posted = _posted(request)
    page = Masked(posted.get("token", ""))
    key = links.read(page, token, min_age=tuning.press_after)
    link = find(token, page_key=key)
    if link is None:
        return gone(request)
    secret = pin_of(link.order)
    asks_pin = bool(secret)
    if key is None or is_spent(link, key):
        return ask(link, token, asks_pin=asks_pin, complaint="again")
    visitor = Visitor.of(request)
    # A page that has shown the cards does not ask for the PIN again.
    is_asked = asks_pin and shown_at(link, key) is None
    if is_asked and not guess(link, Masked(posted.get("password", "")), secret, visitor):
        return ask(link, token, asks_pin=True, complaint="pin")
    shown = reveal(link, key, visitor)
    return _shown(request, link, shown, key, {"token": page}, SECRET_URL)


@contained
def _show_owned(request: HttpRequest, user: Any) -> HttpResponse:
    order = order_with_cards(user, request.POST.get("order", ""))
    if order is None:
        return gone(request)
    link = CardLink.objects.of_account(order)
    page = request.POST.get("token", "")
    key = links.read(page, place_of(user, order), min_age=0)
    if key is None or is_spent(link, key):
        # A new token replaces one that is too old or spent. Django's CSRF token proves that the
        # form was sent on purpose.
        page, key = links.make(place_of(user, order))
    visitor = Visitor.of(request, user.get_username())
    form = {"token": page, "order": str(order.pk), "csrfmiddlewaretoken": get_token(request)}
    shown = reveal(link, key, visitor)
    masked = {name: Masked(value) for name, value in form.items()}
    return _shown(request, link, shown, key, masked, PLAIN_URL)


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
        return gone(request)
    if "file" in request.POST:
        return file_of(link.order, shown)
    return show(link.order, shown, key, form, referrer, back_url=_back(request))


def _back(request: HttpRequest) -> str:
    """Return the posted ``back`` URL, or "" if it is not on this site."""
    back = request.POST.get("back", "")
    return back if url_has_allowed_host_and_scheme(back, allowed_hosts=None) else ""


def _posted(request: HttpRequest) -> Any:
    """Return the posted fields of a request.

    The result is empty if the request is malformed or too large.
    """
    try:
        return request.POST
    except (MultiPartParserError, OSError, SuspiciousOperation):
        return {}


METHODS = ("GET", "HEAD", "POST")
_HEADERS = {
    "Cache-Control": "no-store, private",
    "X-Robots-Tag": "noindex, nofollow",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), clipboard-write=(self)",
}
# Allows only the app's own style sheet and script, and the site's images and fonts.
_POLICY = (
    "default-src 'none'; {ours}img-src 'self'; font-src 'self'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'"
)
#: The referrer policy of pages whose URL is a secret.
SECRET_URL = "no-referrer"  # noqa: S105 (a policy)
#: The referrer policy of other pages. ``SECRET_URL`` cannot be used for these, because it hides the
#: origin, and Django refuses forms without an origin.
PLAIN_URL = "same-origin"


def ask(link: CardLink, place: str, *, asks_pin: bool, complaint: str = "") -> HttpResponse:
    """Return the page with the button that shows the cards.

    The page does not contain any data about the cards.

    ``complaint`` selects the error message on the page: "pin" after a wrong PIN, "again" if the
    visitor must press the button again, or "" for no message.
    """
    return _page(
        "ask",
        {
            "reference": known_as(link.order),
            "is_gift": link.order.is_gift,
            "page": Masked(links.make(place)[0]),
            "asks_pin": asks_pin,
            "pin_help": help_text() if asks_pin else "",
            "is_locked": asks_pin and link.is_locked,
            "tries_left": MOST_WRONG_PINS - link.wrong_pins,
            "complaint": complaint,
        },
        language=_language(link.order),
    )


@contained
def show(
    order: Order,
    shown: list[Code],
    key: str,
    form: Mapping[str, str],
    referrer: str,
    *,
    back_url: str = "",
) -> HttpResponse:
    """Return the page with the cards.

    The page posts the fields of ``form`` to download the cards as a file. If ``back_url`` is given,
    the page links to this URL.
    """
    is_on_page = len(shown) <= MOST_CODES
    return _page(
        "cards",
        {
            "facts": _facts(order),
            "gift": Gift.of(order),
            "giver": order.customer_name,
            "cards": [_Row(card) for card in shown] if is_on_page else [],
            "count": len(shown),
            "unreadable": sum(not card.is_readable for card in shown),
            "earlier": earlier_reveals(order, except_page=key),
            "form": form,
            "back": back_url,
        },
        language=_language(order),
        referrer=referrer,
    )


def _facts(order: Order) -> Facts:
    with translation.override(_language(order)):
        return facts_for_recipient(order) if order.is_gift else facts_of(order)


def _language(order: Order) -> str:
    return language_of(order, for_recipient=order.is_gift)


class _Row:
    def __init__(self, card: Code) -> None:
        self.position = card.position
        self.is_readable = card.is_readable
        self.value = card.value
        self.serial = card.serial
        has_qr = card.is_readable and importlib.util.find_spec("segno") is not None
        self.qr = _qr(card.value) if has_qr else Masked()


@contained
def _qr(text: str) -> Masked:
    """Return an SVG element with ``text`` as a QR code, or "".

    The result is "" if the text is too long for a QR code.
    """
    import segno

    try:
        code = segno.make_qr(text)
    except segno.DataOverflowError:
        return Masked()
    # The QR code is black on white even in a dark theme: not every camera reads white on black.
    return _Drawing(code.svg_inline(light="#fff", omitsize=True))


class _Drawing(Masked):
    """Markup made by this module that Django templates do not escape."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


@contained
def file_of(order: Order, shown: list[Code]) -> HttpResponse:
    """Return a text file with one card per line.

    Each line contains the number, code and serial number of a card. The lines follow a header about
    the shop and the order.
    """
    lines = [Masked(_line(card)) for card in shown]
    with translation.override(_language(order)):
        context = {**_shop(), "facts": _facts(order)}
        head = render_to_string("giftcards_delivery/page/file.txt", context)
    text = Masked("\r\n".join([*filter(None, head.splitlines()), "", *lines, ""]))
    response = HttpResponse(text, content_type="text/plain; charset=utf-8")
    kept = "".join(sign if sign.isalnum() else "-" for sign in known_as(order))
    response["Content-Disposition"] = content_disposition_header(True, f"cards-{kept}.txt")
    return _protected(response)


def _line(card: Code) -> str:
    if not card.is_readable:
        return f"{card.position}\t?"
    return f"{card.position}\t{card.value}\t{card.serial}".rstrip("\t")


def gone(request: HttpRequest) -> HttpResponse:
    """Return the page that says that the cards cannot be shown.

    The page is the same for every reason, so that it does not reveal whether a link exists. For the
    same purpose, the page is in the visitor's language instead of the language of the order. The
    nonce for the Content-Security-Policy is constant, which is safe because the page does not
    contain any input from the request.
    """
    language = translation.get_language_from_request(request)
    nonce = salted_hmac("giftcards.delivery.views", "gone", algorithm="sha256").hexdigest()[:32]
    return _page("gone", {}, language=language, status=404, nonce=nonce)


def refuse_method() -> HttpResponse:
    """Return the response to an HTTP method that is not allowed.

    The response is the same for every link.
    """
    return _protected(HttpResponseNotAllowed(METHODS))


def trouble(request: HttpRequest) -> HttpResponse:
    """Return the page that is shown after an error."""
    language = translation.get_language_from_request(request)
    with suppress(Exception):
        return _page("trouble", {}, language=language, status=503)
    # A template of the shop may have caused the error.
    with translation.override(language):
        text = translation.gettext("The cards cannot be shown at the moment. Try again later.")
    response = HttpResponse(text, content_type="text/plain; charset=utf-8", status=503)
    return _protected(response)


def owned(request: HttpRequest, context: Mapping[str, Any]) -> HttpResponse:
    """Return the page with the list of a customer's orders.

    The page is in the language of the site's other pages.
    """
    language = translation.get_language() or language_of(Order())
    return _page("my_cards", context, language=language, referrer=PLAIN_URL, request=request)


@contained
def _page(
    name: str,
    context: Mapping[str, Any],
    *,
    language: str,
    referrer: str = SECRET_URL,
    status: int = 200,
    nonce: str = "",
    request: HttpRequest | None = None,
) -> HttpResponse:
    """Render a page.

    By default, the template is rendered without the request, so that context processors do not
    access the visitor's session.
    """
    nonce = nonce or secrets.token_urlsafe(16)
    # The nonce of Django 6 has the same name, so Django's own tags output this nonce.
    shared = {**_shop(), "csp_nonce": nonce}
    with translation.override(language):
        template = f"giftcards_delivery/page/{name}.html"
        content = render_to_string(template, {**shared, **context}, request)
    response = HttpResponse(content, status=status)
    response["Content-Language"] = language
    return _protected(response, referrer=referrer, nonce=nonce)


def _protected(
    response: HttpResponse, *, referrer: str = SECRET_URL, nonce: str = ""
) -> HttpResponse:
    for name, value in _HEADERS.items():
        response[name] = value
    response["Referrer-Policy"] = referrer
    ours = f"style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; " if nonce else ""
    # The app sets its own policy, which Django 6's middleware does not replace.
    response["Content-Security-Policy"] = _POLICY.format(ours=ours)
    if referrer == SECRET_URL:
        # These attributes turn off policy reports and Django's error log, because both would
        # contain the secret URL.
        vars(response).update(_csp_ro_config={}, _has_been_logged=True)
    return response


def _shop() -> dict[str, str]:
    return {
        "shop_name": conf.display_name,
        "shop_url": conf.shop_url,
        "contact": conf.contact,
        "contact_url": conf.contact_address,
    }


_MAIL = "giftcards.delivery.channels.Mail"
# The kinds of messages that announce the end of an order. The customer of a gift gets a receipt
# instead of the cards.
_ENDINGS = (Kind.DELIVERED, Kind.PARTLY_DELIVERED, Kind.NOT_DELIVERED)
_ENDINGS_OF_GIFT = (Kind.RECEIPT, Kind.NOT_DELIVERED)
# The maximum number of digits in a primary key.
_LONGEST_KEY = 18


@dataclass(frozen=True, slots=True)
class OwnedOrder:
    """An entry in a customer's list of orders."""

    order: Order
    facts: Facts
    #: True if there are cards to show; False once their codes were destroyed.
    has_cards: bool
    #: The token of the form that shows the cards.
    page: str = field(repr=False)
    gift: Gift | None = None
    #: The time when the gift's recipient was first notified, or ``None`` if this has not happened
    #: yet.
    sent_at: datetime | None = None

    @property
    def state(self) -> str:
        if not self.facts.kind:
            return gettext("In progress")
        if self.facts.kind not in WITH_CARDS:
            return str(Kind(self.facts.kind).label)
        if self.gift and not self.sent_at and conf.mode[Kind.GIFT] != Mode.OFF:
            return gettext("In progress")
        # The page shows the label of the order's status, because the kind's label describes a
        # message.
        return str(Status(self.order.status).label)

    @property
    def is_open(self) -> bool:
        """True if the order does not have a final status yet."""
        return not self.order.is_final

    @property
    def is_told_by_mail(self) -> bool:
        """True if the customer is certain to get an e-mail when the order ends."""
        kinds = _ENDINGS_OF_GIFT if self.gift else _ENDINGS
        is_on = all(conf.mode[kind] != Mode.OFF for kind in kinds)
        return is_on and bool(self.order.customer_email) and _MAIL in conf.channels


def order_with_cards(user: Any, key: str) -> Order | None:
    """Return an order whose cards can be shown to ``user``, or ``None``.

    ``key`` is the primary key of the order. The result is ``None`` for a gift, because only the
    recipient can see its cards, through a link.
    """
    if not (key.isascii() and key.isdecimal() and len(key) <= _LONGEST_KEY):
        return None
    order = Order.objects.of_user(user).filter(pk=key, recipient_email="").first()
    return order if order is not None and has_cards(order) else None


def shown_orders(user: Any, orders: Iterable[Order]) -> list[OwnedOrder]:
    """Return the list entries for the given orders of a user."""
    listed = list(orders)
    told = descriptions(listed)
    showing = with_cards(order for order in listed if not order.is_gift)
    sent = _sent(listed)
    return [
        OwnedOrder(
            order,
            facts_of(order, told[order.pk]),
            order.pk in showing,
            page=links.make(place_of(user, order))[0],
            gift=Gift.of(order),
            sent_at=sent.get(order.pk),
        )
        for order in listed
    ]


def _sent(orders: Iterable[Order]) -> dict[int, datetime]:
    """Return the times when gift recipients were first notified.

    The dict maps the primary key of an order to the time. Orders that are not final are left out.
    """
    gifts = [order.pk for order in orders if order.is_gift and order.is_final]
    if not gifts:
        return {}
    rows = Delivery.objects.filter(order__in=gifts, kind=Kind.GIFT, status=DeliveryStatus.SENT)
    return dict(rows.order_by().values_list("order_id").annotate(Min("sent_at")))


def place_of(user: Any, order: Order) -> str:
    """Return the ``place`` argument for page tokens of this user and order."""
    return f"account {user.pk} {order.pk}"
