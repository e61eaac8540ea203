"""Receivers are notified of every change at least once, in sequence, and never affect an order."""

from __future__ import annotations

import gc
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, ProgrammingError, connection
from django.db.backends.signals import connection_created
from django.db.models import F
from django.dispatch import Signal
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from giftcards.engine.outbox import OFFERS, announce, next_try
from giftcards.models import Lease, Order, StatusChange
from giftcards.signals import offer_changed, order_finalized, order_status_changed
from giftcards.statuses import Status
from tests.builders import make_guide_order, make_offer
from tests.stage import Log, Setter, failing, lease, messages, receiving, wait_until

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

Receiver = Callable[[Order, StatusChange], object]
Listen = Callable[[Signal, Receiver], None]
Heard = list[tuple[str, str, str]]
MODULE = "order_status_changed tests.engine.test_outbox"
TOLD = f"Interrupted while calling {MODULE}.interrupted."


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
    """The signals that were sent, in sequence, each with its order and its change."""
    calls: Heard = []
    listen(
        order_status_changed,
        lambda order, change: calls.append(("changed", order.reference, str(change))),
    )
    listen(
        order_finalized,
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
        """Announce, and return the changes of which this notifies the receivers."""
        self.told.clear()
        announce()
        return self.told


@pytest.fixture
def trouble(connected: Callable[..., None]) -> Trouble:
    trouble = Trouble()
    connected(trouble.a, trouble.b)
    return trouble


def pass_time(span: timedelta) -> None:
    """Move all stored times back by ``span``, as if this much time had passed."""
    StatusChange.objects.update(at=F("at") - span, announce_at=F("announce_at") - span)
    Lease.objects.filter(name=Lease.OUTBOX).update(until=F("until") - span)


def pause_of(change: StatusChange) -> float:
    change.refresh_from_db()
    assert change.announce_at
    return (change.announce_at - timezone.now()).total_seconds()


def moved(reference: str, *targets: Status) -> Order:
    order = make_guide_order(reference=reference)
    for target in targets:
        assert order.move(target, source=StatusChange.Source.CLOCK)
    return order


def waiting() -> int:
    return StatusChange.objects.filter(announced_at=None).count()


def test_every_change_is_announced_once_and_in_its_order(heard: Heard) -> None:
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


def test_a_rejected_order_is_announced_as_settled(heard: Heard) -> None:
    order = make_guide_order(Status.PLACING, reference="order-1")
    order.move(Status.REJECTED, source=StatusChange.Source.PLACING)
    announce()
    assert [signal for signal, _, _ in heard] == ["changed", "settled"]


def test_a_receiver_gets_the_order_as_it_is_stored(listen: Listen) -> None:
    order = moved("order-1", Status.DELAYED)
    Order.objects.filter(pk=order.pk).update(fulfilled_quantity=1)
    seen: list[tuple[str, int]] = []
    listen(
        order_status_changed,
        lambda order, change: seen.append((order.status, order.fulfilled_quantity)),
    )
    announce()
    assert seen == [("DELAYED", 1)]


def test_without_receivers_no_change_is_left_unannounced() -> None:
    moved("order-1", Status.REFUNDED)
    assert announce() == 1
    assert waiting() == 0


def test_announcing_costs_one_query_if_there_is_nothing_to_announce(
    django_assert_num_queries: Any,
) -> None:
    with django_assert_num_queries(1):
        assert announce() == 0


def test_announcing_a_change_costs_two_queries(heard: Heard) -> None:
    def queries(*references: str) -> int:
        for reference in references:
            moved(reference, Status.DELAYED, Status.REFUNDED)
        with CaptureQueriesContext(connection) as queries:
            assert announce() == 2 * len(references)
        return len(queries)

    queries("first")
    one, five = queries("1"), queries(*"23456")
    assert five - one == 2 * 2 * 4


def test_many_changes_are_announced_in_batches(heard: Heard, shorten: Setter) -> None:
    shorten(announcing_batch=3)
    for number in range(8):
        moved(f"order-{number}", Status.DELAYED)
    assert announce() == 8
    assert [reference for _, reference, _ in heard] == [f"order-{n}" for n in range(8)]


def test_announcing_stops_when_told_to(heard: Heard) -> None:
    moved("order-1", Status.DELAYED, Status.REFUNDED)
    answers = iter([True, True, False, False])
    assert announce(lambda: next(answers)) == 1
    assert [str(change) for _, _, change in heard] == ["HANDLING → DELAYED"]
    assert lease(Lease.OUTBOX).until is None
    assert announce() == 1
    assert waiting() == 0


class TestReceiverThatFails:
    def test_only_the_receiver_that_failed_is_told_again(self, trouble: Trouble) -> None:
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
        assert change.announced_to == [f"{MODULE}.Trouble.a", f"{MODULE}.Trouble.b"]
        pass_time(timedelta(days=1))
        assert trouble.hears() == []

    def test_a_receiver_that_fails_hears_later_changes_after_the_earlier_ones(
        self, trouble: Trouble
    ) -> None:
        order = moved("order-1", Status.DELAYED)
        trouble.failing = {"A"}
        trouble.hears()
        pass_time(timedelta(seconds=11))
        trouble.hears()
        order.move(Status.REFUNDED, source=StatusChange.Source.CLOCK)
        moved("order-2", Status.DELAYED)
        # The failure does not affect a different order.
        assert trouble.hears() == ["B REFUNDED", "A DELAYED", "B DELAYED"]
        assert trouble.hears() == []
        trouble.failing.clear()
        pass_time(timedelta(seconds=21))
        assert trouble.hears() == ["A DELAYED", "A REFUNDED", "A DELAYED"]
        assert waiting() == 0

    def test_a_change_that_is_held_back_counts_no_failure(self, trouble: Trouble) -> None:
        first, second = moved("order-1", Status.DELAYED, Status.REFUNDED).changes.all()
        trouble.failing = {"A"}
        trouble.hears()
        for change in (first, second):
            change.refresh_from_db()
        assert (first.announce_failures, second.announce_failures) == (1, 0)
        assert (second.announce_error, second.announce_at) == ("", first.announce_at)

    def test_the_error_of_a_receiver_is_cleared_when_it_has_succeeded(
        self, trouble: Trouble
    ) -> None:
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

    def test_pauses_between_announcements_grow_up_to_an_hour_for_about_a_day(
        self, trouble: Trouble
    ) -> None:
        [change] = moved("order-1", Status.DELAYED).changes.all()
        trouble.failing = {"A"}
        pauses = []
        while trouble.hears():
            change.refresh_from_db()
            if change.announce_at is None:
                break
            pauses.append(pause_of(change))
            pass_time(timedelta(seconds=pauses[-1] + 0.5))
        assert pauses[:4] == pytest.approx([10, 20, 40, 80], abs=5)
        assert max(pauses) == pytest.approx(3600, abs=5)
        assert timedelta(hours=23) < timedelta(seconds=sum(pauses)) < timedelta(hours=26)

    def test_an_announcement_is_given_up_after_32_failures_and_listed(
        self, trouble: Trouble
    ) -> None:
        order = moved("order-1", Status.DELAYED, Status.REFUNDED)
        first, second = order.changes.all()
        trouble.failing = {"A"}
        trouble.hears()
        StatusChange.objects.filter(pk=first.pk).update(announce_failures=31)
        pass_time(timedelta(seconds=11))
        # The change that was held back is announced now, however old it is.
        assert trouble.hears() == ["A DELAYED", "A REFUNDED"]
        assert list(StatusChange.objects.given_up()) == [first]
        first.refresh_from_db()
        assert first.announce_error.startswith(f"{MODULE}.Trouble.a: ")
        assert first.announced_to == [f"{MODULE}.Trouble.b"]
        assert pause_of(second) == pytest.approx(10, abs=2)
        pass_time(timedelta(days=9))
        assert trouble.hears() == ["A REFUNDED"]

    def test_an_announcement_is_not_given_up_after_days_without_a_worker(
        self, trouble: Trouble
    ) -> None:
        [change] = moved("order-1", Status.DELAYED).changes.all()
        pass_time(timedelta(days=3))
        trouble.failing = {"A"}
        trouble.hears()
        assert pause_of(change) == pytest.approx(10, abs=2)

    def test_each_signal_of_a_change_is_repeated_by_itself(
        self, heard: Heard, trouble: Trouble, listen: Listen
    ) -> None:
        errors = [ConnectionError()]

        def receive(order: Order, change: StatusChange) -> None:
            if errors:
                raise errors.pop()

        with receiving(order_finalized, trouble.a):
            listen(order_finalized, receive)
            moved("order-1", Status.REFUNDED)
            assert trouble.hears() == ["A REFUNDED", "B REFUNDED", "A REFUNDED"]
            heard.clear()
            pass_time(timedelta(seconds=11))
            assert trouble.hears() == []
            # Both receivers were made by `listen` and have the same name, so both are called again.
            assert heard == [("settled", "order-1", "HANDLING → REFUNDED")]
        assert waiting() == 0

    def test_the_error_message_of_a_receiver_is_neither_logged_nor_stored(
        self, trouble: Trouble, caplog: Log
    ) -> None:
        caplog.set_level("DEBUG")
        moved("order-1", Status.DELAYED)
        trouble.failing = {"A"}
        trouble.hears()
        [entry] = [entry for entry in caplog.records if entry.levelname == "ERROR"]
        message, line = entry.getMessage().split(f"{__file__}:")
        assert message == (
            "Announcing order order-1 (HANDLING → DELAYED) failed."
            " order_status_changed tests.engine.test_outbox.Trouble.a: ConnectionError at "
        )
        assert re.fullmatch(r"\d+", line)
        assert entry.exc_info is None
        assert "AAAA" not in caplog.text
        assert "AAAA" not in str(list(StatusChange.objects.values()))

    def test_an_order_stays_unchanged_when_its_receivers_fail(self, trouble: Trouble) -> None:
        order = moved("order-1", Status.REFUNDED)
        before = Order.objects.filter(pk=order.pk).values().get()
        trouble.failing = {"A", "B"}
        trouble.hears()
        assert Order.objects.filter(pk=order.pk).values().get() == before

    def test_a_receiver_hears_order_settled_though_it_failed_at_an_earlier_change(
        self, trouble: Trouble, heard: Heard
    ) -> None:
        """Each signal has its own sequence."""
        with receiving(order_finalized, trouble.a):
            moved("order-1", Status.DELAYED)
            trouble.failing = {"A"}
            trouble.hears()
            Order.objects.get().move(Status.REFUNDED, source=StatusChange.Source.CLOCK)
            trouble.failing.clear()
            assert trouble.hears() == ["B REFUNDED", "A REFUNDED"]
            assert heard[-1] == ("settled", "order-1", "DELAYED → REFUNDED")
            pass_time(timedelta(seconds=11))
            assert trouble.hears() == ["A DELAYED", "A REFUNDED"]
        assert waiting() == 0


class TestNextTry:
    NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    SOON, HOUR = NOW + timedelta(minutes=7), NOW + timedelta(hours=1)

    @pytest.mark.parametrize(
        ("failures", "has_failed", "held_until", "expected"),
        [
            (3, False, None, (3, None)),
            # The change is held back, so it is due right after the earlier change.
            (3, False, SOON, (3, SOON)),
            (0, True, None, (1, NOW + timedelta(seconds=10))),
            (30, True, SOON, (31, HOUR)),
            (31, True, None, (32, None)),
            (99, True, None, (100, None)),
            # The change stays due for receivers that are held back.
            (31, True, SOON, (32, HOUR)),
        ],
    )
    def test_a_failed_announcement_is_due_again_until_32_failures(
        self, failures: int, has_failed: bool, held_until: datetime | None, expected: Any
    ) -> None:
        found = next_try(failures, has_failed=has_failed, held_until=held_until, now=self.NOW)
        assert found == expected


class TestDeployBetweenTwoTries:
    """The receivers have new names then.

    A receiver must not count as notified by mistake.
    """

    @pytest.fixture(autouse=True)
    def _first_try(self, trouble: Trouble) -> None:
        moved("order-1", Status.DELAYED)
        trouble.failing = {"A"}
        assert trouble.hears() == ["A DELAYED", "B DELAYED"]
        trouble.failing.clear()

    def settle(self) -> None:
        Order.objects.get().move(Status.REFUNDED, source=StatusChange.Source.CLOCK)

    @pytest.mark.parametrize(
        ("is_settled", "gone", "come", "at_once", "left", "later"),
        [
            (False, "a", "a_renamed", [], 1, ["A DELAYED"]),
            (False, "b", "b_renamed", [], 1, ["A DELAYED", "B DELAYED"]),
            (True, "a", "a_renamed", ["B REFUNDED"], 2, ["A DELAYED", "A REFUNDED"]),
            (True, "a", "", ["B REFUNDED"], 1, []),
            (
                True,
                "",
                "new",
                ["B REFUNDED"],
                2,
                ["A DELAYED", "N DELAYED", "A REFUNDED", "N REFUNDED"],
            ),
        ],
        ids=[
            "renamed before it heard: told",
            "renamed after it heard: told twice rather than never",
            "renamed: later changes after the earlier ones",
            "removed: no later change is held back",
            "new: told of the waiting changes too",
        ],
    )
    def test_a_renamed_removed_or_new_receiver_is_told_as_the_table_says(
        self,
        is_settled: bool,
        gone: str,
        come: str,
        at_once: list[str],
        left: int,
        later: list[str],
        trouble: Trouble,
        connected: Callable[..., None],
    ) -> None:
        if is_settled:
            self.settle()
        if gone:
            order_status_changed.disconnect(getattr(trouble, gone))
        if come:
            connected(getattr(trouble, come))
        assert trouble.hears() == at_once
        assert waiting() == left
        pass_time(timedelta(seconds=11))
        assert trouble.hears() == later
        assert waiting() == 0

    def test_an_announcement_that_was_given_up_holds_no_renamed_receiver_back(
        self, trouble: Trouble, connected: Callable[..., None]
    ) -> None:
        self.settle()
        StatusChange.objects.filter(to_status="DELAYED").update(announce_at=None)
        order_status_changed.disconnect(trouble.a)
        connected(trouble.a_renamed)
        assert trouble.hears() == ["B REFUNDED", "A REFUNDED"]


def test_a_renamed_receiver_that_keeps_its_dispatch_uid_is_not_told_twice(
    connected: Callable[..., None],
) -> None:
    trouble = Trouble()
    trouble.failing = {"A"}
    order_status_changed.connect(trouble.b, dispatch_uid="b")
    connected(trouble.a)
    moved("order-1", Status.DELAYED)
    try:
        assert trouble.hears() == ["B DELAYED", "A DELAYED"]
        assert StatusChange.objects.get().announced_to == ["order_status_changed b"]
        order_status_changed.disconnect(dispatch_uid="b")
        order_status_changed.connect(trouble.b_renamed, dispatch_uid="b")
        trouble.failing.clear()
        pass_time(timedelta(seconds=11))
        assert trouble.hears() == ["A DELAYED"]
    finally:
        order_status_changed.disconnect(dispatch_uid="b")
    assert waiting() == 0


def test_a_receiver_that_no_longer_exists_holds_no_change_back() -> None:
    weakly = Trouble()
    weakly.failing = {"N"}
    order_status_changed.connect(weakly.new)
    moved("order-1", Status.DELAYED, Status.REFUNDED)
    announce()
    assert weakly.told == ["N DELAYED"]
    assert waiting() == 2
    del weakly
    gc.collect()
    pass_time(timedelta(seconds=11))
    assert announce() == 2
    assert waiting() == 0


class Shop:
    """A receiver that is an object and has a repr() with secret content."""

    def __call__(self, **named: object) -> None:
        pass

    def __repr__(self) -> str:
        return "<AAAA-AAAA-AAAA-AAAA>"


def hear(secret: str, **named: object) -> None:
    pass


async def hear_slowly(**named: object) -> None:
    pass


def test_names_of_receivers_are_the_same_in_another_process(connected: Callable[..., None]) -> None:
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
    here = f"{MODULE}.test_names_of_receivers_are_the_same_in_another_process.<locals>"
    makes = f"{here}.as_a_process_makes_them.<locals>"
    assert change.announced_to == [
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
def test_two_receivers_of_one_name_are_told_again_together(
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
    assert StatusChange.objects.get().announced_to == []
    # A receiver that always fails does not prevent the call of a receiver with the same name.
    assert told == (["first"] if (error, fails) == (SystemExit, "first") else ["first", "second"])
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


def test_an_order_deleted_by_a_receiver_does_not_disturb_the_announcing(
    heard: Heard, listen: Listen
) -> None:
    moved("order-1", Status.DELAYED)
    moved("order-2", Status.DELAYED)
    listen(
        order_status_changed, lambda order, change: order.reference == "order-1" and order.delete()
    )
    announce()
    assert [reference for _, reference, _ in heard] == ["order-1", "order-2"]
    assert waiting() == 0


class TestLease:
    def test_one_process_announces_at_a_time(self, heard: Heard) -> None:
        moved("order-1", Status.DELAYED)
        token = Lease.objects.take(Lease.OUTBOX, timedelta(minutes=2))
        assert token
        assert announce() == 0
        assert heard == []
        Lease.objects.release(Lease.OUTBOX, token)
        assert announce() == 1

    def test_a_receiver_that_announces_starts_no_announcing_within_the_first(
        self, heard: Heard, listen: Listen
    ) -> None:
        """Receivers in a worker do this when they place an order."""
        moved("order-1", Status.DELAYED)
        found: list[int] = []
        listen(order_status_changed, lambda order, change: found.append(announce()))
        assert announce() == 1
        assert found == [0]
        assert len(heard) == 1

    def test_a_slow_receiver_of_offers_holds_up_no_news_of_orders(self, heard: Heard) -> None:
        make_offer().changes.create(what="new")
        moved("order-1", Status.DELAYED)
        found: list[int] = []

        def receive(**_: object) -> None:
            # Another process announces at the same time.
            found.append(announce())

        with receiving(offer_changed, receive):
            assert announce(outbox=OFFERS) == 1
        assert (found, len(heard)) == ([1], 1)

    def test_a_change_made_by_a_receiver_is_announced_in_the_same_run(
        self, heard: Heard, listen: Listen
    ) -> None:
        order = moved("order-1", Status.DELAYED)

        def settle(_order: Order, change: StatusChange) -> None:
            if change.to_status == Status.DELAYED:
                order.move(Status.REFUNDED, source=StatusChange.Source.CLOCK)
                assert announce() == 0

        listen(order_status_changed, settle)
        assert announce() == 2
        assert len(heard) == 3

    @pytest.mark.django_db(transaction=True)
    def test_a_process_that_lost_its_lease_stops_announcing(
        self, shared_database: str, heard: Heard, listen: Listen, shorten: Setter
    ) -> None:
        shorten(announcing_renewal=0.05)
        moved("order-1", Status.DELAYED, Status.REFUNDED)

        def take_over(order: Order, change: StatusChange) -> None:
            Lease.objects.filter(name=Lease.OUTBOX).update(token="another")
            ends = time.monotonic() + 0.05
            wait_until(lambda: time.monotonic() > ends)

        listen(order_status_changed, take_over)
        assert announce() == 1
        assert [str(change) for _, _, change in heard] == ["HANDLING → DELAYED"]
        assert lease(Lease.OUTBOX).token == "another"
        assert lease(Lease.OUTBOX).until is not None

    @pytest.mark.django_db(transaction=True)
    def test_the_announcing_lease_is_renewed_while_a_receiver_runs_also_after_a_failure(
        self, shared_database: str, listen: Listen, shorten: Setter
    ) -> None:
        shorten(announcing_renewal=0.05)
        moved("order-1", Status.DELAYED)
        failed = threading.Event()

        def fail_once(**_: Any) -> None:
            if not failed.is_set():
                failed.set()
                raise OperationalError

        def wait_for_renewals(order: Order, change: StatusChange) -> None:
            for _renewal in range(3):
                before = lease(Lease.OUTBOX).until
                wait_until(lambda before=before: lease(Lease.OUTBOX).until != before)

        listen(order_status_changed, wait_for_renewals)
        # Renewals use a separate connection.
        with receiving(connection_created, fail_once):
            assert announce() == 1
        assert failed.is_set()
        # The thread does not renew the released lease.
        assert lease(Lease.OUTBOX).until is None

    @pytest.mark.django_db(transaction=True)
    def test_the_announcing_lease_expires_while_a_receiver_hangs(
        self, shared_database: str, listen: Listen, shorten: Setter
    ) -> None:
        shorten(announcing_renewal=0.05, announcing_longest=0.2)
        shorten(lease=timedelta(seconds=0.3))
        moved("order-1", Status.DELAYED)

        def hang(order: Order, change: StatusChange) -> None:
            wait_until(lambda: not Lease.objects.is_taken(Lease.OUTBOX))

        listen(order_status_changed, hang)
        assert announce() == 1


class TestSuccessor:
    """Another process takes over from a living process whose receiver took too long."""

    def take_over(self) -> int:
        pass_time(timedelta(seconds=11))
        Lease.objects.filter(name=Lease.OUTBOX).update(token="", until=None)
        return announce()

    def test_what_a_successor_has_recorded_is_kept_when_the_slow_process_fails(
        self, trouble: Trouble, listen: Listen
    ) -> None:
        moved("order-1", Status.DELAYED)
        told: list[int] = []

        def outlive(order: Order, change: StatusChange) -> None:
            told.append(change.pk)
            if len(told) == 1:
                assert self.take_over() == 1
                raise TimeoutError

        listen(order_status_changed, outlive)
        announce()
        assert len(told) == 2
        change = StatusChange.objects.get()
        assert (change.announced_at is not None, change.announce_at) == (True, None)
        assert change.announce_error == ""

    def test_a_slow_process_does_not_announce_what_its_successor_has_announced(
        self, heard: Heard, listen: Listen
    ) -> None:
        moved("order-1", Status.DELAYED)
        moved("order-2", Status.DELAYED)

        def outlive(order: Order, change: StatusChange) -> None:
            if [reference for _, reference, _ in heard] == ["order-1"]:
                self.take_over()

        listen(order_status_changed, outlive)
        announce()
        references = [reference for _, reference, _ in heard]
        assert references == ["order-1", "order-1", "order-2"]


class TestDatabase:
    """If the database fails for one change, the others are announced."""

    @staticmethod
    def refuse(reference: str, *, column: str) -> AbstractContextManager[list[str]]:
        """Make the database refuse to write ``column`` of the order's change."""
        [pk] = StatusChange.objects.filter(order__reference=reference).values_list("pk", flat=True)
        return failing(
            "UPDATE",
            "giftcards_statuschange",
            error=IntegrityError("Failing row contains (CANARY)"),
            when=lambda sql, params: column in sql.partition("WHERE")[0] and pk in params,
        )

    @pytest.mark.django_db(transaction=True)
    def test_no_receiver_is_called_for_a_change_that_cannot_be_written(
        self, heard: Heard, caplog: Log
    ) -> None:
        for number in range(3):
            moved(f"order-{number}", Status.DELAYED)
        with self.refuse("order-1", column="announce_at"):
            assert announce() == 2
        assert [reference for _, reference, _ in heard] == ["order-0", "order-2"]
        assert messages(caplog) == [
            "Announcing order order-1 (HANDLING → DELAYED): writing to the database failed"
            " (IntegrityError)"
        ]
        assert announce() == 1

    @pytest.mark.django_db(transaction=True)
    def test_a_receiver_whose_success_cannot_be_recorded_is_called_again_later(
        self, heard: Heard
    ) -> None:
        for number in range(3):
            moved(f"order-{number}", Status.DELAYED)
        with self.refuse("order-1", column="announced_to"):
            assert announce() == 2
            assert announce() == 0
            pass_time(timedelta(seconds=11))
            assert announce() == 0
            assert announce() == 0
        references = [reference for _, reference, _ in heard]
        assert references == ["order-0", "order-1", "order-2", "order-1"]
        assert 10 < pause_of(StatusChange.objects.get(order__reference="order-1")) <= 20

    @pytest.mark.django_db(transaction=True)
    def test_announcing_ends_if_no_change_can_be_written(
        self, heard: Heard, shorten: Setter
    ) -> None:
        shorten(announcing_batch=2)
        for number in range(5):
            moved(f"order-{number}", Status.DELAYED)
        error = ProgrammingError("no such column")
        with failing("UPDATE", "giftcards_statuschange", error=error) as failed:
            assert announce() == 0
        assert (heard, len(failed)) == ([], 2)
        assert announce() == 5


class TestProcessThatDies:
    def test_changes_told_but_not_recorded_before_a_crash_are_told_again(
        self, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A change is marked only after the receivers have returned, so it is never missed."""
        moved("order-1", Status.DELAYED)
        moved("order-2", Status.DELAYED)

        class Killed(BaseException):
            pass

        def die(execute: Any, sql: str, *args: Any) -> Any:
            # Once the change is to be recorded, nothing reaches the database.
            is_write = sql.startswith("UPDATE") and "giftcards_statuschange" in sql
            if is_write and "announced_to" in sql:
                monkeypatch.setattr(Lease.objects, "release", lambda *_: None)
                raise Killed
            return execute(sql, *args)

        with connection.execute_wrapper(die), pytest.raises(Killed):
            announce()
        monkeypatch.undo()
        assert trouble.told == ["A DELAYED", "B DELAYED"]
        assert trouble.hears() == []
        pass_time(timedelta(seconds=10))
        assert trouble.hears() == ["A DELAYED", "B DELAYED"] * 2
        assert waiting() == 0

    def test_a_receiver_that_ends_the_process_holds_up_no_other_order(
        self, trouble: Trouble, connected: Callable[..., None]
    ) -> None:
        """If a receiver hangs, django-q2 raises SystemExit in its task.

        The change must not be announced first every time.
        """
        moved("order-1", Status.DELAYED)
        moved("order-2", Status.DELAYED)
        told: list[str] = []
        test = "test_a_receiver_that_ends_the_process_holds_up_no_other_order"
        here = f"{MODULE}.TestProcessThatDies.{test}.<locals>"

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
        assert change.announced_to == [f"{MODULE}.Trouble.a", f"{MODULE}.Trouble.b"]
        assert change.announce_error.startswith(f"{here}.hang: SystemExit at {__file__}:")
        pass_time(timedelta(seconds=11))
        with pytest.raises(SystemExit):
            announce()
        assert trouble.told == []
        order_status_changed.disconnect(hang)
        pass_time(timedelta(seconds=21))
        assert announce() == 1
        assert told[-1] == "late order-1"

    @pytest.mark.parametrize(
        ("raised", "passed_on"),
        [
            (SystemExit(3), SystemExit(3)),
            (SystemExit(), SystemExit(None)),
            (SystemExit("A-CODE"), SystemExit(TOLD)),
            (KeyboardInterrupt("A-CODE"), KeyboardInterrupt(TOLD)),
            # An exception group takes different arguments.
            (BaseExceptionGroup("A-CODE", [KeyboardInterrupt("A-CODE")]), SystemExit(TOLD)),
        ],
        ids=repr,
    )
    def test_an_interruption_by_a_receiver_is_passed_on_without_its_message(
        self, raised: BaseException, passed_on: BaseException, connected: Callable[..., None]
    ) -> None:
        def interrupted(**_named: object) -> None:
            try:
                raise ValueError("A-CODE")
            except ValueError:
                raise raised  # noqa: B904

        interrupted.__qualname__ = "interrupted"
        connected(interrupted)
        moved("order-1", Status.DELAYED)
        with pytest.raises(type(passed_on)) as caught:
            announce()
        error = caught.value
        assert (error.args, error.__cause__, error.__context__) == (passed_on.args, None, None)
        assert "A-CODE" not in "".join(traceback.format_exception(error))
