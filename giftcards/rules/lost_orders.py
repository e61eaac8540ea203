"""Decide what happened to lost orders.

A lost order is an order that was sent, but for which no usable answer arrived. If a row of the
provider's list has the order's reference, this row is the order. A row with another reference or
without a reference does not prove anything, because the provider might change references. If the
reference does not identify a row, an order is identified by its line (product, type and quantity)
and the time when it was sent. Orders with the same line are interchangeable. This module does not
use the database or the clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from giftcards.provider.answers import OrderAnswer
from giftcards.rules.identity import (
    CLOCK_SKEW,
    FARTHEST_CLOCK,
    Line,
    find_difference,
    is_created_before,
    line_of,
)

_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SentOrder:
    """An order that this shop has sent.

    ``absent_since`` is the time of the first search that suggested that the order is absent.

    ``is_dated`` is True if ``sent_at`` agrees with the provider's clock. Otherwise, the absence of
    a row does not prove that the order was not placed.

    ``was_accepted`` is True if the provider answered with the id of another order, or reported that
    it already has this ``reference``. If the provider reported that it already has the reference,
    the order might have been sent several times between ``sent_at`` and ``last_sent_at``.

    ``reference`` is "" if the order was sent without a reference.

    ``not_before`` is the earliest time that the provider's clock could have shown when the order
    was recorded. A row that was created before ``not_before`` belongs to another order, unless the
    times in the list are wrong. The app never adopts such a row without asking staff. If
    ``not_before`` is ``None``, the creation time of a row does not matter.

    ``is_elsewhere`` is True if the list might belong to another account. In another account, only a
    reference can identify a row, and a missing row does not prove anything.
    """

    key: int
    line: Line
    sent_at: datetime
    absent_since: datetime | None = None
    is_dated: bool = True
    was_accepted: bool = False
    reference: str = ""
    not_before: datetime | None = None
    last_sent_at: datetime | None = None
    is_elsewhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The result of one search of the provider's list."""

    lost: Sequence[SentOrder]
    # Rows that do not belong to any of our orders, with unique ids.
    rows: Sequence[OrderAnswer]
    # Other orders that may own one of the rows.
    rivals: Sequence[SentOrder]
    # Accepted orders that are missing from the list.
    unseen: Sequence[SentOrder]
    # Accepted orders whose id may belong to a lost order.
    doubts: Sequence[SentOrder]
    is_whole: bool
    # The start of the search, minus half of ``proof_of_absence``.
    half_proof_ago: datetime
    # The start of the search, minus ``proof_of_absence``.
    proof_ago: datetime
    # The time within which an order that was sent appears in the list.
    proof_of_absence: timedelta


@dataclass(frozen=True, slots=True)
class Adopt:
    """The decision that a row of the provider's list is the order.

    ``repeated`` contains the other rows with the order's reference, each of which is a further
    purchase.
    """

    order: SentOrder
    row: OrderAnswer
    repeated: tuple[OrderAnswer, ...] = ()


@dataclass(frozen=True, slots=True)
class Absent:
    """The decision that the order was not placed."""

    order: SentOrder


@dataclass(frozen=True, slots=True)
class Wait:
    """The decision to search again.

    ``is_evidence`` is True if this search is evidence of absence.
    """

    order: SentOrder
    is_evidence: bool


@dataclass(frozen=True, slots=True)
class AskPerson:
    """The decision to ask staff which row, if any, is the order.

    ``rows`` contains the candidates. ``is_soon`` is True if the next search is likely to settle the
    question.
    """

    order: SentOrder
    rows: tuple[OrderAnswer, ...]
    is_soon: bool = False


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The decision that the order might belong to another account."""

    order: SentOrder


Decision = Adopt | Absent | Wait | AskPerson | Elsewhere


def plan(survey: Survey) -> list[Decision]:
    """Return one decision per lost order."""
    decisions, survey = _plan_named(survey)
    by_line: dict[Line, list[SentOrder]] = defaultdict(list)
    for order in sorted(survey.lost, key=lambda order: (order.sent_at, order.key)):
        by_line[order.line].append(order)
    # Rows without a time come last. They fit any order, so they are paired with the remaining
    # orders.
    rows = sorted(survey.rows, key=_by_age)
    for line, orders in by_line.items():
        # Rows with the line of other lost orders are left out, because they belong to those orders.
        others = by_line.keys() - {line}
        decisions += _plan_line(orders, [row for row in rows if line_of(row) not in others], survey)
    return decisions


def _may_be_adopted(row: OrderAnswer, order: SentOrder) -> bool:
    is_same = find_difference(row, order.line) is None
    return is_same and not is_created_before(row, order.not_before)


def _by_age(row: OrderAnswer) -> tuple[datetime, str]:
    return row.created_at or _LAST, row.provider_id


def _plan_named(survey: Survey) -> tuple[list[Decision], Survey]:
    """Decide about orders whose reference is in a row.

    Returns the decisions, and a survey for the remaining orders. An order that might belong to
    another account is added to the survey's ``rivals``, because one of the remaining rows could
    belong to it.
    """
    named: dict[str, list[OrderAnswer]] = defaultdict(list)
    for row in survey.rows:
        named[row.reference].append(row)
    decisions: list[Decision] = []
    left, rivals = [], list(survey.rivals)
    for order in survey.lost:
        rows = named.pop(order.reference, []) if order.reference else []
        if rows and all(_may_be_adopted(row, order) for row in rows):
            first, *repeated = sorted(rows, key=_by_age)
            decisions.append(Adopt(order, first, tuple(repeated)))
        elif rows:
            decisions.append(AskPerson(order, tuple(rows)))
        elif order.is_elsewhere:
            decisions.append(Elsewhere(order))
            rivals.append(order)
        else:
            left.append(order)
    rest = [row for rows in named.values() for row in rows]
    return decisions, replace(survey, lost=left, rows=rest, rivals=rivals)


def ask_about_failed(decisions: Iterable[Decision], failed: Sequence[Adopt]) -> list[Decision]:
    """Ask staff about all orders that have the line of a failed decision.

    ``failed`` contains decisions to adopt a row that could not be carried out. Such a row could
    belong to any order with the same line, so none of these orders may be declared absent.
    """
    rows: dict[Line, tuple[OrderAnswer, ...]] = defaultdict(tuple)
    for adoption in failed:
        rows[adoption.order.line] += (adoption.row,)

    def revise(decision: Decision) -> Decision:
        line = decision.order.line
        if line not in rows:
            return decision
        candidates = decision.rows if isinstance(decision, AskPerson) else ()
        return AskPerson(decision.order, rows[line] + candidates)

    return [revise(decision) for decision in (*decisions, *failed)]


def _plan_line(
    orders: Sequence[SentOrder], rows: Sequence[OrderAnswer], survey: Survey
) -> list[Decision]:
    """Decide about the lost orders with the same line.

    The orders and the rows are sorted by time.
    """
    exact = tuple(row for row in rows if _is_exact(row, orders))
    is_contested = any(_is_exact(row, survey.rivals) for row in exact)
    pairs = _pair_off(orders, exact)
    if is_contested or len(pairs) < len(exact):
        # At least one row belongs to another order. If that is one of our orders, its row will soon
        # be known.
        return [AskPerson(order, exact, is_soon=is_contested) for order in orders]
    unmatched = [order for order in orders if order not in pairs]
    inexact = [row for row in rows if row not in exact]
    return [Adopt(*pair) for pair in pairs.items()] + _plan_unmatched(unmatched, inexact, survey)


def _pair_off(
    orders: Sequence[SentOrder], rows: Sequence[OrderAnswer]
) -> dict[SentOrder, OrderAnswer]:
    """Pair each row with the earliest fitting order that is not paired yet.

    Because orders and rows are sorted by time, no other pairing contains more pairs.
    """
    pairs: dict[SentOrder, OrderAnswer] = {}
    for row in rows:
        free = (order for order in orders if order not in pairs and _fits(row, order))
        if order := next(free, None):
            pairs[order] = row
    return _prefer_accepted(pairs, orders)


def _prefer_accepted(
    pairs: dict[SentOrder, OrderAnswer], orders: Sequence[SentOrder]
) -> dict[SentOrder, OrderAnswer]:
    """Give unpaired accepted orders the rows of orders that were not accepted."""
    for order in orders:
        if order.was_accepted and order not in pairs:
            others = (
                other
                for other, row in pairs.items()
                if not other.was_accepted and _fits(row, order)
            )
            if other := next(others, None):
                pairs[order] = pairs.pop(other)
    return pairs


def _plan_unmatched(
    orders: Sequence[SentOrder], rows: Sequence[OrderAnswer], survey: Survey
) -> list[Decision]:
    """Decide about unpaired lost orders that have the same line.

    ``rows`` are the unpaired rows. A row could belong to one of the orders if its time is near the
    sending time, even if its product or type differs. A row with the same line could also belong to
    one of the orders, even if its time differs by hours.
    """
    doubtful = tuple(row for row in rows if any(_is_doubtful(row, order) for order in orders))
    if doubtful:
        return [AskPerson(order, doubtful) for order in orders]
    return [_weigh_absence(order, survey) for order in orders]


def _weigh_absence(order: SentOrder, survey: Survey) -> Wait | Absent:
    # The list is out of date if it also lacks an accepted order of about the same time.
    is_stale = _is_any_near(order, survey.unseen, survey.proof_of_absence / 2)
    # Another order of about the same time may have this order's id. The other order may be an
    # accepted order that is also lost.
    doubts = [*survey.doubts, *(other for other in survey.lost if other.was_accepted)]
    is_doubtful = order.was_accepted or _is_any_near(order, doubts, CLOCK_SKEW)
    if is_stale or is_doubtful or not (survey.is_whole and order.is_dated):
        return Wait(order, is_evidence=False)
    # Enough time has to pass after sending, and after the first evidence of absence.
    since = order.absent_since
    is_late_enough = order.sent_at <= survey.proof_ago
    if since is not None and since <= survey.half_proof_ago and is_late_enough:
        return Absent(order)
    return Wait(order, is_evidence=True)


def _is_any_near(order: SentOrder, others: Iterable[SentOrder], within: timedelta) -> bool:
    return any(abs(other.sent_at - order.sent_at) <= within for other in others)


def _is_exact(row: OrderAnswer, orders: Iterable[SentOrder]) -> bool:
    return any(line_of(row) == order.line and _fits(row, order) for order in orders)


def _fits(row: OrderAnswer, order: SentOrder) -> bool:
    """Return True if the row can be adopted for the order.

    Only time and quantity are compared.
    """
    return _may_be(row, order, CLOCK_SKEW) and not is_created_before(row, order.not_before)


def _is_doubtful(row: OrderAnswer, order: SentOrder) -> bool:
    within = FARTHEST_CLOCK if line_of(row) == order.line else CLOCK_SKEW
    return _may_be(row, order, within)


def _may_be(row: OrderAnswer, order: SentOrder, within: timedelta) -> bool:
    """Return True if the row could belong to the order.

    Only time and quantity are compared.
    """
    if row.quantity not in {None, order.line[2]}:
        return False
    last_sent_at = order.last_sent_at or order.sent_at
    return row.created_at is None or (
        order.sent_at - within <= row.created_at <= last_sent_at + within
    )
