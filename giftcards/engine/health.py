"""The state of the app, read from the database alone, for pages, commands and monitors.

Every query uses an index, and reads no more rows than are waiting, or than its docstring says.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple, Self

import django
from django.db import connections, router
from django.utils import timezone

from giftcards.conf import conf
from giftcards.crypto import Keyring, configured_key
from giftcards.engine.task_queue import Backlog, schedule_problem, waiting_tasks
from giftcards.exceptions import ConfigurationError
from giftcards.models import ApiKey, Card, Order, ProviderState, RequestSlot, StatusChange
from giftcards.statuses import Status

# The cards of a key are counted up to this number only, because counting reads the index.
MANY_CARDS = 10_000
# How long work may be due before it counts as held up. Longer than the watchdog needs to start
# the loop again, and than the pause after a request that failed.
PATIENCE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The waiting work: tasks of django-q2, changes to be announced, and open orders by status."""

    #: ``None`` if django-q2 is missing or does not keep its queue in the database.
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
    """The number of requests of the last minute, including those in flight, and the limit."""

    used: int
    limit: int

    @classmethod
    def read(cls) -> Self:
        now = timezone.now()
        return cls(RequestSlot.objects.filter(until__gt=now).count(), conf.requests_per_minute)


class KeyInUse(NamedTuple):
    """An encryption key, and the number of cards that are sealed with it."""

    #: The fingerprint of the key; "" for cards that were sealed before it was stored.
    fingerprint: str
    #: The position in ``ENCRYPTION_KEYS``, from 1; ``None`` if the key is not there.
    position: int | None
    cards: int
    #: True if there are more than ``cards``.
    has_more: bool


def encryption_keys(*, counts_all: bool = False) -> list[KeyInUse]:
    """The encryption keys in the settings, in order, then other keys that cards are sealed with.

    For each key, at most ``MANY_CARDS`` cards are counted, or all with ``counts_all``. Raises
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
    """Return the number of the key's cards, at most ``MANY_CARDS``, and whether there are more.

    Reading the whole index takes a third of a second for a million cards.
    """
    cards = Card.objects.filter(key_fingerprint=key).order_by()
    counted = cards[: MANY_CARDS + 1].count()
    return min(counted, MANY_CARDS), counted > MANY_CARDS


@dataclass(frozen=True, slots=True)
class KnownKey:
    """An API key, with a name that may be shown."""

    #: The first characters of its fingerprint: enough to tell the shop's keys apart.
    name: str
    is_own: bool
    key: ApiKey


def api_keys() -> list[KnownKey]:
    """The API keys that this shop has used: first that of this process, then by last use."""
    own = configured_key()
    keys = sorted(ApiKey.objects.all(), key=lambda key: (key.pk != own, -key.last_use()))
    return [KnownKey(key.pk[:8], key.pk == own, key) for key in keys]


def versions() -> dict[str, str]:
    """The versions of the software that runs here, by its name."""
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
    """Try to open the newest and the oldest card; return what is wrong with each, or ""."""
    try:
        return Card.objects.all().try_keys()
    except ConfigurationError as error:
        return dict.fromkeys(("newest", "oldest"), str(error))


# The conditions that a monitor can check.


class Standing:
    """The facts that the conditions are judged by, as of one moment; read on first access."""

    def __init__(self) -> None:
        self.now = timezone.now()

    @cached_property
    def state(self) -> ProviderState:
        return ProviderState.objects.current()

    @cached_property
    def cards(self) -> dict[str, str]:
        return try_keys()


#: Returns what is wrong, in a sentence without secrets; "" if nothing is wrong.
Condition = Callable[[Standing], str]


def _needs_attention(_standing: Standing) -> str:
    number = Order.objects.all().needing_attention().count()
    if not number:
        return ""
    return f"{number} orders need attention." if number > 1 else "1 order needs attention."


def _is_paused(standing: Standing) -> str:
    return standing.state.why_paused()


def _has_no_worker(standing: Standing) -> str:
    if problem := standing.state.worker_problem(standing.now):
        return problem
    # `giftcards_poll --loop` ticks without a schedule.
    return "" if standing.state.is_ticking(standing.now) else schedule_problem()


def _has_no_answer(standing: Standing) -> str:
    state = standing.state
    if not state.is_failing(standing.now):
        return ""
    since = "for more than 5 minutes" if state.succeeded_at else "yet"
    return f"The provider has given no usable answer {since}. {state.failure}".strip()


def queue_problem(standing: Standing) -> str:
    """Return what work is overdue by more than ``PATIENCE``, as a sentence; "" if none is."""
    due_by = standing.now - PATIENCE
    orders = Order.objects.count_held_up(due_by)
    changes = StatusChange.objects.waiting_since(due_by).count()
    held_up = [
        f"1 {noun} has waited {what}" if number == 1 else f"{number} {noun}s have waited {what}"
        for number, noun, what in (
            (orders, "order", "to be sent or checked"),
            (changes, "status change", "to be announced to your receivers"),
        )
        if number
    ]
    minutes = PATIENCE.total_seconds() / 60
    return f"{' and '.join(held_up)} for more than {minutes:.0f} minutes." if held_up else ""


def low_balance(standing: Standing) -> str:
    """Return a sentence if the balance is known and below ``LOW_BALANCE``; otherwise ""."""
    state = standing.state
    if not state.is_balance_low:
        return ""
    return (
        f"The balance of the account is {state.balance:.2f} {conf.currency}, below LOW_BALANCE"
        f" ({conf.low_balance:.2f})."
    )


def several_keys(standing: Standing) -> str:
    """Return a sentence if processes with different API keys share the database; otherwise ""."""
    keys = ApiKey.objects.all().at_work(standing.now)
    if len(keys) < 2:
        return ""
    return (
        f"Several API keys are at work in this database: {', '.join(keys)}. Give every process the"
        " same key, or orders are bought in the wrong account. After a change of the key, this ends"
        " in 10 minutes."
    )


def _do_not_open(standing: Standing) -> str:
    return " ".join(dict.fromkeys(filter(None, standing.cards.values())))


#: The conditions by their names in `giftcards_status --fail-on`, in the order of its report.
CONDITIONS: dict[str, Condition] = {
    "attention": _needs_attention,
    "paused": _is_paused,
    "worker": _has_no_worker,
    "provider": _has_no_answer,
    "queue": queue_problem,
    "keys": several_keys,
    "balance": low_balance,
    "cards": _do_not_open,
}
