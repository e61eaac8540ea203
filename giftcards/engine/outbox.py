"""Announcing changes to the shop's receivers.

Each change is announced at least once. Changes of the same subject are announced in sequence. The
subject of a change is an order or a product type. A receiver is not called for a change until it
has processed all earlier changes of the same subject. Orders and offers have separate outboxes with
separate leases, so slow receivers of offers do not delay changes of orders.

Each attempt is recorded as failed before the receivers are called. After the calls, the actual
outcome replaces this record. Therefore, the pauses between attempts grow even if a receiver kills
the process.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar

from django.db import Error, close_old_connections, connections
from django.utils import timezone

from giftcards.engine.backoff import backoff
from giftcards.engine.database import tolerating
from giftcards.engine.threads import start_thread
from giftcards.engine.tuning import tuning
from giftcards.keys.secrecy import contained, place_of
from giftcards.models import Lease, OfferChange, Order, ProductType, StatusChange
from giftcards.models.history import OutboxEntry, OutboxQuerySet
from giftcards.rules.states import FINAL
from giftcards.signals import (
    OutboxSignal,
    offer_changed,
    order_finalized,
    order_kept_waiting,
    order_status_changed,
)

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=OutboxEntry)

# The longest wait for a renewal of the lease that is under way (seconds).
_GRACE = 1.0
_FIRST_PAUSE = timedelta(seconds=10)
_LONGEST_PAUSE = timedelta(hours=1)
# A change is given up after this many failed attempts, which take about a day.
_MOST_FAILURES = 32


@dataclass(frozen=True)
class Outbox(Generic[E]):
    """A table of changes, and the rules for announcing them.

    Only the process that holds the lease with the name ``lease`` announces changes. ``subject`` is
    the name of the foreign key to the changed object. ``related`` contains the names of the foreign
    keys that are loaded with each change. ``signals`` returns the signals for a change, in the
    sequence in which they are sent. ``sender`` and the result of ``arguments`` are passed to the
    receivers.
    """

    table: type[E]
    lease: str
    subject: str
    related: Collection[str]
    sender: type
    signals: Callable[[E], Mapping[str, OutboxSignal]]
    arguments: Callable[[E], Mapping[str, Any]]
    describe: Callable[[E], str]

    @property
    def entries(self) -> OutboxQuerySet[E]:
        return OutboxQuerySet(self.table)

    def subject_of(self, change: E) -> int:
        key: int = getattr(change, f"{self.subject}_id")
        return key


def _signals_of_move(change: StatusChange) -> Mapping[str, OutboxSignal]:
    if not change.is_move:
        return {"order_kept_waiting": order_kept_waiting}
    signals = {"order_status_changed": order_status_changed}
    if change.to_status in FINAL:
        signals["order_finalized"] = order_finalized
    return signals


ORDERS = Outbox(
    table=StatusChange,
    lease=Lease.OUTBOX,
    subject="order",
    related=("order",),
    sender=Order,
    signals=_signals_of_move,
    arguments=lambda change: {"order": change.order, "change": change},
    describe=lambda change: f"order {change.order.reference} ({change})",
)
OFFERS = Outbox(
    table=OfferChange,
    lease=Lease.OFFERS,
    subject="type",
    related=("type", "type__product"),
    sender=ProductType,
    signals=lambda _change: {"offer_changed": offer_changed},
    arguments=lambda change: {
        "product_id": change.type.product.product_id,
        "type_id": change.type.type_id,
        "what": change.what,
        "old": change.old_value,
        "new": change.new_value,
        "at": change.at,
    },
    describe=lambda change: f"the change of the offer {change.type.type_id} ({change})",
)


class _Receiver(NamedTuple):
    # The names of the signal and of the receiver, which are the same in every process.
    name: str
    call: Callable[..., Any]


def announce(
    should_continue: Callable[[], bool] = lambda: True, *, outbox: Outbox[Any] = ORDERS
) -> int:
    """Announce the changes that are due.

    ``should_continue`` is called before each change. If the callback returns False, the function
    stops. Returns the number of changes that this call has finished announcing to all receivers.
    """
    announced = 0
    refused: set[int] = set()
    while should_continue() and _due(outbox, refused).exists():
        token = Lease.objects.take(outbox.lease, tuning.lease)
        if token is None:
            break
        known = len(refused)
        # The lease is released before the next query for due changes. A process that could not take
        # the lease relies on this query to find its change.
        with contextlib.closing(_LeaseKeeper(outbox.lease, token)) as lease:
            reached = _announce_batch(outbox, lease, refused, should_continue)
        announced += reached
        if len(refused) > known and not reached:
            # The database probably refuses every change. The next sweep tries again.
            break
    return announced


class _LeaseKeeper:
    """The lease of the announcing process, and the thread that renews it.

    The thread opens a database connection only if a batch takes a long time. If the thread cannot
    be started, the lease is renewed only between two changes.
    """

    def __init__(self, name: str, token: str) -> None:
        self._name, self._token = name, token
        # The time when the current change began, and the time when :meth:`keep` last renewed the
        # lease.
        self._began = self._kept = time.monotonic()
        self._is_over = threading.Event()
        self._thread = start_thread(self._renew)

    def keep(self) -> bool:
        """Begin the next change, and return False if the lease was lost.

        The lease is renewed if a renewal is due.
        """
        self._began = time.monotonic()
        if self._began - self._kept < tuning.announcing_renewal:
            return True
        self._kept = self._began
        return Lease.objects.keep(self._name, self._token, tuning.lease)

    def close(self) -> None:
        self._is_over.set()
        # The thread has to end before the release, so that it cannot renew the lease afterwards.
        # The wait is limited, because the thread may be waiting for a lock in the database.
        if self._thread is not None:
            self._thread.join(_GRACE)
        Lease.objects.release(self._name, self._token)

    def _renew(self) -> None:
        try:
            while not self._is_over.wait(tuning.announcing_renewal):
                if time.monotonic() - self._began >= tuning.announcing_longest:
                    continue
                try:
                    Lease.objects.keep(self._name, self._token, tuning.lease)
                except Error:
                    # The next renewal may succeed before the lease expires.
                    close_old_connections()
        finally:
            connections.close_all()


def _due(outbox: Outbox[E], refused: Collection[int]) -> OutboxQuerySet[E]:
    return outbox.entries.to_announce(timezone.now()).exclude(pk__in=refused)


def _announce_batch(
    outbox: Outbox[E],
    lease: _LeaseKeeper,
    refused: set[int],
    should_continue: Callable[[], bool],
) -> int:
    due = dict(_due(outbox, refused).values_list("pk", outbox.subject)[: tuning.announcing_batch])
    # Changes that are not due yet are included, because they hold back later changes of their
    # subjects.
    of_these = {f"{outbox.subject}__in": set(due.values())}
    waiting = outbox.entries.filter(**of_these).exclude(announce_at=None)
    held_back: dict[int, dict[str, datetime]] = defaultdict(dict)
    announced = 0
    for change in waiting.select_related(*outbox.related).order_by("pk"):
        held_back_here = held_back[outbox.subject_of(change)]
        if change.pk in due:
            if not (should_continue() and lease.keep()):
                break
            refused.add(change.pk)
            with tolerating(f"Announcing {outbox.describe(change)}"):
                _announce_change(outbox, change, held_back_here)
                refused.remove(change.pk)
            announced += change.announced_at is not None
        held_back_here.update(_holds_back(outbox, change))
    return announced


def _announce_change(outbox: Outbox[E], change: E, held_back: dict[str, datetime]) -> None:
    """Deliver ``change`` to its remaining receivers, and record the outcome.

    Some receivers must process an earlier change of the same subject first. ``held_back`` maps the
    names of these receivers to the due time of the earlier change.
    """
    called: list[_Receiver] = []
    held_until: datetime | None = None
    for receiver in _pending_receivers(outbox, change):
        if receiver.name not in held_back:
            called.append(receiver)
        elif held_until is None or held_back[receiver.name] > held_until:
            held_until = held_back[receiver.name]
    failures = change.announce_failures
    if called:
        counted, at = next_try(failures, has_failed=True, held_until=held_until, now=timezone.now())
        if not _write(outbox, change, announce_failures=counted, announce_at=at):
            return
    undelivered = called.copy()
    try:
        _deliver(outbox, change, undelivered)
    finally:
        # The outcome is recorded even if the process is interrupted, for example by a task's
        # timeout.
        missing = {receiver.name for receiver in undelivered}
        delivered = {receiver.name for receiver in called} - missing
        now = timezone.now()
        counted, at = next_try(failures, has_failed=bool(missing), held_until=held_until, now=now)
        _write(
            outbox,
            change,
            announced_to=sorted(delivered.union(change.announced_to or ())),
            announced_at=None if missing or held_until else now,
            announce_failures=counted,
            announce_at=at,
            announce_error=change.announce_error,
        )


def _deliver(outbox: Outbox[E], change: E, undelivered: list[_Receiver]) -> None:
    change.announce_error = ""
    for receiver in undelivered.copy():
        failure, interruption = _call(receiver, outbox.arguments(change))
        if not failure:
            undelivered.remove(receiver)
            continue
        change.announce_error = failure
        logger.error("Announcing %s failed. %s", outbox.describe(change), failure)
        # An error of a receiver does not stop the others, but an interrupt or exit of the process
        # does.
        if interruption is not None:
            raise interruption


@contained
def _call(receiver: _Receiver, arguments: Mapping[str, Any]) -> tuple[str, BaseException | None]:
    """Call a receiver, and return an error text and an exception to raise.

    The error text is for the log, and is "" if the receiver succeeded. The exception is ``None``
    unless the receiver raised an exception that interrupts the process, for example ``SystemExit``.
    In this case, the caller must raise the returned exception. It does not have the message of the
    original exception, because the message might contain a card code.
    """
    try:
        receiver.call(**arguments)
    except Exception as error:  # noqa: BLE001 (reported by the caller)
        return _describe(error, receiver), None
    except BaseException as error:  # noqa: BLE001 (raised by the caller)
        return _describe(error, receiver), _without_words(error, receiver)
    return "", None


def _without_words(error: BaseException, receiver: _Receiver) -> BaseException:
    words: int | str | None = f"Interrupted while calling {receiver.name}."
    if isinstance(error, SystemExit) and isinstance(error.code, int | None):
        words = error.code
    try:
        return type(error)(words)
    except Exception:  # noqa: BLE001 (the class takes other arguments)
        return SystemExit(words)


def _write(outbox: Outbox[E], change: E, **values: Any) -> bool:
    """Write ``values`` to the row, and return False if the row has changed.

    If this process was slow, another process might have assumed that it had died, and announced the
    change instead. In this case, nothing is written, so that the record of the other process is
    kept.
    """
    row = outbox.entries.filter(
        pk=change.pk,
        announced_at=None,
        announce_at=change.announce_at,
        announce_failures=change.announce_failures,
    )
    if not row.update(**values):
        return False
    for name, value in values.items():
        setattr(change, name, value)
    return True


def next_try(
    failures: int, *, has_failed: bool, held_until: datetime | None, now: datetime
) -> tuple[int, datetime | None]:
    """Return the number of failures, and the time of the next attempt.

    The time is ``None`` if there is no further attempt. ``held_until`` is the due time of an
    earlier change that a receiver must process first, or ``None``. A change is done if all
    receivers have succeeded and none of them waits for an earlier change.
    """
    if not has_failed:
        # The change is done, or a receiver has to wait until the earlier change is due.
        return failures, held_until
    failures += 1
    # A receiver that waits for an earlier change was not called, so the change is not given up.
    if failures >= _MOST_FAILURES and held_until is None:
        return failures, None
    return failures, now + backoff(failures, first_pause=_FIRST_PAUSE, max_pause=_LONGEST_PAUSE)


def _holds_back(outbox: Outbox[E], change: E) -> dict[str, datetime]:
    """Return the receivers that still have to process a change.

    The result maps each receiver's name to the time when the change is due. If the change was given
    up, the result is empty.
    """
    if change.announce_at is None:
        return {}  # The change was given up.
    return {receiver.name: change.announce_at for receiver in _pending_receivers(outbox, change)}


def _pending_receivers(outbox: Outbox[E], change: E) -> list[_Receiver]:
    receivers = [
        _Receiver(f"{signal_name} {name}", call)
        for signal_name, signal in outbox.signals(change).items()
        for name, call in signal.named_receivers(outbox.sender)
    ]
    delivered = change.announced_to or ()
    return [receiver for receiver in receivers if receiver.name not in delivered]


def _describe(error: BaseException, receiver: _Receiver) -> str:
    return f"{receiver.name}: {type(error).__name__} at {place_of(error)}"
