from __future__ import annotations

from typing import Any

from giftcards.catalogue import CatalogueReading, counts, keep_prices, read_catalogue
from giftcards.engine.gateway import Gateway
from giftcards.management.base import WORKING_SETTINGS, GiftcardsCommand, current_pause, unfinished
from giftcards.management.output import counted


class Command(GiftcardsCommand):
    help = (
        "Read the provider's catalogue: products, types, prices and stock. It makes one request,"
        " and one for each product on sale, with a tenth of the request budget at most. If it is"
        " stopped, the next run within six hours goes on where it was."
    )
    notes = (
        "The worker does the same automatically, unless CATALOGUE_INTERVAL is 0. What two readings"
        " an hour apart do not list is not for sale any more. A product that cannot be read"
        " counts as failed, and the next run tries it first.",
        "Exit code 1: a product failed or is still to read.",
    )
    examples = (
        ("Once a day, from cron:", "-v0"),
        ("The counts, for a script:", "--json"),
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
            raise unfinished(f"{trouble} Run the command again to read what is left.".strip())


def _wait(reading: CatalogueReading) -> str:
    what = "waiting for its share of the request budget"
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
