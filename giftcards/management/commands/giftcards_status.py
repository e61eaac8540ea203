from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.utils import translation

from giftcards.conditions import CONDITIONS, Condition
from giftcards.management.base import (
    GiftcardsCommand,
    add_fail_on,
    describe,
    fail_on,
    find_order,
    named_conditions,
    order_as_dict,
    refuse,
)
from giftcards.management.overview import Overview


class Command(GiftcardsCommand):
    needs = ("CURRENCY", "LOW_BALANCE")
    help = (
        "Show one order with its refund breakdown, or how many orders are where. It reads the"
        " database only."
    )
    examples = (
        ("How things stand:", ""),
        ("One order:", "cart-1042"),
        (
            "For a monitor, exit code 1 if something is wrong:",
            "--fail-on attention,paused,worker,queue,balance",
        ),
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "reference", nargs="?", help="The order (default: an overview of all orders)."
        )
        add_fail_on(parser, CONDITIONS)

    def handle(self, **options: Any) -> None:
        conditions = named_conditions(options["fail_on"], CONDITIONS)
        if conditions and options["reference"] is not None:
            raise refuse("Use either a reference or --fail-on, which is about all orders.")
        # The command speaks one language, whatever the site's.
        with translation.override(None):
            if options["reference"] is not None:
                self._show_order(options)
            else:
                self._show_overview(conditions, options)

    def _show_order(self, options: dict[str, Any]) -> None:
        order = find_order(options["reference"])
        if options["json"]:
            self.write_json(order_as_dict(order))
        self.say(describe(order), options)

    def _show_overview(self, conditions: Mapping[str, Condition], options: dict[str, Any]) -> None:
        overview = Overview.read()
        if options["json"]:
            self.write_json(overview.as_dict())
        self.say(str(overview), options)
        if "balance" in conditions and overview.unjudged:
            self.say(overview.unjudged, options)
        fail_on(condition.sentence(overview.standing) for condition in conditions.values())
