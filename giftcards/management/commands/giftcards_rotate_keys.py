from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from giftcards.management.base import GiftcardsCommand, unfinished
from giftcards.management.output import counted
from giftcards.models import Card
from giftcards.privacy.rotation import RotationTally, count_left, rotate, verify

_PER_SECOND = 500


class Command(GiftcardsCommand):
    help = (
        "Re-encrypt every card with the first key in GIFTCARDS['ENCRYPTION_KEYS']."
        " Before you run this command, put the new key in front of the old one, and"
        " deploy the setting to every process. The shop and the workers can keep"
        " running. If you stop the command, the next run continues where it stopped."
    )
    notes = (
        "Exit code 1 means that a card could not be decrypted. The command does not change this"
        " card, and names it in its output.",
    )
    examples = (
        ("Encrypt all cards with the new key:", ""),
        ("Check that the old keys are no longer needed:", "--verify"),
        ("Reduce the load on a small server:", "--per-second 50"),
    )
    needs = ("ENCRYPTION_KEYS",)

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--verify",
            action="store_true",
            help="Change nothing. Try to decrypt every card with the first key alone, without"
            " showing any code (default: encrypt again).",
        )
        parser.add_argument(
            "--per-second",
            type=_speed,
            default=_PER_SECOND,
            metavar="N",
            help=f"The maximum number of cards that are encrypted per second (default:"
            f" {_PER_SECOND}).",
        )

    def handle(self, **options: Any) -> None:
        is_proof = options["verify"]
        if is_proof:
            name, what = "opened", "Decrypting cards with the first key"
            done, wrong = "decrypted with the first key", "would be lost without the other keys"
        else:
            name, what = "sealed", "Encrypting cards again"
            done, wrong = "encrypted again with the first key", "could not be decrypted"
        with self.progress(options) as progress:
            total = Card.objects.all().readable().count() if is_proof else count_left()

            def show(tally: RotationTally) -> None:
                progress.advance(
                    f"{what}, {counted(total, 'card')}", tally.done + tally.failed, total
                )

            if is_proof:
                tally = verify(on_batch=show)
            else:
                tally = rotate(per_second=options["per_second"], on_batch=show)
        result = {name: tally.done, "failed": tally.failed, "troubles": tally.troubles}
        self.show(result, f"{counted(tally.done, 'card')} {done}.", options)
        if tally.failed:
            raise unfinished(
                "\n".join([f"{counted(tally.failed, 'card')} {wrong}.", *tally.troubles])
            )


def _speed(text: str) -> int:
    try:
        speed = int(text)
    except ValueError:
        speed = 0
    if speed < 1:
        raise ArgumentTypeError("Use a whole number above 0.")
    return speed
