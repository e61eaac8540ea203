"""A mail server that fails at random and hangs, and workers that are killed.

Every customer gets the message. It only arrives more than once if the outcome of an attempt was
unknown.
"""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from giftcards.delivery.models import CardLink, Delivery
from giftcards.delivery.sending import MOST_UNANSWERED
from tests.delivery.mails import is_due, make_message, send
from tests.fakes.mail import DROP, HANG, Fault, MailServer, smtp_settings
from tests.stage import ROOT, wait_until

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.cluster, pytest.mark.django_db(transaction=True)]

logger = logging.getLogger(__name__)

CUSTOMERS = 16
# How often all workers are killed, and the number of connections between two of these times.
DEATHS, CONNECTIONS = 2, 14
# Seconds after which a client gives up on a server that hangs.
PATIENCE = 0.3
FAULTS = [
    Fault("connect", DROP), Fault("connect", "421 Busy"), Fault("mail", DROP),
    Fault("rcpt", "450 4.2.1 Later"), Fault("data", HANG), Fault("end", "451 Later"),
    Fault("end", DROP), Fault("end", HANG),
]  # fmt: skip


def random_faults(seed: int) -> Callable[[int], Fault | None]:
    """Return a plan by which about half of the connections fail, each in a random way."""
    dice = random.Random(seed)
    return lambda _number: dice.choice(FAULTS) if dice.random() < 0.5 else None


@contextmanager
def workers(database: str, port: int) -> Iterator[None]:
    """Run two processes that send messages, and kill them in the end."""
    environment = {
        **os.environ,
        "DATABASE_URL": database,
        "DJANGO_SETTINGS_MODULE": "tests.delivery.worker_settings",
        "MAIL_PORT": str(port),
        "MAIL_TIMEOUT": str(PATIENCE),
    }
    command = [sys.executable, "-m", "tests.delivery.sending_worker"]
    running = [subprocess.Popen(command, cwd=ROOT, env=environment) for _worker in range(2)]
    try:
        yield
        assert [process.poll() for process in running] == [None, None]
    finally:
        for process in running:
            process.kill()
            process.wait()


def time_passes() -> None:
    """Make messages due that wait for another attempt, but keep the claims of living processes."""
    Delivery.objects.filter(status="retrying").update(
        next_attempt_at=timezone.now() - timedelta(seconds=1)
    )


def test_every_customer_is_told_and_nobody_more_often_than_the_row_explains(
    shared_database: str, settings: Any
) -> None:
    rows = [make_message(address=f"c{number}@example.com") for number in range(CUSTOMERS)]
    with MailServer(random_faults(seed=11)) as server:
        for _death in range(DEATHS):
            wanted = server.connections + CONNECTIONS

            def has_worked(wanted: int = wanted) -> bool:
                time_passes()
                is_over = not Delivery.objects.filter(next_attempt_at__isnull=False).exists()
                return is_over or server.connections >= wanted

            with workers(shared_database, server.port):
                wait_until(has_worked)
            # The claims of the killed workers expire.
            is_due()
        server.plan = lambda _number: None
        for name, value in smtp_settings(server.port).items():
            setattr(settings, name, value)
        while Delivery.objects.filter(next_attempt_at__isnull=False).exists():
            send()
            is_due()
    mails = Counter(received.recipient for received in server.received)
    told = Counter(received.recipient for received in server.received if received.is_acknowledged)
    for row in Delivery.objects.filter(pk__in=[row.pk for row in rows]):
        assert row.status == "sent", row.error
        assert told[row.address] >= 1
        assert mails[row.address] <= 1 + row.unanswered <= MOST_UNANSWERED
        # Each mail that may have arrived has its own link, and failed attempts left no link.
        assert mails[row.address] <= row.links.count() <= 1 + row.unanswered
    assert len(mails) == CUSTOMERS
    assert CardLink.objects.exclude(delivery__in=rows).count() == 0
    unanswered = sum(Delivery.objects.values_list("unanswered", flat=True))
    logger.info(
        "%d customers got %d mails; %d attempts were not answered",
        CUSTOMERS,
        mails.total(),
        unanswered,
    )
