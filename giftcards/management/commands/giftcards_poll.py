from __future__ import annotations

import signal
import threading
import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from giftcards.following import check_now, sweep, time_to_check
from giftcards.gateway import Gateway
from giftcards.loop import follow
from giftcards.management.base import (
    UNFINISHED,
    WORKING_SETTINGS,
    GiftcardsCommand,
    describe,
    find_order,
    order_as_dict,
    refuse,
)
from giftcards.models import Order, ProviderState


class Command(GiftcardsCommand):
    help = "Ask the provider about the orders that are due: once, or until stopped."
    needs = WORKING_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--loop", action="store_true", help="Go on until stopped (Ctrl-C).")
        parser.add_argument("--reference", help="Ask about this order, whether it is due or not.")
        parser.add_argument(
            "--resume",
            action="store_true",
            help="First end the pause that began when the provider refused the key.",
        )

    def handle(self, **options: Any) -> None:
        reference = options["reference"]
        if options["loop"] and reference is not None:
            raise refuse("Use either --loop or --reference: the loop follows every order.")
        order = None if reference is None else find_order(reference)
        if options["resume"]:
            ended = ProviderState.objects.resume()
            self.say("The pause is over." if ended else "There was no pause.", options)
        if options["loop"]:
            self._loop(options)
        elif order is None:
            self._sweep(options)
        else:
            self._check(order, options)

    def _sweep(self, options: dict[str, Any]) -> None:
        with Gateway() as gateway:
            done = sweep(gateway)
        if options["json"]:
            self.write_json(done.as_dict())
        self.say(f"{done}.", options)
        if done.is_paused or done.failed:
            raise CommandError(_trouble(), returncode=UNFINISHED)

    def _check(self, order: Order, options: dict[str, Any]) -> None:
        with Gateway() as gateway:
            wait = time_to_check(order, gateway)
            if wait >= 1:
                why = "it was asked about a moment ago, or the request budget is short"
                self.say(f"Waiting {wait:.0f} s: {why}.", options)
            time.sleep(max(wait, 0))
            done = check_now(order, gateway)
        order.refresh_from_db()
        if options["json"]:
            self.write_json(order_as_dict(order))
        self.say(describe(order), options)
        if done.is_paused or done.failed:
            raise CommandError(order.problem or _trouble(), returncode=UNFINISHED)

    def _loop(self, options: dict[str, Any]) -> None:
        stop = threading.Event()

        def end(*_args: object) -> None:
            # In a thread: the main one may be inside `stop.wait()`, holding the lock that it needs.
            threading.Thread(target=stop.set).start()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end)
        self.say("Following the orders. Stop with Ctrl-C.", options)
        while not stop.is_set():
            done = follow(seconds=None, stop=stop)
            if done is None:
                # Another process runs the loop: stand by.
                stop.wait(1)
            else:
                self.say(f"{done}.", options)


def _trouble() -> str:
    """Why something could not be done: the pause, or else what failed last."""
    state = ProviderState.objects.current()
    return state.explain() if state.pause else f"Not everything worked. {state.failure}".strip()
