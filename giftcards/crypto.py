"""Keys, sealing and fingerprints: the only module that imports ``cryptography``.

A card is sealed as one Fernet token. Fernet itself binds a token to nothing: whoever can write to
the database could copy it into another row. So the sealed text names the place it was made for, and
opening compares that, and the fingerprints beside it, with the row.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from giftcards.conf import conf
from giftcards.exceptions import ConfigurationError, DecryptionError
from giftcards.provider.answers import CardSecret
from giftcards.secrecy import contained

#: By so many of its last characters a card is found without the rest of its code.
TAIL = 4

# The version of what is inside a token.
_FORMAT = 1
_CONTENT = {"format": int, "order": int, "reference": str, "card": int, "value": str, "serial": str}

_DOES_NOT_OPEN = (
    "This card cannot be opened: none of GIFTCARDS['ENCRYPTION_KEYS'] fits,"
    " or the stored text is damaged."
)
_OTHER_FORMAT = "This card cannot be opened: another version of this app has sealed it."
_OTHER_ORDER = "This card cannot be opened: its stored text belongs to another order."
_OTHER_CARD = "This card cannot be opened: its stored text belongs to another card of the order."
_OTHER_FINGERPRINTS = (
    "This card cannot be opened: the fingerprints in its row belong to another card."
)


def generate_key() -> str:
    """Return a new key for ``GIFTCARDS["ENCRYPTION_KEYS"]``."""
    return Fernet.generate_key().decode()


class Place(NamedTuple):
    """Where a card belongs: to an order, by primary key and reference, as its card 1, 2, …"""

    order: int
    reference: str
    card: int


class Sealed(NamedTuple):
    """What the row of a card holds instead of the card. The names are those of its columns."""

    #: The token, printable ASCII.
    sealed: str
    #: The fingerprint of the whole card.
    identity: str
    #: The fingerprints for searching; that of a missing serial is "", and so is that of the last
    #: characters of a short code.
    value_fingerprint: str
    serial_fingerprint: str
    tail_fingerprint: str


class Keyring:
    """Encryption keys in order: the first one seals, all of them open and find.

    A keyring is cheap to make and holds derived keys; make one per piece of work, keep none.
    """

    @contained
    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        #: By which a card's row says what key it is sealed with. Derived like the keys of the
        #: other fingerprints, with a purpose of its own, so they reveal nothing about the keys.
        self.key_fingerprints = tuple(_encryption_key_fingerprint(key) for key in keys)
        # Fingerprints use derived keys, so that they reveal nothing about the encryption keys.
        self._fingerprint_keys = tuple(
            HKDF(SHA256(), length=32, salt=None, info=b"giftcards fingerprints v1").derive(
                base64.urlsafe_b64decode(key)
            )
            for key in keys
        )

    @classmethod
    def from_settings(cls) -> Keyring:
        return cls(conf.encryption_keys)

    @contained
    def seal(self, secret: CardSecret, *, place: Place) -> Sealed:
        """Encrypt ``secret`` for the card at ``place``."""
        content = {"format": _FORMAT, **place._asdict()}
        content |= {"value": secret.value, "serial": secret.serial}
        token = self._fernet.encrypt(json.dumps(content).encode()).decode()
        return Sealed(token, *(made[0] for made in self._row_fingerprints(secret)))

    @contained
    def open(self, row: Sealed, *, place: Place) -> CardSecret:
        """Decrypt what :meth:`seal` has made.

        :exc:`DecryptionError` if no key opens the token, if it is damaged, if it was sealed for
        another place, or if the fingerprints are not those of the card.
        """
        content = self._decrypt(row.sealed)
        if trouble := _mismatch(content, place):
            raise DecryptionError(trouble)
        secret = CardSecret(value=content["value"], serial=content["serial"])
        _token, *stored = row
        made = self._row_fingerprints(secret)
        if not all(mark in marks for mark, marks in zip(stored, made, strict=True)):
            raise DecryptionError(_OTHER_FINGERPRINTS)
        return secret

    def _decrypt(self, token: str) -> dict[str, Any]:
        """The content of a token; empty if it is unusable."""
        try:
            content = json.loads(self._fernet.decrypt(token))
        except (InvalidToken, TypeError, ValueError):
            # TypeError: not a text. ValueError: not ASCII, or something else under our key.
            return {}
        return content if isinstance(content, dict) else {}

    def _row_fingerprints(self, secret: CardSecret) -> tuple[list[str], ...]:
        """The fingerprints in a card's row, each under every key, in the order of the columns."""
        code = normalised(secret.value)
        # Four of fewer than eight would be more than half of the code.
        has_tail = len(code) >= 2 * TAIL
        return (
            self.identities(secret),
            self.value_fingerprints(secret.value),
            self.serial_fingerprints(secret.serial) if secret.serial else [""],
            self._fingerprints("tail", code[-TAIL:]) if has_tail else [""],
        )

    @contained
    def identities(self, secret: CardSecret) -> list[str]:
        """Fingerprints of exactly this card, one per key, the first key's first.

        They tell whether an answer's card is stored already. No normalising here: two codes that
        differ in case only would be two paid cards.
        """
        # As JSON, so that no character in a code can shift the boundary between the two.
        return self._fingerprints("card", json.dumps([secret.value, secret.serial]))

    @contained
    def value_fingerprints(self, text: str) -> list[str]:
        """Fingerprints by which a card is found by its full code, one per key."""
        return self._fingerprints("value", normalised(text))

    @contained
    def serial_fingerprints(self, text: str) -> list[str]:
        """Fingerprints by which a card is found by its full serial, one per key."""
        return self._fingerprints("serial", normalised(text))

    @contained
    def tail_fingerprints(self, text: str) -> list[str]:
        """Fingerprints by which a card is found by the last characters of its code, one per key.

        Empty if ``text`` has not as many characters as are needed for that.
        """
        tail = normalised(text)
        return self._fingerprints("tail", tail) if len(tail) == TAIL else []

    @contained
    def _fingerprints(self, purpose: str, text: str) -> list[str]:
        # Staff may search for anything, and a UnicodeEncodeError would contain the text.
        message = f"{purpose}\0{text}".encode(errors="surrogatepass")
        return [
            hmac.new(key, message, hashlib.sha256).hexdigest() for key in self._fingerprint_keys
        ]


def _mismatch(content: dict[str, Any], place: Place) -> str:
    """Why the content of a token is not that of the card at ``place``; "" if it is."""
    if content.get("format", _FORMAT) != _FORMAT:
        return _OTHER_FORMAT
    if {name: type(content.get(name)) for name in _CONTENT} != _CONTENT:
        return _DOES_NOT_OPEN
    if (content["order"], content["reference"]) != (place.order, place.reference):
        return _OTHER_ORDER
    return "" if content["card"] == place.card else _OTHER_CARD


def normalised(text: str) -> str:
    """``text`` without what differs when a code is typed again: case, spaces, dashes, digits.

    A keyboard may write digits as ٣ or ۳, and letters and digits of full width.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    # A code of punctuation only is kept as it is: otherwise all of them would be equal.
    return "".join(map(_ascii_digit, filter(str.isalnum, plain))) or text.strip()


def _ascii_digit(character: str) -> str:
    """The character itself, unless it is a digit of another script."""
    return str(unicodedata.decimal(character, character))


def _encryption_key_fingerprint(key: str) -> str:
    purpose = b"giftcards fingerprint of the encryption key v1"
    derived = HKDF(SHA256(), length=8, salt=None, info=purpose)
    return derived.derive(base64.urlsafe_b64decode(key)).hex()


@contained
def key_fingerprint(api_key: str) -> str:
    """A fingerprint of an API key, by which all processes remember whether it was refused.

    It does not depend on the encryption keys: while those are rotated, processes with different
    ones have to recognise the same API key. An API key is too long to be guessed from it.
    """
    message = api_key.encode(errors="surrogatepass")
    return hmac.new(b"giftcards api key v1", message, hashlib.sha256).hexdigest()[:32]


def configured_key() -> str | None:
    """The fingerprint of the API key in the settings; ``None`` if this process has none."""
    try:
        return key_fingerprint(conf.api_key)
    except ConfigurationError:
        return None
