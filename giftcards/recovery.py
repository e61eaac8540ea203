"""Finding out what became of orders whose placing answer was lost, without ever buying twice.

The provider keeps no reference of ours, so an order is known again by what it is and when it came:
by the rows of its list, in a window round the time of sending, that no order of ours owns.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError
from django.utils import timezone

from giftcards.asking import CLOCK_SKEW, read_pages
from giftcards.conf import conf
from giftcards.gateway import Gateway
from giftcards.models import Order, OrderQuerySet, StatusChange
from giftcards.provider import OrderAnswer, OrderPage
from giftcards.statuses import ACCEPTED, Status

logger = logging.getLogger(__name__)

# A row of the same line that was created up to this far from sending keeps an order from being
# taken for absent: times that are sent without their zone are whole hours off.
_FARTHEST_CLOCK = timedelta(hours=2)
# The longest pause between two looks.
_LONGEST_PAUSE = timedelta(hours=1)
_CHOOSE = (
    "The answer to sending it was lost. Orders at the provider that may be this one: {}. Choose on"
    " the order's page in the admin."
)
_NOT_SHOWN = "The answer to sending it was lost, and the provider's list does not show it."
# More pages than this (a hundred orders each) are not read at one go.
_MOST_PAGES = 50


@dataclass(frozen=True, slots=True)
class Listing:
    """What the provider's list shows of a span of time; ``is_whole``: that is all there was."""

    rows: tuple[OrderAnswer, ...]
    is_whole: bool


def read_listing(
    gateway: Gateway, go_on: Callable[[], bool], *, start: datetime, end: datetime
) -> Listing:
    """Read the list of orders created from ``start`` to ``end``, every page of it."""
    pages: list[OrderPage] = []
    has_failed = False
    for page in read_pages(gateway, go_on, start=start, end=end, limit=lambda: _MOST_PAGES):
        if isinstance(page, OrderPage):
            pages.append(page)
        else:
            has_failed = True
    rows: dict[str, OrderAnswer] = {}
    brought_news = True
    for page in pages:
        named = {row.provider_id: row for row in page.items if row.provider_id}
        brought_news = not named.keys() <= rows.keys()
        rows |= named
    return Listing(
        rows=tuple(rows.values()),
        is_whole=not has_failed
        and all(_can_be_told(page) for page in pages)
        and _is_complete(pages, len(rows), brought_news=brought_news),
    )


def _can_be_told(page: OrderPage) -> bool:
    # What cannot be told from another order proves nothing.
    return not page.problems and all(row.provider_id and row.created_at for row in page.items)


def _is_complete(pages: Sequence[OrderPage], rows: int, *, brought_news: bool) -> bool:
    """Whether these pages are all that there are. ``brought_news``: the last one did."""
    if not pages:
        return False
    count = pages[0].page_count
    if count is None:
        return rows > 0 and not brought_news
    # A page that came twice instead of another leaves rows out.
    return len(pages) >= max(count, *(page.total_pages or 0 for page in pages)) and rows >= max(
        page.total_results or 0 for page in pages
    )


def find_orphans(listing: Listing) -> list[OrderAnswer]:
    """The rows that no order of ours owns, the oldest first."""
    names = {row.provider_id for row in listing.rows}
    owned: set[str] = set()
    known = Order.objects.known_as(names)
    for order_id, alias in known.values_list("provider_order_id", "provider_alias"):
        owned |= {order_id or "", alias}
    orphans = [row for row in listing.rows if row.provider_id not in owned]
    return sorted(orphans, key=lambda row: (row.created_at or timezone.now(), row.provider_id))


def recover(orders: OrderQuerySet, gateway: Gateway, go_on: Callable[[], bool]) -> int:
    """Look for those of ``orders`` that are lost and due; return how many are explained now.

    Other lost orders of the same time are explained with them: they compete for the same rows.
    """
    due = orders.filter(status=Status.UNCONFIRMED, due_at__lte=timezone.now())
    wanted = set(due.values_list("pk", flat=True))
    lost = Order.objects.filter(status=Status.UNCONFIRMED, sent_at__isnull=False)
    explained = 0
    for group in _by_time(list(lost.order_by("sent_at", "pk"))):
        if any(order.pk in wanted for order in group) and gateway.allows_calls and go_on():
            explained += _recover_group(group, gateway, go_on)
    return explained


def _by_time(lost: Sequence[Order]) -> list[list[Order]]:
    """Divide orders, the first sent first, where no row can be of both sides.

    One that nobody decides about for weeks must not stretch the span in which the others are.
    """
    groups: list[list[Order]] = []
    latest: datetime | None = None
    for order in lost:
        if latest is None or _sent_at(order) - latest > 2 * CLOCK_SKEW:
            groups.append([])
        groups[-1].append(order)
        latest = _sent_at(order)
    return groups


def _recover_group(lost: Sequence[Order], gateway: Gateway, go_on: Callable[[], bool]) -> int:
    sent = [_sent_at(order) for order in lost]
    first, last = min(sent), max(sent)
    nearby = _nearby()
    # Before the list is read: what is accepted while it is read need not be in it.
    ours = list(
        Order.objects.filter(
            status__in=ACCEPTED, accepted_at__gte=first - nearby, sent_at__lte=last + nearby
        )
    )
    # Where the list shows ours at their time, the provider's clock is right, and a busy account
    # need not be read through for orders at other times.
    for skew in (CLOCK_SKEW, _FARTHEST_CLOCK) if ours else (_FARTHEST_CLOCK,):
        listing = read_listing(gateway, go_on, start=first - skew, end=last + skew)
        names = {row.provider_id for row in listing.rows}
        unseen = [order for order in ours if not _is_in(order, names)]
        has_failed = not (listing.rows or listing.is_whole)
        if len(unseen) < len(ours) or has_failed:
            break
    # After the list was read, and before the owners of its rows are looked up: a row that is an
    # order's by then, and under which name, is seen by one of the two.
    rivals = [order for order in _others(lost, first, last) if not _is_known(order, names)]
    orphans = find_orphans(listing)
    by_line: dict[tuple[str, str, int], list[Order]] = defaultdict(list)
    for order in lost:
        by_line[_line(order)].append(order)
    explained = 0
    for line, alike in by_line.items():
        # A row that is exactly what another lost order bought is that one's.
        others = by_line.keys() - {line}
        rows = [row for row in orphans if _line_of(row) not in others]
        unseen_then = unseen if listing.is_whole else None
        explained += _explain(alike, rows, [o for o in rivals if _line(o) == line], unseen_then)
    return explained


def _nearby() -> timedelta:
    """How far apart in time two orders may be sent of which one tells whether the list has both."""
    return timedelta(seconds=conf.proof_of_absence / 2)


def _is_in(order: Order, names: set[str]) -> bool:
    return order.provider_order_id in names or order.provider_alias in names


def _others(lost: Sequence[Order], first: datetime, last: datetime) -> OrderQuerySet:
    """Other orders of which the list may have rows like those of ``lost``."""
    near = (first - 2 * CLOCK_SKEW, last + 2 * CLOCK_SKEW)
    others = Order.objects.filter(sent_at__range=near).exclude(pk__in=[o.pk for o in lost])
    return others.filter(status__in=[Status.PLACING, Status.UNCONFIRMED, *ACCEPTED])


def _is_known(order: Order, names: set[str]) -> bool:
    """Whether it is known what the order's row is called; if not, it may be any of its line."""
    # An id that a person typed may be the one of its row, or the one that placing answers.
    has_alias = order.provider_alias not in {"", order.provider_order_id}
    return bool(order.checked_at) or has_alias or order.provider_order_id in names


def _line(order: Order) -> tuple[str, str, int]:
    return order.product_id, order.type_id, order.quantity


def _sent_at(order: Order) -> datetime:
    assert order.sent_at is not None  # noqa: S101 (it was sent)
    return order.sent_at


def _explain(
    alike: Sequence[Order],
    orphans: Sequence[OrderAnswer],
    rivals: Sequence[Order],
    unseen: Sequence[Order] | None,
) -> int:
    """Explain lost orders of one and the same line; return for how many that succeeded.

    ``rivals``: other orders of the line whose rows may seem to be nobody's. ``unseen``: orders that
    the list should show and does not; ``None``: it could not be read to its end.
    """
    near = [row for row in orphans if any(_may_be(row, order) for order in alike)]
    exact = [row for row in near if _is_line(row, alike[0])]
    if any(_may_be(row, rival) for row in exact for rival in rivals):
        # It will be known soon which is whose.
        _wait(alike, offered=exact, is_soon=True)
        return 0
    if len(exact) > len(alike) or (near and not exact):
        _wait(alike, offered=exact or near)
        return 0
    waiting = list(alike)
    left_over = []
    for row in exact:
        # Orders of one line are interchangeable: the first that it may be has it.
        order = next((order for order in waiting if _may_be(row, order)), None)
        if order and adopt(order, row.provider_id, source=StatusChange.Source.RECOVERY):
            waiting.remove(order)
        elif order:
            left_over.append(row)
    # The provider's clock may be an hour off: nothing is bought again on that account.
    left_over += [
        row
        for row in orphans
        if row not in exact
        and _is_line(row, alike[0])
        and any(_may_be(row, order, within=_FARTHEST_CLOCK) for order in waiting)
    ]
    # A row that does not say what it is may be any of those that are left.
    is_vague = any(
        not (row.product_id and row.type_id and row.quantity)
        for row in orphans
        if any(_may_be(row, order) for order in waiting)
    )
    # Looks that count as a proof, if it has not been too soon.
    clean = []
    if unseen is not None and not left_over and not is_vague:
        clean = [order for order in waiting if not _has_unseen_neighbour(order, unseen)]
    absent = [order for order in clean if _is_absent(order)]
    for order in absent:
        declare_absent(order, send_again=True, source=StatusChange.Source.RECOVERY)
    _wait([order for order in clean if order not in absent], is_soon=True)
    _wait([order for order in waiting if order not in clean], offered=left_over)
    return len(alike) - len(waiting) + len(absent)


def _may_be(row: OrderAnswer, order: Order, *, within: timedelta = CLOCK_SKEW) -> bool:
    """Whether the row may be the order, as far as time and quantity go."""
    if row.quantity not in {None, order.quantity} or order.sent_at is None:
        return False
    return row.created_at is None or abs(row.created_at - order.sent_at) <= within


def _is_line(row: OrderAnswer, order: Order) -> bool:
    return _line_of(row) == _line(order)


def _line_of(row: OrderAnswer) -> tuple[str, str, int | None]:
    return row.product_id, row.type_id, row.quantity


def _has_unseen_neighbour(order: Order, unseen: Sequence[Order]) -> bool:
    """Whether the list does not show another order either that was sent at about the same time."""
    return any(abs(_sent_at(other) - _sent_at(order)) <= _nearby() for other in unseen)


def _is_absent(order: Order) -> bool:
    """Whether this look, which did not find the order, proves that it was not placed.

    The first such look is remembered; the proof is a second one, long enough after sending that the
    order's row would have shown.
    """
    now = timezone.now()
    if order.absent_since is None:
        order.absent_since = now
        Order.objects.filter(pk=order.pk).update(absent_since=now)
        return False
    patience = timedelta(seconds=conf.proof_of_absence)
    return now - order.absent_since >= patience / 2 and now - _sent_at(order) >= patience


def _wait(
    orders: Sequence[Order], *, offered: Sequence[OrderAnswer] = (), is_soon: bool = False
) -> None:
    """Look again later, and leave the choice to a person where rows are ``offered``.

    More and more rarely, unless the next look may tell (``is_soon``).
    """
    now = timezone.now()
    for order in orders:
        values: dict[str, Any] = {"candidates": [describe_row(row) for row in offered]}
        if is_soon:
            values["due_at"] = now + _nearby()
        elif order.due_at is None or order.due_at <= now:
            wait = _nearby() * 2 ** max(order.failures - 1, 0)
            values["due_at"] = now + min(wait, _LONGEST_PAUSE)
            values["failures"] = min(order.failures + 1, 20)
        # Otherwise it was another one's turn, and this one has its own.
        if offered:
            values |= {"problem": _CHOOSE.format(len(offered)), "absent_since": None}
        elif order.candidates:
            values["problem"] = _NOT_SHOWN
        Order.objects.filter(pk=order.pk, status=Status.UNCONFIRMED).update(**values)


def describe_row(row: OrderAnswer) -> dict[str, Any]:
    """What a person needs to tell an order at the provider from others; no cards."""
    return {
        "id": row.provider_id,
        "created_at": row.created_at and row.created_at.isoformat(),
        "status": row.status,
        "quantity": row.quantity,
        "product": row.product_id,
        "type": row.type_id,
    }


def adopt(
    order: Order, provider_order_id: str, *, source: StatusChange.Source, detail: str = ""
) -> bool:
    """Take an order at the provider for the lost ``order``; false if either is taken by now."""
    # No constraint knows aliases: a row under its other name would be delivered twice.
    if Order.objects.known_as([provider_order_id]).exists():
        return False
    now = timezone.now()
    try:
        change = order.move(
            Status.HANDLING,
            source=source,
            detail=detail or f"Found at the provider as {provider_order_id}.",
            provider_order_id=provider_order_id,
            provider_alias=provider_order_id,
            accepted_at=now,
            due_at=now,
            failures=0,
            problem="",
            candidates=[],
            absent_since=None,
        )
    except IntegrityError:
        return False
    if change:
        logger.info("Order %s was found at the provider: %s.", order.reference, provider_order_id)
    return change is not None


def declare_absent(
    order: Order, *, send_again: bool, source: StatusChange.Source, detail: str = ""
) -> bool:
    """The lost ``order`` was not placed: send it again or reject it. False if it has moved."""
    now = timezone.now()
    values: dict[str, Any] = {"problem": "", "candidates": [], "absent_since": None, "failures": 0}
    if send_again:
        values["due_at"] = now
        if source == StatusChange.Source.STAFF:
            # Who decides now does not mean an order that is given up for its age.
            values["queued_at"] = now
    change = order.move(
        Status.PENDING if send_again else Status.REJECTED,
        source=source,
        detail=detail or "The provider's list does not show it: it was not placed.",
        **values,
    )
    if change:
        logger.warning("Order %s was not placed; it is %s now.", order.reference, order.status)
    return change is not None
