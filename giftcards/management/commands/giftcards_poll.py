from __future__ import annotations

import time
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from giftcards.engine.background import do_prompt_work
from giftcards.engine.gateway import Gateway
from giftcards.engine.schedule import time_to_check
from giftcards.engine.sweep import Swept, check_now, check_settled, sweep
from giftcards.exceptions import ProviderError
from giftcards.management.base import (
    WORKING_SETTINGS,
    GiftcardsCommand,
    current_pause,
    find_order,
    refuse,
    unfinished,
)
from giftcards.management.output import set_by_signals
from giftcards.models import Order, ProviderState
from giftcards.tasks import FAILED, tick_until


class Command(GiftcardsCommand):
    help = "Do one sweep: send and check all orders that are due."
    notes = (
        "A sweep sends waiting orders, checks orders that are due, and searches for"
        " unconfirmed orders. A sweep also calls your receivers, and sends messages to"
        " customers and staff. If the request quota is used up, some orders are"
        " postponed, and a later sweep checks them. Postponed orders are not an error.",
        "With --reference, the command compares a settled order with the provider's current data.",
        "Exit code 1 means that a part of the work failed, or that requests are paused.",
    )
    examples = (
        ("Do one sweep:", ""),
        ("Use cron as the shop's worker, once a minute:", "--tick"),
        ("Check one order now:", "--reference cart-1042"),
    )
    needs = WORKING_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--tick",
            action="store_true",
            help="Follow the orders for up to 40 seconds, and do a part of the daily work"
            " (default: one sweep).",
        )
        parser.add_argument(
            "--reference",
            help="Check only this order, even if it is not due (default: all orders that are due).",
        )
        parser.add_argument(
            "--resume",
            action="store_true",
            help="First end every pause of requests. The app then tries a refused API key once"
            " more, and does not wait for any other pause to end (default: keep the pauses).",
        )

    def handle(self, **options: Any) -> None:
        reference = options["reference"]
        if options["tick"] and reference is not None:
            raise refuse("Use either --tick or --reference.")
        order = None if reference is None else find_order(reference)
        if options["resume"]:
            ended = ProviderState.objects.resume()
            self.say("The pause is over." if ended else "There was no pause.", options)
        if options["tick"]:
            self._tick(options)
        elif order is None:
            self._sweep(options)
        else:
            self._check(order, options)

    def _sweep(self, options: dict[str, Any]) -> None:
        with Gateway() as gateway:
            done = sweep(gateway)
        self.show(asdict(done), f"{done}.", options)
        do_prompt_work()
        if done.is_paused or done.failed:
            raise unfinished(_trouble(done))

    def _check(self, order: Order, options: dict[str, Any]) -> None:
        with Gateway() as gateway:
            wait = time_to_check(order, gateway)
            if wait >= 1:
                why = "the order was checked a moment ago, or the request quota is used up"
                self.say(f"Waiting {wait:.0f} s: {why}.", options)
            time.sleep(max(wait, 0))
            try:
                if order.is_settled:
                    done = Swept(is_paused=not check_settled(order, gateway))
                else:
                    done = check_now(order, gateway)
            except ProviderError as error:
                raise unfinished(str(error)) from None
        order.refresh_from_db()
        self.show_order(order, options)
        if done.is_paused or done.failed:
            raise unfinished(" ".join(map(str, order.open_problems)) or _trouble(done))

    def _tick(self, options: dict[str, Any]) -> None:
        done = tick_until(set_by_signals())
        self.say(f"{done[:1].upper()}{done[1:]}.", options)
        if done == FAILED:
            raise unfinished("The log shows the reason.")


def _trouble(done: Swept) -> str:
    if done.is_paused:
        return current_pause()
    return f"Some of the work failed. {ProviderState.objects.current().failure}".strip()
