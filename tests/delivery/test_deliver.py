"""The command that sends messages."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from giftcards.delivery.models import Delivery
from tests.conftest import Call
from tests.delivery.mails import ADDRESS, again, make_message
from tests.fakes.mail import Fault, MailServer
from tests.stage import stop, wait_until

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


def test_the_command_sends_what_is_due_and_prints_counts(call: Call, server: MailServer) -> None:
    make_message()
    done = call("giftcards_deliver")
    expected = ("1 sent, 0 to be tried again, 0 failed, 0 cancelled; 0 digests for staff.\n", "", 0)
    assert done == expected
    assert call("giftcards_deliver", "-v0").out == ""


def test_json_has_the_counts_and_how_many_wait(call: Call, server: MailServer) -> None:
    faults = [Fault("rcpt", "550 5.1.1 No such user"), Fault("rcpt", "450 Later"), None]
    server.plan = lambda number: faults[number - 1]
    for number in range(3):
        make_message(address=f"c{number}@example.com")
    out, err, code = call("giftcards_deliver", "--json")
    assert json.loads(out) == {
        "sent": 1,
        "retrying": 1,
        "failed": 1,
        "cancelled": 0,
        "digests": 0,
        "is_cut_short": False,
        "waiting": 1,
    }
    assert code == 1
    assert err == "1 could not be sent, and 1 wait for another try. The admin shows why.\n"
    assert "example.com" not in out + err
    # One that waits for another try is unfinished work.
    assert call("giftcards_deliver").code == 1
    assert set(Delivery.objects.values_list("attempts", flat=True)) == {1}


@pytest.mark.usefixtures("server")
def test_wrong_settings_are_named_before_anything_is_sent(call: Call, settings: Any) -> None:
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "BASE_URL": "http://shop.example"}
    message = make_message()
    out, err, code = call("giftcards_deliver")
    assert (out, code) == ("", 2)
    assert err.startswith("GIFTCARDS_DELIVERY['BASE_URL'] would have the card codes travel")
    assert again(message).attempts == 0


@pytest.mark.cluster
@pytest.mark.django_db(transaction=True)
def test_the_loop_sends_what_comes_tries_again_in_time_and_stops_at_once(
    child: Callable[..., subprocess.Popen[str]], server: MailServer
) -> None:
    server.plan = lambda number: Fault("rcpt", "450 Later") if number == 1 else None
    message = make_message()
    loop = child(
        "giftcards_deliver",
        "--loop",
        DJANGO_SETTINGS_MODULE="tests.delivery.worker_settings",
        MAIL_PORT=str(server.port),
    )
    wait_until(lambda: again(message).status == "retrying")
    late = make_message(address="late@example.com")
    wait_until(lambda: again(late).status == "sent")
    Delivery.objects.filter(pk=message.pk).update(next_attempt_at=timezone.now())
    wait_until(lambda: again(message).status == "sent")
    loop.send_signal(signal.SIGTERM)
    assert loop.wait(60) == 0
    printed = stop(loop)
    assert printed.startswith("Sending the messages. Stop with Ctrl-C.\n")
    assert "Traceback" not in printed
    assert ADDRESS not in printed
