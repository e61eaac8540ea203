"""Rotate the encryption keys: re-encrypt every card with the first key.

The shop can keep running during a rotation. All fingerprints of a card are also recalculated, so
that afterwards no data in the database depends on the other keys. An interrupted rotation can be
resumed.
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
from giftcards.exceptions import DecryptionError
from giftcards.keys.keyring import Keyring, Sealed
from giftcards.keys.secrecy import contained
from giftcards.models import Card
from giftcards.models.cards import DESTROYED, CardQuerySet
from giftcards.privacy.retention import empty_log

# The number of cards in one transaction. Transactions have to be short, because the shop also
# writes during a rotation.
_BATCH = 200
# The maximum number of passes over the cards. During a pass, a worker with old settings may seal
# further cards with an old key.
_MOST_PASSES = 3
# The maximum number of repetitions of a transaction that the database rolls back, such as after a
# deadlock.
_MOST_DEADLOCKS = 5
# The maximum number of failures that a tally describes.
_NAMED = 20


@dataclass(slots=True)
class RotationTally:
    """The progress of a rotation or of a verification."""

    #: Cards that were sealed anew, or that open with the first key.
    done: int = 0
    #: Cards that no key can decrypt. In a verification, cards that the first key cannot decrypt.
    failed: int = 0
    #: The reasons for the first failures: a sentence each, without secrets.
    troubles: list[str] = field(default_factory=list)

    def note(self, trouble: str) -> None:
        self.failed += 1
        if len(self.troubles) < _NAMED:
            self.troubles.append(trouble)


def rotate(*, per_second: float, on_batch: Callable[[RotationTally], object]) -> RotationTally:
    """Encrypt every card with the first key, and return the tally.

    At most ``per_second`` cards are encrypted per second. ``on_batch`` is called after each batch.
    If the callback raises an error, the next rotation continues from this batch. Cards that no key
    can decrypt are not changed. Raises :exc:`~giftcards.exceptions.ConfigurationError` if the keys
    in the settings are invalid.
    """
    keyring = conf.keyring()
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
    """Decrypt every card with only the first key, and return the tally.

    The function does not show codes. The ``on_batch`` argument has the same meaning as in
    :func:`rotate`, and the function raises the same errors.
    """
    keyring = Keyring(conf.encryption_keys[:1])
    tally = RotationTally()
    for keys in _batches(Card.objects.all().readable()):
        for card in _read(keys).readable():  # without cards destroyed meanwhile
            if trouble := card.trouble(keyring):
                tally.note(trouble)
            else:
                tally.done += 1
        on_batch(tally)
    return tally


def count_left() -> int:
    """Return the number of cards that might not use the first key yet."""
    return _of_other_keys(conf.keyring()).count()


def _of_other_keys(keyring: Keyring) -> CardQuerySet:
    return Card.objects.all().readable().exclude(key_fingerprint=keyring.key_fingerprints[0])


def _batches(cards: CardQuerySet) -> Iterator[list[int]]:
    rows = cards.order_by("pk").values_list("pk", flat=True)
    keys = list(rows[:_BATCH])
    while keys:
        yield keys
        keys = list(rows.filter(pk__gt=keys[-1])[:_BATCH])


def _read(keys: Sequence[int]) -> CardQuerySet:
    return Card.objects.filter(pk__in=keys).select_related("order").order_by("pk")


def _retried(seal: Callable[[], None]) -> None:
    """Call ``seal``, and repeat the call if a deadlock occurs."""
    for _number in range(_MOST_DEADLOCKS):
        with contextlib.suppress(OperationalError):
            return seal()
        close_old_connections()
    return seal()


def _seal_again(keys: Sequence[int], keyring: Keyring, tally: RotationTally) -> None:
    first = keyring.key_fingerprints[0]
    sealed, troubles = [], []
    with transaction.atomic():
        # This update locks the rows on every database. Until the transaction ends, no other process
        # can add a serial or destroy a code.
        Card.objects.filter(pk__in=keys).order_by().update(position=F("position"))
        for card in _read(keys):
            if card.key_fingerprint in {first, DESTROYED}:
                continue  # another process has sealed the card, or destroyed it
            try:
                card.row = _sealed_under_first(card, keyring)
            except DecryptionError as error:
                troubles.append(f"Card {card.position} of order {card.order.reference}: {error}")
                continue
            card.key_fingerprint = first
            sealed.append(card)
        # All rows exist, so bulk_create() only updates them. bulk_update() would have a CASE for
        # each row.
        has_target = connection.features.supports_update_conflicts_with_target
        Card.objects.bulk_create(
            sealed,
            update_conflicts=True,
            unique_fields=["pk"] if has_target else None,
            update_fields=[*Sealed._fields, "key_fingerprint"],
        )
    tally.done += len(sealed)
    for trouble in troubles:
        tally.note(trouble)


@contained
def _sealed_under_first(card: Card, keyring: Keyring) -> Sealed:
    return keyring.seal(card.open(keyring), place=card.place)
