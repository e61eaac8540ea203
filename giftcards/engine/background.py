"""Background work, such as sending messages or refreshing the catalogue.

Each piece of work is declared as a :class:`Work` object. Background work is started only by
:func:`give_turns`. The task that runs every minute calls this function at its end, and the
``giftcards_worker`` command calls it in separate threads. After a single sweep, the
``giftcards_poll`` command does only prompt work.

A lane is a list of pieces of work that are done one after the other. Each piece of prompt work has
a separate lane, so it never waits for other work. All other work shares one lane, and only one
process at a time works on this lane.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from django.db import connections
from django.utils import timezone

from giftcards.engine.database import surviving
from giftcards.engine.threads import start_thread
from giftcards.engine.tuning import tuning
from giftcards.exceptions import GiftcardsError
from giftcards.models import Lease, ProviderState
from giftcards.rules.times import LONGEST_HOLD

logger = logging.getLogger(__name__)

#: A function that a piece of work calls before each step. It returns whether the work may continue.
MayGoOn = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A piece of background work.

    ``name`` is a readable name, for example "the messages". ``do`` is the function that does the
    work. The function receives a callback, and works until the work is finished or the callback
    returns False. If the function itself returns False, the app waits for some seconds before it
    calls the function again.
    """

    name: str
    do: Callable[[MayGoOn], object]
    #: True if people wait for the results. Prompt work does not wait for other work, and several
    #: processes may do it at the same time.
    is_prompt: bool = False
    #: A function that returns True if prompt work should begin before its regular time. It is
    #: called every second.
    is_due: Callable[[], bool] = lambda: False
    #: A function that queues a task for the work, or ``None``. If workers read from a queue, the
    #: task of each minute calls this function instead of doing the work itself.
    wake: Callable[[], object] | None = None
    #: True if the work starts after all other work, because it may hang or never end.
    is_last: bool = False


#: The declared work, by name.
WORK: dict[str, Work] = {}
# The work that this process is doing. Maps the name of each piece of work to the time when it began
# or last called its callback. A piece of work in this table is not started again.
_under_way: dict[str, float] = {}


def lanes() -> list[Sequence[Work]]:
    """Return one lane for each piece of prompt work, and one for the rest.

    If a piece of prompt work has ``is_last`` set, its lane comes after the other lanes.
    """
    prompt = [[work] for work in WORK.values() if work.is_prompt]
    others = [work for work in WORK.values() if not work.is_prompt]
    shared = [sorted(others, key=lambda work: work.is_last)] if others else []
    return sorted([*prompt, *shared], key=lambda lane: lane[0].is_prompt and lane[0].is_last)


def give_turns(lane: Sequence[Work], stop: threading.Event, has_time: MayGoOn) -> bool:
    """Give each piece of work in a lane a turn of limited length.

    The function stops when ``has_time`` returns False or ``stop`` is set. If the lane has several
    pieces of work, the next call begins after the piece that was started last, even if this piece
    killed the process. Returns False if the caller should wait for some seconds before the next
    call.
    """

    def may_go_on() -> bool:
        return has_time() and not stop.is_set()

    if lane[0].is_prompt:
        return _do(lane[0], may_go_on, stop)
    token = Lease.objects.take(Lease.CHORES, LONGEST_HOLD)
    if token is not None:
        try:
            _take_turns({work.name: work for work in lane}, token, may_go_on, stop)
        finally:
            Lease.objects.release(Lease.CHORES, token)
    return True


def do_prompt_work() -> None:
    """Give each piece of prompt work a turn, for example to send messages."""
    stop = threading.Event()
    for lane in lanes():
        if lane[0].is_prompt:
            with surviving(stop, lane[0].name):
                give_turns(lane, stop, lambda: True)


def _take_turns(
    works: dict[str, Work], token: str, may_go_on: MayGoOn, stop: threading.Event
) -> None:
    begun, ended = ProviderState.objects.current().chores_record
    ended = {name: at for name, at in ended.items() if name in works}
    names = list(works)
    for name in names[names.index(begun) + 1 :] if begun in names[:-1] else names:
        if not (may_go_on() and Lease.objects.keep(Lease.CHORES, token, LONGEST_HOLD)):
            return
        begun = name
        ended.setdefault(name, None)
        ProviderState.objects.note_chores(begun, ended)
        if _do(works[name], may_go_on, stop):
            ended[name] = timezone.now()
        # If this piece of work took too long, another process now has the lease and writes the
        # record.
        if not Lease.objects.keep(Lease.CHORES, token, LONGEST_HOLD):
            return
        ProviderState.objects.note_chores(begun, ended)


def _do(work: Work, should_continue: MayGoOn, stop: threading.Event) -> bool:
    """Do a limited amount of ``work``, and return whether it succeeded."""
    if work.name in _under_way:
        return False
    is_cut_short = False

    def may_go_on() -> bool:
        nonlocal is_cut_short
        _under_way[work.name] = time.monotonic()
        is_cut_short = not should_continue()
        return not is_cut_short

    is_done = False
    _under_way[work.name] = time.monotonic()
    try:
        with surviving(stop, work.name):
            is_done = work.do(may_go_on) is not False
    except Exception as error:  # noqa: BLE001 (the others must have their turn)
        why = error if isinstance(error, GiftcardsError) else type(error).__name__
        logger.error("This background work failed: %s. %s", work.name, why)  # noqa: TRY400
    finally:
        _under_way.pop(work.name, None)
    return is_done and not is_cut_short


@contextlib.contextmanager
def beside(stop: threading.Event) -> Iterator[None]:
    """Do the work of each lane in its own thread during the ``with`` block.

    The threads end with the block, or when ``stop`` is set. The block begins when the first thread
    has started. If the machine cannot start threads for the other lanes, the running threads try
    again before each turn.
    """
    threads: list[threading.Thread] = []
    waiting = deque(lanes())

    def start_lanes() -> None:
        with contextlib.suppress(IndexError):  # none is left, perhaps because of another thread
            while not stop.is_set():
                lane = waiting.popleft()
                thread = _start(keep_giving_turns, lane, stop, start_lanes)
                if thread is None:
                    waiting.appendleft(lane)
                    return
                threads.append(thread)

    start_lanes()
    while not threads and waiting and not stop.wait(tuning.turns_pause):
        start_lanes()
    try:
        yield
    finally:
        stop.set()
        ends_at = time.monotonic() + tuning.request_timeout + tuning.turns_end
        for thread in threads:
            thread.join(max(0, ends_at - time.monotonic()))


def keep_giving_turns(
    lane: Sequence[Work], stop: threading.Event, before_turn: Callable[[], object] = lambda: None
) -> None:
    """Do the work of ``lane`` every minute, and earlier if it is due.

    ``before_turn`` is called before each turn. If a piece of work does not call its callback for
    two minutes, the function stops waiting for its thread, and skips this piece of work in each
    turn until the thread has ended. The function returns when ``stop`` is set.
    """
    while not stop.is_set():
        ends_at = time.monotonic() + tuning.chores_every
        is_fine: list[bool] = []
        before_turn()
        turn = _start(_give_turns, lane, stop, is_fine)
        if turn is None:
            _give_turns(lane, stop, is_fine)
        elif not _ends(turn, lane):
            names = ", ".join(work.name for work in lane if work.name in _under_way)
            logger.error(
                "No progress for %g s: %s", tuning.turn_seconds, names or "no work was started"
            )
        if not any(is_fine):
            stop.wait(tuning.turns_pause)
        _wait(lane, stop, ends_at)


def _ends(thread: threading.Thread, lane: Sequence[Work]) -> bool:
    """Wait for ``thread``, and return whether it has ended.

    Returns False if the work in the thread has not called its callback for ``tuning.turn_seconds``.
    """
    began = time.monotonic()
    while thread.is_alive():
        last_sign = max([began, *(_under_way.get(work.name, began) for work in lane)])
        left = last_sign + tuning.turn_seconds - time.monotonic()
        if left <= 0:
            return False
        thread.join(left)
    return True


def _give_turns(lane: Sequence[Work], stop: threading.Event, is_fine: list[bool]) -> None:
    with surviving(stop, "the daily work"):
        is_fine.append(give_turns(lane, stop, lambda: True))


def _wait(lane: Sequence[Work], stop: threading.Event, ends_at: float) -> None:
    may_be_due = any(work.is_prompt for work in lane)
    while not stop.is_set() and (left := ends_at - time.monotonic()) > 0:
        if may_be_due:
            with surviving(stop, lane[0].name):
                if any(work.is_due() for work in lane):
                    return
            left = min(left, tuning.task_poll)
        stop.wait(left)


def _start(run: Callable[..., object], *args: object) -> threading.Thread | None:
    def work() -> None:
        try:
            run(*args)
        finally:
            # The thread has its own database connections.
            connections.close_all()

    return start_thread(work, name="giftcards: turns")
