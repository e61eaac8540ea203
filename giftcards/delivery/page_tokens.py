"""The token of a page: it proves that a POST comes from a page of ours that was looked at.

It stands in for Django's CSRF token, which needs a cookie: browsers inside chat programs may have
none, and two links that are open at once would share it.
"""

from __future__ import annotations

import secrets
import time

from django.core import signing

from giftcards.secrecy import contained

_SALT = "giftcards.delivery.page"
# Seconds.
_LONGEST = 60 * 60
#: A person needs longer, in seconds, to read the page and press the button.
QUICKEST = 1.0


@contained
def make(place: str) -> tuple[str, str]:
    """A new token for the page at ``place``, and what sets that page apart from all others.

    The place may be a secret: neither shows anything of it.
    """
    nonce = secrets.token_hex(16)
    content = [nonce, int(time.time() * 1_000)]
    return signing.dumps(content, salt=_salt(place)), nonce


@contained
def read(token: str, place: str, *, quickest: float) -> str | None:
    """What sets the page apart, from :func:`make`; ``None`` if the token is not to be trusted.

    That is one of another place, of more than an hour ago, or of less than ``quickest`` seconds
    ago.
    """
    try:
        nonce, made_at = signing.loads(token, salt=_salt(place), max_age=_LONGEST)
    except signing.BadSignature:
        return None
    return str(nonce) if time.time() - made_at / 1_000 >= quickest else None


def _salt(place: str) -> str:
    return f"{_SALT} {place}"
