"""Keys, encryption and fingerprints.

Only this module uses the cryptography package.

A card is stored as one Fernet token. An attacker who can write to the database could copy the token
into another row. Therefore, the token also contains the card's order and position.
:meth:`Keyring.open` compares them and the card's fingerprints with the row.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import unicodedata
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, NamedTuple

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.utils.crypto import salted_hmac

from giftcards.exceptions import DecryptionError
from giftcards.keys.secrecy import CardSecret, contained

#: The number of last characters of a code by which its card can be found.
TAIL = 4

_FORMAT = 1
_CONTENT = {"format": int, "order": int, "reference": str, "card": int, "value": str, "serial": str}


def generate_key() -> str:
    """Return a new key for ``GIFTCARDS["ENCRYPTION_KEYS"]``."""
    return Fernet.generate_key().decode()


class Place(NamedTuple):
    """The order that a card belongs to, and the card's position in the order.

    ``order`` is the primary key of the order. ``card`` is the position, starting at 1.
    """

    order: int
    reference: str
    card: int


class Sealed(NamedTuple):
    """An encrypted card and its fingerprints, as stored in the database.

    Each field has the name of its database column.
    """

    #: The token, printable ASCII.
    sealed: str
    #: The fingerprint of the whole card.
    identity: str
    #: The fingerprints for searching. ``serial_fingerprint`` is "" if there is no serial number.
    #: ``tail_fingerprint`` is "" if the code is too short for a tail.
    value_fingerprint: str
    serial_fingerprint: str
    tail_fingerprint: str


class Keyring:
    """Encryption keys: the first key encrypts, and every key decrypts.

    A keyring also finds cards by their fingerprints. A keyring contains secret keys, and is cheap
    to create. Create a new keyring when you need one, and do not store it.
    """

    @contained
    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        #: The fingerprints of the encryption keys. The row of a card contains the fingerprint of
        #: the key that encrypted the card.
        self.key_fingerprints = tuple(
            _derived(key, b"giftcards fingerprint of the encryption key v1", length=8).hex()
            for key in keys
        )
        # The keys for the fingerprints of codes and serials.
        self._fingerprint_keys = tuple(
            _derived(key, b"giftcards fingerprints v1", length=32) for key in keys
        )

    @contained
    def seal(self, secret: CardSecret, *, place: Place) -> Sealed:
        """Encrypt the secret of the card at this ``place``."""
        content = {"format": _FORMAT, **place._asdict()}
        content |= {"value": secret.value, "serial": secret.serial}
        token = self._fernet.encrypt(json.dumps(content).encode()).decode()
        return Sealed(token, *(made[0] for made in self._row_fingerprints(secret)))

    @contained
    def open(self, row: Sealed, *, place: Place) -> CardSecret:
        """Decrypt a card that :meth:`seal` has encrypted.

        Raises :exc:`DecryptionError` if no key can decrypt the token, if the token is damaged, if
        it was made for a card at another place, or if the fingerprints in ``row`` belong to another
        card.
        """
        content = self._decrypt(row.sealed)
        if trouble := _mismatch(content, place):
            raise DecryptionError(f"This card cannot be decrypted: {trouble}.")
        secret = CardSecret(value=content["value"], serial=content["serial"])
        _token, *stored = row
        made = self._row_fingerprints(secret)
        if not all(mark in marks for mark, marks in zip(stored, made, strict=True)):
            raise DecryptionError(
                "This card cannot be decrypted: the fingerprints in its row belong to another card."
            )
        return secret

    def _decrypt(self, token: str) -> dict[str, Any]:
        """Return the content of a token, or ``{}`` if the token is unusable."""
        try:
            content = json.loads(self._fernet.decrypt(token))
        except (InvalidToken, TypeError, ValueError):
            # A ``TypeError`` means that the token is not a string. A ``ValueError`` means that it
            # is not ASCII or contains no card.
            return {}
        return content if isinstance(content, dict) else {}

    def _row_fingerprints(self, secret: CardSecret) -> tuple[list[str], ...]:
        """Return a list of fingerprints for each column, with one per key.

        If the column is empty, its list is ``[""]``.
        """
        code = normalised(secret.value)
        # In a shorter code, the last four characters would be more than half of the code.
        has_tail = len(code) >= 2 * TAIL
        return (
            self.identities(secret),
            self.value_fingerprints(secret.value),
            self.serial_fingerprints(secret.serial) if secret.serial else [""],
            self._fingerprints("tail", code[-TAIL:]) if has_tail else [""],
        )

    @contained
    def identities(self, secret: CardSecret) -> list[str]:
        """Return the fingerprints of this exact card, one for each key.

        The fingerprints are in the same order as the keys, and show whether a delivered card is
        already stored. Two codes that differ only in case are two cards, so the codes are not
        normalised.
        """
        # JSON, so that no character in a code can shift the boundary between code and serial.
        return self._fingerprints("card", json.dumps([secret.value, secret.serial]))

    @contained
    def value_fingerprints(self, text: str) -> list[str]:
        """Return the fingerprints of a complete code, one per key."""
        return self._fingerprints("value", normalised(text))

    @contained
    def serial_fingerprints(self, text: str) -> list[str]:
        """Return the fingerprints of a complete serial number, one per key."""
        return self._fingerprints("serial", normalised(text))

    @contained
    def tail_fingerprints(self, text: str) -> list[str]:
        """Return the fingerprints of the last characters of a code, one per key.

        The result is empty unless the normalised ``text`` has exactly
        :data:`TAIL` characters.
        """
        tail = normalised(text)
        return self._fingerprints("tail", tail) if len(tail) == TAIL else []

    @contained
    def sent_references(self, reference: str) -> list[str]:
        """Return the references under which the provider may know an order.

        The first reference is sent with the order. Each reference is a keyed digest of the shop's
        own ``reference``. The digest does not reveal anything about the order, and somebody who can
        choose the shop's reference cannot choose the digest. The digest consists of 32 lower-case
        letters and digits, because most systems store these unchanged. The digest does not begin
        with a digit, so that no system mistakes it for a number.
        """
        return [f"gc{digest[:30]}" for digest in self._fingerprints("reference", reference)]

    @contained
    def _fingerprints(self, purpose: str, text: str) -> list[str]:
        # A lone surrogate must not raise a UnicodeEncodeError, which would contain the text.
        message = f"{purpose}\0{text}".encode(errors="surrogatepass")
        return [
            hmac.new(key, message, hashlib.sha256).hexdigest() for key in self._fingerprint_keys
        ]


def _mismatch(content: dict[str, Any], place: Place) -> str:
    if content.get("format", _FORMAT) != _FORMAT:
        return "it was encrypted by another version of this app"
    if {name: type(content.get(name)) for name in _CONTENT} != _CONTENT:
        return "none of GIFTCARDS['ENCRYPTION_KEYS'] can decrypt it, or the stored text is damaged"
    if (content["order"], content["reference"]) != (place.order, place.reference):
        return "its stored text belongs to another order"
    if content["card"] != place.card:
        return "its stored text belongs to another card of the order"
    return ""


def normalised(text: str) -> str:
    """Return ``text`` in a form that does not depend on how a person typed it.

    The function ignores case, and removes spaces and dashes. The function converts the digits of
    every script to ASCII digits, because a keyboard can produce ٣ or ۳ for 3. The function also
    converts full-width characters to ASCII.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    # A code with only punctuation stays as it is: otherwise, all such codes would be equal.
    signs = (str(unicodedata.decimal(sign, sign)) for sign in plain if sign.isalnum())
    return "".join(signs) or text.strip()


def _derived(key: str, purpose: bytes, *, length: int) -> bytes:
    """Derive a key for ``purpose``.

    The encryption key cannot be computed from the derived key.
    """
    derive = HKDF(SHA256(), length=length, salt=None, info=purpose).derive
    return derive(base64.urlsafe_b64decode(key))


@contained
def key_fingerprint(api_key: str) -> str:
    """Return a fingerprint of an API key.

    The app stores the fingerprint to record that the provider has refused the key. The fingerprint
    does not depend on the encryption keys, which can differ between processes during a rotation. An
    API key is too long to be guessed from its fingerprint.
    """
    message = api_key.encode(errors="surrogatepass")
    return hmac.new(b"giftcards api key v1", message, hashlib.sha256).hexdigest()[:32]


def sealed(text: str) -> str:
    """Encrypt ``text`` with a key that is derived from ``SECRET_KEY``."""
    return _box().encrypt(text.encode()).decode()


def unsealed(text: str) -> str:
    """Decrypt a result of :func:`sealed`. Return any other string unchanged."""
    try:
        return _box().decrypt(text.encode(errors="replace")).decode()
    except InvalidToken:
        return text


def _box() -> Fernet:
    return Fernet(urlsafe_b64encode(salted_hmac(__name__, "", algorithm="sha256").digest()))
