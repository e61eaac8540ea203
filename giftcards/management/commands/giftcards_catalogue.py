from __future__ import annotations

from typing import Any

from giftcards.catalogue import CatalogueReading, counts, keep_prices, read_catalogue
from giftcards.engine.gateway import Gateway
from giftcards.management.base import WORKING_SETTINGS, GiftcardsCommand, current_pause, unfinished
from giftcards.management.output import counted


class Command(GiftcardsCommand):
    help = (
        "Read the provider's catalogue: products, product types, costs and stock. The"
        " command makes one request for the list of products and one for each product"
        " on sale. The command uses at most a tenth of the request quota. If you stop"
        " the command and run it again within six hours, it continues where it stopped."
    )
    notes = (
        "The worker reads the catalogue automatically, unless CATALOGUE_INTERVAL is 0."
        " If a product is missing in two readings that are at least an hour apart, it"
        " is taken off sale. A product that cannot be read counts as failed, and the"
        " next run reads it first.",
        "Exit code 1 means that a product could not be read, or that some products have"
        " not been read yet.",
    )
    examples = (
        ("Read the catalogue once a day from cron:", "-v0"),
        ("Print the counts for a script:", "--json"),
    )
    needs = WORKING_SETTINGS

    def handle(self, **options: Any) -> None:
        with Gateway() as gateway, self.progress(options) as progress:
            reading = read_catalogue(
                gateway, on_wait=lambda reading: progress.show(_wait(reading), unless_short=True)
            )
        keep_prices()
        done = {"read": reading.read, "failed": reading.failed, "is_whole": reading.is_whole}
        result = {**counts(), **done}
        self.show(result, _text(result), options)
        if not reading.is_whole:
            trouble = current_pause() or reading.trouble
            raise unfinished(f"{trouble} Run the command again to read the rest.".strip())


def _wait(reading: CatalogueReading) -> str:
    what = "waiting for its share of the request quota"
    if reading.is_paused:
        what = current_pause() or "waiting"
    if not reading.total:
        return f"Reading the catalogue: {what}"
    return f"Reading the catalogue, {reading.read} of {counted(reading.total, 'product')}: {what}"


def _text(found: dict[str, int]) -> str:
    hidden = found["hidden"]
    not_sold = f"\nYour shop does not sell {counted(hidden, 'product')}." if hidden else ""
    return (
        f"{counted(found['read'], 'product')} read, {found['failed']} failed,"
        f" {found['to_read']} still to read.\n"
        f"The catalogue has {counted(found['products'], 'product')}, {found['on_sale']} on sale,"
        f" and {counted(found['types'], 'type')}, {found['types_for_sale']} for sale.{not_sold}"
    )
