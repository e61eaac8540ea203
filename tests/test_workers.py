"""Workers beside django-q2's cluster, in processes of their own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.utils import timezone

from giftcards.engine.loop import begin_tick
from giftcards.exceptions import GiftcardsError
from giftcards.models import Order, ProviderState
from giftcards.simulator import Simulator
from giftcards.tasks import add_companion, companions
from tests.fakes.mail import MailServer
from tests.stage import LINE, messages, posts, record_order, stop, wait_until

pytest_plugins = ["tests.stage_fixtures"]


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with MailServer() as running:
        yield running


@pytest.mark.cluster
@pytest.mark.all_apps
@pytest.mark.django_db(transaction=True)
def test_without_django_q_the_loop_alone_does_all_the_work(
    child: Callable[..., subprocess.Popen[str]], simulator: Simulator, mail_server: MailServer
) -> None:
    from giftcards.books.models import LedgerState
    from giftcards.delivery.models import Delivery

    without = {
        "DJANGO_SETTINGS_MODULE": "tests.without_django_q",
        "MAIL_PORT": str(mail_server.port),
        # A new order does not wait for it.
        "GIFTCARDS_POLL_INTERVAL": "60",
    }
    for command in (["check", "--fail-level", "WARNING"], ["giftcards_setup"]):
        process = child(*command, **without)
        assert process.wait(60) == 0, stop(process)
    LedgerState.objects.current()
    LedgerState.objects.update(due_at=timezone.now() - timedelta(minutes=1))
    record_order(**LINE, reference="cart-1", customer_email="lina@example.com")
    loop = child("giftcards_poll", "--loop", **without)
    wait_until(Order.objects.filter(status="FULFILLED").exists)
    wait_until(Delivery.objects.filter(status="sent").exists)
    assert len(mail_server.received) == 1
    # The night's reading is done, and put off to the next night.
    wait_until(LedgerState.objects.filter(due_at__gt=timezone.now()).exists)
    record_order(**LINE, reference="cart-2")
    wait_until(lambda: posts(simulator) == 2, seconds=45)
    assert ProviderState.objects.get().ticked_by == f"giftcards_poll@{socket.gethostname()}"
    loop.send_signal(signal.SIGTERM)
    assert loop.wait(60) == 0
    assert "Traceback" not in stop(loop)


@pytest.mark.django_db
class TestNames:
    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            (["manage.py", "qcluster", "--settings=shop.settings"], "qcluster"),
            (["/srv/venv/lib/django/__main__.py", "db_worker", "secret"], "db_worker"),
            (["/srv/venv/bin/django-admin", "giftcards_poll", "--loop"], "giftcards_poll"),
            (["/srv/venv/bin/celery", "-A", "shop", "worker"], "celery"),
            (["/srv/venv/lib/celery/__main__.py", "worker"], "celery"),
            (["manage.py"], "manage"),
            ([], ""),
            (["x" * 200], "x" * 100),
        ],
    )
    def test_a_tick_records_its_program_and_machine(
        self, arguments: list[str], name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "argv", arguments)
        monkeypatch.setattr(socket, "gethostname", lambda: "web-2")
        begin_tick()
        assert ProviderState.objects.get().ticked_by == f"{name}@web-2"[:100]


class TestCompanions:
    @pytest.fixture(autouse=True)
    def _alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("giftcards.tasks._companions", {})
        monkeypatch.setattr("giftcards.tasks._COMPANION_PAUSE", 0.01)

    @pytest.mark.parametrize(
        ("error", "why"), [(ValueError("CANARY"), "ValueError"), (GiftcardsError("Why."), "Why.")]
    )
    def test_work_beside_the_loop_that_fails_is_begun_again_until_the_loop_ends(
        self, error: Exception, why: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        begun: list[threading.Event] = []

        def work(stop: threading.Event) -> None:
            begun.append(stop)
            if len(begun) == 1:
                raise error
            stop.wait()

        add_companion("the messages", work)
        before = threading.active_count()
        with companions(threading.Event()):
            wait_until(lambda: len(begun) == 2)
        assert threading.active_count() == before
        assert messages(caplog) == [f"Without the messages for a minute: {why}"]

    def test_an_error_of_the_loop_ends_the_work_beside_it(self) -> None:
        add_companion("the messages", threading.Event.wait)
        with pytest.raises(ValueError, match="CANARY"), companions(threading.Event()):
            raise ValueError("CANARY")
