"""The responses with the customer's pages: their common context and their security headers."""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.loader import render_to_string
from django.utils import translation
from django.utils.crypto import salted_hmac
from django.utils.http import content_disposition_header

from giftcards.delivery import page_tokens
from giftcards.delivery.codes import MOST_CODES, Code
from giftcards.delivery.conf import conf
from giftcards.delivery.facts import (
    Facts,
    Gift,
    facts_for_recipient,
    facts_of,
    known_as,
    language_of,
)
from giftcards.delivery.models import MOST_WRONG_PINS, CardLink
from giftcards.delivery.pins import help_text
from giftcards.delivery.revealing import earlier_reveals
from giftcards.keys.secrecy import Masked, contained
from giftcards.models import Order

#: The methods that these pages allow.
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
# Allows only our own style sheet and script, and the site's images and fonts.
_POLICY = (
    "default-src 'none'; {ours}img-src 'self'; font-src 'self'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'"
)
#: Referrer policy of pages whose address is a secret: no other site is told it.
SECRET_ADDRESS = "no-referrer"  # noqa: S105 (a policy)
#: Referrer policy of the other pages: under ``SECRET_ADDRESS``, browsers hide the origin of forms,
#: and Django refuses those.
PLAIN_ADDRESS = "same-origin"


def ask(link: CardLink, place: str, *, asks_pin: bool, complaint: str = "") -> HttpResponse:
    """The page before the cards, which tells nothing about them.

    ``complaint`` is "", "again" (the page was too old, say) or "pin" (it was wrong).
    """
    return _page(
        "ask",
        {
            "reference": known_as(link.order),
            "is_gift": link.order.is_gift,
            "page": Masked(page_tokens.make(place)[0]),
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
    back: str = "",
) -> HttpResponse:
    """The page with the cards. ``form`` holds the fields to post again to get them as a file.

    ``back`` is the address to which it leads back, or "".
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
            "earlier": earlier_reveals(order, but=key),
            "form": form,
            "back": back,
        },
        language=_language(order),
        referrer=referrer,
    )


def _facts(order: Order) -> Facts:
    """The facts for whoever may see the cards: of a gift, only its recipient."""
    return facts_for_recipient(order) if order.is_gift else facts_of(order)


def _language(order: Order) -> str:
    """The language of whoever may see the cards."""
    return language_of(order, for_recipient=order.is_gift)


class _Row:
    """A card as the template shows it; with a QR code if ``segno`` is installed."""

    def __init__(self, card: Code) -> None:
        self.position = card.position
        self.is_readable = card.is_readable
        self.value = card.value
        self.serial = card.serial
        has_qr = card.is_readable and importlib.util.find_spec("segno") is not None
        self.qr = _qr(card.value) if has_qr else Masked()


@contained
def _qr(text: str) -> Masked:
    """An SVG element that shows ``text`` as a QR code; "" if it is too long for one."""
    import segno

    try:
        code = segno.make_qr(text)
    except segno.DataOverflowError:
        return Masked()
    # On white in a dark theme as well: not every camera reads the inverse.
    return _Drawing(code.svg_inline(light="#fff", omitsize=True))


class _Drawing(Masked):
    """Our own markup, which templates do not escape."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


@contained
def file_of(order: Order, shown: list[Code]) -> HttpResponse:
    """The cards as a text file with one line for each: its number, code and serial."""
    lines = [Masked(_line(card)) for card in shown]
    with translation.override(_language(order)):
        context = {**_shop(), "facts": _facts(order)}
        head = render_to_string("giftcards_delivery/page/file.txt", context)
    text = Masked("\r\n".join([*head.strip().splitlines(), "", *lines, ""]))
    response = HttpResponse(text, content_type="text/plain; charset=utf-8")
    kept = "".join(sign if sign.isalnum() else "-" for sign in known_as(order))
    response["Content-Disposition"] = content_disposition_header(True, f"cards-{kept}.txt")
    return _protected(response)


def _line(card: Code) -> str:
    if not card.is_readable:
        return f"{card.position}\t?"
    return f"{card.position}\t{card.value}\t{card.serial}".rstrip("\t")


def gone(request: HttpRequest) -> HttpResponse:
    """The page of a link that shows no cards: the same to the last byte, whatever the reason.

    So its language is the visitor's, not that of an order. It quotes nothing from the request, so
    one fixed nonce is enough.
    """
    language = translation.get_language_from_request(request)
    nonce = salted_hmac("giftcards.delivery.pages", "gone", algorithm="sha256").hexdigest()[:32]
    return _page("gone", {}, language=language, status=404, nonce=nonce)


def refuse_method() -> HttpResponse:
    """The response to a method that these pages do not allow, whatever the link."""
    return _protected(HttpResponseNotAllowed(METHODS))


def trouble(request: HttpRequest) -> HttpResponse:
    """The page shown when an error prevents the right one."""
    language = translation.get_language_from_request(request)
    with suppress(Exception):
        return _page("trouble", {}, language=language, status=503)
    # A template of the shop may be the cause.
    with translation.override(language):
        text = translation.gettext("The cards cannot be shown at the moment. Try again later.")
    response = HttpResponse(text, content_type="text/plain; charset=utf-8", status=503)
    return _protected(response)


def owned(request: HttpRequest, context: Mapping[str, Any]) -> HttpResponse:
    """The list of a customer's orders, in the language of the site's other pages."""
    language = translation.get_language() or language_of(Order())
    return _page("my_cards", context, language=language, referrer=PLAIN_ADDRESS, request=request)


@contained
def _page(
    name: str,
    context: Mapping[str, Any],
    *,
    language: str,
    referrer: str = SECRET_ADDRESS,
    status: int = 200,
    nonce: str = "",
    request: HttpRequest | None = None,
) -> HttpResponse:
    """Render a page, by default without the request: no context processor opens the session."""
    nonce = nonce or secrets.token_urlsafe(16)
    # The name of Django 6's own nonce, so that its tags output ours.
    shared = {**_shop(), "csp_nonce": nonce}
    with translation.override(language):
        template = f"giftcards_delivery/page/{name}.html"
        content = render_to_string(template, {**shared, **context}, request)
    response = HttpResponse(content, status=status)
    response["Content-Language"] = language
    return _protected(response, referrer=referrer, nonce=nonce)


def _protected(
    response: HttpResponse, *, referrer: str = SECRET_ADDRESS, nonce: str = ""
) -> HttpResponse:
    for name, value in _HEADERS.items():
        response[name] = value
    response["Referrer-Policy"] = referrer
    ours = f"style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; " if nonce else ""
    # A middleware, such as that of Django 6, leaves an existing policy alone.
    response["Content-Security-Policy"] = _POLICY.format(ours=ours)
    if referrer == SECRET_ADDRESS:
        # Turns off policy reports and Django's log of statuses from 400 on: both name the address.
        vars(response).update(_csp_ro_config={}, _has_been_logged=True)
    return response


def _shop() -> dict[str, str]:
    return {
        "shop_name": conf.display_name,
        "shop_url": conf.base_url,
        "contact": conf.contact,
        "contact_url": conf.contact_address,
    }
