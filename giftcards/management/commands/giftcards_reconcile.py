from __future__ import annotations

from argparse import ArgumentParser
from datetime import datetime, time, timedelta
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from giftcards.engine.gateway import Gateway
from giftcards.engine.polling import CLOCK_SKEW, Pulse
from giftcards.engine.recovery import Listing, describe_row, find_orphans, read_listing
from giftcards.engine.settled import compare_rows
from giftcards.engine.sweep import sweep
from giftcards.management.base import (
    UNFINISHED,
    WORKING_SETTINGS,
    GiftcardsCommand,
    refuse,
    why_not_all,
)
from giftcards.management.output import Progress, counted, iso
from giftcards.models import Order, OrderQuerySet
from giftcards.statuses import Status


class Command(GiftcardsCommand):
    help = (
        "Look for orders whose placing answer was lost, compare settled orders with the provider's"
        " list, and report orders at the provider that no order here owns. It places nothing."
    )
    examples = (
        ("The last 24 hours:", ""),
        ("Since a backup that was restored:", "--since 2026-11-24T08:00"),
    )
    needs = WORKING_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--since",
            help="Report from this date or time on, as in 2026-11-24 (default: 24 hours ago).",
        )

    def handle(self, **options: Any) -> None:
        since, began = _moment(options["since"]), timezone.now()
        lost = Order.objects.filter(status=Status.UNCONFIRMED)
        before = lost.count()
        with Gateway() as gateway, self.progress(options) as progress:
            if before:
                _look_for(lost, gateway, progress)
            listing = _read(gateway, progress, since=since)
        found = _Found(before, lost.count(), since, listing)
        if options["json"]:
            self.write_json(found.as_dict())
        self.say(str(found), options)
        if not found.is_whole:
            trouble = f"The provider's list could not be read whole. {why_not_all(began)}"
            raise CommandError(trouble.strip(), returncode=UNFINISHED)
        if found.has_questions:
            raise CommandError("Not every order is explained.", returncode=UNFINISHED)


def _look_for(lost: OrderQuerySet, gateway: Gateway, progress: Progress) -> None:
    """Search for the lost orders, whether they are due or not."""
    text = f"Looking for {counted(lost.count(), 'lost order')} in the provider's list"

    def should_continue() -> bool:
        progress.show(text, unless_short=True)
        return True

    lost.update(due_at=timezone.now())
    sweep(gateway, lost, should_continue=should_continue)


def _read(gateway: Gateway, progress: Progress, *, since: datetime) -> Listing | None:
    """Read the provider's list from ``since`` on; ``None`` if nothing of it could be read."""

    def beat() -> None:
        progress.show("Reading the provider's list", unless_short=True)

    if not gateway.try_open():
        return None
    end = timezone.now() + CLOCK_SKEW
    listing = read_listing(gateway, Pulse(beat=beat), start=since, end=end)
    gateway.flush()
    return None if listing.has_failed else listing


class _Found:
    """What the search has brought to light."""

    def __init__(self, before: int, left: int, since: datetime, listing: Listing | None) -> None:
        self._explained, self._left, self._since = before - left, left, since
        self._is_read = listing is not None
        self.is_whole = listing is not None and listing.is_whole
        self._orphans = [describe_row(row) for row in find_orphans(listing)] if listing else []
        # Settled orders that the list shows otherwise.
        self._changed = [o.reference for o in compare_rows(listing.rows)] if listing else []

    def as_dict(self) -> dict[str, Any]:
        return {
            "explained": self._explained,
            "unconfirmed": self._left,
            "is_whole": self.is_whole,
            "orphans": self._orphans,
            "changed": self._changed,
        }

    def __str__(self) -> str:
        lines = [f"{counted(self._explained, 'lost order')} explained, {self._left} left."]
        if not self._is_read:
            # Not "0 orders": nobody could look.
            lines += ["The provider's list could not be read: it may have orders unknown here."]
        elif not self.is_whole:
            lines += [f"{self._nobodys()}. There may be more: the list was not read whole."]
        else:
            lines += [f"{self._nobodys()}."]
        lines += ["  " + "  ".join(map(str, row.values())) for row in self._orphans]
        if self._is_read:
            count = len(self._changed)
            are, need = ("is", "needs") if count == 1 else ("are", "need")
            orders = counted(count, "settled order")
            lines += [f"{orders} {are} different there and {need} a look."]
        lines += [f"  {reference}" for reference in self._changed]
        return "\n".join(lines)

    def _nobodys(self) -> str:
        count = len(self._orphans)
        are = "is" if count == 1 else "are"
        orders = counted(count, "order")
        return f"{orders} at the provider since {iso(self._since)} {are} nobody's here"

    @property
    def has_questions(self) -> bool:
        """Whether there is an order, here or at the provider, that is not explained."""
        return bool(self._orphans or self._left or self._changed)


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
