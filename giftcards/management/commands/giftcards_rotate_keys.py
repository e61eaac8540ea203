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
        "Seal every card anew under the first of GIFTCARDS['ENCRYPTION_KEYS'], while shop and"
        " workers run. If it is stopped, the next run goes on where it was. First deploy the new"
        " key, in front of the old one, to every process."
    )
    notes = ("Exit code 1: a card could not be opened. It is left as it is, and named.",)
    examples = (
        ("After the new key was put in front and deployed:", ""),
        ("Prove that the old keys are not needed any more:", "--verify"),
        ("Gently, on a small machine:", "--per-second 50"),
    )
    needs = ("ENCRYPTION_KEYS",)

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--verify",
            action="store_true",
            help="Change nothing: open every card with the first key alone, and show nothing of it"
            " (default: seal anew).",
        )
        parser.add_argument(
            "--per-second",
            type=_speed,
            default=_PER_SECOND,
            metavar="N",
            help=f"Seal at most so many cards a second (default: {_PER_SECOND}).",
        )

    def handle(self, **options: Any) -> None:
        is_proof = options["verify"]
        if is_proof:
            name, what = "opened", "Opening cards with the first key"
            done, wrong = "opened with the first key", "would be lost without the other keys"
        else:
            name, what = "sealed", "Sealing cards anew"
            done, wrong = "sealed anew under the first key", "could not be opened"
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
        raise ArgumentTypeError("Give a whole number above 0.")
    return speed
