"""The costs of rotating the keys, proving it and a purge, beside doing it card by card.

``python -m benchmarks keys 100000`` says for how many cards; a tenth of them is gone through
one by one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from cryptography.fernet import Fernet
from django.db import connection
from django.utils import timezone

from benchmarks.stage import configure, say
from giftcards.conf import conf
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.keys.keyring import Keyring
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Card, Order
from giftcards.models.cards import DESTROYED
from giftcards.privacy.retention import Purge, purge
from giftcards.privacy.rotation import RotationTally, count_left, rotate, verify
from giftcards.statuses import Status
from tests.builders import build_guide_order
from tests.history import analyze

_CARDS_OF_ORDER = 5
_MADE_AT_ONCE = 200
_UNLIMITED = 1e9


def run(*args: str, is_quick: bool) -> None:
    wanted = int(next(filter(str.isdecimal, args), 5_000 if is_quick else 100_000))
    began = time.monotonic()
    for first in range(0, wanted, _MADE_AT_ONCE * _CARDS_OF_ORDER):
        _make(first)
    analyze()
    cards = Card.objects.count()
    name = {"mysql": "MariaDB"}.get(connection.vendor, connection.vendor)
    say(f"{name}: {cards:,} cards, made in {time.monotonic() - began:.0f} s")
    few = cards // 10
    _rotate(few)
    _verify(few)
    _purge(few // _CARDS_OF_ORDER)


def _make(first: int) -> None:
    """Orders whose codes were kept long enough, with new cards from the number ``first``."""
    finalized_at = timezone.now() - timedelta(days=400)
    orders = Order.objects.bulk_create(
        build_guide_order(Status.FULFILLED, quantity=_CARDS_OF_ORDER, finalized_at=finalized_at)
        for _number in range(_MADE_AT_ONCE)
    )
    store_cards(
        Arrival(
            order,
            [
                CardSecret(f"CODE-{first + number * _CARDS_OF_ORDER + card:012}", f"{card:09}")
                for card in range(_CARDS_OF_ORDER)
            ],
        )
        for number, order in enumerate(orders)
    )


def _rotate(few: int) -> None:
    keys = conf.encryption_keys
    configure(ENCRYPTION_KEYS=[Fernet.generate_key().decode(), *keys])
    slow = _measured("one by one, sealed anew", few, lambda: _rotate_one_by_one(few))
    rest = count_left()
    done: list[RotationTally] = []
    fast = _measured(
        "rotate()",
        rest,
        lambda: done.append(rotate(per_second=_UNLIMITED, on_batch=lambda _tally: None)),
    )
    assert (done[0], count_left()) == (RotationTally(done=rest), 0)
    _compare(fast, slow)


def _rotate_one_by_one(few: int) -> None:
    keyring = conf.keyring()
    for card in Card.objects.order_by("pk")[:few]:
        card.row = keyring.seal(card.open(keyring), place=card.place)
        card.key_fingerprint = keyring.key_fingerprints[0]
        card.save()


def _verify(few: int) -> None:
    keyring = Keyring(conf.encryption_keys[:1])

    def one_by_one() -> None:
        for card in Card.objects.order_by("pk")[:few]:
            card.open(keyring)

    slow = _measured("one by one, opened", few, one_by_one)
    cards = Card.objects.count()
    done: list[RotationTally] = []
    fast = _measured("verify()", cards, lambda: done.append(verify(on_batch=lambda _tally: None)))
    assert done == [RotationTally(done=cards)]
    _compare(fast, slow)


def _purge(few: int) -> None:
    slow = _measured("one by one, destroyed", few * _CARDS_OF_ORDER, lambda: _purge_one_by_one(few))
    rest = Card.objects.all().readable().count()
    done: list[Purge] = []
    fast = _measured("purge()", rest, lambda: done.append(purge(settled_before=timezone.now())))
    assert (done[0].cards, Card.objects.all().readable().count()) == (rest, 0)
    _compare(fast, slow)


def _purge_one_by_one(few: int) -> None:
    for order in Order.objects.order_by("pk")[:few]:
        if order.needs_attention or order.open_amount:
            continue
        for card in order.cards.all():
            card.sealed = card.identity = card.serial_fingerprint = card.tail_fingerprint = ""
            card.key_fingerprint = DESTROYED
            card.save()
        order.codes_destroyed_at = timezone.now()
        order.save()


def _measured(name: str, cards: int, work: Callable[[], object]) -> float:
    """Say how long the work takes; return how many cards a second that is."""
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    say(f"  {name:<24} {cards:>9,} cards {seconds:>8.1f} s {cards / seconds:>9,.0f} a second")
    return cards / seconds


def _compare(fast: float, slow: float) -> None:
    say(f"  {'':<24} {fast / slow:.1f} × as many")
