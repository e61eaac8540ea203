from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from giftcards.engine.gateway import Gateway
from giftcards.management import selftest
from giftcards.management.base import (
    UNFINISHED,
    WORKING_SETTINGS,
    GiftcardsCommand,
    ok_or_trouble,
    order_as_dict,
    refuse,
    sentences,
    what_it_waits_for,
)
from giftcards.management.output import Progress
from giftcards.models import Card, Order


class Command(GiftcardsCommand):
    help = (
        "Run the provider's test scenarios against its sandbox: a refund, a partial delivery and an"
        " ordinary order. It spends nothing: a production key is refused."
    )
    examples = (
        ("With the product of the provider's guide:", ""),
        ("With another type of it for the ordinary order:", "--type type_002"),
    )
    needs = WORKING_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--product",
            default=selftest.PRODUCT,
            help="A product of the catalogue (default: %(default)s).",
        )
        parser.add_argument(
            "--type",
            default=selftest.TYPE,
            help="Its type for the ordinary order (default: %(default)s).",
        )

    def handle(self, **options: Any) -> None:
        # Before the scenarios add cards.
        cards = Card.objects.all().try_keys()
        reports = []
        with Gateway() as gateway, self.progress(options) as progress:
            progress.show("Asking the provider what the key is for", unless_short=True)
            if reason := selftest.why_not(gateway):
                raise refuse(reason)
            line = {"product_id": options["product"], "type_id": options["type"]}
            try:
                for report in selftest.run(gateway, **line, on_wait=partial(_show, progress)):
                    reports.append(report)
                    progress.end()
                    self.say(_line(report), options)
            except ValidationError as error:
                raise refuse(sentences(error)) from None
        complaints = list(_complaints(reports, cards))
        if options["json"]:
            self.write_json(
                {
                    "passed": not complaints,
                    "cards": ok_or_trouble(cards),
                    "scenarios": [_as_dict(report) for report in reports],
                }
            )
        if complaints:
            raise CommandError(" ".join(complaints), returncode=UNFINISHED)
        self.say(f"All {len(reports)} scenarios passed.", options)


def _complaints(
    reports: Sequence[selftest.SelfTestReport], cards: Mapping[str, str]
) -> Iterator[str]:
    """Yield what is wrong, in sentences."""
    failed = [report.scenario.name for report in reports if report.complaints]
    if failed:
        yield f"{len(failed)} of {len(reports)} scenarios failed: {', '.join(failed)}."
    troubles = list(dict.fromkeys(filter(None, cards.values())))
    if troubles:
        yield " ".join(["Not all of the cards stored before can be opened.", *troubles])


def _show(progress: Progress, scenario: selftest.Scenario, order: Order) -> None:
    if wait := what_it_waits_for(order):
        text = f"{scenario.name}: {order.status}, {wait.what}"
        progress.show(text, since=wait.since, unless_short=True)


def _line(report: selftest.SelfTestReport) -> str:
    order = report.order
    result = "FAILED" if report.complaints else "ok"
    line = (
        f"{result:<8}{report.scenario.name}: {order.quantity} × {order.type_id} is {order.status},"
        f" {order.fulfilled_quantity} delivered"
    )
    return "\n".join([line, *(f"        {complaint}" for complaint in report.complaints)])


def _as_dict(report: selftest.SelfTestReport) -> dict[str, Any]:
    return {
        "scenario": report.scenario.name,
        "passed": not report.complaints,
        "complaints": list(report.complaints),
        "order": order_as_dict(report.order),
    }
