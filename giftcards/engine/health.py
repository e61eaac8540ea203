"""How things stand, read from the database alone: for the provider's page and the commands.

Every question is answered from an index, and reads no more than is waiting, or than it says.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple, Self

import django
from django.db import connections, router
from django.utils import timezone

from giftcards.conf import conf
from giftcards.crypto import Keyring, configured_key
from giftcards.engine.queue import Backlog, waiting_tasks
from giftcards.exceptions import ConfigurationError
from giftcards.models import ApiKey, Card, Order, RequestSlot, StatusChange
from giftcards.statuses import Status

# Beyond so many cards of a key, their number is not read off the index at every look.
MANY_CARDS = 10_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits: tasks of django-q2, changes to be announced, and open orders by status."""

    #: ``None``: django-q2 keeps its queue elsewhere, and it cannot be read.
    tasks: Backlog | None
    changes: Backlog
    #: Changes that a receiver has failed to take for a day, and is not told again.
    given_up: int
    orders: Mapping[Status, Backlog]
    #: Orders, open or not, with a problem that nobody has ticked off.
    needing_attention: int

    @classmethod
    def read(cls) -> Self:
        return cls(
            tasks=waiting_tasks(),
            changes=Backlog(*StatusChange.objects.all().backlog()),
            given_up=StatusChange.objects.all().given_up().count(),
            orders={
                status: Backlog(*found)
                for status, found in Order.objects.all().open_by_status().items()
            },
            needing_attention=Order.objects.all().needing_attention().count(),
        )

    @property
    def oldest_order(self) -> datetime | None:
        """When the open order that has been open for longest was recorded."""
        times = (backlog.since for backlog in self.orders.values())
        return min((since for since in times if since is not None), default=None)


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of the last minute, those on their way included, and how many may be made."""

    used: int
    limit: int

    @classmethod
    def read(cls) -> Self:
        now = timezone.now()
        return cls(RequestSlot.objects.filter(until__gt=now).count(), conf.requests_per_minute)


class KeyInUse(NamedTuple):
    """An encryption key, and how many cards are sealed with it."""

    #: Of the key; "" for cards that were sealed before it was written down.
    fingerprint: str
    #: Its place in ``ENCRYPTION_KEYS``, from 1; ``None``: it is not there.
    position: int | None
    cards: int
    #: Whether there are more cards than that.
    has_more: bool


def encryption_keys(*, counts_all: bool = False) -> list[KeyInUse]:
    """The keys of the settings, in order, and then those that only cards have.

    Of each key, ``MANY_CARDS`` cards are counted, or with ``counts_all`` all of them. Raises
    :exc:`~giftcards.exceptions.ConfigurationError` if the keys in the settings are unusable.
    """
    configured = list(Keyring.from_settings().key_fingerprints)
    others = [key for key in Card.objects.all().key_fingerprints() if key not in configured]
    positions = {key: number for number, key in enumerate(configured, 1)}
    count = _count_all if counts_all else _count
    return [KeyInUse(key, positions.get(key), *count(key)) for key in configured + others]


def _count_all(key: str) -> tuple[int, bool]:
    return Card.objects.filter(key_fingerprint=key).count(), False


def _count(key: str) -> tuple[int, bool]:
    """How many cards are sealed with the key, ``MANY_CARDS`` at most, and whether there are more.

    Reading all of the index takes a third of a second at a million cards.
    """
    cards = Card.objects.filter(key_fingerprint=key).order_by()
    counted = cards[: MANY_CARDS + 1].count()
    return min(counted, MANY_CARDS), counted > MANY_CARDS


@dataclass(frozen=True, slots=True)
class KnownKey:
    """An API key, by what may be shown of it."""

    #: The first characters of its fingerprint: enough to tell the shop's keys apart.
    name: str
    is_own: bool
    key: ApiKey


def api_keys() -> list[KnownKey]:
    """The API keys that this shop has had: that of this process first, then the last one used."""
    own = configured_key()
    keys = sorted(ApiKey.objects.all(), key=lambda key: (key.pk != own, -key.last_use()))
    return [KnownKey(key.pk[:8], key.pk == own, key) for key in keys]


def versions() -> dict[str, str]:
    """What runs here, by name."""
    database = connections[router.db_for_read(Order)]
    return {
        "giftcards": _version_of("django-giftcards"),
        "Django": django.get_version(),
        "Python": platform.python_version(),
        "django-q2": _version_of("django-q2"),
        database.display_name: ".".join(map(str, database.get_database_version())),
    }


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def try_keys() -> dict[str, str]:
    """What is wrong with the newest and the oldest card, as far as it can be told here."""
    try:
        return Card.objects.all().try_keys()
    except ConfigurationError as error:
        return dict.fromkeys(("newest", "oldest"), str(error))
