from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.utils import timezone

from giftcards.management.base import GiftcardsCommand, describe, find_order, order_as_dict
from giftcards.models import Order, ProviderState
from giftcards.schedules import schedule_problem


class Command(GiftcardsCommand):
    needs = ("CURRENCY",)
    help = "Show one order with its refund breakdown, or how many orders are where."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("reference", nargs="?", help="The order; none: an overview.")

    def handle(self, **options: Any) -> None:
        if options["reference"] is not None:
            order = find_order(options["reference"])
            if options["json"]:
                self.write_json(order_as_dict(order))
            self.say(describe(order), options)
            return
        counts = Order.objects.count_by_status()
        attention = Order.objects.needing_attention().count()
        state = ProviderState.objects.current()
        if options["json"]:
            self.write_json(
                {
                    "orders": counts,
                    "needing_attention": attention,
                    "provider": _as_dict(state),
                    "schedule": schedule_problem() or "ok",
                    "worker": state.worker_problem(timezone.now()) or "ok",
                }
            )
        for status, count in counts.items():
            self.say(f"{status:<18}{count}", options)
        self.say(f"{'need attention':<18}{attention}", options)
        self.say(f"Provider: {state.explain()}", options)
        for label, at in (
            ("last answer", state.succeeded_at),
            ("last failure", state.failed_at),
            ("last sweep", state.swept_at),
            ("last tick", state.ticked_at),
        ):
            self.say(f"  {label:<16}{'never' if at is None else at.isoformat()}", options)
        failure = f"The last failure: {state.failure}" if state.failure else ""
        for trouble in (failure, schedule_problem(), state.worker_problem(timezone.now())):
            if trouble:
                self.say(trouble, options)


def _as_dict(state: ProviderState) -> dict[str, str | None]:
    times = ("paused_until", "succeeded_at", "failed_at", "swept_at", "ticked_at")
    return {
        "pause": state.pause or None,
        "explanation": state.explain(),
        "last_failure": state.failure or None,
    } | {name: at.isoformat() if (at := getattr(state, name)) else None for name in times}
