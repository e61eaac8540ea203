"""Storing cards: encrypted, and idempotent however often the provider sends them."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from django.views.decorators.debug import sensitive_variables

from giftcards.crypto import Keyring, Sealed
from giftcards.exceptions import DecryptionError
from giftcards.models import Card, Order
from giftcards.provider.answers import CardSecret


@sensitive_variables()
def store_cards(card_lists: Iterable[tuple[Order, Sequence[CardSecret]]]) -> Counter[int]:
    """Store the cards, and the serials of stored cards, that are new.

    ``card_lists`` has each order at most once. A destroyed code does not come back. Returns how
    many cards each order has afterwards, by primary key, the destroyed ones included. Raises
    :exc:`~giftcards.exceptions.DecryptionError` if this process lacks the key of a stored card.
    """
    answers = list(card_lists)
    if not answers:
        return Counter()
    keyring = Keyring.from_settings()
    orders = {order.pk: order for order, _secrets in answers}
    stored: dict[int, list[Card]] = {pk: [] for pk in orders}
    for card in Card.objects.filter(order__in=stored).order_by("position"):
        card.order = orders[card.order_id]  # for opening it, without a query
        stored[card.order_id].append(card)
    new: list[Card] = []
    completed: list[Card] = []
    for order, secrets in answers:
        added, filled = _seal_missing(order, secrets, stored[order.pk], keyring)
        new += added
        completed += filled
    Card.objects.bulk_update(completed, [*Sealed._fields, "key_fingerprint"])
    Card.objects.bulk_create(new)
    late = {card.order_id for card in new if any(old.is_destroyed for old in stored[card.order_id])}
    if late:
        # There is something to be destroyed again.
        Order.objects.filter(pk__in=late).update(codes_destroyed_at=None)
    return Counter(card.order_id for card in chain(*stored.values(), new))


class Fingerprints(NamedTuple):
    """Fingerprints of the card (``exact``), and of a card with its code and no serial (``code``).

    They are equal if the card has no serial. A card of an answer has one of each per encryption
    key. A stored card has one ``exact``, and one ``code`` that may be unknown: ``[""]``.
    """

    exact: Sequence[str]
    code: Sequence[str]

    @property
    def has_serial(self) -> bool:
        return self.exact != self.code


def match_cards(
    received: Sequence[Fingerprints], stored: Sequence[Fingerprints]
) -> list[int | None]:
    """Return the index of the ``stored`` card that each ``received`` one is; ``None`` if it is new.

    Both are multisets: a code twice in one answer is two cards, and a repeated answer, in any
    order, has no new one. A card without a serial matches any with its code, because the provider
    may add serials later and omit them again.
    """
    unmatched: defaultdict[str, deque[int]] = defaultdict(deque)
    for index, card in enumerate(stored):
        unmatched[card.exact[0]].append(index)

    def take(card: Fingerprints) -> int | None:
        candidates = next(filter(None, map(unmatched.get, chain(*card))), None)
        return candidates.popleft() if candidates else None

    # Cards with a serial are matched first, because one without matches any card with its code.
    found = {index: take(card) for index, card in enumerate(received) if card.has_serial}
    for index in [index for index in chain(*unmatched.values()) if stored[index].has_serial]:
        # By the last fingerprint, so that an exact match under any encryption key takes precedence.
        unmatched[stored[index].code[-1]].append(index)
    found |= {index: take(card) for index, card in enumerate(received) if not card.has_serial}
    return [found[index] for index in range(len(received))]


@sensitive_variables()
def _seal_missing(
    order: Order, secrets: Sequence[CardSecret], stored: Sequence[Card], keyring: Keyring
) -> tuple[list[Card], list[Card]]:
    """Return the cards to insert and the stored cards that gain a serial, both sealed."""
    new: list[Card] = []
    completed: list[Card] = []
    secrets = _without_destroyed(secrets, stored, keyring)
    readable = [card for card in stored if not card.is_destroyed]
    matches = _match_stored(secrets, readable, keyring)
    for secret, index in zip(secrets, matches, strict=True):
        if index is None:
            card = Card(order=order, position=len(stored) + len(new) + 1)
            new.append(card)
        elif secret.serial and not readable[index].serial_fingerprint:
            card = readable[index]
            completed.append(card)
        else:
            continue
        card.row = keyring.seal(secret, place=card.place)
        card.key_fingerprint = keyring.key_fingerprints[0]
    return new, completed


@sensitive_variables()
def _without_destroyed(
    secrets: Sequence[CardSecret], stored: Sequence[Card], keyring: Keyring
) -> list[CardSecret]:
    """Return ``secrets`` but those of destroyed cards, of which the code's fingerprint is left."""
    destroyed = Counter(card.value_fingerprint for card in stored if card.is_destroyed)
    left = []
    for secret in secrets:
        fingerprints = keyring.value_fingerprints(secret.value) if destroyed else ()
        found = next((each for each in fingerprints if destroyed[each]), None)
        if found is None:
            left.append(secret)
        else:
            destroyed[found] -= 1
    return left


@sensitive_variables()
def _match_stored(
    secrets: Sequence[CardSecret], stored: Sequence[Card], keyring: Keyring
) -> list[int | None]:
    known = {"", *keyring.key_fingerprints}
    if secrets and any(card.key_fingerprint not in known for card in stored):
        # Its fingerprints cannot be compared, and the same card would be stored once more.
        raise DecryptionError("A stored card is sealed with a key that this process does not have.")
    received = [
        Fingerprints(keyring.identities(secret), keyring.identities(CardSecret(secret.value, "")))
        for secret in secrets
    ]
    without_serial = [secret.value for secret in secrets if not secret.serial]
    wanted = set(chain(*map(keyring.value_fingerprints, without_serial)))

    @sensitive_variables()
    def identify(card: Card) -> Fingerprints:
        if not card.serial_fingerprint:
            return Fingerprints([card.identity], [card.identity])
        if card.value_fingerprint in wanted:
            # Decrypted, because codes that differ only in case share this fingerprint.
            with contextlib.suppress(DecryptionError):
                secret = CardSecret(card.open(keyring).value, "")
                return Fingerprints([card.identity], keyring.identities(secret))
        return Fingerprints([card.identity], [""])

    return match_cards(received, [identify(card) for card in stored])
