"""The codes of the cards that a customer has paid for, opened to be handed over."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from giftcards.delivery.facts import cards_of
from giftcards.exceptions import DecryptionError
from giftcards.keys.keyring import Keyring
from giftcards.keys.secrecy import apart, contained
from giftcards.models import Card, Order

logger = logging.getLogger(__name__)

#: Most codes that a message or a page lists; the page offers more as a file.
MOST_CODES = 100


@dataclass(frozen=True, slots=True)
class Code:
    """A card and its code. ``value`` is "" if it cannot be opened; ``serial`` may be ""."""

    position: int
    value: str = field(default="", repr=False)
    serial: str = field(default="", repr=False)

    @property
    def is_readable(self) -> bool:
        return bool(self.value)


@contained
def open_codes(order: Order) -> list[Code]:
    """The codes of all cards that the settled ``order`` counts, by position.

    A card that does not open, or is missing in the database, has an empty code, and an error is
    logged. Raises :exc:`~giftcards.exceptions.ConfigurationError` if the encryption keys are
    unusable.
    """
    keyring = Keyring.from_settings()
    cards = {card.position: card for card in cards_of(order).order_by()}
    codes: list[Code] = []
    troubles: list[str] = []
    for position in range(1, order.fulfilled_quantity + 1):
        code, trouble = _opened(position, cards.get(position), keyring)
        codes.append(code)
        if trouble:
            troubles.append(f"Card {position}: {trouble}")
    if troubles:
        apart(
            logger.error,
            "Of %s cards of order %s, %s cannot be shown to the customer. %s",
            len(codes),
            order.reference,
            len(troubles),
            troubles[0],
        )
    return codes


def _opened(position: int, card: Card | None, keyring: Keyring) -> tuple[Code, str]:
    """The code of a card, and a sentence that says why it is empty, or ""."""
    if card is None:
        return Code(position), "It is not in the database."
    try:
        secret = card.open(keyring)
    except DecryptionError as error:
        return Code(position), str(error)
    return Code(position, secret.value, secret.serial), ""
