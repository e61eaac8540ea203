"""A machine without free threads: workers do the work themselves or later, and keep running."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from giftcards.delivery.channels import Failure, Limits, Meaning, hand_over
from giftcards.engine import background
from giftcards.engine.background import Work
from giftcards.engine.loop import follow
from giftcards.engine.task_queue import queue_task
from giftcards.management.output import set_by_signals
from giftcards.models import ProviderState, StatusChange
from giftcards.simulator import Simulator
from tests.builders import make_order
from tests.fakes import queues
from tests.stage import Log, Setter, buy, fresh, messages, provider_state, wait_until

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

NONE_LEFT = "No more threads can be started: can't start new thread."
#: The number of failing starts that stands for a machine that stays without threads.
MANY = 10**6


@pytest.fixture
def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes the next thread starts fail.

    Only threads whose work is in one of the given modules fail.
    """

    def refuse(*modules: str, times: int = MANY) -> None:
        start, left = threading.Thread.start, times

        def fail_at_first(thread: Any) -> None:
            nonlocal left
            if left and getattr(thread._target, "__module__", "") in modules:
                left -= 1
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", fail_at_first)

    return refuse


@pytest.mark.usefixtures("quickly")
def test_the_loop_follows_orders_announces_them_and_reads_the_balance(
    simulator: Simulator, refuse_threads: Callable[..., None], caplog: Log
) -> None:
    simulator.delay = (0.2, 0.2)
    order = buy()
    refuse_threads(*(f"giftcards.engine.{name}" for name in ("pool", "outbox", "balance")))
    assert follow(seconds=20) is not None
    assert fresh(order).status == "FULFILLED"
    assert not StatusChange.objects.filter(announced_at=None).exists()
    assert provider_state().balance is not None
    assert NONE_LEFT in messages(caplog)


class TestBesideTheLoop:
    @pytest.fixture(autouse=True)
    def _quickly(self, shorten: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
        shorten(chores_every=0.05, turns_pause=0.05, task_poll=0.05)
        monkeypatch.setattr(background, "WORK", {})

    @pytest.mark.parametrize("times", [1, 2, 7, MANY])
    def test_each_piece_of_work_is_begun_as_soon_as_threads_can_be_started(
        self, times: int, refuse_threads: Callable[..., None]
    ) -> None:
        """If only the first two threads can be started, they work without further threads."""
        begun: list[str] = []
        for name in ("messages", "reports"):
            work = Work(name=name, do=lambda _may, name=name: begun.append(name), is_prompt=True)
            background.WORK[name] = work
        if times < MANY:
            refuse_threads("giftcards.engine.background", times=times)
        with background.beside(threading.Event()):
            if times == MANY:
                refuse_threads("giftcards.engine.background")
                begun.clear()
            wait_until(lambda: {*begun} == {"messages", "reports"})

    def test_a_worker_that_waits_for_its_first_thread_can_be_stopped(
        self, refuse_threads: Callable[..., None]
    ) -> None:
        background.WORK["messages"] = Work(name="messages", do=lambda _may: None, is_prompt=True)
        refuse_threads("giftcards.engine.background")
        stop = threading.Event()
        threading.Timer(0.2, stop.set).start()
        with background.beside(stop):
            assert stop.is_set()


def test_a_message_that_gets_no_thread_is_sent_later(refuse_threads: Callable[..., None]) -> None:
    sent: list[str] = []
    refuse_threads("giftcards.delivery.channels", times=1)
    ended = [
        hand_over(lambda: sent.append("mail"), Limits(), on_late_result=lambda _sent: None)
        for _ in range(2)
    ]
    assert isinstance(ended[0], Failure)
    assert (ended[0].meaning, sent) == (Meaning.SERVER_AWAY, ["mail"])
    assert not isinstance(ended[1], Failure)


def test_a_task_that_gets_no_thread_is_left_to_the_next_tick(
    refuse_threads: Callable[..., None], set_conf: Setter, caplog: Log
) -> None:
    make_order()
    ProviderState.objects.current()
    set_conf(QUEUE_TASK="tests.fakes.queues.record")
    queues.recorded.clear()
    refuse_threads("giftcards.engine.task_queue")
    queue_task("giftcards.tasks.sweep")
    assert queues.recorded == []
    later = "The task could not be queued. The next tick does the work within about a minute."
    assert messages(caplog) == [NONE_LEFT, later]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_gets_no_thread_ends_the_worker_a_moment_later(
    number: signal.Signals, refuse_threads: Callable[..., None]
) -> None:
    known = {each: signal.getsignal(each) for each in (*signal.Signals,) if each in _TOUCHED}
    try:
        stop = set_by_signals()
        refuse_threads("threading", times=1)
        os.kill(os.getpid(), number)
        assert not stop.is_set()
        wait_until(stop.is_set)
    finally:
        for each, handler in known.items():
            signal.signal(each, handler)


_TOUCHED = {signal.SIGINT, signal.SIGTERM, signal.SIGALRM}
