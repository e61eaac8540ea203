"""Destroy old codes.

Codes can remain in backups and in the files of databases other than SQLite. The shop is responsible
for these copies. When a row is deleted or moved, most builds of SQLite do not overwrite it, but
only mark its space as free. Therefore this module makes SQLite overwrite the space, and empty the
write-ahead log, which contains old pages.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Case, Exists, F, OuterRef, Q, Value, When
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.clock import Clock
from giftcards.models import Card, Order, ProviderState, StatusChange
from giftcards.rules.states import FINAL
from giftcards.rules.times import is_recent

logger = logging.getLogger(__name__)

# The number of orders in one transaction.
_BATCH = 200
# A purge is due once a day, and runs for a few seconds at a time.
_PERIOD = timedelta(hours=24)
_SECONDS = 5.0


@dataclass(slots=True)
class Purge:
    """The result of a purge, or the expected result in a dry run."""

    orders: int = 0
    cards: int = 0
    #: The number of skipped orders, by name of the reason. Each order is counted under one reason
    #: only.
    left_alone: Counter[str] = field(default_factory=Counter)
    is_whole: bool = True
    #: The purge has looked at all orders that settled before this time.
    place: datetime | None = field(default=None, compare=False)


class Reason(NamedTuple):
    """A reason not to destroy the codes of an old order."""

    condition: Q
    #: The words that follow "3 orders" in a sentence.
    text: str


#: The reasons to skip an order, by name. Plugins can add reasons. If several conditions are true,
#: the first reason counts.
REASONS: dict[str, Reason] = {
    "problem": Reason(Q(needs_attention=True), "with a problem that has not been acknowledged"),
    "owed": Reason(Q(open_amount__gt=0), "with money still owed to the customer"),
    "not_credited": Reason(
        Q(is_credited=False), "with money that the provider has not credited back"
    ),
    "unannounced": Reason(
        Q(is_unannounced=True), "with a change that one of your receivers was not notified of"
    ),
}
# The reason to skip orders that do not have any cards. Later purges do not look at these orders
# again.
_NO_CARDS = "no_cards"


def long_settled(days: float) -> datetime:
    """Return a clock time that is at least this number of days in the past.

    If the clock has been changed since then, the result is corrected.
    """
    return Clock().long_ago(timedelta(days=days))


def purge(
    *,
    settled_before: datetime,
    since: datetime | None = None,
    is_dry_run: bool = False,
    should_continue: Callable[[], bool] = lambda: True,
    on_batch: Callable[[Purge], object] = lambda _purge: None,
) -> Purge:
    """Destroy the codes of orders that were settled long ago.

    These orders were settled before the time ``settled_before``. The oldest orders come first.
    Orders to which one of the :data:`REASONS` applies are not changed. Orders without cards are not
    counted. If ``is_dry_run`` is True, orders are not changed. The function stops between batches
    if ``should_continue`` returns False. To resume, pass the ``place`` of the result as ``since``.
    """
    done = Purge(place=since)
    for rows in _batches(settled_before, since):
        if not should_continue():
            done.is_whole = False
            break
        _purge_batch(
            [key for _finalized_at, key in rows], settled_before, done, is_dry_run=is_dry_run
        )
        done.place, _key = rows[-1]
        on_batch(done)
    if done.cards and not is_dry_run:
        empty_log(router.db_for_write(Card))
    return done


def purge_if_due(should_continue: Callable[[], bool]) -> None:
    """Once a day, destroy codes that are older than ``CODES_KEPT_DAYS``.

    A call takes at most a few seconds. The next call resumes an unfinished purge.
    """
    days = conf.codes_kept_days
    if days is None:
        return
    state = ProviderState.objects.current()
    if is_recent(state.purged_at, timezone.now(), period=_PERIOD):
        return
    ends_at = time.monotonic() + _SECONDS
    done = purge(
        settled_before=long_settled(days),
        since=state.purge_place,
        should_continue=lambda: time.monotonic() < ends_at and should_continue(),
    )
    if done.orders:
        logger.info("The codes of %d orders were destroyed: %d cards.", done.orders, done.cards)
    if done.is_whole:
        noted = {"purge_place": None, "purged_at": timezone.now()}
    else:
        noted = {"purge_place": done.place}
    ProviderState.objects.filter(pk=1).update(**noted)


def _batches(
    settled_before: datetime, since: datetime | None
) -> Iterator[list[tuple[datetime | None, int]]]:
    rows = Order.objects.filter(is_without_cards__in=[False], codes_destroyed_at=None)
    rows = rows.filter(_was_delivered(settled_before), finalized_at__lt=settled_before)
    rows = rows.order_by("finalized_at", "pk")
    later = rows if since is None else rows.filter(finalized_at__gte=since)
    while found := list(later.values_list("finalized_at", "pk")[:_BATCH]):
        yield found
        finalized_at, key = found[-1]
        later = rows.filter(finalized_at__gte=finalized_at).filter(
            Q(finalized_at__gt=finalized_at) | Q(pk__gt=key)
        )


def _was_delivered(before: datetime) -> Q:
    return Q(deliver_at=None) | Q(deliver_at__lt=before)


def _judge(
    keys: Iterable[int], settled_before: datetime
) -> tuple[list[int], list[int], Counter[str]]:
    """Divide orders into those to purge, those without cards, and the rest.

    For the rest, the third value maps each reason for keeping codes to the number of orders that it
    applies to.
    """
    of_order = {"order": OuterRef("pk")}
    unannounced = StatusChange.objects.filter(**of_order, to_status__in=FINAL, announced_at=None)
    rows = Order.objects.filter(_was_delivered(settled_before), pk__in=keys)
    rows = rows.filter(codes_destroyed_at=None).annotate(
        is_unannounced=Exists(unannounced), has_cards=Exists(Card.objects.filter(**of_order))
    )
    # For each order, the query returns the name of the first reason whose condition is true, or "".
    conditions = {_NO_CARDS: Q(has_cards=False)}
    conditions |= {name: reason.condition for name, reason in REASONS.items()}
    cases = [When(condition, then=Value(name)) for name, condition in conditions.items()]
    found = defaultdict[str, list[int]](list)
    for key, reason in rows.values_list("pk", Case(*cases, default=Value(""))):
        found[reason].append(key)
    chosen, empty = found.pop("", []), found.pop(_NO_CARDS, [])
    return chosen, empty, Counter({reason: len(others) for reason, others in found.items()})


def _purge_batch(
    keys: list[int], settled_before: datetime, done: Purge, *, is_dry_run: bool
) -> None:
    # The orders are first judged without locks, because every purge leaves most of the oldest
    # orders alone.
    chosen, empty, left_alone = _judge(keys, settled_before)
    done.left_alone += left_alone
    if is_dry_run:
        done.cards += Card.objects.filter(order__in=chosen).readable().count()
    elif chosen or empty:
        with transaction.atomic():
            # This update locks the orders. Until the cards are destroyed, no other process can
            # record a complaint or a refund, or reveal a card.
            locked = Order.objects.filter(pk__in=chosen + empty).order_by()
            locked.update(codes_destroyed_at=F("codes_destroyed_at"))
            chosen, empty, left_alone = _judge(chosen + empty, settled_before)
            done.left_alone += left_alone
            done.cards += Card.objects.filter(order__in=chosen).destroy()
            orders = Order.objects.filter(pk__in=chosen).order_by()
            orders.update(codes_destroyed_at=timezone.now())
            Order.objects.filter(pk__in=empty).order_by().update(is_without_cards=True)
    done.orders += len(chosen)


def overwrite_deleted(connection: BaseDatabaseWrapper, **_named: object) -> None:
    """Make SQLite overwrite deleted rows.

    This function receives the signal ``connection_created``.
    """
    if connection.vendor == "sqlite":
        # Django's cursor is not used, because it would count this statement as a query of the code
        # that needed the connection.
        opened: Any = connection.connection
        opened.execute("PRAGMA secure_delete = ON").close()


# The longest wait for readers of the write-ahead log, in milliseconds. During the wait, other
# connections cannot write.
_PATIENCE = 1_000


def empty_log(using: str) -> None:
    """Make SQLite empty its write-ahead log.

    If another process is using the log, a warning is logged. The function does nothing for other
    databases. It also does nothing inside a transaction, because the transaction needs the log.
    """
    connection = connections[using]
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        return
    with connection.cursor() as cursor:
        patience = cursor.execute("PRAGMA busy_timeout").fetchone()[0]
        cursor.execute(f"PRAGMA busy_timeout = {_PATIENCE}")
        is_in_use = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        cursor.execute(f"PRAGMA busy_timeout = {patience}")
    if is_in_use:
        logger.warning(
            "Deleted data is still in SQLite's write-ahead log, because another process is using"
            " the log. SQLite overwrites the log later. To do this now, run PRAGMA"
            " wal_checkpoint(TRUNCATE)."
        )
