from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.db import Error

from giftcards.engine.background import beside
from giftcards.engine.database import is_there
from giftcards.engine.loop import follow
from giftcards.management.base import WORKING_SETTINGS, GiftcardsCommand
from giftcards.management.output import set_by_signals

# Seconds between attempts to reach a database that is down.
_PAUSE = 1.0


class Command(GiftcardsCommand):
    help = (
        "Run a worker until you stop it with Ctrl-C or SIGTERM. The worker sends and checks"
        " orders, and does all other background work, for example sending messages."
    )
    notes = (
        "This worker replaces the `qcluster` of django-q2 for this app. If another"
        " process already follows the orders, the worker waits until that process"
        " stops. If the database is down, the worker waits until the database is"
        " available.",
    )
    examples = (("Run the shop's worker until Ctrl-C:", ""),)
    needs = WORKING_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Do not add ``--json``, because the worker does not have a result."""

    def find_database(self, options: dict[str, Any]) -> None:
        """Fail if a table is missing, but wait if the database is not available."""
        self._stop = set_by_signals()
        with self.progress(options) as progress:
            while not self._stop.is_set():
                try:
                    super().find_database(options)
                except Error as error:
                    if is_there():
                        raise
                    progress.show(f"Waiting for the database ({type(error).__name__})")
                else:
                    return
                self._stop.wait(_PAUSE)

    def handle(self, **options: Any) -> None:
        stop = self._stop
        if stop.is_set():
            # The command was stopped while it waited for the database.
            return
        self.say("Following the orders. Press Ctrl-C to stop.", options)
        with beside(stop):
            while not stop.is_set():
                done = follow(seconds=None, stop=stop)
                if done is None:
                    # Another process is following the orders. This process takes over when the
                    # other one stops.
                    stop.wait(1)
                else:
                    self.say(f"{done}.", options)
