"""Rotating the encryption keys: sealing every card anew under the first one, while the shop runs.

A card is sealed anew with all its fingerprints, so that afterwards nothing in the database belongs
to another key. What is done stays done: a rotation that was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from django.db import OperationalError, close_old_connections, connection, router, transaction
from django.db.models import F

from giftcards.conf import conf
from giftcards.crypto import Keyring, Sealed
from giftcards.exceptions import DecryptionError
from giftcards.models import Card
from giftcards.models.cards import DESTROYED, CardQuerySet
from giftcards.secrecy import contained
from giftcards.wiping import empty_log

# How many cards are sealed in one transaction: short ones, because the shop writes meanwhile.
_BATCH = 200
# A worker that still has the old settings may seal cards with an old key meanwhile.
_MOST_PASSES = 3
# How often a transaction is tried again that the database has undone, as after a deadlock.
_MOST_DEADLOCKS = 5
# How many of the cards that do not open are named.
_NAMED = 20


@dataclass(slots=True)
class RotationTally:
    """How far a rotation or a proof has come."""

    #: Cards that were sealed anew, or that open with the first key.
    done: int = 0
    #: Cards that no key opens, or that the first key does not open.
    failed: int = 0
    #: Why, for the first of them: a sentence each, without secrets.
    troubles: list[str] = field(default_factory=list)

    def note(self, trouble: str) -> None:
        self.failed += 1
        if len(self.troubles) < _NAMED:
            self.troubles.append(trouble)


def rotate(*, per_second: float, on_batch: Callable[[RotationTally], object]) -> RotationTally:
    """Seal every card under the first key, at most so many a second; return how that went.

    ``on_batch`` is called after each batch; what it raises ends the rotation, which goes on where
    it was the next time. Cards that no key opens are left as they are. Raises
    :exc:`~giftcards.exceptions.ConfigurationError` if the keys in the settings are unusable.
    """
    keyring = Keyring.from_settings()
    done = 0
    for _number in range(_MOST_PASSES):
        tally = RotationTally(done)
        for keys in _batches(_of_other_keys(keyring)):
            began = time.monotonic()
            _retried(partial(_seal_again, keys, keyring, tally))
            on_batch(tally)
            time.sleep(max(len(keys) / per_second - (time.monotonic() - began), 0))
        if tally.done == done:
            break
        done = tally.done
    empty_log(router.db_for_write(Card))
    return tally


def verify(*, on_batch: Callable[[RotationTally], object]) -> RotationTally:
    """Open every card with the first key alone, and show nothing of them; return how that went.

    Otherwise like :func:`rotate`.
    """
    keyring = Keyring(conf.encryption_keys[:1])
    tally = RotationTally()
    for keys in _batches(Card.objects.all().readable()):
        for card in _read(keys).readable():  # if it was not destroyed meanwhile
            if trouble := card.trouble(keyring):
                tally.note(trouble)
            else:
                tally.done += 1
        on_batch(tally)
    return tally


def count_left() -> int:
    """How many cards are sealed with another key than the first one."""
    return _of_other_keys(Keyring.from_settings()).count()


def _of_other_keys(keyring: Keyring) -> CardQuerySet:
    # Those of an unknown key as well, sealed before it was written down.
    return Card.objects.all().readable().exclude(key_fingerprint=keyring.key_fingerprints[0])


def _batches(cards: CardQuerySet) -> Iterator[list[int]]:
    """The primary keys of the cards, in ascending order, a batch at a time."""
    rows = cards.order_by("pk").values_list("pk", flat=True)
    keys = list(rows[:_BATCH])
    while keys:
        yield keys
        keys = list(rows.filter(pk__gt=keys[-1])[:_BATCH])


def _read(keys: Sequence[int]) -> CardQuerySet:
    return Card.objects.filter(pk__in=keys).select_related("order").order_by("pk")


def _retried(seal: Callable[[], None]) -> None:
    """Try again if the database has undone it: the shop writes cards at the same time."""
    for _number in range(_MOST_DEADLOCKS):
        with contextlib.suppress(OperationalError):
            return seal()
        close_old_connections()
    return seal()


def _seal_again(keys: Sequence[int], keyring: Keyring, tally: RotationTally) -> None:
    first = keyring.key_fingerprints[0]
    sealed, troubles = [], []
    with transaction.atomic():
        # A write before all reads locks the rows on every database: nobody adds a serial, or
        # destroys a code, between reading and writing.
        Card.objects.filter(pk__in=keys).order_by().update(position=F("position"))
        for card in _read(keys):
            if card.key_fingerprint in {first, DESTROYED}:
                continue  # another process was first
            try:
                card.row = _sealed_under_first(card, keyring)
            except DecryptionError as error:
                troubles.append(f"Card {card.position} of order {card.order.reference}: {error}")
                continue
            card.key_fingerprint = first
            sealed.append(card)
        _write(sealed)
    tally.done += len(sealed)
    for trouble in troubles:
        tally.note(trouble)


def _write(cards: Sequence[Card]) -> None:
    """Write the sealed texts of cards that are there, and locked."""
    # All of them conflict. This is one short statement, where bulk_update() has a CASE for each.
    unique = ["pk"] if connection.features.supports_update_conflicts_with_target else None
    Card.objects.bulk_create(
        cards,
        update_conflicts=True,
        unique_fields=unique,
        update_fields=[*Sealed._fields, "key_fingerprint"],
    )


@contained
def _sealed_under_first(card: Card, keyring: Keyring) -> Sealed:
    return keyring.seal(card.open(keyring), place=card.place)
