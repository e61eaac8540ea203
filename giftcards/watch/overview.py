"""The state of the app, for pages, commands and monitors.

The database is the only source of the state. Every query uses an index. Unless the docstring of a
function says otherwise, its queries read only rows that are waiting to be processed.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, Self

import django
from django.db import connections, router
from django.db.models import QuerySet
from django.db.models.expressions import Combinable
from django.utils import timezone

from giftcards.conf import VERSION, conf
from giftcards.engine.background import MayGoOn
from giftcards.engine.task_queue import Backlog, waiting_tasks
from giftcards.exceptions import ConfigurationError
from giftcards.models import ApiKey, Card, Order, ProviderState, RequestSlot, StatusChange
from giftcards.models.cards import End
from giftcards.models.lines import Line, read_lines
from giftcards.models.provider import configured_key
from giftcards.models.scalars import number_of
from giftcards.rules.states import Status
from giftcards.rules.times import SLACK, is_recent

# A worker counts final orders once an hour. It leaves out orders of the last hour, because their
# transactions may not be committed yet.
_COUNTED_EVERY, _STALLED = timedelta(hours=1), timedelta(hours=1)
_LATELY = timedelta(minutes=10)
# At most this many cards are counted for each key, because a count has to read the index entry of
# every card.
MANY_CARDS = 10_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """Waiting tasks of django-q2, unannounced changes, and open orders.

    Open orders are grouped by status.
    """

    #: ``None`` if django-q2 keeps no queue in the database.
    tasks: Backlog | None
    changes: Backlog
    #: The number of changes that are not retried any more, because a receiver has failed for a day.
    given_up: int
    orders: Mapping[Status, Backlog]
    #: The number of orders, open or not, with a problem that staff have not acknowledged.
    needing_attention: int

    @classmethod
    def read(cls) -> Self:
        return cls(
            tasks=waiting_tasks(),
            changes=Backlog(*StatusChange.objects.all().backlog()),
            given_up=StatusChange.objects.all().given_up().count(),
            orders=open_orders(),
            needing_attention=Order.objects.all().needing_attention().count(),
        )

    @property
    def oldest_order(self) -> datetime | None:
        """The time when the oldest open order was recorded, or ``None``.

        The value is ``None`` if no order is open.
        """
        return oldest(self.orders)


def open_orders(lines: Iterable[Line] | None = None) -> dict[Status, Backlog]:
    """Return the backlog of open orders for each status.

    A backlog contains the number of orders and the time of the oldest order. A status without open
    orders is left out. ``lines`` is the result of ``open_lines``, if the caller has already read
    it.
    """
    lines = read_lines(Order.objects.all().open_lines()) if lines is None else lines
    by_status: dict[Status, list[Line]] = {status: [] for status in Status}
    for line in lines:
        by_status[Status(line.status)].append(line)
    return {
        status: Backlog(sum(line.number for line in found), min(line.since for line in found))
        for status, found in by_status.items()
        if found
    }


@dataclass(frozen=True, slots=True)
class FinalOrders:
    """The number of final orders by status, as last counted by a worker.

    Counting all final orders reads an entire index, so a worker counts them only once an hour. A
    caller that needs the current numbers must add the orders that became final after the time
    ``until``.
    """

    numbers: Mapping[str, int]
    until: datetime | None

    @classmethod
    def counted(cls, state: ProviderState) -> Self:
        until = state.final_orders_until
        if until is not None and until > timezone.now():
            return cls({}, None)  # the clock was set back
        return cls(state.final_orders, until)

    def later(self) -> QuerySet[Any, Any]:
        """Return the lines of the final orders that have not been counted yet."""
        return Order.objects.all().final_lines(after=self.until)

    def with_others(self, lines: Iterable[Line]) -> dict[str, int]:
        """Return the number of orders by status.

        ``lines`` must contain the lines of all open orders, and those of the final orders from
        :meth:`later`.
        """
        numbers = Counter(self.numbers)
        for line in lines:
            numbers[line.status] += line.number
        return {status.value: numbers[status] for status in Status}


def orders_by_status(state: ProviderState) -> dict[str, int]:
    """Return the number of orders in each status, including zeros."""
    final = FinalOrders.counted(state)
    return final.with_others(read_lines(Order.objects.all().open_lines(), final.later()))


def count_final_orders(_may_go_on: MayGoOn) -> None:
    """Count the final orders if the last count is an hour old.

    Orders of the last hour are not counted.
    """
    now, state = timezone.now(), ProviderState.objects.current()
    if not is_recent(state.final_orders_until, now, period=_STALLED + _COUNTED_EVERY):
        until = now - _STALLED
        lines = read_lines(Order.objects.all().final_lines(until=until))
        numbers = {line.status: line.number for line in lines}
        ProviderState.objects.note_final_orders(numbers, until=until)


def oldest(backlogs: Mapping[Any, Backlog]) -> datetime | None:
    """Return the time of the oldest item in the backlogs, or ``None``.

    The result is ``None`` if all backlogs are empty.
    """
    times = (backlog.since for backlog in backlogs.values())
    return min((since for since in times if since is not None), default=None)


@dataclass(frozen=True, slots=True)
class Requests:
    """The number of requests that count towards the limit, and the limit.

    The number includes the requests in the last minute and the requests in progress.
    """

    used: int
    limit: int

    @classmethod
    def read(cls) -> Self:
        return cls(taken_slots().count(), conf.requests_per_minute)


def taken_slots() -> QuerySet[RequestSlot]:
    """Return the slots that are taken.

    These are the slots of requests in the last minute and of requests in progress.
    """
    return RequestSlot.objects.filter(until__gt=timezone.now())


@dataclass(frozen=True, slots=True)
class Pace:
    """The times that orders took in the last ten minutes, in seconds.

    ``sending`` contains a duration for each accepted order that was sent in this period. The
    duration begins when the order was recorded or, if the order was on hold, when it was released,
    and ends when the provider accepted the order. ``storing`` contains, for each accepted order
    that became final in this period, the time from acceptance to the final status. Both lists begin
    with the shortest duration.
    """

    sending: Sequence[float]
    storing: Sequence[float]

    @classmethod
    def read(cls) -> Self:
        now = timezone.now()
        # Times in the future were stored before the clock was set back.
        lately = (now - _LATELY, now + SLACK)
        accepted = Order.objects.filter(accepted_at__isnull=False)
        sent = accepted.filter(sent_at__range=lately)
        settled = accepted.filter(finalized_at__range=lately)
        spans = sent.spans("sending", "queued_at", "accepted_at").union(
            settled.spans("storing", "accepted_at", "finalized_at"), all=True
        )
        # Without order_by(), Django 6.1 would sort the union by the model's default ordering, but
        # the union does not contain that column.
        spans = spans.order_by()
        seconds: dict[str, list[float]] = {"sending": [], "storing": []}
        for start, end, name in spans:
            seconds[name].append(max((end - start).total_seconds(), 0.0))
        return cls(sorted(seconds["sending"]), sorted(seconds["storing"]))


#: A function that returns the rows that wait for a worker at a given moment.
WaitingRows = Callable[[datetime], QuerySet[Any]]

#: The functions of all installed plugins that return waiting rows, by the name of the rows.
BACKLOGS: dict[str, WaitingRows] = {}


def backlogs() -> dict[str, Combinable]:
    """Return an expression for the number of rows in each backlog, by name."""
    now = timezone.now()
    return {name: number_of(rows(now)) for name, rows in BACKLOGS.items()}


class KeyInUse(NamedTuple):
    """An encryption key, and the number of cards that are encrypted with it."""

    fingerprint: str
    #: The place in ``ENCRYPTION_KEYS``, from 1; ``None`` if the key is not there.
    position: int | None
    cards: int
    #: True if more than ``cards`` cards are sealed with the key.
    has_more: bool


def encryption_keys(*, counts_all: bool = False) -> list[KeyInUse]:
    """List the encryption keys in the settings, and then other keys in use.

    At most ``MANY_CARDS`` cards per key are counted, unless ``counts_all`` is True. Raises
    :exc:`~giftcards.exceptions.ConfigurationError` if the keys in the settings are unusable.
    """
    configured = list(conf.keyring().key_fingerprints)
    others = sorted(Card.objects.all().ends().keys() - {*configured})
    positions = {key: number for number, key in enumerate(configured, 1)}
    return [
        KeyInUse(key, positions.get(key), *_count(key, counts_all=counts_all))
        for key in configured + others
    ]


def _count(key: str, *, counts_all: bool) -> tuple[int, bool]:
    """Count the cards of a key up to a limit.

    Returns the count, and whether there are more cards.
    """
    cards = Card.objects.filter(key_fingerprint=key).order_by()
    if counts_all:
        return cards.count(), False
    counted = cards[: MANY_CARDS + 1].count()
    return min(counted, MANY_CARDS), counted > MANY_CARDS


@dataclass(frozen=True, slots=True)
class KnownKey:
    """An API key, with a name that is safe to show."""

    #: The first characters of the key's fingerprint: enough to tell the shop's keys apart.
    name: str
    is_own: bool
    key: ApiKey


def api_keys() -> list[KnownKey]:
    """Return the API keys that this shop has used, the current key first."""
    own = configured_key()
    keys = sorted(ApiKey.objects.all(), key=lambda key: (key.pk != own, -key.last_use()))
    return [KnownKey(key.pk[:8], key.pk == own, key) for key in keys]


def versions() -> dict[str, str]:
    """Return the versions of the installed software by name."""
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


def ends_of_cards() -> dict[End, Combinable]:
    """Return the expressions whose values :func:`try_keys` accepts.

    Returns an empty dict if the encryption keys are unusable.
    """
    try:
        return Card.objects.all().scalars_of_ends()
    except ConfigurationError:
        return {}


def try_keys(values: Mapping[End, Any] | None = None) -> dict[str, str]:
    """Try to decrypt the newest and the oldest card.

    Returns a dict that maps "newest" and "oldest" to the error, or to "" if there is no error. If
    there are no cards, the dict is empty.

    ``values`` contains the values of the expressions from :func:`ends_of_cards`, if the caller has
    already read these values from the database.
    """
    try:
        return Card.objects.all().try_keys(values)
    except ConfigurationError as error:
        return dict.fromkeys(("newest", "oldest"), str(error))
