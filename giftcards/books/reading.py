"""Read the provider's ledger every night, one day at a time.

The oldest day comes first. The entries of a page and the current position are stored in one
transaction. If the process is killed, the next process continues with the next page, so that no
entry is lost or counted twice.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

from django.db import transaction
from django.utils import timezone

from giftcards.books.conditions import note_gap
from giftcards.books.matching import match
from giftcards.books.models import Kept, LedgerEntry, LedgerState
from giftcards.engine.backoff import backoff
from giftcards.engine.gateway import Gateway, Stopped, ask_when_free
from giftcards.engine.tuning import tuning
from giftcards.exceptions import ProviderError
from giftcards.models import Lease, Order
from giftcards.models.provider import configured_key
from giftcards.provider.answers import LedgerPage, LedgerRow
from giftcards.rules.purposes import Purpose
from giftcards.rules.times import LONGEST_HOLD, as_stored, begin_of, day_of, is_ahead, with_zone

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LedgerReading:
    """The progress or result of reading the ledger.

    ``start`` is the first day that was read. ``rows`` is the number of usable rows, ``new`` is the
    number of new entries, and ``unreadable`` is the number of rows without a type, an amount or a
    time. ``not_shown`` is the number of entries that the provider counts but does not list.
    ``changed_days`` contains days that had been read before, with the number of their new or
    changed entries. ``trouble`` is the error that ended the reading early, or "" if the reading did
    not end early.
    """

    start: date | None = None
    rows: int = 0
    new: int = 0
    unreadable: int = 0
    not_shown: int = 0
    changed_days: Mapping[date, int] = field(default_factory=dict)
    trouble: str = ""
    is_whole: bool = False
    # True if the reading waits because calls are paused; False if it waits for the quota or the
    # lease.
    is_paused: bool = False


_TIMES = ("start", "until", "end")


@dataclass(frozen=True, slots=True)
class Position:
    """The current position in the ledger: a page of a time window.

    ``page`` is the next page to read, counted from 1. The attributes ``start`` and ``until`` are
    the bounds of the window, and ``end`` is the end of the whole reading. The attribute ``passes``
    counts the passes over the window, and ``new`` counts the new entries in the current pass.
    """

    start: datetime
    until: datetime
    end: datetime
    page: int = 1
    passes: int = 1
    new: int = 0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), **{name: getattr(self, name).isoformat() for name in _TIMES}}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self | None:
        """Return the position that was stored as JSON, or ``None``."""
        if not stored:
            return None
        times = {name: datetime.fromisoformat(stored[name]) for name in _TIMES}
        return cls(**{**stored, **times})


#: Each reading reads this number of days again, because some entries come late.
AGAIN = 3


def read_ledger(
    gateway: Gateway,
    *,
    since: date | None = None,
    on_wait: Callable[[LedgerReading], object],
    should_continue: Callable[[], bool] = lambda: True,
) -> LedgerReading:
    """Read new entries of the ledger, and match them with orders.

    Reading starts three days before the end of the last reading, because some entries appear late.
    If ``since`` is given, reading starts on that day, or earlier if earlier entries have not been
    read.

    ``on_wait`` is called repeatedly while the function waits for the request quota or for another
    process. This callback may raise :exc:`~giftcards.engine.gateway.Stopped`. ``should_continue``
    is called after each page. If ``should_continue`` returns False, reading ends early. To continue
    from there, call the function again without the ``since`` argument.
    """
    reader = _Reader(gateway, on_wait, should_continue)
    try:
        reader.run(since)
    except (Stopped, ProviderError) as error:
        reader.note(trouble=str(error))
    finally:
        reader.release()
    return reader.reading


# The ledger is read in windows of this length. A window's entries are matched after all of them
# have been read. After an empty window, the next window is twice as long.
_WINDOW = timedelta(days=1)
_LONGEST_WINDOW = timedelta(days=365)
_PAGE_SIZE = 100
# The maximum number of times that a window is read if its pages seem to lack entries.
_MOST_PASSES = 3
_LEASE = "ledger"


class _Reader:
    def __init__(
        self,
        gateway: Gateway,
        on_wait: Callable[[LedgerReading], object],
        should_continue: Callable[[], bool],
    ) -> None:
        self.reading = LedgerReading()
        self._gateway = gateway
        self._on_wait = on_wait
        self._should_continue = should_continue
        self._token: str | None = None
        # The end of a reading that begins now. A continued reading has its end in its stored
        # position.
        self._end = timezone.now()
        # The ids on earlier pages: a page without new ids is the last page.
        self._shown: set[str] = set()
        self._orders_losing_entries: set[int] = set()

    def note(self, **changes: Any) -> None:
        self.reading = replace(self.reading, **changes)

    def run(self, since: date | None) -> None:
        self._take_lease()
        place = self._begin(since)
        self.note(start=day_of(place.start))
        while True:
            if (next_place := self._read(place)) is None:
                note_gap(place.end)
                self.note(is_whole=True)
                return
            place = next_place
            if not self._should_continue():
                return

    def _take_lease(self) -> None:
        while (token := Lease.objects.take(_LEASE, LONGEST_HOLD)) is None:
            self._wait(is_paused=False)
            time.sleep(tuning.lease_poll)
        self._token = token
        self._end = timezone.now()

    def _hold(self) -> None:
        """Renew the lease, or raise :exc:`Stopped` if the lease has been lost.

        The lease is lost if another process has acquired it. This method is called during each wait
        and at the start of each transaction.
        """
        assert self._token is not None  # noqa: S101
        if not Lease.objects.keep(_LEASE, self._token, LONGEST_HOLD):
            raise Stopped("Another process is now reading the ledger.")

    def release(self) -> None:
        if self._token is not None:
            Lease.objects.release(_LEASE, self._token)

    def _begin(self, since: date | None) -> Position:
        state = LedgerState.objects.current()
        place = Position.of(state.place)
        if place and place.end > self._end:
            place = None  # the clock was set back
        known_until = state.read_until
        if since is None:
            return place or self._window(self._start(known_until))
        # Even if ``since`` is later, the reading starts where the last reading ended, so that no
        # entry is skipped.
        unread = (known_until, place.start if place else None)
        return self._window(min([begin_of(since), *filter(None, unread)]))

    def _start(self, known_until: datetime | None) -> datetime:
        if known_until is not None:
            last_day = day_of(min(known_until, self._end))
            return begin_of(last_day - timedelta(days=AGAIN))
        first = Order.objects.order_by("created_at", "pk").first()
        return begin_of(day_of(first.created_at if first else self._end))

    def _window(self, start: datetime, length: timedelta = _WINDOW) -> Position:
        start = min(start, self._end)
        return Position(start, min(start + length, self._end), self._end)

    def _window_after(self, place: Position) -> Position | None:
        if place.until >= place.end and (place.end >= self._end or not self._should_continue()):
            return None
        entries = LedgerEntry.objects.filter(time__range=(place.start, place.until))
        is_empty = not entries.order_by().exists()
        length = min(2 * (place.until - place.start), _LONGEST_WINDOW) if is_empty else _WINDOW
        return self._window(place.until, length)

    def _read(self, place: Position) -> Position | None:
        page = self._ask(place)
        entries = entries_of(page.rows)
        shown = {entry.provider_id for entry in entries}
        is_repeated = place.page > 1 and bool(shown) and shown <= self._shown
        self._shown |= shown
        read_until = LedgerState.objects.current().read_until
        is_last = is_repeated or _is_last(page, place.page)
        with transaction.atomic():
            self._hold()
            kept = LedgerEntry.objects.keep(entries)
            following = replace(place, page=place.page + 1, new=place.new + len(kept.new))
            if not is_last:
                _store(following)
        self._orders_losing_entries |= set(kept.orders_losing_entries)
        self._count(page, kept, read_until)
        return self._finish(following, page) if is_last else following

    def _ask(self, place: Position) -> LedgerPage:
        def call() -> LedgerPage | None:
            return self._gateway.ask(
                lambda: self._gateway.client.transactions(
                    start=with_zone(place.start),
                    end=with_zone(place.until),
                    page=place.page,
                    page_size=_PAGE_SIZE,
                ),
                Purpose.BACKGROUND,
                may_repeat=False,
            )

        return ask_when_free(self._gateway, call, lambda paused: self._wait(is_paused=paused))

    def _wait(self, *, is_paused: bool) -> None:
        if self._token is not None:
            self._hold()
        self._on_wait(replace(self.reading, is_paused=is_paused))

    def _count(self, page: LedgerPage, kept: Kept, read_until: datetime | None) -> None:
        late = Counter(
            day_of(entry.time)
            for entry in (*kept.new, *kept.changed)
            if read_until and entry.time < read_until
        )
        self.note(
            rows=self.reading.rows + len(page.rows),
            new=self.reading.new + len(kept.new),
            unreadable=self.reading.unreadable + page.unreadable,
            changed_days=dict(sorted((Counter(self.reading.changed_days) + late).items())),
        )

    def _finish(self, place: Position, page: LedgerPage) -> Position | None:
        """Match the entries of the window, or prepare to read the window again.

        The window is read again if entries seem to be missing, but only if the last pass has found
        new entries and the maximum number of passes has not been reached. Returns the next
        position, or ``None`` if the reading is complete.
        """
        lacking = _lacking(place, page, shown=len(self._shown))
        if lacking and place.new and place.passes < _MOST_PASSES:
            # Entries may have moved to another page while the pages were being read.
            following: Position | None = replace(place, page=1, passes=place.passes + 1, new=0)
            read_until = None
        else:
            self.note(not_shown=self.reading.not_shown + lacking)
            match(
                place.start,
                place.until,
                hold=self._hold,
                orders_losing_entries=self._orders_losing_entries,
            )
            self._orders_losing_entries = set()
            following, read_until = self._window_after(place), place.until
        with transaction.atomic():
            self._hold()
            _store(following, read_until=read_until)
        self._shown = set()
        return following


def _store(place: Position | None, *, read_until: datetime | None = None) -> None:
    state = LedgerState.objects.filter(pk=1)
    state.update(place={} if place is None else place.as_json())
    if read_until is not None:
        # A stored end that is later than ``read_until`` is kept, because days may have been read
        # again. A stored end in the future is replaced, because it was stored before the clock was
        # set back.
        state.exclude(read_until__range=(read_until, timezone.now())).update(read_until=read_until)


def _is_last(page: LedgerPage, number: int) -> bool:
    """Return True if there is no further page.

    The provider's page count alone is not reliable.
    """
    if not page.rows:
        # A page of unreadable rows has no ids, so a repeated page cannot be recognised. The
        # provider's number of pages decides instead.
        return page.unreadable == 0 or number >= (page.total_pages or 0)
    rows = len(page.rows) + page.unreadable
    return rows < _PAGE_SIZE and page.total_pages is not None and number >= page.total_pages


def _lacking(place: Position, page: LedgerPage, *, shown: int) -> int:
    """Return how many entries the provider counts but has not listed.

    The result can be too high, because the provider might also count entries outside the window,
    for example all entries of a day. If the provider does not report a count, the result is 0.
    """
    if page.total_results is None:
        return 0
    known = LedgerEntry.objects.filter(time__range=(place.start, place.until)).count()
    return max(page.total_results - page.unreadable - max(known, shown), 0)


def entries_of(rows: Iterable[LedgerRow]) -> list[LedgerEntry]:
    """Convert the rows of one page to unsaved entries.

    Each entry has a unique ``provider_id``. If a row does not have an id, the id is computed from
    the content of the row. If a page contains several equal rows without an id, each row becomes a
    separate entry. If a row is repeated on another page, the entry has the same ``provider_id``
    again, so the row remains one entry.
    """
    entries: dict[str, LedgerEntry] = {}
    equal: Counter[str] = Counter()
    for row in rows:
        name = row.row_id
        if not name:
            content = _content_of(row)
            equal[content] += 1
            name = f"{content}-{equal[content]}"
        entries[name] = LedgerEntry(
            provider_id=name,
            type=row.type,
            amount=row.amount,
            balance_before=row.balance_before,
            balance_after=row.balance_after,
            time=as_stored(row.time),
            objid=row.objid,
        )
    return list(entries.values())


def _content_of(row: LedgerRow) -> str:
    balances = (row.balance_before, row.balance_after)
    amounts = [None if one is None else f"{one:.2f}" for one in (row.amount, *balances)]
    told = repr((row.type, row.time.astimezone(UTC).isoformat(), row.objid, amounts))
    return f"row-{hashlib.sha256(told.encode()).hexdigest()[:40]}"


# After this time (seconds), a part of the nightly reading does not start another request.
_SECONDS = 5.0
# The shortest and the longest pause after a reading that failed.
_FIRST_PAUSE = timedelta(minutes=2)
_LONGEST_PAUSE = timedelta(hours=1)


def read_if_due(should_continue: Callable[[], bool]) -> None:
    """Read a part of the ledger if the nightly reading is due.

    The function ends after five seconds, when the request quota is used up, or when
    ``should_continue`` returns False. The very first call only schedules a reading for the next
    night.
    """
    state = LedgerState.objects.current()
    now = timezone.now()
    if state.due_at is None:
        _put_off_to_next_night()
    elif not is_ahead(state.due_at, now, max_distance=timedelta(days=2)):
        _read_part(state, should_continue)


def _read_part(state: LedgerState, should_continue: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + _SECONDS
    with Gateway() as gateway:
        reading = read_ledger(
            gateway,
            on_wait=_do_not_wait,
            should_continue=lambda: time.monotonic() < ends_at and should_continue(),
        )
    for day, count in reading.changed_days.items():
        logger.warning(
            "The provider's ledger for %s has changed. New or different entries: %d.", day, count
        )
    if reading.is_whole:
        _put_off_to_next_night()
    elif reading.trouble:
        failures = state.failures + 1
        pause = backoff(failures, first_pause=_FIRST_PAUSE, max_pause=_LONGEST_PAUSE, jitter=0.25)
        LedgerState.objects.note(due_at=timezone.now() + pause, failures=min(failures, 20))
        logger.warning("The provider's ledger could not be read. %s", reading.trouble)
    elif state.failures:
        LedgerState.objects.note(failures=0)


def _do_not_wait(_reading: LedgerReading) -> None:
    # Requests about orders come first, so the reading stops. The next tick continues it.
    raise Stopped


# The earliest start of the nightly reading, after midnight in the site's time zone. Each shop
# starts at its own minute after that, so that not all shops read at once.
_FROM = timedelta(hours=2)
_MINUTES = 180


def next_night(now: datetime, minute: int) -> datetime:
    """Return the start of the first nightly reading after ``now``.

    The reading starts ``minute`` minutes after 2 a.m. local time.
    """
    nights = (begin_of(day_of(now) + timedelta(days=number)) for number in range(2))
    moments = (night + _FROM + timedelta(minutes=minute) for night in nights)
    return next(moment for moment in moments if moment > now)


def _put_off_to_next_night() -> None:
    minute = int(configured_key() or "0", 16) % _MINUTES
    due_at = next_night(timezone.now(), minute)
    LedgerState.objects.note(due_at=due_at, failures=0)
