"""The task that a worker runs, and what wakes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.db.models import F
from django.utils import timezone
from django_q.cluster import Sentinel
from django_q.conf import Conf
from django_q.models import OrmQ

from giftcards.delivery.models import Delivery, Installation
from giftcards.delivery.queueing import LOST_REFUNDS, QUEUED, wake
from giftcards.delivery.tasks import deliver
from giftcards.models import CustomerRefund, Lease, ProviderState
from giftcards.rules.problems import Problem
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from giftcards.tasks import sweep, tick
from tests.builders import make_guide_order
from tests.delivery.mails import again, let_pass, make_message, pause
from tests.fakes.mail import DROP, HANG, Fault, MailServer
from tests.stage import ago, hold_lease, lease, messages, releases_lease

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def set_workers(number: int) -> None:
        monkeypatch.setattr(Conf, "WORKERS", number)

    set_workers(2)
    return set_workers


@pytest.fixture(autouse=True)
def _workers(workers: Callable[[int], None]) -> None:
    """Run two workers by default. With more, the task waits for messages that are due soon."""


class Cluster(Sentinel):  # type: ignore[misc]
    """A cluster that runs a task as django-q2 does."""

    def __init__(self) -> None:
        self.stop_event = threading.Event()

    def run(self, task: Callable[[], str]) -> str:
        return task()


def queued() -> list[str]:
    return [row.task["func"] for row in OrmQ.objects.all()]


def test_the_task_sends_what_is_due_and_tells_counts_only(server: MailServer) -> None:
    make_message()
    make_message(Status.DELAYED, address="b@example.com")
    assert deliver() == ("2 sent, 0 to be retried, 0 failed, 0 cancelled; 0 digests for staff")
    assert len(server.received) == 2
    assert lease("messages 0").until is None
    assert queued() == []


class TestWaking:
    def test_a_worker_is_woken_once_for_messages_that_follow_each_other(self) -> None:
        wake()
        wake()
        assert queued() == ["giftcards.delivery.tasks.deliver"]

    @pytest.mark.usefixtures("server")
    def test_a_message_that_comes_after_the_task_has_begun_wakes_another(self) -> None:
        wake()
        deliver()
        wake()
        assert len(queued()) == 2

    def test_every_tick_wakes_a_worker(self) -> None:
        tick()
        assert queued() == ["giftcards.delivery.tasks.deliver"]


class TestAQueueThatNobodyReads:
    """django-q2 is installed, and cron ticks, but no cluster runs."""

    @pytest.fixture(autouse=True)
    def _first_tick(self, server: MailServer) -> None:
        make_message()
        tick()
        assert server.received == []

    def pass_minutes(self) -> None:
        since = F("queue_waits_since") - timedelta(minutes=4)
        ProviderState.objects.update(queue_waits_since=since)

    def test_a_tick_sends_the_messages_itself_after_minutes(self, server: MailServer) -> None:
        self.pass_minutes()
        tick()
        assert len(server.received) == 1
        make_message(address="b@example.com")
        tick()
        assert len(server.received) == 2

    @pytest.mark.parametrize("task", [deliver, sweep])
    def test_once_a_task_has_been_taken_from_the_queue_ticks_leave_messages_to_it(
        self, task: Callable[[], str], server: MailServer
    ) -> None:
        self.pass_minutes()
        task()
        before = len(server.received)
        make_message(address="b@example.com")
        tick()
        assert len(server.received) == before

    def test_a_tick_in_a_cluster_leaves_the_messages_to_the_queue(self, server: MailServer) -> None:
        self.pass_minutes()
        Cluster().run(tick)
        assert server.received == []

    def test_after_the_queue_was_removed_tasks_in_it_no_longer_count(self, settings: Any) -> None:
        self.pass_minutes()
        settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_q"]
        tick()
        assert ProviderState.objects.get().queue_waits_since is None


class TestWorkers:
    @pytest.mark.parametrize(("number", "slots"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 4), (16, 4)])
    def test_messages_leave_two_workers_to_the_orders(
        self, number: int, slots: int, workers: Callable[[int], None], server: MailServer
    ) -> None:
        workers(number)
        make_message()
        for slot in range(slots):
            assert not server.received
            hold_lease(f"messages {slot}", until=timezone.now() + timedelta(minutes=1))
        assert deliver() == "other processes are already sending the messages"
        Lease.objects.revoke(f"messages {slots - 1}")
        assert deliver().startswith("1 sent")

    def test_a_message_queued_as_the_task_ends_wakes_a_worker(self, server: MailServer) -> None:
        """The worker that was woken for the message found no free slot and has ended."""

        def queue(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            done = execute(sql, params, many, context)
            if releases_lease("messages 0", sql, params):
                make_message()
            return done

        with connection.execute_wrapper(queue):
            assert deliver().startswith("0 sent")
        assert queued() == ["giftcards.delivery.tasks.deliver"]

    def test_a_single_worker_spends_seconds_only_on_a_server_that_hangs(
        self, workers: Callable[[int], None], server: MailServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workers(1)
        monkeypatch.setattr("giftcards.delivery.tasks._ALONE_SECONDS", 1)
        monkeypatch.setattr("giftcards.delivery.tasks._ALONE_ATTEMPT", 1.5)
        server.plan = lambda _number: Fault("rcpt", HANG)
        rows = [make_message(address=f"c{number}@example.com") for number in range(2)]
        began = time.monotonic()
        assert deliver().startswith("0 sent, 1 to be retried")
        assert time.monotonic() - began < 20
        assert [again(row).status for row in rows] == ["retrying", "queued"]
        # The next minute is soon enough for the remaining message.
        assert queued() == []

    def test_a_server_that_is_away_is_left_alone_until_the_next_minute(
        self, server: MailServer
    ) -> None:
        server.plan = lambda _number: Fault("connect", DROP)
        for number in range(4):
            make_message(address=f"c{number}@example.com")
        assert deliver().endswith("0 cancelled; a server does not answer; 0 digests for staff")
        assert queued() == []


class TestSoon:
    def test_a_retry_that_is_due_soon_is_waited_for_where_workers_are_free(
        self, workers: Callable[[int], None], server: MailServer, shorten: Callable[..., None]
    ) -> None:
        workers(3)
        shorten(task_poll=0.05)
        make_message(next_attempt_at=timezone.now() + timedelta(seconds=0.5))
        assert deliver().startswith("1 sent")

    def test_a_retry_that_is_due_later_is_left_to_the_next_minute(
        self, workers: Callable[[int], None], server: MailServer, shorten: Callable[..., None]
    ) -> None:
        workers(3)
        shorten(task_wait=0.2)
        message = make_message(next_attempt_at=timezone.now() + timedelta(seconds=60))
        assert deliver().startswith("0 sent")
        assert pause(message) > 0
        assert queued() == []

    def test_nothing_is_waited_for_where_workers_are_few(self, server: MailServer) -> None:
        make_message(next_attempt_at=timezone.now() + timedelta(seconds=60))
        began = time.monotonic()
        assert deliver().startswith("0 sent")
        assert time.monotonic() - began < 20


class TestTrouble:
    def test_the_task_raises_nothing_when_the_database_fails(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            raise OperationalError("Failing row contains (CANARY)")

        with connection.execute_wrapper(fail):
            assert deliver() == "failed"
        assert messages(caplog) == ["The task failed: OperationalError"]

    def test_settings_that_are_wrong_are_named(
        self, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.GIFTCARDS_DELIVERY = {"MODE": "CANARY"}
        assert deliver() == "failed"
        [logged] = messages(caplog)
        assert logged.startswith("The task failed: GIFTCARDS_DELIVERY['MODE'] must be one of")
        assert "CANARY" not in logged


class TestLostRefunds:
    @pytest.fixture
    def refund(self) -> CustomerRefund:
        """A refund whose process died between the commit and the signal."""
        Installation.objects.update_or_create(pk=1, defaults={"at": ago(90 * 86_400)})
        order = make_guide_order(Status.REFUNDED, sale_price=600, customer_email="lina@example.com")
        refund = record_refund(order, amount=500, reference="R1")
        Delivery.objects.all().delete()
        OrmQ.objects.all().delete()
        return refund

    @pytest.mark.usefixtures("server")
    def test_the_customer_of_a_lost_refund_is_told_once(self, refund: CustomerRefund) -> None:
        assert deliver().startswith("1 sent")
        message = Delivery.objects.get()
        assert (message.kind, message.refund, message.status) == ("paid_back", refund, "sent")
        Lease.objects.revoke(LOST_REFUNDS)
        assert deliver().startswith("0 sent")
        assert Delivery.objects.count() == 1

    @pytest.mark.usefixtures("refund", "server")
    def test_lost_refunds_are_looked_for_every_two_minutes(self) -> None:
        hold_lease(LOST_REFUNDS, until=timezone.now() + timedelta(minutes=1))
        assert deliver().startswith("0 sent")
        Lease.objects.revoke(LOST_REFUNDS)
        assert deliver().startswith("1 sent")

    @pytest.mark.parametrize(
        ("days_ago", "state", "is_told"),
        [(1, "done", True), (3, "done", False), (1, "cancelled", False)],
    )
    @pytest.mark.usefixtures("refund", "server")
    def test_only_refunds_of_late_are_told_of(
        self, days_ago: int, state: str, is_told: bool
    ) -> None:
        CustomerRefund.objects.update(executed_at=ago(days_ago * 86_400), state=state)
        deliver()
        assert Delivery.objects.exists() == is_told

    @pytest.mark.usefixtures("refund", "server")
    def test_refunds_of_before_the_installation_are_not_told_of(self) -> None:
        Installation.objects.update(at=timezone.now())
        deliver()
        assert not Delivery.objects.exists()


def test_the_slot_of_a_worker_that_died_is_free_again_after_two_minutes(server: MailServer) -> None:
    make_message()
    hold_lease("messages 0", until=ago(1))
    hold_lease(QUEUED, until=ago(1))
    assert deliver().startswith("1 sent")


def test_the_task_sends_the_digests_for_staff_after_the_messages(
    server: MailServer, settings: Any
) -> None:
    boss = "boss@example.com"
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "STAFF_EMAILS": [boss]}
    deliver()
    make_guide_order(problems=[Problem("surplus_cards", {"received": 3, "announced": 2})])
    let_pass(minutes=31)
    make_message()
    assert deliver() == ("1 sent, 0 to be retried, 0 failed, 0 cancelled; 1 digest for staff")
    assert [mail.recipient for mail in server.received][-2:] == ["lina@example.com", boss]
