"""Links to cards: making, finding and withdrawing them."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from django.conf import settings
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import salted_hmac

from giftcards.delivery.conf import conf
from giftcards.delivery.models import CardLink, Delivery
from giftcards.models import Order
from giftcards.secrecy import Masked, contained

# 192 bits.
_BYTES = 24
#: Of the letters, digits, dashes and underscores that a token is written with.
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
    """Make a link to the cards of ``order``; return it with its token, which is stored nowhere."""
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
    """Until when a link works that is made now."""
    return timezone.now() + timedelta(days=conf.link_days)


@contained
def find(token: str, *, again: str | None = None) -> CardLink | None:
    """The link of this token, if it shows cards at present; ``None`` if not, whatever the reason.

    That includes an order that has no cards for its customer. ``again`` as in
    :meth:`CardLinkQuerySet.usable`. One query, whatever is found.
    """
    keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    hashes = [_hash(token, key) for key in keys]
    usable = CardLink.objects.usable(timezone.now(), reveals=conf.link_reveals, again=again)
    links = usable.with_cards().filter(token_hash__in=hashes)
    return links.select_related("order").first()


@contained
def address(token: str) -> Masked:
    """The address of the customer's page, with scheme and host."""
    return Masked(conf.base_url + reverse("giftcards_delivery:cards", args=[token]))


def _hash(token: str, key: str | bytes) -> str:
    return salted_hmac(_SALT, token, secret=key, algorithm="sha256").hexdigest()
