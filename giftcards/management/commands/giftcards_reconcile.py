from __future__ import annotations

from argparse import ArgumentParser
from datetime import datetime, time, timedelta
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from giftcards.asking import CLOCK_SKEW
from giftcards.following import sweep
from giftcards.gateway import Gateway
from giftcards.management.base import UNFINISHED, WORKING_SETTINGS, GiftcardsCommand, refuse
from giftcards.models import Order, ProviderState
from giftcards.recovery import describe_row, find_orphans, read_listing
from giftcards.statuses import Status


class Command(GiftcardsCommand):
    help = (
        "Look for orders whose placing answer was lost, and report orders at the provider that no"
        " order here owns."
    )
    needs = WORKING_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--since",
            help="Report from this date or time on, as in 2026-11-24 (default: 24 hours ago).",
        )

    def handle(self, **options: Any) -> None:
        since = _moment(options["since"])
        lost = Order.objects.filter(status=Status.UNCONFIRMED)
        before = lost.count()
        lost.update(due_at=timezone.now())
        with Gateway() as gateway:
            sweep(gateway, lost)
            if not gateway.is_open():
                raise CommandError(ProviderState.objects.current().explain(), returncode=UNFINISHED)
            listing = read_listing(
                gateway, lambda: True, start=since, end=timezone.now() + CLOCK_SKEW
            )
            gateway.note()
        orphans = find_orphans(listing)
        left = lost.count()
        if options["json"]:
            self.write_json(
                {
                    "explained": before - left,
                    "unconfirmed": left,
                    "is_whole": listing.is_whole,
                    "orphans": [describe_row(row) for row in orphans],
                }
            )
        self.say(f"{before - left} lost orders explained, {left} left.", options)
        self.say(
            f"{len(orphans)} orders at the provider since {since.isoformat()} are nobody's here.",
            options,
        )
        for row in orphans:
            self.say("  " + "  ".join(str(part) for part in describe_row(row).values()), options)
        if not listing.is_whole:
            raise CommandError(
                "The provider's list could not be read whole.", returncode=UNFINISHED
            )
        if orphans or left:
            raise CommandError("Not every order is explained.", returncode=UNFINISHED)


def _moment(text: str | None) -> datetime:
    if text is None:
        return timezone.now() - timedelta(hours=24)
    try:
        moment = parse_datetime(text)
        if moment is None and (day := parse_date(text)):
            moment = datetime.combine(day, time.min)
    except ValueError:
        moment = None
    if moment is None:
        raise refuse(
            f"since: {text!r} is not a date. Write it like 2026-11-24 or 2026-11-24T08:00."
        )
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)
