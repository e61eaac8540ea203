"""Links to cards, and page tokens.

A page token proves that a form was sent from the page behind a link. Page tokens replace Django's
CSRF token. Django's token needs cookies, which browsers inside chat programs might not accept.
Moreover, the pages of two links in one browser would share the same token.
"""

from __future__ import annotations

import secrets
import socket
import time
from datetime import datetime, timedelta

from django.conf import settings
from django.core import signing
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import salted_hmac

from giftcards.delivery.conf import conf
from giftcards.delivery.models import CardLink, Delivery
from giftcards.keys.secrecy import Masked, contained
from giftcards.models import Order

# 24 random bytes are 192 bits.
_BYTES = 24
#: The length of a link's token, which consists of letters, digits, dashes and underscores.
TOKEN_LENGTH = 32
_SALT = "giftcards.delivery.links"


@contained
def issue(
    order: Order,
    *,
    origin: CardLink.Origin,
    delivery: Delivery | None = None,
    by: str = "",
    reason: str = "",
) -> tuple[CardLink, Masked]:
    """Create a link to the cards of ``order``. Return the link and its token.

    The token itself is not stored.
    """
    token = Masked(secrets.token_urlsafe(_BYTES))
    link = CardLink.objects.create(
        order=order,
        origin=origin,
        delivery=delivery,
        token_hash=_hash(token, settings.SECRET_KEY),
        created_by=by,
        reason=reason,
        expires_at=expiry(),
    )
    return link, token


def expiry() -> datetime:
    return timezone.now() + timedelta(days=conf.link_days)


@contained
def find(token: str, *, page_key: str | None = None) -> CardLink | None:
    """Return the usable link with this token, or ``None``.

    A usable link can show cards at present. If ``page_key`` is the key of a page that has recently
    shown the cards, the link is returned even if it is used up: see
    :meth:`CardLinkQuerySet.usable`. Every call makes one query.
    """
    keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    hashes = [_hash(token, key) for key in keys]
    usable = CardLink.objects.usable(timezone.now(), page_key=page_key)
    links = usable.with_cards().filter(token_hash__in=hashes)
    return links.select_related("order").first()


@contained
def url_of(token: str) -> Masked:
    """Return the absolute URL of the page with the cards."""
    return Masked(conf.shop_url + reverse("giftcards_delivery:cards", args=[token]))


def _hash(token: str, key: str | bytes) -> str:
    return salted_hmac(_SALT, token, secret=key, algorithm="sha256").hexdigest()


_PAGE_SALT = "giftcards.delivery.page"
# The lifetime of a page token (seconds).
_LONGEST = 60 * 60
# The largest difference between the clocks of two hosts (seconds).
_APART = 1.0


@contained
def make(place: str) -> tuple[str, str]:
    """Return a new page token and its key, which :func:`read` also returns.

    The key is unique. The token is valid only for the same ``place``. ``place`` can be a secret,
    for example the token of a link, because the page token does not reveal it.
    """
    nonce = secrets.token_hex(16)
    content = [nonce, int(time.time() * 1_000), _host()]
    return signing.dumps(content, salt=_salt(place)), nonce


@contained
def read(token: str, place: str, *, min_age: float) -> str | None:
    """Return the key of ``token``, or ``None`` if the token is invalid.

    A valid token was made by :func:`make` for the same ``place``, and is at least ``min_age``
    seconds and at most an hour old. If another host made the token, the function adds a second to
    the token's age, because the clock of that host might be ahead.
    """
    try:
        nonce, made_at, host = signing.loads(token, salt=_salt(place), max_age=_LONGEST)
    except signing.BadSignature:
        return None
    age = time.time() - made_at / 1_000 + (0 if host == _host() else _APART)
    return str(nonce) if age >= min_age else None


def _host() -> str:
    return salted_hmac(_PAGE_SALT, socket.gethostname(), algorithm="sha256").hexdigest()[:8]


def _salt(place: str) -> str:
    return f"{_PAGE_SALT} {place}"
