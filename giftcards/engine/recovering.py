"""Recovering orders whose answer was lost, without buying them twice.

:func:`recover` reads the provider's list around the time of sending, lets
:mod:`giftcards.rules.lost_orders` decide, and applies the decisions.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError
from django.utils import timezone

from giftcards.engine.backoff import backoff
from giftcards.engine.database import isolate_failures
from giftcards.engine.gateway import Gateway
from giftcards.engine.listing import Listing, find_orphans, read_listing
from giftcards.engine.pool import Pulse
from giftcards.engine.repetitions import note_repetitions
from giftcards.engine.tuning import tuning
from giftcards.models import Order, OrderQuerySet, StatusChange
from giftcards.models.orders import ReferenceAnswer
from giftcards.provider.answers import OrderAnswer
from giftcards.rules.identity import CLOCK_SKEW, FARTHEST_CLOCK, line_of
from giftcards.rules.lost_orders import (
    Absent,
    Adopt,
    AskPerson,
    Decision,
    Elsewhere,
    SentOrder,
    Survey,
    Wait,
    ask_about_failed,
    plan,
)
from giftcards.rules.problems import Problem
from giftcards.rules.states import FOLLOWED, Kind, Status
from giftcards.rules.times import is_recent, with_zone

logger = logging.getLogger(__name__)

_LONGEST_PAUSE = timedelta(hours=1)
# The first and the longest pause before the next search for an order that was sent with another API
# key. The pauses are short, because a process with the right key may be searching for the order.
_ANOTHER_KEY, _LONGEST_WITH_ANOTHER = timedelta(minutes=1), timedelta(minutes=10)
_SOURCE = StatusChange.Source.RECOVERY


def recover(orders: OrderQuerySet, gateway: Gateway, pulse: Pulse) -> int:
    """Search for the ``orders`` that are lost and due.

    The function also resolves lost orders that are not due or not in ``orders``, if they were sent
    at about the same time, because the same rows of the list might belong to them. Returns the
    number of resolved orders.
    """
    due = set(orders.to_recover(timezone.now()).values_list("pk", flat=True))
    if not due:
        return 0
    lost = Order.objects.open().filter(status=Status.UNCONFIRMED, sent_at__isnull=False)
    resolved = 0
    for group in _by_time(_of_this_account(lost.order_by("sent_at", "pk"), gateway, due)):
        is_due = any(order.pk in due for order in group)
        if is_due and gateway.is_open and pulse.should_continue():
            with isolate_failures(*group):
                decisions = plan(_survey(group, gateway, pulse))
                resolved += _apply(decisions, {order.pk: order for order in group})
    return resolved


def _of_this_account(lost: OrderQuerySet, gateway: Gateway, due: Collection[int]) -> list[Order]:
    """Return the ``lost`` orders that the gateway's order list can contain.

    Orders that the list cannot contain are reported to staff if they are due. The list of one
    account does not show whether an order was placed with another account. If a reference was sent
    with an order, the order can be found with any API key of the same account.
    """
    found: list[Order] = []
    if any(order.environment for order in lost):
        gateway.environment()  # to know which account's list is read
    for order in lost:
        is_named = order.provider_reference and not order.was_sent_elsewhere(gateway.key)
        if is_named or order.was_sent_with(gateway.key):
            found.append(order)
        elif order.pk in due:
            _note_other_account(order, pause=_ANOTHER_KEY)
    return found


def _note_other_account(order: Order, *, pause: timedelta) -> None:
    columns = order.problem_columns(new=[Problem("other_account")])
    columns |= {"due_at": timezone.now() + pause, "failures": min(order.failures + 1, 20)}
    unchanged = Order.objects.filter(pk=order.pk, status=order.status, claim=order.claim)
    unchanged.update(**columns)


def _by_time(lost: Sequence[Order]) -> list[list[Order]]:
    """Split ``lost`` into groups that were sent at about the same time.

    The orders must be sorted by sending time. The list is read once for each group. The groups are
    so far apart in time that no row can match orders from two of them.
    """
    groups: list[list[Order]] = []
    for order in lost:
        if not groups or _sent_at(order) - _sent_at(groups[-1][-1]) > 2 * CLOCK_SKEW:
            groups.append([])
        groups[-1].append(order)
    return groups


def _survey(lost: Sequence[Order], gateway: Gateway, pulse: Pulse) -> Survey:
    """Read the provider's list around the sending times of ``lost`` orders.

    The orders must be sorted by sending time.
    """
    # The queries below must stay in this sequence, because other processes change orders in the
    # meantime.
    now = timezone.now()
    # A request starts at most ``start_within`` after the claim.
    proof = timedelta(seconds=tuning.start_within) + 2 * _half_proof()
    half_proof_ago, proof_ago = map(gateway.clock.long_ago, (_half_proof(), proof))
    first = min(map(_first_sent_at, lost))
    last = _sent_at(lost[-1])
    # Accepted orders are queried before the list is read. If the list does not contain all of them,
    # the list is out of date.
    nearby = Order.objects.sent_between(first - _half_proof(), last + _half_proof())
    accepted = [
        order
        for order in nearby.filter(accepted_at__isnull=False)
        if order.was_sent_with(gateway.key)
    ]
    listing = _read_around(first, last, accepted, gateway, pulse)
    # Other orders that were sent at about the same time may own rows of the list. These orders are
    # read before the rows without an owner are determined. Otherwise, an order that takes a row
    # between the two queries would be missed.
    nearby = Order.objects.sent_between(first - 2 * CLOCK_SKEW, last + 2 * CLOCK_SKEW)
    others = [
        order
        for order in nearby.exclude(pk__in=[order.pk for order in lost])
        if not order.was_sent_elsewhere(gateway.key)
    ]
    rivals = [order for order in others if not _is_row_known(order, listing)]
    rows = find_orphans(listing)
    # A row with the reference of another order is not one of the lost orders.
    named = note_repetitions(rows, listing, gateway)
    rows = [row for row in rows if named.get(row.provider_id, lost[0]) in lost]
    # The statuses are read last. Orders that another process has resolved in the meantime count as
    # rivals, so that their rows are not used.
    unresolved = Order.objects.filter(
        pk__in=[order.pk for order in lost], status=Status.UNCONFIRMED
    )
    keys = set(unresolved.values_list("pk", flat=True))
    rivals += [order for order in lost if order.pk not in keys]
    return Survey(
        lost=[
            replace(
                _as_sent(order, gateway),
                sent_at=with_zone(_first_sent_at(order)),
                is_dated=_is_dated(order, gateway),
            )
            for order in lost
            if order.pk in keys
        ],
        rows=rows,
        rivals=[_as_sent(order, gateway) for order in rivals],
        unseen=[_as_sent(order, gateway) for order in accepted if not listing.row_of(order)],
        doubts=[_as_sent(order, gateway) for order in others if _is_doubtful(order, listing, now)],
        is_whole=listing.is_whole,
        half_proof_ago=with_zone(half_proof_ago),
        proof_ago=with_zone(proof_ago),
        proof_of_absence=2 * _half_proof(),
    )


def _is_dated(order: Order, gateway: Gateway) -> bool:
    """Return True if the server's clock was right when ``order`` was sent.

    If the clock was wrong, the list can show the order at a different time, and cannot prove that
    the order was not placed.
    """
    sent_at = _sent_at(order)
    is_dated = gateway.was_clock_right(sent_at)
    if not is_dated:
        logger.warning(
            "The clock of this server was wrong at about %s, when a lost order was sent."
            " Therefore, the provider's list cannot prove that the order was not placed.",
            sent_at.isoformat(),
        )
    return is_dated


def _read_around(
    first: datetime,
    last: datetime,
    accepted: Sequence[Order],
    gateway: Gateway,
    pulse: Pulse,
) -> Listing:
    """Read the list for a period, which is extended by a margin at both ends.

    The margin allows for the difference from the provider's clock. A margin of a few minutes is
    enough if the list contains one of our ``accepted`` orders, because the clocks then agree.
    """

    if accepted:
        start, end = first - CLOCK_SKEW, last + CLOCK_SKEW
        listing = read_listing(gateway, pulse, start=start, end=end)
        if listing.has_failed or any(listing.row_of(order) for order in accepted):
            return listing
    start, end = first - FARTHEST_CLOCK, last + FARTHEST_CLOCK
    return read_listing(gateway, pulse, start=start, end=end)


def _is_row_known(order: Order, listing: Listing) -> bool:
    """Return True if the app knows which row belongs to ``order``.

    If the app does not know this, any row with the same product, type and quantity could belong to
    the order.
    """
    # An id from the list or from staff is stored in both columns, so the alias is then not a second
    # id.
    has_alias = bool(order.provider_alias) and not order.was_adopted
    was_answered = bool(order.checked_at) and not _is_unconfirmed(order)
    return was_answered or has_alias or listing.row_of(order) is not None


def _is_unconfirmed(order: Order) -> bool:
    return order.status in FOLLOWED and order.identified_at is None


def _is_doubtful(order: Order, listing: Listing, now: datetime) -> bool:
    """Return True if the order's id might belong to a lost order.

    The id of an accepted order is uncertain until a check or a row of the list confirms it. Returns
    False if the order was accepted recently, because such an order was sent long after every lost
    order that can already be proven absent.
    """
    accepted_at = order.accepted_at
    is_new = accepted_at is not None and is_recent(accepted_at, now, period=_half_proof())
    if is_new or not _is_unconfirmed(order):
        return False
    row = listing.row_of(order)
    return row is None or line_of(row) != order.line


def _as_sent(order: Order, gateway: Gateway) -> SentOrder:
    is_repeated = order.reference_answer == ReferenceAnswer.REPEATED
    recorded_at = min(order.created_at, _sent_at(order))
    return SentOrder(
        key=order.pk,
        line=order.line,
        sent_at=with_zone(_sent_at(order)),
        absent_since=order.absent_since and with_zone(order.absent_since),
        was_accepted=bool(order.answered_id) or is_repeated,
        reference=order.provider_reference,
        not_before=gateway.earliest_there(recorded_at),
        last_sent_at=with_zone(_sent_at(order)) if is_repeated else None,
        is_elsewhere=not order.was_sent_with(gateway.key),
    )


def _first_sent_at(order: Order) -> datetime:
    """Return the time of the first attempt that might have bought the order."""
    if order.reference_answer != ReferenceAnswer.REPEATED:
        return _sent_at(order)
    attempts = order.changes.filter(to_status=Status.PLACING)
    return min(_sent_at(order), *attempts.values_list("at", flat=True))


def _sent_at(order: Order) -> datetime:
    assert order.sent_at is not None  # noqa: S101 (the order was sent)
    return order.sent_at


def _half_proof() -> timedelta:
    """Return the minimum time between two searches for a lost order.

    If neither search finds the order, the two searches together prove that the order is absent.
    """
    return timedelta(seconds=tuning.proof_of_absence / 2)


def _apply(decisions: Sequence[Decision], orders: Mapping[int, Order]) -> int:
    adoptions = [decision for decision in decisions if isinstance(decision, Adopt)]
    failed = [
        adoption for adoption in adoptions if not _adopt(orders[adoption.order.key], adoption)
    ]
    resolved = len(adoptions) - len(failed)
    rest = [decision for decision in decisions if not isinstance(decision, Adopt)]
    for decision in ask_about_failed(rest, failed):
        order = orders[decision.order.key]
        match decision:
            case Absent():
                resolved += declare_absent(order, send_again=True, source=_SOURCE)
            case AskPerson(rows=rows, is_soon=is_soon):
                _ask_person(order, rows, is_soon=is_soon)
            case Wait(is_evidence=is_evidence):
                _wait(order, is_evidence=is_evidence)
            case Elsewhere():
                pause = backoff(
                    order.failures + 1, first_pause=_ANOTHER_KEY, max_pause=_LONGEST_WITH_ANOTHER
                )
                _note_other_account(order, pause=pause)
    return resolved


def _adopt(order: Order, adoption: Adopt) -> bool:
    repeated = [row.provider_id for row in adoption.repeated]
    return adopt(order, adoption.row.provider_id, source=_SOURCE, repeated=repeated)


def _ask_person(order: Order, rows: Sequence[OrderAnswer], *, is_soon: bool) -> None:
    _search_again(
        order,
        is_soon=is_soon,
        candidates=[describe_row(row) for row in rows],
        **order.problem_columns(ends={Kind.SEARCH}, new=[Problem("choose", {"count": len(rows)})]),
        absent_since=None,
    )


def _wait(order: Order, *, is_evidence: bool) -> None:
    new = [Problem("not_listed")] if order.candidates else []
    values: dict[str, Any] = {
        "candidates": [],
        **order.problem_columns(ends={Kind.SEARCH}, new=new),
    }
    now = timezone.now()
    # A time in the future was stored before the clock was set back.
    if is_evidence and (order.absent_since is None or order.absent_since > now):
        values["absent_since"] = now
    _search_again(order, is_soon=is_evidence, **values)


def _search_again(order: Order, *, is_soon: bool, **values: Any) -> None:
    now = timezone.now()
    if is_soon:
        values["due_at"] = now + _half_proof()
    elif order.due_at is None or order.due_at <= now:
        longest = max(_LONGEST_PAUSE, _half_proof())
        values["due_at"] = now + backoff(
            order.failures, first_pause=_half_proof(), max_pause=longest
        )
        values["failures"] = min(order.failures + 1, 20)
    # An order that is not due yet was included only because of other orders. It keeps its due time,
    # unless it has to be searched for soon.
    Order.objects.filter(pk=order.pk, status=Status.UNCONFIRMED).update(**values)


def describe_row(row: OrderAnswer) -> dict[str, Any]:
    """Return the details that identify one of the provider's orders.

    Staff recognise the order by these details. The details do not include the cards.
    """
    return {
        "id": row.provider_id,
        "created_at": row.created_at and row.created_at.isoformat(),
        "status": row.status,
        "quantity": row.quantity,
        "product": row.product_id,
        "type": row.type_id,
    }


def adopt(
    order: Order,
    provider_order_id: str,
    *,
    source: StatusChange.Source,
    detail: Problem | None = None,
    repeated: Iterable[str] = (),
    is_insisted: bool = False,
) -> bool:
    """Record that one of the provider's orders is the lost ``order``.

    The caller has compared the two orders. ``is_insisted`` is True if the orders differ, but staff
    say that they are the same. Later answers for such an order can contain a product and type that
    differ from those of ``order``, but not a different quantity. If the provider sold the order
    more than once, ``repeated`` contains the ids of the other purchases.

    Returns False if another order already has ``provider_order_id``, or if the ``claim`` or
    ``status`` in the order's row has changed since ``order`` was read. Also returns False if staff
    have said that the id does not belong to the order, unless ``source`` shows that staff
    themselves use the id.
    """
    # The table does not have a constraint for aliases. Without this check, two orders could be
    # identified with the same order at the provider, each with one of its ids, and the cards would
    # be delivered twice.
    if Order.objects.known_as([provider_order_id]).exists():
        return False
    if source != StatusChange.Source.STAFF and _was_released(order, provider_order_id):
        return False
    now = timezone.now()
    found = detail or Problem("found", {"provider_order_id": provider_order_id})
    others = [Problem("bought_twice", {"provider_order_id": other}) for other in repeated]
    try:
        change = order.move(
            Status.HANDLING,
            source=source,
            details=[found, *others],
            provider_order_id=provider_order_id,
            provider_alias=provider_order_id,
            accepted_at=now,
            identified_at=now,
            is_insisted=is_insisted,
            due_at=now,
            failures=0,
            candidates=[],
            absent_since=None,
        )
    except IntegrityError:
        return False
    if change:
        logger.info("Order %s was found at the provider: %s.", order.reference, provider_order_id)
        for problem in others:
            logger.error("Order %s is %s. %s", order.reference, order.status, problem)
    return change is not None


def _was_released(order: Order, provider_order_id: str) -> bool:
    releases = order.changes.filter(
        to_status=Status.UNCONFIRMED, source=StatusChange.Source.STAFF
    ).values_list("details", flat=True)
    return any(
        entry["parameters"].get("provider_order_id") == provider_order_id
        for details in releases
        for entry in details
        if entry["code"] == "staff_released"
    )


def declare_absent(
    order: Order,
    *,
    send_again: bool,
    source: StatusChange.Source,
    detail: Problem | None = None,
) -> bool:
    """Record that the lost ``order`` was not placed, and resend or reject it.

    If ``send_again`` is True, the order is sent again. Otherwise, it is rejected. Returns False if
    the ``claim`` or ``status`` in the order's row has changed since ``order`` was read, or if a
    late answer has shown that the order was accepted.
    """
    now = timezone.now()
    values: dict[str, Any] = {
        "answered_id": "",
        "reference_answer": "",
        "candidates": [],
        "absent_since": None,
        "failures": 0,
    }
    if send_again:
        values["due_at"] = now
        if source == StatusChange.Source.STAFF:
            # Staff want the order to be sent now, so SEND_TIMEOUT starts from the beginning, and
            # any key may be used.
            values |= {"queued_at": now, "environment": "", "sent_with": ""}
    change = order.move(
        Status.PENDING if send_again else Status.REJECTED,
        source=source,
        details=[detail or Problem("absent")],
        # A late answer may have shown in the meantime that the order was accepted.
        conditions={"answered_id": order.answered_id, "reference_answer": order.reference_answer},
        **values,
    )
    if change:
        logger.warning("Order %s was not placed and is now %s.", order.reference, order.status)
    return change is not None
