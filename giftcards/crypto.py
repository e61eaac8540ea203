"""Keys, sealing and fingerprints: the only module that imports ``cryptography``.

A card is sealed as one Fernet token. Fernet itself binds a token to nothing: whoever can write to
the database could swap two cards. So the sealed text names the order it belongs to, and opening
checks that.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.views.decorators.debug import sensitive_variables

from giftcards.cards import CardSecret
from giftcards.conf import conf
from giftcards.exceptions import DecryptionError


def generate_key() -> str:
    """Return a new key for ``GIFTCARDS["ENCRYPTION_KEYS"]``."""
    return Fernet.generate_key().decode()


class Keyring:
    """Keys in order: the first one seals, every one opens and finds.

    A keyring is cheap to make and holds derived keys; make one per piece of work, keep none.
    """

    @sensitive_variables()
    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        # Fingerprints have keys of their own, so that they tell nothing about the sealing ones.
        self._fingerprint_keys = tuple(
            HKDF(SHA256(), length=32, salt=None, info=b"giftcards fingerprints v1").derive(
                base64.urlsafe_b64decode(key)
            )
            for key in keys
        )

    @classmethod
    def from_settings(cls) -> Keyring:
        return cls(conf.encryption_keys)

    @sensitive_variables()
    def seal(self, secret: CardSecret, *, reference: str) -> str:
        """Return the token that holds ``secret`` for the order ``reference``: printable ASCII."""
        content = {"order": reference, "value": secret.value, "serial": secret.serial}
        return self._fernet.encrypt(json.dumps(content).encode()).decode()

    @sensitive_variables()
    def open(self, token: str, *, reference: str) -> CardSecret:
        """Return what :meth:`seal` was given.

        :exc:`DecryptionError` if no key opens the token, if it is damaged, or if it was sealed for
        another order than ``reference``.
        """
        content = self._decrypt(token)
        if content is None:
            raise DecryptionError(
                "This card cannot be opened: none of GIFTCARDS['ENCRYPTION_KEYS'] fits,"
                " or the stored text is damaged."
            )
        if content["order"] != reference:
            raise DecryptionError(
                "This card cannot be opened: its stored text belongs to another order."
            )
        return CardSecret(value=content["value"], serial=content["serial"])

    @sensitive_variables()
    def _decrypt(self, token: str) -> dict[str, str] | None:
        try:
            content = json.loads(self._fernet.decrypt(token))
        except (InvalidToken, TypeError, ValueError):
            # TypeError: no text at all. ValueError: text that is not ASCII, or a token of our key
            # that is not one of ours.
            return None
        if not isinstance(content, dict) or not {"order", "value", "serial"} <= content.keys():
            return None
        return content

    @sensitive_variables()
    def identities(self, secret: CardSecret) -> list[str]:
        """Fingerprints of exactly this card, one per key, the sealing key's first.

        They tell whether an answer's card is stored already. No normalising here: two codes that
        differ in case only would be two paid cards.
        """
        # As JSON, so that no character in a code can move the border between the two.
        return self._fingerprints("card", json.dumps([secret.value, secret.serial]))

    @sensitive_variables()
    def value_fingerprints(self, text: str) -> list[str]:
        """Fingerprints by which a card is found by its full code, one per key."""
        return self._fingerprints("value", _normalised(text))

    @sensitive_variables()
    def serial_fingerprints(self, text: str) -> list[str]:
        """Fingerprints by which a card is found by its full serial, one per key."""
        return self._fingerprints("serial", _normalised(text))

    @sensitive_variables()
    def _fingerprints(self, purpose: str, text: str) -> list[str]:
        # A staff member may search for anything, and a UnicodeEncodeError would hold the text.
        message = f"{purpose}\0{text}".encode(errors="surrogatepass")
        return [
            hmac.new(key, message, hashlib.sha256).hexdigest() for key in self._fingerprint_keys
        ]


def _normalised(text: str) -> str:
    """``text`` without what a person who copies a code may get wrong: case, spaces, dashes."""
    # A code of signs alone is found as it is, not by everything that leaves nothing.
    return "".join(filter(str.isalnum, text)).casefold() or text.strip()


def key_fingerprint(api_key: str) -> str:
    """A short name for an API key by which a change of key is noticed; tells nothing of the key."""
    return Keyring.from_settings()._fingerprints("api key", api_key)[0][:16]  # noqa: SLF001
