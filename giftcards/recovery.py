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
    rows: dict[str, OrderAnswer] = {}
    read, announced, announced_rows, is_whole = 0, 1, 0, True
    for page in read_pages(gateway, go_on, start=start, end=end, limit=lambda: _MOST_PAGES):
        if not isinstance(page, OrderPage):
            is_whole = False
            continue
        read += 1
        announced = max(announced, page.total_pages or 0)
        announced_rows = max(announced_rows, page.total_results or 0)
        # What cannot be told from another order proves nothing.
        is_whole &= page.total_pages is not None and not page.problems
        is_whole &= all(row.provider_id and row.created_at for row in page.items)
        rows |= {row.provider_id: row for row in page.items}
    # A page that came twice instead of another leaves rows out.
    is_whole &= read >= announced and len(rows) >= announced_rows
    return Listing(tuple(rows.values()), is_whole)


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
        assert order.sent_at is not None  # noqa: S101 (it was sent)
        if latest is None or order.sent_at - latest > 2 * CLOCK_SKEW:
            groups.append([])
        groups[-1].append(order)
        latest = order.sent_at
    return groups


def _recover_group(lost: Sequence[Order], gateway: Gateway, go_on: Callable[[], bool]) -> int:
    sent = [order.sent_at for order in lost if order.sent_at]
    nearby = timedelta(seconds=conf.proof_of_absence / 2)
    # Before the list is read: what is accepted while it is read need not be in it.
    ours = list(
        Order.objects.filter(
            status__in=ACCEPTED,
            accepted_at__gte=min(sent) - nearby,
            sent_at__lte=max(sent) + nearby,
        ).values_list("provider_order_id", "provider_alias")
    )
    # Where the list shows ours at their time, the provider's clock is right, and a busy account
    # need not be read through for orders at other times.
    for skew in (CLOCK_SKEW, _FARTHEST_CLOCK) if ours else (_FARTHEST_CLOCK,):
        start, end = min(sent) - skew, max(sent) + skew
        listing = read_listing(gateway, go_on, start=start, end=end)
        names = {row.provider_id for row in listing.rows}
        shows_ours = all(order_id in names or alias in names for order_id, alias in ours)
        if shows_ours:
            break
    # Before the owners of the rows are looked up: an order that is accepted meanwhile is one then.
    being_sent = {_line(order) for order in Order.objects.filter(status=Status.PLACING)}
    orphans = find_orphans(listing)
    by_line: dict[tuple[str, str, int], list[Order]] = defaultdict(list)
    for order in lost:
        by_line[_line(order)].append(order)
    explained = 0
    for line, alike in by_line.items():
        if not shows_ours or line in being_sent:
            # A row that seems to be nobody's may be another order of ours then.
            _look_again(alike)
        else:
            # A row that is exactly what another lost order bought is that one's.
            others = by_line.keys() - {line}
            rows = [row for row in orphans if _line_of(row) not in others]
            explained += _explain(alike, rows, is_whole=listing.is_whole)
    return explained


def _line(order: Order) -> tuple[str, str, int]:
    return order.product_id, order.type_id, order.quantity


def _explain(alike: Sequence[Order], orphans: Sequence[OrderAnswer], *, is_whole: bool) -> int:
    """Explain lost orders of one and the same line; return for how many that succeeded."""
    near = [row for row in orphans if any(_may_be(row, order) for order in alike)]
    exact = [row for row in near if _is_line(row, alike[0])]
    if len(exact) > len(alike) or (near and not exact):
        _offer(alike, exact or near)
        return 0
    waiting = list(alike)
    for row in exact:
        # Orders of one line are interchangeable: the first that it may be has it.
        order = next((order for order in waiting if _may_be(row, order)), None)
        if order and adopt(order, row.provider_id, source=StatusChange.Source.RECOVERY):
            waiting.remove(order)
    far = [
        row
        for row in orphans
        if row not in near
        and _is_line(row, alike[0])
        and any(_may_be(row, order, within=_FARTHEST_CLOCK) for order in waiting)
    ]
    if far:
        # The provider's clock may be an hour off: nothing is bought again on that account.
        _offer(waiting, far)
        return len(alike) - len(waiting)
    # A row that does not say what it is may be any of those that are left.
    is_whole &= all(row.product_id and row.type_id and row.quantity for row in near)
    absent = [order for order in waiting if is_whole and _is_absent(order)]
    for order in absent:
        declare_absent(order, send_again=True, source=StatusChange.Source.RECOVERY)
    _look_again([order for order in waiting if order not in absent])
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


def _is_absent(order: Order) -> bool:
    """Whether this look, which did not find the order, proves that it was not placed.

    The first such look is remembered; the proof is a second one, long enough after sending that
    the order's row would have shown.
    """
    now = timezone.now()
    patience = timedelta(seconds=conf.proof_of_absence)
    if order.absent_since is None:
        order.absent_since = now
        Order.objects.filter(pk=order.pk).update(absent_since=now)
        return False
    assert order.sent_at is not None  # noqa: S101 (it was sent)
    return now - order.absent_since >= patience / 2 and now - order.sent_at >= patience


def _look_again(orders: Sequence[Order]) -> None:
    for order in orders:
        # Twice soon, which is what a proof takes, then more and more rarely.
        wait = timedelta(seconds=conf.proof_of_absence / 2) * 2 ** max(order.failures - 1, 0)
        Order.objects.filter(pk=order.pk, status=Status.UNCONFIRMED).update(
            due_at=timezone.now() + min(wait, _LONGEST_PAUSE),
            failures=min(order.failures + 1, 20),
        )


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


def _offer(orders: Sequence[Order], rows: Sequence[OrderAnswer]) -> None:
    """Leave the choice to a person: more was found than can be told apart."""
    candidates = [describe_row(row) for row in rows]
    problem = (
        f"The answer to sending it was lost, and {len(rows)} orders at the provider may be this"
        " one. Choose on the order's page in the admin."
    )
    for order in orders:
        Order.objects.filter(pk=order.pk, status=Status.UNCONFIRMED).update(
            candidates=candidates, problem=problem, absent_since=None
        )
    _look_again(orders)


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
        values |= {"queued_at": now, "due_at": now}
    change = order.move(
        Status.PENDING if send_again else Status.REJECTED,
        source=source,
        detail=detail or "The provider's list does not show it: it was not placed.",
        **values,
    )
    if change:
        logger.warning("Order %s was not placed; it is %s now.", order.reference, order.status)
    return change is not None
