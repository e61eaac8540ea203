"""Processes of a shop on a simulated clock, scheduled by a seed.

Each process is a thread, and only one of them runs at a time. A process hands over before each
statement, around each COMMIT and request, and when it waits. Then the same process, another one or
none may continue: time is a number that advances when no process has anything to do. At these
points, a process can be killed or halted, lose its connection, or get the answer to its COMMIT late
or never. Each seed therefore stands for one history, which can be repeated.

:func:`install` replaces Python's clocks, waits and sources of randomness. Call it before Django is
imported, in a separate process.
"""

from __future__ import annotations

import heapq
import itertools
import os
import queue
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any, Literal

#: The wall clock at the beginning of each history, in seconds since 1970: 2027-05-31 22:58:30 UTC.
#: In Algiers, May ends 90 seconds later.
EPOCH = 1_811_804_310.0
#: An answer with this header never arrives. The client waits for it on the clock of the history.
SILENT = "X-Silent"
# The longest duration of a statement (seconds).
_STATEMENT = 0.004
# How long a process waits for a lock of SQLite, as in the example's settings (seconds).
_LOCK_PATIENCE = 20.0
# The real seconds after which a process counts as blocked by a lock, and as lost.
_BLOCKED, _LOST = 0.5, 60.0
# The real seconds within which a process continues after its lock was released.
_UNBLOCKED = 0.02

# The real clock and waits.
monotonic = time.monotonic
_sleep, _wait = time.sleep, threading.Event.wait


class Killed(BaseException):
    """Raised in a dead process, whose further actions have no effect."""


class Lost(Exception):
    """A process does not return, because it waits for something outside the simulation."""


Kind = Literal["kill", "halt", "cut", "late commit", "lost commit"]

#: The machine of the site, and a second one for every other worker.
FIRST_MACHINE, SECOND_MACHINE = "web-1", "web-2"


@dataclass
class Trouble:
    """Trouble for a process after it has handed over ``steps`` more times, for ``seconds``.

    With a ``place``, such as "purchase" or "committed", only hand-overs at this place count.
    """

    kind: Kind
    steps: int
    seconds: float = 0.0
    place: str = ""


@dataclass(eq=False)
class Process:
    """A process on a ``machine``; ``place`` is where it last handed over."""

    name: str
    work: Callable[[], object]
    wakes_at: float
    machine: str = FIRST_MACHINE
    place: str = "start"
    trouble: Trouble | None = None
    error: BaseException | None = None
    is_dead: bool = False
    is_over: bool = False
    is_blocked: bool = False
    is_halted: bool = False
    #: Threads that it has started and that run in real time.
    helpers: set[threading.Thread] = field(default_factory=set)
    idle_helpers: int = 0
    #: How long its helpers have waited for an answer (seconds). The process waits as long.
    waited: float = 0.0
    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    connection: Any = None

    @property
    def has_busy_helpers(self) -> bool:
        return len(self.helpers) > self.idle_helpers


class Simulation:
    """A clock, and processes that run in an order given by a seed.

    ``now`` is a steady clock (seconds). The wall clock is ``set_by`` seconds ahead of it.
    """

    def __init__(self, seed: object, *, vendor: str = "sqlite") -> None:
        self.random = Random(f"order {seed}")
        self.now = 0.0
        self.set_by = 0.0
        self.processes: list[Process] = []
        self.steps = 0
        self.trace: list[str] = []
        #: The kinds of trouble that have happened to processes.
        self.happened: set[Kind] = set()
        #: The time and the path of each request that brought no good answer.
        self.failed: list[tuple[float, str]] = []
        #: The machines that cannot reach the provider.
        self.without_route: set[str] = set()
        self._patience = _LOST if vendor == "sqlite" else _BLOCKED
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._number = itertools.count()
        self._turn = threading.Semaphore(0)
        self._lock = threading.Lock()

    # The parts of a history.

    def start(
        self,
        name: str,
        work: Callable[[], object],
        *,
        after: float = 0,
        machine: str = FIRST_MACHINE,
    ) -> Process:
        """Start a process."""
        process = Process(name, work, self.now + after, machine)
        thread = threading.Thread(target=self._live, args=(process,), name=name, daemon=True)
        self.processes.append(process)
        _start(thread)
        return process

    def at(self, moment: float, happen: Callable[[], object]) -> None:
        """Have something happen at a moment, such as the start of a process."""
        heapq.heappush(self._events, (moment, next(self._number), happen))

    def kill(self, process: Process) -> None:
        """End a process as a power cut would; the database rolls back its open transaction."""
        process.is_dead = True
        process.wakes_at = float("inf")
        _disconnect(process.connection)

    def wake(self) -> None:
        """Let halted processes continue at once."""
        for process in self.processes:
            if process.is_halted and not process.is_dead:
                process.wakes_at = self.now

    def run(self, *, until: float) -> None:
        """Let the processes run until that moment of the steady clock."""
        is_awaited = False
        while True:
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            ready = [each for each in self.processes if each.wakes_at <= self.now]
            if ready:
                process = self.random.choice(ready)
                self.now += self.random.random() * _STATEMENT
                self._let_go(process)
                is_awaited = False
                continue
            if not is_awaited and any(each.is_blocked for each in self.processes):
                # Unless the holder of the lock is halted, a process continues soon.
                _sleep(_UNBLOCKED)
                is_awaited = True
                continue
            moments = [each.wakes_at for each in self.processes]
            moments += [self._events[0][0]] if self._events else []
            following = min(moments, default=float("inf"))
            if following > until:
                self.now = max(self.now, until)
                return
            self.now = following

    def end(self) -> None:
        """End all processes."""
        for process in self.processes:
            if not process.is_over:
                self.kill(process)
                process.gate.release()

    # Functions that run in the thread of a process.

    def pause(self, place: str, seconds: float = 0.0, *, is_database: bool = False) -> None:
        """Hand over, if called in a process; otherwise do nothing.

        At a database, the connection may break here.
        """
        process: Process | None = getattr(_local, "process", None)
        if process is None:
            return
        if process.is_dead:
            raise Killed
        # The process waits for the work of its helpers, so that all runs are the same.
        while process.has_busy_helpers:
            _sleep(0.0002)
        trouble = self._due_trouble(process, place, is_database=is_database)
        process.place = place
        wakes_at = self.now + seconds + process.waited
        process.waited = 0.0
        match trouble:
            case Trouble("kill"):
                self.kill(process)
                wakes_at = process.wakes_at
            case Trouble("halt") | Trouble("late commit"):
                wakes_at += trouble.seconds
                process.is_halted = True
        self._hand_over(process, wakes_at)
        process.is_halted = False
        if trouble and trouble.kind in ("cut", "lost commit"):
            from django.db import OperationalError

            if process.connection.vendor != "sqlite":
                _disconnect(process.connection)
            raise OperationalError("server closed the connection unexpectedly")

    def _due_trouble(self, process: Process, place: str, *, is_database: bool) -> Trouble | None:
        self.steps += 1
        trouble = process.trouble
        if trouble is None or trouble.place not in ("", place):
            return None
        trouble.steps -= 1
        if trouble.steps > 0 or (trouble.kind == "cut" and not is_database):
            return None
        process.trouble = None
        self.happened.add(trouble.kind)
        self.note(f"{trouble.kind}: {process.name} at {place}")
        return trouble

    def note(self, what: str) -> None:
        self.trace.append(f"{self.now:9.3f}  {what}")

    def _hand_over(self, process: Process, wakes_at: float) -> None:
        with self._lock:
            process.wakes_at = wakes_at
            if process.is_blocked:
                process.is_blocked = False
            else:
                self._turn.release()
        process.gate.acquire()
        if process.is_dead:
            raise Killed

    def _let_go(self, process: Process) -> None:
        process.wakes_at = float("inf")
        process.gate.release()
        if self._turn.acquire(timeout=self._patience):
            return
        with self._lock:
            if self._turn.acquire(blocking=False):
                return
            if self._patience == _LOST:
                raise Lost(f"{process.name} at {process.place}")
            process.is_blocked = True

    def _live(self, process: Process) -> None:
        from django.db import DEFAULT_DB_ALIAS, connections

        _local.process = process
        process.gate.acquire()
        try:
            if not process.is_dead:
                process.connection = connection = connections[DEFAULT_DB_ALIAS]
                connection.execute_wrappers.append(self._execute)
                self._watch_commits(connection)
                process.work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 (the history tells of it)
            process.error = error
            self.note(f"{process.name} failed: {type(error).__name__}")
        finally:
            _local.process = None
            with suppress(Exception):
                connections.close_all()
            process.is_over = True
            process.wakes_at = float("inf")
            if not process.is_dead:
                with self._lock:
                    if not process.is_blocked:
                        self._turn.release()
                    process.is_blocked = False

    def _execute(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        from django.db import OperationalError

        self.pause(sql, is_database=True)
        gives_up_at = self.now + _LOCK_PATIENCE
        while True:
            try:
                return execute(sql, params, many, context)
            except OperationalError as error:
                # This is an error of SQLite, which does not wait for locks here.
                if "locked" not in str(error) or self.now > gives_up_at:
                    raise
            self.pause("lock", 0.1)

    def _watch_commits(self, connection: Any) -> None:
        commit = connection._commit

        def watched() -> None:
            self.pause("COMMIT", is_database=True)
            commit()
            self.pause("committed")

        connection._commit = watched

    def await_answer(self, seconds: float) -> None:
        """Wait for an answer that does not come, in a process or in one of its helpers."""
        owner: Process | None = getattr(_local, "owner", None)
        if owner is None:
            self.pause("silence", seconds)
        else:
            owner.waited = max(owner.waited, seconds)

    # Replacements of Python's functions.

    def sleep(self, seconds: float) -> None:
        if getattr(_local, "process", None) is None:
            _sleep(seconds)
        else:
            self.pause("sleep", max(seconds, 0))

    def wait(self, event: threading.Event, timeout: float | None = None) -> bool:
        process: Process | None = getattr(_local, "process", None)
        owner: Process | None = getattr(_local, "owner", None)
        if timeout is None or (process is None and owner is None):
            return _wait(event, timeout)
        if process is None:
            return _wait_idly(event, owner)
        while not event.is_set() and process.has_busy_helpers:
            _wait(event, 0.001)
        if not event.is_set():
            self.pause("wait", max(timeout, 0))
        return event.is_set()


def _wait_idly(event: threading.Event, owner: Any) -> bool:
    """Wait in a helper, for which time does not pass."""
    owner.idle_helpers += 1
    try:
        while not (_wait(event, 0.2) or owner.is_over or owner.is_dead):
            pass
    finally:
        owner.idle_helpers -= 1
    return True


class _Queue(queue.SimpleQueue):  # type: ignore[type-arg]
    """A queue that helpers fill and their process reads."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        process: Process | None = getattr(_local, "process", None)
        if process is None or timeout is None:
            return super().get(block, timeout)
        while process.has_busy_helpers:
            with suppress(queue.Empty):
                return super().get(timeout=0.001)
        with suppress(queue.Empty):
            return super().get_nowait()
        current().pause("wait", max(timeout, 0))
        return super().get_nowait()


def _disconnect(connection: Any) -> None:
    """Break a connection from outside, so that the database rolls back its open transaction."""
    if connection is None or connection.connection is None:
        return
    with suppress(Exception):
        if connection.vendor == "sqlite":
            connection.connection.close()
        else:
            raw = getattr(connection.connection, "_sock", connection.connection)
            with socket.socket(fileno=os.dup(raw.fileno())) as shared:
                shared.shutdown(socket.SHUT_RDWR)


_local = threading.local()
_start = threading.Thread.start
_current: list[Simulation] = []


def current() -> Simulation:
    """Return the current history."""
    return _current[-1]


def begin(seed: object, *, vendor: str = "sqlite") -> Simulation:
    """Begin a history."""
    simulation = Simulation(seed, vendor=vendor)
    _current[:] = [simulation]
    return simulation


def install() -> None:
    """Replace the clocks, waits and sources of randomness of this process."""
    import django.utils.timezone
    import requests

    real_time = time.time

    def steady(*_clock: object) -> float:
        return 1_000.0 + current().now if _current else monotonic()

    def wall() -> float:
        return EPOCH + current().now + current().set_by if _current else real_time()

    time.monotonic, time.time = steady, wall
    django.utils.timezone.now = lambda: datetime.fromtimestamp(time.time(), UTC)
    time.clock_gettime = steady
    time.sleep = lambda seconds: current().sleep(seconds) if _current else _sleep(seconds)
    threading.Event.wait = lambda event, timeout=None: (  # type: ignore[method-assign]
        current().wait(event, timeout) if _current else _wait(event, timeout)
    )
    threading.Thread.start = _start_helper  # type: ignore[method-assign]
    queue.SimpleQueue = _Queue  # type: ignore[misc]
    send = requests.Session.send

    def send_between(session: Any, request: Any, **options: Any) -> Any:
        if not _current:
            return send(session, request, **options)
        history, is_good = current(), False
        try:
            answer = send_in(history, session, request, options)
            is_good = answer.ok
        finally:
            if not is_good:
                history.failed.append((history.now, request.path_url))
        return answer

    def send_in(history: Simulation, session: Any, request: Any, options: Any) -> Any:
        history.pause("purchase" if request.method == "POST" else "request")
        if _this_machine() in history.without_route:
            connecting, _reading = options["timeout"]
            history.await_answer(connecting)
            raise requests.ConnectTimeout(request=request)
        answer = send(session, request, **options)
        if answer.headers.get(SILENT):
            _connecting, reading = options["timeout"]
            history.await_answer(reading)
            raise requests.ReadTimeout(request=request)
        history.pause("answered")
        return answer

    requests.Session.send = send_between  # type: ignore[method-assign]
    socket.gethostname = _this_machine
    chance = Random()

    def urandom(count: int) -> bytes:
        return (current().random if _current else chance).randbytes(count)

    os.urandom = urandom
    random._urandom = urandom  # type: ignore[attr-defined]
    uuid.uuid4 = lambda: uuid.UUID(bytes=urandom(16), version=4)


def _this_machine() -> str:
    process: Process | None = getattr(_local, "process", None) or getattr(_local, "owner", None)
    return process.machine if process else FIRST_MACHINE


def _start_helper(thread: threading.Thread) -> None:
    """Start a thread, and record it as a helper if a process starts it."""
    owner = getattr(_local, "process", None) or getattr(_local, "owner", None)
    if owner is not None:
        run = thread.run

        def tracked() -> None:
            _local.owner = owner
            try:
                run()
            finally:
                owner.helpers.discard(thread)

        owner.helpers.add(thread)
        thread.run = tracked  # type: ignore[method-assign]
    _start(thread)
