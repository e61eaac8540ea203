"""Page tokens: each proves that a POST comes from a page of ours that somebody looked at.

They replace Django's CSRF token, which needs a cookie: browsers inside chat programs may have none,
and two links that are open at once would share it.
"""

from __future__ import annotations

import secrets
import socket
import time

from django.core import signing
from django.utils.crypto import salted_hmac

from giftcards.keys.secrecy import contained

_SALT = "giftcards.delivery.page"
# The lifetime of a token in seconds.
_LONGEST = 60 * 60
# By so many seconds, the clocks of two hosts may differ.
_APART = 1.0


@contained
def make(place: str) -> tuple[str, str]:
    """Make a token for a page at ``place``; return it and a key unique to this page.

    The place may be a secret: token and key reveal nothing of it.
    """
    nonce = secrets.token_hex(16)
    content = [nonce, int(time.time() * 1_000), _host()]
    return signing.dumps(content, salt=_salt(place)), nonce


@contained
def read(token: str, place: str, *, quickest: float) -> str | None:
    """The page's key from :func:`make`; ``None`` if the token is not to be trusted.

    Not to be trusted are forged tokens, tokens of another place, and tokens made more than an hour
    or less than ``quickest`` seconds ago. Another host's clock may be a second ahead.
    """
    try:
        nonce, made_at, host = signing.loads(token, salt=_salt(place), max_age=_LONGEST)
    except signing.BadSignature:
        return None
    age = time.time() - made_at / 1_000 + (0 if host == _host() else _APART)
    return str(nonce) if age >= quickest else None


def _host() -> str:
    """A name of this host, from which nobody learns its own."""
    return salted_hmac(_SALT, socket.gethostname(), algorithm="sha256").hexdigest()[:8]


def _salt(place: str) -> str:
    return f"{_SALT} {place}"
