"""Receivers are told of every change at least once, in order, and never disturb an order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.dispatch import Signal
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from giftcards.models import Order, ProviderState, StatusChange
from giftcards.outbox import announce
from giftcards.signals import order_settled, order_status_changed
from giftcards.statuses import Status
from tests.builders import make_order

pytestmark = pytest.mark.django_db

Receiver = Callable[[Order, StatusChange], object]
Listen = Callable[[Signal, Receiver], None]
Heard = list[tuple[str, str, str]]
MODULE = "order_status_changed tests.test_outbox"


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Connect a receiver for as long as the test runs."""
    connected: list[tuple[Signal, Callable[..., None]]] = []

    def connect(signal: Signal, receiver: Receiver) -> None:
        def a_shops_receiver(sender: object, **named: Any) -> None:
            assert sender is Order
            receiver(named["order"], named["change"])

        signal.connect(a_shops_receiver, weak=False)
        connected.append((signal, a_shops_receiver))

    yield connect
    for signal, receiver in connected:
        assert signal.disconnect(receiver)


@pytest.fixture
def heard(listen: Listen) -> Heard:
    """Which signal was sent of which order, and of which change, in the order of sending."""
    calls: Heard = []
    listen(
        order_status_changed,
        lambda order, change: calls.append(("changed", order.reference, str(change))),
    )
    listen(
        order_settled,
        lambda order, change: calls.append(("settled", order.reference, str(change))),
    )
    return calls


@pytest.fixture
def connected() -> Iterator[Callable[..., None]]:
    """Connect receivers as they are, for as long as the test runs."""
    done: list[Callable[..., Any]] = []

    def connect(*receivers: Callable[..., Any]) -> None:
        for receiver in receivers:
            order_status_changed.connect(receiver, weak=False)
            done.append(receiver)

    yield connect
    for receiver in done:
        order_status_changed.disconnect(receiver)


class Trouble:
    """Receivers of every change, which fail as long as they are in ``failing``."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.told: list[str] = []

    def a(self, change: StatusChange, **named: object) -> None:
        self._receive("A", change)

    def b(self, change: StatusChange, **named: object) -> None:
        self._receive("B", change)

    def a_renamed(self, change: StatusChange, **named: object) -> None:
        self._receive("A", change)

    def b_renamed(self, change: StatusChange, **named: object) -> None:
        self._receive("B", change)

    def new(self, change: StatusChange, **named: object) -> None:
        self._receive("N", change)

    def _receive(self, name: str, change: StatusChange) -> None:
        self.told.append(f"{name} {change.to_status}")
        if name in self.failing:
            raise ConnectionError("AAAA-AAAA-AAAA-AAAA")

    def hears(self) -> list[str]:
        """What is told now."""
        self.told.clear()
        announce()
        return self.told


@pytest.fixture
def trouble(connected: Callable[..., None]) -> Trouble:
    trouble = Trouble()
    connected(trouble.a, trouble.b)
    return trouble


def pass_time(span: timedelta) -> None:
    """Let everything that is to come be nearer by ``span``."""
    StatusChange.objects.update(at=F("at") - span, announce_at=F("announce_at") - span)
    ProviderState.objects.update(outbox_until=F("outbox_until") - span)


def pause_of(change: StatusChange) -> float:
    change.refresh_from_db()
    assert change.announce_at
    return (change.announce_at - timezone.now()).total_seconds()


def moved(reference: str, *targets: Status) -> Order:
    order = make_order(reference=reference)
    for target in targets:
        assert order.move(target, source=StatusChange.Source.CLOCK)
    return order


def waiting() -> int:
    return StatusChange.objects.filter(announced_at=None).count()


def test_every_change_is_announced_once_in_its_order(heard: Heard) -> None:
    moved("order-1", Status.DELAYED, Status.REFUNDED)
    moved("order-2", Status.REFUNDED)
    assert announce() == 3
    assert heard == [
        ("changed", "order-1", "HANDLING → DELAYED"),
        ("changed", "order-1", "DELAYED → REFUNDED"),
        ("settled", "order-1", "DELAYED → REFUNDED"),
        ("changed", "order-2", "HANDLING → REFUNDED"),
        ("settled", "order-2", "HANDLING → REFUNDED"),
    ]
    assert waiting() == 0
    assert announce() == 0
    assert len(heard) == 5


def test_a_rejected_order_is_final_as_well(heard: Heard) -> None:
    order = make_order(Status.PLACING, reference="order-1")
    order.move(Status.REJECTED, source=StatusChange.Source.PLACING)
    announce()
    assert [signal for signal, _, _ in heard] == ["changed", "settled"]


def test_a_receiver_gets_the_order_as_it_is_stored(listen: Listen) -> None:
    order = moved("order-1", Status.DELAYED)
    Order.objects.filter(pk=order.pk).update(problem="written meanwhile")
    seen: list[tuple[str, str]] = []
    listen(order_status_changed, lambda order, change: seen.append((order.status, order.problem)))
    announce()
    assert seen == [("DELAYED", "written meanwhile")]


def test_without_receivers_nothing_is_left_waiting() -> None:
    moved("order-1", Status.REFUNDED)
    assert announce() == 1
    assert waiting() == 0


def test_nothing_to_announce_is_one_query(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(1):
        assert announce() == 0


def test_a_change_costs_two_queries(heard: Heard) -> None:
    def queries(*references: str) -> int:
        for reference in references:
            moved(reference, Status.DELAYED, Status.REFUNDED)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert announce() == 2 * len(references)
        return len(queries)

    queries("first")
    one, five = queries("1"), queries(*"23456")
    assert five - one == 2 * 2 * 4


def test_many_changes_are_announced_in_batches(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("giftcards.outbox._BATCH", 3)
    for number in range(8):
        moved(f"order-{number}", Status.DELAYED)
    assert announce() == 8
    assert [reference for _, reference, _ in heard] == [f"order-{n}" for n in range(8)]


def test_it_stops_when_told_to(heard: Heard) -> None:
    moved("order-1", Status.DELAYED, Status.REFUNDED)
    answers = iter([True, True, False, False])
    assert announce(lambda: next(answers)) == 1
    assert [str(change) for _, _, change in heard] == ["HANDLING → DELAYED"]
    assert ProviderState.objects.get().outbox_until is None
    assert announce() == 1
    assert waiting() == 0


class TestReceiverThatFails:
    def test_only_it_is_told_again(self, trouble: Trouble) -> None:
        moved("order-1", Status.DELAYED)
        trouble.failing = {"A"}
        assert trouble.hears() == ["A DELAYED", "B DELAYED"]
        assert trouble.hears() == []
        pass_time(timedelta(seconds=11))
        assert trouble.hears() == ["A DELAYED"]
        trouble.failing.clear()
        pass_time(timedelta(seconds=21))
        assert trouble.hears() == ["A DELAYED"]
        change = StatusChange.objects.get()
        assert change.announced_at is not None
        assert change.announce_error == ""
        assert change.heard == [f"{MODULE}.Trouble.a", f"{MODULE}.Trouble.b"]
        pass_time(timedelta(days=1))
        assert trouble.hears() == []

    def test_it_hears_later_changes_after_the_earlier_ones(self, trouble: Trouble) -> None:
        order = moved("order-1", Status.DELAYED)
        trouble.failing = {"A"}
        trouble.hears()
        pass_time(timedelta(seconds=11))
        trouble.hears()
        order.move(Status.REFUNDED, source=StatusChange.Source.CLOCK)
        moved("order-2", Status.DELAYED)
        # Another order is nothing to it.
        assert trouble.hears() == ["B REFUNDED", "A DELAYED", "B DELAYED"]
        assert trouble.hears() == []
        trouble.failing.clear()
        pass_time(timedelta(seconds=21))
        assert trouble.hears() == ["A DELAYED", "A REFUNDED", "A DELAYED"]
        assert waiting() == 0

    def test_what_is_held_back_has_not_failed(self, trouble: Trouble) -> None:
        first, second = moved("order-1", Status.DELAYED, Status.REFUNDED).changes.all()
        trouble.failing = {"A"}
        trouble.hears()
        for change in (first, second):
            change.refresh_from_db()
        assert (first.announce_failures, second.announce_failures) == (1, 0)
        assert (second.announce_error, second.announce_at) == ("", first.announce_at)

    def test_who_has_heard_at_last_is_no_longer_shown(self, trouble: Trouble) -> None:
        second = moved("order-1", Status.DELAYED, Status.REFUNDED).changes.last()
        assert second
        trouble.failing = {"A"}
        announce(lambda: not trouble.told)
        trouble.failing = {"A", "B"}
        trouble.hears()
        second.refresh_from_db()
        assert second.announce_error.startswith(f"{MODULE}.Trouble.b: ")
        trouble.failing = {"A"}
        pass_time(timedelta(seconds=11))
        assert trouble.hears() == ["A DELAYED", "B REFUNDED"]
        second.refresh_from_db()
        assert (second.announce_error, second.announced_at) == ("", None)

    def test_the_pauses_grow(self, trouble: Trouble) -> None:
        [change] = moved("order-1", Status.DELAYED).changes.all()
        trouble.failing = {"A"}
        pauses = []
        while trouble.hears():
            change.refresh_from_db()
            if change.announce_at is None:
                break
            pauses.append(pause_of(change))
            pass_time(timedelta(seconds=pauses[-1] + 0.5))
        assert [round(pause) for pause in pauses[:4]] == [10, 20, 40, 80]
        assert max(pauses) == pytest.approx(3600, abs=5)
        assert timedelta(hours=23) < timedelta(seconds=sum(pauses)) < timedelta(hours=26)

    def test_it_is_given_up_and_shown(self, trouble: Trouble) -> None:
        order = moved("order-1", Status.DELAYED, Status.REFUNDED)
        first, second = order.changes.all()
        trouble.failing = {"A"}
        trouble.hears()
        StatusChange.objects.filter(pk=first.pk).update(announce_failures=31)
        pass_time(timedelta(seconds=11))
        # What was held back is told now, however old it is.
        assert trouble.hears() == ["A DELAYED", "A REFUNDED"]
        assert list(StatusChange.objects.given_up()) == [first]
        first.refresh_from_db()
        assert first.announce_error.startswith(f"{MODULE}.Trouble.a: ")
        assert first.heard == [f"{MODULE}.Trouble.b"]
        assert pause_of(second) == pytest.approx(10, abs=2)
        pass_time(timedelta(days=9))
        assert trouble.hears() == ["A REFUNDED"]

    def test_a_day_without_a_worker_gives_nothing_up(self, trouble: Trouble) -> None:
        [change] = moved("order-1", Status.DELAYED).changes.all()
        pass_time(timedelta(days=3))
        trouble.failing = {"A"}
        trouble.hears()
        assert pause_of(change) == pytest.approx(10, abs=2)

    def test_each_signal_is_told_again_by_itself(
        self, heard: Heard, trouble: Trouble, listen: Listen
    ) -> None:
        errors = [ConnectionError()]

        def receive(order: Order, change: StatusChange) -> None:
            if errors:
                raise errors.pop()

        order_settled.connect(trouble.a)
        listen(order_settled, receive)
        try:
            moved("order-1", Status.REFUNDED)
            assert trouble.hears() == ["A REFUNDED", "B REFUNDED", "A REFUNDED"]
            heard.clear()
            pass_time(timedelta(seconds=11))
            assert trouble.hears() == []
            # It has the name of the other receiver that `listen` made.
            assert heard == [("settled", "order-1", "HANDLING → REFUNDED")]
        finally:
            order_settled.disconnect(trouble.a)
        assert waiting() == 0

    def test_its_words_are_kept_nowhere(
        self, trouble: Trouble, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        moved("order-1", Status.DELAYED)
        trouble.failing = {"A"}
        trouble.hears()
        [entry] = [entry for entry in caplog.records if entry.levelname == "ERROR"]
        message, line = entry.getMessage().split(f"{__file__}:")
        assert message == (
            "Announcing order order-1 (HANDLING → DELAYED) failed."
            " order_status_changed tests.test_outbox.Trouble.a: ConnectionError at "
        )
        assert re.fullmatch(r"\d+", line)
        assert entry.exc_info is None
        assert "AAAA" not in caplog.text
        assert "AAAA" not in str(list(StatusChange.objects.values()))

    def test_the_order_is_undisturbed(self, trouble: Trouble) -> None:
        order = moved("order-1", Status.REFUNDED)
        before = Order.objects.filter(pk=order.pk).values().get()
        trouble.failing = {"A", "B"}
        trouble.hears()
        assert Order.objects.filter(pk=order.pk).values().get() == before

    def test_it_hears_of_the_end_when_it_could_not_hear_of_the_way(
        self, trouble: Trouble, heard: Heard
    ) -> None:
        """Each signal is an order of its own."""
        order_settled.connect(trouble.a)
        try:
            moved("order-1", Status.DELAYED)
            trouble.failing = {"A"}
            trouble.hears()
            Order.objects.get().move(Status.REFUNDED, source=StatusChange.Source.CLOCK)
            trouble.failing.clear()
            assert trouble.hears() == ["B REFUNDED", "A REFUNDED"]
            assert heard[-1] == ("settled", "order-1", "DELAYED → REFUNDED")
            pass_time(timedelta(seconds=11))
            assert trouble.hears() == ["A DELAYED", "A REFUNDED"]
        finally:
            order_settled.disconnect(trouble.a)
        assert waiting() == 0


class TestDeployBetweenTwoTries:
    """The names of the receivers are others then: nobody may be taken for having heard."""

    @pytest.fixture(autouse=True)
    def _first_try(self, trouble: Trouble) -> None:
        moved("order-1", Status.DELAYED)
        trouble.failing = {"A"}
        assert trouble.hears() == ["A DELAYED", "B DELAYED"]
        trouble.failing.clear()

    @pytest.fixture
    def settle(self) -> None:
        Order.objects.get().move(Status.REFUNDED, source=StatusChange.Source.CLOCK)

    def test_a_renamed_receiver_is_told(
        self, trouble: Trouble, connected: Callable[..., None]
    ) -> None:
        order_status_changed.disconnect(trouble.a)
        connected(trouble.a_renamed)
        assert trouble.hears() == []
        pass_time(timedelta(seconds=11))
        assert trouble.hears() == ["A DELAYED"]
        assert waiting() == 0

    def test_a_renamed_receiver_is_told_twice_rather_than_never(
        self, trouble: Trouble, connected: Callable[..., None]
    ) -> None:
        order_status_changed.disconnect(trouble.b)
        connected(trouble.b_renamed)
        pass_time(timedelta(seconds=11))
        assert trouble.hears() == ["A DELAYED", "B DELAYED"]
        assert waiting() == 0

    @pytest.mark.usefixtures("settle")
    def test_a_renamed_receiver_hears_later_changes_after_the_earlier_ones(
        self, trouble: Trouble, connected: Callable[..., None]
    ) -> None:
        order_status_changed.disconnect(trouble.a)
        connected(trouble.a_renamed)
        assert trouble.hears() == ["B REFUNDED"]
        pass_time(timedelta(seconds=11))
        assert trouble.hears() == ["A DELAYED", "A REFUNDED"]
        assert waiting() == 0

    @pytest.mark.usefixtures("settle")
    def test_a_removed_receiver_holds_nothing_up(self, trouble: Trouble) -> None:
        order_status_changed.disconnect(trouble.a)
        assert trouble.hears() == ["B REFUNDED"]
        assert StatusChange.objects.get(announced_at=None).to_status == "DELAYED"
        pass_time(timedelta(seconds=11))
        assert trouble.hears() == []
        assert waiting() == 0

    @pytest.mark.usefixtures("settle")
    def test_a_new_receiver_is_told_too(
        self, trouble: Trouble, connected: Callable[..., None]
    ) -> None:
        connected(trouble.new)
        assert trouble.hears() == ["B REFUNDED"]
        pass_time(timedelta(seconds=11))
        assert trouble.hears() == ["A DELAYED", "N DELAYED", "A REFUNDED", "N REFUNDED"]
        assert waiting() == 0

    @pytest.mark.usefixtures("settle")
    def test_what_was_given_up_holds_no_new_name_back(
        self, trouble: Trouble, connected: Callable[..., None]
    ) -> None:
        StatusChange.objects.filter(to_status="DELAYED").update(announce_at=None)
        order_status_changed.disconnect(trouble.a)
        connected(trouble.a_renamed)
        assert trouble.hears() == ["B REFUNDED", "A REFUNDED"]


class Shop:
    """A receiver that is an object, with a repr() that tells too much."""

    def __call__(self, **named: object) -> None:
        pass

    def __repr__(self) -> str:
        return "<AAAA-AAAA-AAAA-AAAA>"


def hear(secret: str, **named: object) -> None:
    pass


async def hear_slowly(**named: object) -> None:
    pass


def test_names_are_those_of_another_process_too(connected: Callable[..., None]) -> None:
    told: list[str] = []

    def fail(**named: object) -> None:
        told.append("fail")
        raise ConnectionError

    def as_a_process_makes_them() -> list[Callable[..., Any]]:
        def inner(**named: object) -> None:
            told.append("inner")

        return [
            Shop(),
            partial(partial(hear), "AAAA-AAAA-AAAA-AAAA"),
            hear_slowly,
            inner,
            lambda **named: told.append("lambda"),
        ]

    first = as_a_process_makes_them()
    connected(fail, *first)
    moved("order-1", Status.DELAYED)
    announce()
    assert told == ["fail", "inner", "lambda"]
    change = StatusChange.objects.get()
    here = f"{MODULE}.test_names_are_those_of_another_process_too.<locals>"
    makes = f"{here}.as_a_process_makes_them.<locals>"
    assert change.heard == [
        f"{MODULE}.Shop",
        f"{MODULE}.hear",
        f"{MODULE}.hear_slowly",
        f"{makes}.<lambda>",
        f"{makes}.inner",
    ]
    for receiver in first:
        order_status_changed.disconnect(receiver)
    connected(*as_a_process_makes_them())
    told.clear()
    pass_time(timedelta(seconds=11))
    announce()
    assert told == ["fail"]


@pytest.mark.parametrize("error", [ConnectionError, SystemExit])
@pytest.mark.parametrize("fails", ["first", "second"])
def test_two_of_one_name_are_told_again_together(
    error: type[BaseException], fails: str, connected: Callable[..., None]
) -> None:
    told: list[str] = []
    failing = [True]

    def receive(name: str, **named: object) -> None:
        told.append(name)
        if name == fails and failing:
            raise error

    connected(partial(receive, "first"), partial(receive, "second"))
    moved("order-1", Status.DELAYED)
    with suppress(SystemExit):
        announce()
    assert StatusChange.objects.get().heard == []
    failing.clear()
    told.clear()
    pass_time(timedelta(seconds=11))
    assert announce() == 1
    assert told == ["first", "second"]


def test_an_async_receiver_is_awaited(connected: Callable[..., None]) -> None:
    told: list[str] = []

    async def receive(change: StatusChange, **named: object) -> None:
        told.append(change.to_status)

    connected(receive, partial(receive))
    moved("order-1", Status.DELAYED)
    assert announce() == 1
    assert told == ["DELAYED", "DELAYED"]


def test_an_order_that_is_gone_disturbs_nobody(heard: Heard, listen: Listen) -> None:
    moved("order-1", Status.DELAYED)
    moved("order-2", Status.DELAYED)
    listen(
        order_status_changed,
        lambda order, change: order.reference == "order-1" and order.delete(),
    )
    announce()
    assert [reference for _, reference, _ in heard] == ["order-1", "order-2"]
    assert waiting() == 0


class TestLease:
    def test_one_process_announces(self, heard: Heard) -> None:
        moved("order-1", Status.DELAYED)
        token = ProviderState.objects.take_lease(
            "outbox", now=timezone.now(), length=timedelta(minutes=2)
        )
        assert token
        assert announce() == 0
        assert heard == []
        ProviderState.objects.release_lease("outbox", token)
        assert announce() == 1

    def test_nobody_announces_in_the_middle_of_it(self, heard: Heard, listen: Listen) -> None:
        """As a receiver that places an order in a worker would."""
        moved("order-1", Status.DELAYED)
        found: list[int] = []
        listen(order_status_changed, lambda order, change: found.append(announce()))
        assert announce() == 1
        assert found == [0]
        assert len(heard) == 1

    def test_what_comes_meanwhile_is_announced_as_well(self, heard: Heard, listen: Listen) -> None:
        order = moved("order-1", Status.DELAYED)

        def settle(_order: Order, change: StatusChange) -> None:
            if change.to_status == Status.DELAYED:
                order.move(Status.REFUNDED, source=StatusChange.Source.CLOCK)
                assert announce() == 0

        listen(order_status_changed, settle)
        assert announce() == 2
        assert len(heard) == 3

    def test_who_has_lost_it_stops(self, heard: Heard, listen: Listen) -> None:
        moved("order-1", Status.DELAYED, Status.REFUNDED)

        def take_over(order: Order, change: StatusChange) -> None:
            ProviderState.objects.update(outbox_token="another")

        listen(order_status_changed, take_over)
        assert announce() == 1
        assert [str(change) for _, _, change in heard] == ["HANDLING → DELAYED"]
        state = ProviderState.objects.get()
        assert state.outbox_token == "another"
        assert state.outbox_until is not None


class TestProcessThatDies:
    def test_in_the_middle_of_telling(
        self, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At least once: a change is marked only after the receivers have returned."""
        moved("order-1", Status.DELAYED)

        class Killed(BaseException):
            pass

        def die(execute: Any, sql: str, *args: Any) -> Any:
            # From the record on, nothing reaches the database.
            if "giftcards_statuschange" in sql and sql.startswith("UPDATE"):
                monkeypatch.setattr(ProviderState.objects, "release_lease", lambda *_: None)
                raise Killed
            return execute(sql, *args)

        with connection.execute_wrapper(die), pytest.raises(Killed):
            announce()
        monkeypatch.undo()
        assert trouble.told == ["A DELAYED", "B DELAYED"]
        pass_time(timedelta(minutes=2))
        assert trouble.hears() == ["A DELAYED", "B DELAYED"]
        assert waiting() == 0

    def test_because_a_receiver_takes_too_long(
        self, trouble: Trouble, connected: Callable[..., None]
    ) -> None:
        """django-q2 raises SystemExit in a task then. It must not be told first for ever."""
        moved("order-1", Status.DELAYED)
        moved("order-2", Status.DELAYED)
        told: list[str] = []
        here = f"{MODULE}.TestProcessThatDies.test_because_a_receiver_takes_too_long.<locals>"

        def hang(order: Order, **named: object) -> None:
            told.append(order.reference)
            if order.reference == "order-1":
                raise SystemExit

        def late(order: Order, **named: object) -> None:
            told.append(f"late {order.reference}")

        connected(hang, late)
        with pytest.raises(SystemExit):
            announce()
        assert told == ["order-1"]
        assert announce() == 1
        assert told == ["order-1", "order-2", "late order-2"]
        trouble.told.clear()
        change = StatusChange.objects.get(order__reference="order-1")
        assert change.heard == [f"{MODULE}.Trouble.a", f"{MODULE}.Trouble.b"]
        assert change.announce_error.startswith(f"{here}.hang: SystemExit at {__file__}:")
        pass_time(timedelta(seconds=11))
        with pytest.raises(SystemExit):
            announce()
        assert trouble.told == []
        order_status_changed.disconnect(hang)
        pass_time(timedelta(seconds=21))
        assert announce() == 1
        assert told[-1] == "late order-1"
