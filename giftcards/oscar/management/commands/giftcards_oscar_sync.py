from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from giftcards.management.base import GiftcardsCommand
from giftcards.management.output import counted


class Command(GiftcardsCommand):
    help = (
        "Copy prices and stock from the stored catalogue to the stock records of"
        " django-oscar. The worker also does this once a minute."
    )
    notes = (
        'New products have the class "Gift cards", the category from the provider, and the'
        " stored price.",
    )
    examples = (
        ("Update the existing stock records:", ""),
        ("Also create a product for each card on sale that does not have one yet:", "--create"),
        ("Do the same for the cards of one product:", "--create 507f1f77bcf86cd799439011"),
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--create",
            metavar="PRODUCT",
            nargs="*",
            help=(
                "Also create django-oscar products, with stock records, for the cards on sale"
                " that do not have one yet. Give the ids of the provider's products, or omit"
                " the ids to include all products (default: create none)."
            ),
        )
        parser.add_argument(
            "--with-tests",
            action="store_true",
            help="With --create, also create products for test types. Every customer can then buy"
            " these cards (default: leave them out).",
        )

    def handle(self, **options: Any) -> None:
        # The imports are here because these modules import oscar's models, which --help does not
        # need.
        from giftcards.catalogue import keep_prices
        from giftcards.oscar.lines import stock_records
        from giftcards.oscar.stock import create_products, follow_offers

        keep_prices()
        wanted = options["create"]
        created = 0 if wanted is None else create_products(wanted, with_tests=options["with_tests"])
        changed = follow_offers()
        records = stock_records()
        done = {
            "created": created,
            "changed": changed,
            "records": records.count(),
            "without_price": records.filter(price=None).count(),
            "untracked": records.filter(product__product_class__track_stock=False).count(),
        }
        self.show(done, _text(done), options)


def _text(done: dict[str, int]) -> str:
    lines = [
        f"{counted(done['created'], 'product')} created, {done['changed']} of"
        f" {counted(done['records'], 'stock record')} changed."
    ]
    if done["without_price"]:
        lines += [f"Not for sale because they have no price: {done['without_price']}."]
    if done["untracked"]:
        lines += [
            "Never shown as sold out in oscar, because their product class does not track"
            f" stock: {done['untracked']}."
        ]
    return "\n".join(lines)
