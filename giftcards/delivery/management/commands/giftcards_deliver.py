from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from django.utils import timezone

from giftcards.delivery import digests
from giftcards.delivery.channels import Limits
from giftcards.delivery.conf import conf
from giftcards.delivery.models import Delivery
from giftcards.delivery.queueing import tell_of_lost_refunds
from giftcards.delivery.sending import send_due
from giftcards.delivery.tasks import MESSAGES, send_messages
from giftcards.engine.background import keep_giving_turns
from giftcards.management.base import GiftcardsCommand, unfinished
from giftcards.management.output import counted, set_by_signals


class Command(GiftcardsCommand):
    help = (
        "Send the messages to customers and the digests for staff that are due: once, or until"
        " stopped."
    )
    notes = (
        "Several processes may run it, beside workers.",
        "Exit code 1: a message could not be sent, or waits for another try.",
    )
    examples = (
        ("What is due now:", ""),
        ("In a process of its own, until Ctrl-C:", "--loop"),
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--loop",
            action="store_true",
            help="Go on until stopped with Ctrl-C or SIGTERM, and try again when it is time"
            " (default: send what is due once).",
        )

    def handle(self, **options: Any) -> None:
        conf.require("MODE", "BASE_URL", "FROM_EMAIL", "CHANNELS")
        if options["loop"]:
            stop = set_by_signals()
            self.say("Sending the messages. Stop with Ctrl-C.", options)
            work = partial(send_messages, tell=lambda text: self.say(text, options))
            keep_giving_turns([replace(MESSAGES, do=work)], stop)
        else:
            self._send(options)

    def _send(self, options: dict[str, Any]) -> None:
        tell_of_lost_refunds()
        done = send_due(Limits())
        told = digests.send_due(Limits(), has_mailed=done.has_mailed)
        waiting = Delivery.objects.waiting(timezone.now()).count()
        figures = {**asdict(done), "waiting": waiting, "digests": told}
        del figures["has_mailed"]
        self.show(figures, f"{done}; {counted(told, 'digest')} for staff.", options)
        if done.failed or waiting:
            text = f"{done.failed} could not be sent, and {waiting} wait for another try."
            raise unfinished(f"{text} The admin shows why.")
