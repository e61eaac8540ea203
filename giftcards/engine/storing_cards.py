"""Storing each card once, encrypted and numbered.

A card is stored only once, even if the provider sends it several times.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from django.db.models import F
from django.views.decorators.debug import sensitive_variables

from giftcards.conf import conf
from giftcards.exceptions import DecryptionError
from giftcards.keys.keyring import Keyring, Sealed
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Card, Order
from giftcards.models.order_queries import batches
from giftcards.provider.answers import without_repetitions
from giftcards.rules.verdict import most_cards


class Arrival(NamedTuple):
    """The cards of an order in one answer.

    If ``settles`` is True, the answer settles the order and contains all its cards.
    """

    order: Order
    cards: Sequence[CardSecret]
    settles: bool = False


class Stored(NamedTuple):
    """How many cards of each order were stored, and how many were left out.

    The keys are the primary keys of the orders. ``cards`` counts the stored cards. ``left_out``
    counts the cards in the answer that were not stored.
    """

    cards: Counter[int]
    left_out: Counter[int]


class _Changes(NamedTuple):
    """The rows to insert, and the rows to update.

    The rows in ``moved`` receive a new position, and are also in ``changed``.
    """

    new: list[Card]
    changed: list[Card]
    moved: list[Card]


@sensitive_variables()
def store_cards(arrivals: Iterable[Arrival]) -> Stored:
    """Store new cards, and new serial numbers of stored cards.

    ``arrivals`` contains each order at most once. The number of cards that are stored for an order
    is limited to :func:`most_cards`. However, if an arrival settles its order, all its cards are
    stored, and they receive the first positions. A card whose code was destroyed is not stored
    again, but it counts as stored. Raises :exc:`~giftcards.exceptions.DecryptionError` if this
    process does not have the key of a stored card, or if a card that needs a new position cannot be
    decrypted.
    """
    arrivals = list(arrivals)
    if not arrivals:
        return Stored(Counter(), Counter())
    keyring = conf.keyring()
    stored = _read(arrival.order for arrival in arrivals)
    highest = max((card.position for card in chain(*stored.values())), default=0)
    changes = _Changes([], [], [])
    left_out = Counter[int]()
    for arrival in arrivals:
        kept = _seal(arrival, stored[arrival.order.pk], keyring, changes)
        left_out[arrival.order.pk] = len(arrival.cards) - kept
    every = [*chain(*stored.values()), *changes.new]
    # Cards that move get unused positions first, because two cards of an order must never share a
    # position.
    beyond = highest + len(every)
    for keys in batches(card.pk for card in changes.moved):
        Card.objects.filter(pk__in=keys).order_by().update(position=F("position") + beyond)
    Card.objects.bulk_update(changes.changed, [*Sealed._fields, "key_fingerprint", "position"])
    Card.objects.bulk_create(changes.new)
    _have_retention_look_again(arrivals, every, changes.new)
    return Stored(Counter(card.order_id for card in every), left_out)


def _have_retention_look_again(
    arrivals: Iterable[Arrival], cards: Iterable[Card], new: Iterable[Card]
) -> None:
    """Schedule orders for retention again if ``new`` cards arrive late.

    New cards are late if their order was already settled, or if it has destroyed codes.
    """
    settled = {one.order.pk for one in arrivals if one.order.finalized_at and not one.settles}
    destroyed = {card.order_id for card in cards if card.is_destroyed}
    if late := (settled | destroyed).intersection(card.order_id for card in new):
        looked_at = {"codes_destroyed_at": None, "is_without_cards": False}
        Order.objects.filter(pk__in=late).update(**looked_at)


def _read(orders: Iterable[Order]) -> dict[int, list[Card]]:
    """Return the stored cards of each order, sorted by position.

    The keys are the primary keys of the orders.
    """
    by_key = {order.pk: order for order in orders}
    stored: dict[int, list[Card]] = {pk: [] for pk in by_key}
    for card in Card.objects.filter(order__in=stored).order_by("position"):
        card.order = by_key[card.order_id]  # so that opening the card needs no query
        stored[card.order_id].append(card)
    return stored


class Fingerprints(NamedTuple):
    """Fingerprints of a card.

    The attribute ``exact`` contains fingerprints with the serial number, and the attribute ``code``
    contains fingerprints without it. If the card does not have a serial number, both attributes are
    equal. If the card is from an answer, each attribute contains one fingerprint per encryption
    key. If the card is stored, ``exact`` contains a single fingerprint, and ``code`` is ``[""]`` if
    the fingerprints without the serial number are not known.
    """

    exact: Sequence[str]
    code: Sequence[str]

    @property
    def has_serial(self) -> bool:
        return self.exact != self.code


def match_cards(
    received: Sequence[Fingerprints], stored: Sequence[Fingerprints]
) -> list[int | None]:
    """Return the index of the ``stored`` card for each ``received`` card.

    The index is ``None`` if the card is new. If a code appears twice in one answer, it belongs to
    two cards. If an answer contains the same cards as an earlier answer, all cards are matched,
    even if their sequence is different. A card without a serial number matches any card with the
    same code, because the provider can add serial numbers later and omit them again.
    """
    # The unmatched stored cards, by fingerprint.
    free: defaultdict[str, deque[int]] = defaultdict(deque)
    for index, card in enumerate(stored):
        free[card.exact[0]].append(index)
    matches = {number: _take(free, card) for number, card in enumerate(received) if card.has_serial}
    # A received card without a serial number matches any remaining stored card with the same code.
    # Therefore, stored cards with a serial number are also listed under a fingerprint of the code
    # alone. Their last fingerprint is used, so that exact matches are tried first.
    for index in list(chain(*free.values())):
        if stored[index].has_serial:
            free[stored[index].code[-1]].append(index)
    matches |= {
        number: _take(free, card) for number, card in enumerate(received) if not card.has_serial
    }
    return [matches[number] for number in range(len(received))]


def _take(free: defaultdict[str, deque[int]], card: Fingerprints) -> int | None:
    for fingerprint in chain(*card):
        if free[fingerprint]:
            return free[fingerprint].popleft()
    return None


@sensitive_variables()
def _seal(arrival: Arrival, stored: Sequence[Card], keyring: Keyring, changes: _Changes) -> int:
    """Seal cards that are new or have changed, and add them to ``changes``.

    A card has changed if it has a new serial number or a different position. Returns how many of
    the answer's cards are stored, including cards whose codes were destroyed.
    """
    limit = len(arrival.cards) if arrival.settles else most_cards(arrival.order.quantity)
    # Cards beyond the limit are not compared, because it would take a long time for thousands of
    # cards.
    secrets = _without_destroyed(arrival.cards[:limit], stored, keyring)
    known = len(arrival.cards[:limit]) - len(secrets)
    told = _recognise(arrival.order, secrets, stored, keyring)
    if not arrival.settles:
        told = _within(told, max_new=limit - len(stored))
    new = [card for card, _secret in told if not card.position]
    cards = [*stored, *new]
    if arrival.settles:
        cards = _own_first(cards, told)
    # The keys are the ``id()`` of cards, because new cards have no primary key.
    secret_of = {id(card): secret for card, secret in told}
    positions = {id(card): position for position, card in enumerate(cards, 1)}
    moving = {id(card) for card in cards if card.position != positions[id(card)]}
    gaining = {id(card) for card, secret in told if secret.serial and not card.serial_fingerprint}
    for card in _among(cards, moving | gaining):
        _seal_at(positions[id(card)], card, secret_of.get(id(card)), keyring)
    changes.new.extend(new)
    changes.changed.extend(_among(stored, moving | gaining))
    changes.moved.extend(_among(stored, moving))
    return known + len(told)


def _within(
    cards: Sequence[tuple[Card, CardSecret]], *, max_new: int
) -> list[tuple[Card, CardSecret]]:
    """Return the cards, with the number of new cards limited to ``max_new``."""
    new = [id(card) for card, _secret in cards if not card.position]
    left_out = set(new[max(max_new, 0) :])
    return [(card, secret) for card, secret in cards if id(card) not in left_out]


def _among(cards: Iterable[Card], ids: Collection[int]) -> list[Card]:
    return [card for card in cards if id(card) in ids]


@sensitive_variables()
def _recognise(
    order: Order, secrets: Sequence[CardSecret], stored: Sequence[Card], keyring: Keyring
) -> list[tuple[Card, CardSecret]]:
    """Pair each secret of the answer with its row.

    A new row does not have a position yet.
    """
    readable = [card for card in stored if not card.is_destroyed]
    matches = _match_stored(secrets, readable, keyring)
    return [
        (Card(order=order) if index is None else readable[index], secret)
        for secret, index in zip(secrets, matches, strict=True)
    ]


@sensitive_variables()
def _own_first(cards: Sequence[Card], told: Sequence[tuple[Card, CardSecret]]) -> list[Card]:
    """Sort the ``cards`` of an order.

    The argument ``told`` contains the cards of the final answer. The result begins with these
    cards, without repetitions. Then come the cards that only other answers contained. Repetitions
    in the final answer come last, so that they do not displace other cards.
    """
    different = Counter(without_repetitions(secret for _card, secret in told))
    rank: dict[int, int] = {}
    for card, secret in told:
        rank[id(card)] = 0 if different[secret] > 0 else 2
        different[secret] -= 1
    return sorted(cards, key=lambda card: rank.get(id(card), 1))


@sensitive_variables()
def _seal_at(position: int, card: Card, secret: CardSecret | None, keyring: Keyring) -> None:
    """Encrypt the secret of a card, and set the card's position.

    If ``secret`` is ``None``, or lacks the serial number that the card already has, the card keeps
    its stored secret. If the card was destroyed, only its position is set.
    """
    if secret is None or (card.serial_fingerprint and not secret.serial):
        secret = None if card.is_destroyed else card.open(keyring)
    card.position = position
    if secret is not None:
        card.row = keyring.seal(secret, place=card.place)
        card.key_fingerprint = keyring.key_fingerprints[0]


@sensitive_variables()
def _without_destroyed(
    secrets: Sequence[CardSecret], stored: Sequence[Card], keyring: Keyring
) -> list[CardSecret]:
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
    known = keyring.key_fingerprints
    if secrets and any(card.key_fingerprint not in known for card in stored):
        # Without the key, fingerprints cannot be compared, and a card would be stored twice.
        raise DecryptionError(
            "A stored card is encrypted with a key that this process does not have."
        )
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
            # The card is decrypted, because codes that differ only in case share this fingerprint.
            with contextlib.suppress(DecryptionError):
                secret = CardSecret(card.open(keyring).value, "")
                return Fingerprints([card.identity], keyring.identities(secret))
        return Fingerprints([card.identity], [""])

    return match_cards(received, [identify(card) for card in stored])
