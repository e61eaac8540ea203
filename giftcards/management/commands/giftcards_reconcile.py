from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from datetime import datetime, time, timedelta
from functools import partial
from typing import Any

from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from giftcards.engine.gateway import Gateway
from giftcards.engine.listing import Listing, find_orphans, read_listing
from giftcards.engine.pool import Pulse
from giftcards.engine.recording import compare_rows
from giftcards.engine.recovering import describe_row
from giftcards.engine.repetitions import note_repetitions
from giftcards.engine.resolving import Bought, find_bought, last_sign
from giftcards.engine.sweep import sweep
from giftcards.engine.tuning import tuning
from giftcards.management.base import (
    WORKING_SETTINGS,
    GiftcardsCommand,
    current_pause,
    refuse,
    unfinished,
)
from giftcards.management.output import Progress, counted, iso
from giftcards.models import Lease, Order, OrderQuerySet, ProviderState
from giftcards.rules.identity import FARTHEST_CLOCK
from giftcards.rules.states import Status


class Command(GiftcardsCommand):
    help = (
        "Search for unconfirmed orders, compare settled orders with the provider's list, and"
        " report unknown orders at the provider. The command does not place any orders."
    )
    notes = (
        "An order at the provider is unknown if your database does not contain it. An"
        " unknown order was placed elsewhere with the same account, or it was placed"
        " after the backup that you restored. If a settled order differs from the"
        " provider's list, it keeps its status and needs attention. With"
        " --after-restore, the command refuses to start while a worker runs, and"
        " prevents workers from starting.",
        "Exit code 1 means that an order is unknown, different or unconfirmed, that the"
        " provider's list could not be read completely, or that requests are paused.",
    )
    examples = (
        ("Check the last 24 hours:", ""),
        ("Check the time since an outage:", "--since 2026-11-24T08:00"),
        ("Use the command after a restore, before any worker runs:", "--after-restore"),
    )
    needs = WORKING_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--since",
            help="Check orders from this date or time on, for example 2026-11-24 (default: 24"
            " hours ago; with --after-restore: two hours before a worker last ran).",
        )
        parser.add_argument(
            "--after-restore",
            action="store_true",
            help="Use this option on a restored database before the workers start. Put orders"
            " that the provider may already have on hold, so that staff can decide about"
            " them. Do not search for unconfirmed orders (default: put no orders on hold).",
        )

    def handle(self, **options: Any) -> None:
        began = timezone.now()
        with Gateway() as gateway, self.progress(options) as progress:
            find = _find_after_restore if options["after_restore"] else _find
            found = find(gateway, progress, options["since"])
        self.show(found.as_dict(), str(found), options)
        if not found.is_whole:
            trouble = f"The provider's list could not be read completely. {_why_not_all(began)}"
            raise unfinished(trouble.strip())
        if found.has_questions:
            raise unfinished("Some orders are unknown, different or unconfirmed.")


def _find(gateway: Gateway, progress: Progress, since: str | None) -> _Found:
    start = _moment(since, default=timezone.now() - timedelta(hours=24))
    before = _lost().count()
    if before:
        text = f"Searching for {counted(before, 'lost order')} in the provider's list"

        def should_continue() -> bool:
            progress.show(text, unless_short=True)
            return True

        # Lost orders are checked now. Lost orders without a due time wait for a person, and stay as
        # they are.
        _lost().exclude(due_at=None).update(due_at=timezone.now())
        sweep(gateway, _lost(), should_continue=should_continue)
    listing = _read(gateway, Pulse(beat=_beat(progress)), since=start)
    return _Found(start, listing, gateway, explained=before - _lost().count())


def _find_after_restore(gateway: Gateway, progress: Progress, since: str | None) -> _Found:
    """Put orders on hold if the provider might already have them.

    The orders remain on hold until staff decide.

    The function does not search for lost orders, because a search might send an order again. The
    function acquires the lease of the worker loop, so that no worker runs. If the function loses
    the lease, it stops reading the provider's list.
    """
    start = _moment(since, default=last_sign() or timezone.now() - timedelta(hours=24))
    token = Lease.objects.take(Lease.LOOP, tuning.lease)
    if token is None:
        raise refuse(
            "A worker is running or was running a few seconds ago. Stop every worker, and run"
            " this command before you start a worker again. Otherwise, orders that are not on"
            " hold yet may be bought twice."
        )
    keep = partial(Lease.objects.keep, Lease.LOOP, token, tuning.lease)
    try:
        listing = _read(gateway, Pulse(keep, _beat(progress)), since=start)
        rows = find_orphans(listing) if listing else []
        bought = find_bought(rows, gateway, should_continue=keep)
        is_over = not keep()
    finally:
        Lease.objects.release(Lease.LOOP, token)
    return _Found(start, listing, gateway, bought=bought, is_cut_short=is_over)


def _lost() -> OrderQuerySet:
    return Order.objects.filter(status=Status.UNCONFIRMED)


def _beat(progress: Progress) -> Callable[[], None]:
    return partial(progress.show, "Reading the provider's list", unless_short=True)


def _read(gateway: Gateway, pulse: Pulse, *, since: datetime) -> Listing | None:
    if not gateway.try_open():
        return None
    listing = read_listing(gateway, pulse, start=since, end=timezone.now() + FARTHEST_CLOCK)
    gateway.flush()
    return None if listing.has_failed else listing


class _Found:
    """The result of the command.

    ``bought`` is ``None`` without ``--after-restore``.
    """

    def __init__(
        self,
        since: datetime,
        listing: Listing | None,
        gateway: Gateway,
        *,
        explained: int = 0,
        bought: Bought | None = None,
        is_cut_short: bool = False,
    ) -> None:
        self._explained = len(bought.adopted) if bought else explained
        self._left, self._since = _lost().count(), since
        self._on_hold = bought.on_hold if bought else None
        self._waiting = Order.objects.open().filter(status=Status.PENDING).count()
        self._is_read = listing is not None
        self.is_whole = listing is not None and listing.is_whole and not is_cut_short
        self._orphans = list(_describe_orphans(listing, gateway)) if listing else []
        self._changed = [o.reference for o in compare_rows(listing.rows)] if listing else []
        self.has_questions = bool(self._orphans or self._left or self._changed)

    def as_dict(self) -> dict[str, Any]:
        found = {
            "explained": self._explained,
            "unconfirmed": self._left,
            "is_whole": self.is_whole,
            "orphans": self._orphans,
            "changed": self._changed,
        }
        if self._on_hold is None:
            return found
        on_hold = [order.reference for order in self._on_hold]
        return {"since": self._since, "on_hold": on_hold, "waiting": self._waiting, **found}

    def __str__(self) -> str:
        lines = self._about_lost_orders()
        count = len(self._orphans)
        are, orders = "is" if count == 1 else "are", counted(count, "order")
        unknown = f"{orders} at the provider since {iso(self._since)} {are} not in this database"
        if not self._is_read:
            # "0 orders" would be wrong, because nothing was read.
            lines += [
                "The provider's list could not be read. It may contain orders that are not in"
                " this database."
            ]
        elif not self.is_whole:
            lines += [
                f"{unknown}. There may be more orders, because the list was not read completely."
            ]
        else:
            lines += [f"{unknown}."]
        lines += ["  " + "  ".join(map(str, row.values())).rstrip() for row in self._orphans]
        if self._is_read:
            count = len(self._changed)
            are, need = ("is", "needs") if count == 1 else ("are", "need")
            orders = counted(count, "settled order")
            lines += [f"{orders} {are} different at the provider and {need} attention."]
        lines += [f"  {reference}" for reference in self._changed]
        return "\n".join(lines)

    def _about_lost_orders(self) -> list[str]:
        if self._on_hold is None:
            return [f"{counted(self._explained, 'lost order')} resolved, {self._left} left."]
        on_hold, waiting = counted(len(self._on_hold), "order"), counted(self._waiting, "order")
        return [
            f"{on_hold} on hold until staff decide, because the provider may already have bought"
            " them.",
            *(f"  {order.reference}" for order in self._on_hold),
            f"{counted(self._explained, 'order')} found by the reference.",
            f"{waiting} still to be sent.",
        ]


def _describe_orphans(listing: Listing, gateway: Gateway) -> Iterator[dict[str, Any]]:
    """Describe rows in the provider's list that do not belong to an order.

    If a row is a second purchase of an order, the "order" key contains the reference of this order.
    Otherwise, the key contains "".
    """
    orphans = find_orphans(listing)
    repeated = note_repetitions(orphans, listing, gateway)
    for row in orphans:
        order = repeated.get(row.provider_id)
        yield {**describe_row(row), "order": order.reference if order else ""}


def _why_not_all(began: datetime) -> str:
    if pause := current_pause():
        return pause
    state = ProviderState.objects.current()
    return state.failure if state.failed_at is not None and state.failed_at >= began else ""


def _moment(text: str | None, *, default: datetime) -> datetime:
    if text is None:
        return default
    try:
        moment = parse_datetime(text)
        if moment is None and (day := parse_date(text)):
            moment = datetime.combine(day, time.min)
    except ValueError:
        moment = None
    if moment is None:
        raise refuse(
            f"since: {text!r} is not a date. Use a format such as 2026-11-24 or 2026-11-24T08:00."
        )
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)
