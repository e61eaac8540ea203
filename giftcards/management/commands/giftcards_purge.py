from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from giftcards.management.base import GiftcardsCommand
from giftcards.management.output import counted
from giftcards.privacy.retention import REASONS, Purge, long_settled, purge


class Command(GiftcardsCommand):
    help = (
        "Destroy the card codes of orders that settled long ago. All other data about"
        " the orders remains. A destroyed code can be restored only from a backup."
    )
    notes = (
        "The shop and the workers can keep running. If you stop the command, the next"
        " run continues where it stopped.",
    )
    examples = (
        ("Show what would be destroyed:", "--settled-before 365 --dry-run"),
        (
            "Run the command every night from cron (or set CODES_KEPT_DAYS):",
            "--settled-before 365 -v0",
        ),
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--settled-before",
            type=_days,
            required=True,
            metavar="DAYS",
            help="Destroy the codes of orders that settled more than this number of days ago.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Change nothing, and count the codes that would be destroyed (default: destroy).",
        )

    def handle(self, **options: Any) -> None:
        is_dry_run = options["dry_run"]
        with self.progress(options) as progress:
            done = purge(
                settled_before=long_settled(options["settled_before"]),
                is_dry_run=is_dry_run,
                on_batch=lambda done: progress.show(_so_far(done), unless_short=True),
            )
        left_alone = {reason: done.left_alone[reason] for reason in REASONS}
        verb = "would be destroyed" if is_dry_run else "destroyed"
        lines = [f"{counted(done.cards, 'code')} of {counted(done.orders, 'order')} {verb}."]
        lines += [
            f"Skipped: {counted(number, 'order')} {REASONS[reason].text}."
            for reason, number in left_alone.items()
            if number
        ]
        result = {"orders": done.orders, "cards": done.cards, "left_alone": left_alone}
        self.show(result, "\n".join(lines), options)


def _days(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 36_500:
        raise ArgumentTypeError("Use a whole number of days from 1 to 36500.")
    return int(text)


def _so_far(done: Purge) -> str:
    # The number is rounded down to a multiple of 10,000, because a log gets a new line whenever the
    # text changes.
    return f"Looking through old orders: more than {done.orders // 10_000 * 10_000} so far"
