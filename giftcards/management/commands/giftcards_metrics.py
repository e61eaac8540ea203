from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.db import Error

from giftcards.management.base import GiftcardsCommand, database_failure


class Command(GiftcardsCommand):
    needs = ("LOW_BALANCE", "REQUESTS_PER_MINUTE")
    help = (
        "Print the metrics for Prometheus in the OpenMetrics format. The command reads"
        " the database without changing it. The command requires the `metrics` extra of"
        " the package."
    )
    notes = (
        "Exit code 1 means that the database failed. In this case, the command prints no metrics.",
    )
    examples = (
        (
            "Write a file for the textfile collector of the node exporter:",
            "> shop.new && mv shop.new shop.prom",
        ),
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Do not add ``--json``, because the output has only one format."""

    def find_database(self, options: dict[str, Any]) -> None:
        """Do nothing, because ``handle`` reports database failures itself."""

    def handle(self, **options: Any) -> None:  # noqa: ARG002
        # The import is here because not every shop has prometheus-client.
        from giftcards.watch.metrics import as_text

        try:
            text = as_text()
        except Error as error:
            raise database_failure(error, "Nothing was read.") from error
        self.put(text, ending="")
