"""Every kind of worker sends the messages that are due."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from giftcards.delivery.models import Delivery
from giftcards.delivery.tasks import deliver
from giftcards.simulator import Simulator
from giftcards.tasks import tick
from tests.conftest import Call
from tests.delivery.mails import ADDRESS, again, make_message
from tests.fakes.mail import DROP, Fault, MailServer
from tests.stage import stop, wait_until

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db(transaction=True)


def run_queue(_call: Call) -> None:
    """Run the scheduled task, and then the task that it queues for a worker."""
    tick()
    deliver()


def run_command(*arguments: str) -> Callable[[Call], Any]:
    return lambda call: call("giftcards_poll", *arguments)


@pytest.mark.usefixtures("handlers", "simulator")
@pytest.mark.parametrize(
    ("has_queue", "work"),
    [
        pytest.param(True, run_queue, id="queue"),
        pytest.param(False, run_command("--tick"), id="cron"),
        pytest.param(True, run_command(), id="sweep-beside-a-queue"),
        pytest.param(False, run_command(), id="sweep"),
    ],
)
def test_every_worker_sends_the_messages_that_are_due(
    *, has_queue: bool, work: Callable[[Call], Any], call: Call, server: MailServer, settings: Any
) -> None:
    if not has_queue:
        settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_q"]
    message = make_message()
    work(call)
    assert again(message).status == "sent"
    assert [mail.recipient for mail in server.received] == [ADDRESS]


@pytest.mark.usefixtures("simulator")
def test_a_sweep_beside_a_mail_server_that_is_away_ends_as_it_would_without_messages(
    call: Call, server: MailServer
) -> None:
    server.plan = lambda _number: Fault("connect", DROP)
    messages = [make_message(address=f"c{number}@example.com") for number in range(4)]
    assert call("giftcards_poll") == ("0 sent, 0 checked, 0 settled, 0 failed.\n", "", 0)
    assert [again(message).status for message in messages] == [*["retrying"] * 3, "queued"]


@pytest.mark.cluster
def test_the_loop_sends_what_comes_tries_again_in_time_and_stops_at_once(
    child: Callable[..., subprocess.Popen[str]], server: MailServer, simulator: Simulator
) -> None:
    server.plan = lambda number: Fault("rcpt", "450 Later") if number == 1 else None
    message = make_message()
    start = partial(child, DJANGO_SETTINGS_MODULE="tests.delivery.worker_settings")
    loop = start("giftcards_worker", MAIL_PORT=str(server.port))
    wait_until(lambda: again(message).status == "retrying")
    late = make_message(address="late@example.com")
    wait_until(lambda: again(late).status == "sent")
    Delivery.objects.filter(pk=message.pk).update(next_attempt_at=timezone.now())
    wait_until(lambda: again(message).status == "sent")
    loop.send_signal(signal.SIGTERM)
    assert loop.wait(60) == 0
    printed = stop(loop)
    assert "Traceback" not in printed
    assert ADDRESS not in printed
