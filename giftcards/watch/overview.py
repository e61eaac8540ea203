"""The state of the app, read from the database alone, for pages, commands and monitors.

Every query uses an index. Unless the docstring of its function says otherwise, a query reads no
more rows than are waiting.
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

from giftcards.conf import VERSION, conf
from giftcards.engine.task_queue import Backlog, waiting_tasks
from giftcards.exceptions import ConfigurationError
from giftcards.models import ApiKey, Card, Order, RequestSlot, StatusChange
from giftcards.models.provider import configured_key
from giftcards.rules.states import Status

# The cards of a key are counted up to this number only, because counting reads the index.
MANY_CARDS = 10_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """The waiting work: tasks of django-q2, changes to be announced, and open orders by status."""

    #: ``None`` if the tasks are not in a queue that django-q2 keeps in the database.
    tasks: Backlog | None
    changes: Backlog
    #: Changes that a receiver has failed to take for a day, and that are no longer retried.
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
        """The time at which the oldest open order was recorded; ``None`` without open orders."""
        times = (backlog.since for backlog in self.orders.values())
        return min((since for since in times if since is not None), default=None)


@dataclass(frozen=True, slots=True)
class Requests:
    """The number of requests in the last minute, including requests in flight, and the limit."""

    used: int
    limit: int

    @classmethod
    def read(cls) -> Self:
        now = timezone.now()
        return cls(RequestSlot.objects.filter(until__gt=now).count(), conf.requests_per_minute)


class KeyInUse(NamedTuple):
    """An encryption key, and the number of cards that are sealed with it."""

    fingerprint: str
    #: The position in ``ENCRYPTION_KEYS``, from 1; ``None`` if the key is not in the setting.
    position: int | None
    cards: int
    #: True if more cards are sealed with the key than ``cards`` says.
    has_more: bool


def encryption_keys(*, counts_all: bool = False) -> list[KeyInUse]:
    """The encryption keys in the settings, in order, then other keys with which cards are sealed.

    For each key, at most ``MANY_CARDS`` cards are counted, or all with ``counts_all``. Raises
    :exc:`~giftcards.exceptions.ConfigurationError` if the keys in the settings are unusable.
    """
    configured = list(conf.keyring().key_fingerprints)
    others = [key for key in Card.objects.all().key_fingerprints() if key not in configured]
    positions = {key: number for number, key in enumerate(configured, 1)}
    return [
        KeyInUse(key, positions.get(key), *_count(key, counts_all=counts_all))
        for key in configured + others
    ]


def _count(key: str, *, counts_all: bool) -> tuple[int, bool]:
    """Return the number of the key's cards, and whether there are more.

    Reading the whole index takes a third of a second for a million cards.
    """
    cards = Card.objects.filter(key_fingerprint=key).order_by()
    if counts_all:
        return cards.count(), False
    counted = cards[: MANY_CARDS + 1].count()
    return min(counted, MANY_CARDS), counted > MANY_CARDS


@dataclass(frozen=True, slots=True)
class KnownKey:
    """An API key, with a name that may be shown."""

    #: The first characters of the key's fingerprint: enough to tell the shop's keys apart.
    name: str
    is_own: bool
    key: ApiKey


def api_keys() -> list[KnownKey]:
    """The API keys that this shop has used: first this process's key, then others by last use."""
    own = configured_key()
    keys = sorted(ApiKey.objects.all(), key=lambda key: (key.pk != own, -key.last_use()))
    return [KnownKey(key.pk[:8], key.pk == own, key) for key in keys]


def versions() -> dict[str, str]:
    """The versions of the software that runs here; the keys are its names."""
    database = connections[router.db_for_read(Order)]
    worker = {"django-q2": _version_of("django-q2")} if conf.uses_django_q else {}
    return {
        "giftcards": VERSION,
        "Django": django.get_version(),
        "Python": platform.python_version(),
        **worker,
        database.display_name: ".".join(map(str, database.get_database_version())),
    }


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def try_keys() -> dict[str, str]:
    """Try to open the newest and the oldest card; return what is wrong with each, or ""."""
    try:
        return Card.objects.all().try_keys()
    except ConfigurationError as error:
        return dict.fromkeys(("newest", "oldest"), str(error))
