from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from giftcards import selftest
from giftcards.gateway import Gateway
from giftcards.management.base import (
    UNFINISHED,
    WORKING_SETTINGS,
    GiftcardsCommand,
    order_as_dict,
    refuse,
    sentences,
)


class Command(GiftcardsCommand):
    help = (
        "Run the provider's test scenarios against its sandbox: a refund, a partial delivery and an"
        " ordinary order. It spends nothing: a production key is refused."
    )
    needs = WORKING_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--product", default=selftest.PRODUCT, help="A product of the catalogue."
        )
        parser.add_argument(
            "--type", default=selftest.TYPE, help="Its type for the ordinary order."
        )

    def handle(self, **options: Any) -> None:
        reports = []
        with Gateway() as gateway:
            if reason := selftest.why_not(gateway):
                raise refuse(reason)
            try:
                for report in selftest.run(
                    gateway, product_id=options["product"], type_id=options["type"]
                ):
                    reports.append(report)
                    self.say(_line(report), options)
            except ValidationError as error:
                raise refuse(sentences(error)) from None
        failed = [report.scenario.name for report in reports if report.complaints]
        if options["json"]:
            self.write_json({"passed": not failed, "scenarios": [_as_dict(r) for r in reports]})
        if failed:
            raise CommandError(
                f"{len(failed)} of {len(reports)} scenarios failed: {', '.join(failed)}.",
                returncode=UNFINISHED,
            )
        self.say(f"All {len(reports)} scenarios passed.", options)


def _line(report: selftest.Report) -> str:
    order = report.order
    result = "FAILED" if report.complaints else "ok"
    line = (
        f"{result:<8}{report.scenario.name}: {order.quantity} × {order.type_id} is {order.status},"
        f" {order.fulfilled_quantity} delivered"
    )
    return "\n".join([line, *(f"        {complaint}" for complaint in report.complaints)])


def _as_dict(report: selftest.Report) -> dict[str, Any]:
    return {
        "scenario": report.scenario.name,
        "passed": not report.complaints,
        "complaints": list(report.complaints),
        "order": order_as_dict(report.order),
    }
