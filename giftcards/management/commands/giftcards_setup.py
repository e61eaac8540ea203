from __future__ import annotations

from typing import Any

from giftcards.management.base import GiftcardsCommand
from giftcards.schedules import ensure_schedule


class Command(GiftcardsCommand):
    help = "Create or repair the schedule that follows the orders. Safe to repeat."

    def handle(self, **options: Any) -> None:
        outcome = ensure_schedule()
        if options["json"]:
            self.write_json({"schedule": outcome.value})
        self.say(
            f"The schedule is {outcome.value}."
            " Orders are followed while `manage.py qcluster` runs.",
            options,
        )
