"""Storing cards: sealed, each one once, whatever the provider sends how often."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from django.views.decorators.debug import sensitive_variables

from giftcards.cards import CardSecret
from giftcards.crypto import Keyring
from giftcards.exceptions import DecryptionError
from giftcards.models import Card, Order


@sensitive_variables()
def store_cards(told: Iterable[tuple[Order, Sequence[CardSecret]]]) -> Counter[int]:
    """Store those cards of answers about orders that are not stored yet, and missing serials.

    Returns how many cards each of the orders has then, by its primary key.
    """
    answers = list(told)
    if not answers:
        return Counter()
    keyring = Keyring.from_settings()
    stored: dict[int, list[Card]] = defaultdict(list)
    rows = Card.objects.filter(order__in=[order.pk for order, _secrets in answers])
    for card in rows.order_by("position"):
        stored[card.order_id].append(card)
    held = Counter({order_id: len(cards) for order_id, cards in stored.items()})
    new: list[Card] = []
    completed: list[Card] = []
    for order, secrets in answers:
        known = _find_stored(secrets, stored[order.pk], order.reference, keyring)
        for secret, row in zip(secrets, known, strict=True):
            if row and (row.serial_fingerprint or not secret.serial):
                continue
            if row is None:
                held[order.pk] += 1
            card = row or Card(order=order, position=held[order.pk])
            (completed if row else new).append(card)
            card.sealed = keyring.seal(secret, reference=order.reference)
            card.identity = keyring.identities(secret)[0]
            card.value_fingerprint = keyring.value_fingerprints(secret.value)[0]
            card.serial_fingerprint = (
                keyring.serial_fingerprints(secret.serial)[0] if secret.serial else ""
            )
    Card.objects.bulk_update(
        completed, ("sealed", "identity", "value_fingerprint", "serial_fingerprint")
    )
    Card.objects.bulk_create(new)
    return held


@sensitive_variables()
def _find_stored(
    secrets: Sequence[CardSecret], stored: Iterable[Card], reference: str, keyring: Keyring
) -> list[Card | None]:
    """For each card of an answer the stored one that it is; ``None`` if it is new.

    Compared as a multiset of exact cards: the same code twice in one answer is two cards, the same
    answer again, in whatever order, is none. Where only one of the two has a serial, the same code
    is the same card: the provider may add serials later, and may leave them out again.
    """
    left: dict[str, list[Card]] = defaultdict(list)
    for card in stored:
        left[card.identity].append(card)
    found: list[Card | None] = [None] * len(secrets)
    if not left:
        return found

    @sensitive_variables()
    def take(secret: CardSecret) -> Card | None:
        cards = next(filter(None, map(left.get, keyring.identities(secret))), None)
        return cards.pop(0) if cards else None

    # Those with a serial choose first: one without takes any card with its code.
    for index, secret in sorted(enumerate(secrets), key=lambda item: not item[1].serial):
        found[index] = take(secret)
        if found[index] is None and secret.serial:
            found[index] = take(CardSecret(secret.value, ""))
    missing = [index for index, secret in enumerate(secrets) if not (found[index] or secret.serial)]
    codes = {
        fingerprint
        for index in missing
        for fingerprint in keyring.value_fingerprints(secrets[index].value)
    }
    for card in list(itertools.chain.from_iterable(left.values())):
        if card.serial_fingerprint and card.value_fingerprint in codes:
            # Opened, because codes that differ in case have one fingerprint and are two cards.
            with contextlib.suppress(DecryptionError):
                value = keyring.open(card.sealed, reference=reference).value
                left[keyring.identities(CardSecret(value, ""))[0]].append(card)
    for index in missing:
        found[index] = take(secrets[index])
    return found
