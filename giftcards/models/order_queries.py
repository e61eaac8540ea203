"""The queries for orders.

Each query uses an index, regardless of the number of settled orders. ``tests/test_plans.py`` checks
the plan of each query on the current database.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Protocol, Self, TypeVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Coalesce

from giftcards.models.lines import Kind, lines_of
from giftcards.models.searching import OrderSearch, Row
from giftcards.rules.states import (
    PATIENT,
    STATES,
    UNBOUGHT,
    UNSERVED,
    URGENT,
    Review,
    Status,
)
from giftcards.rules.times import LONGEST_HOLD, LONGEST_WAIT, SLACK, past

T = TypeVar("T")

# For more than 200 keys or names, MariaDB prefers a full table scan to index lookups.
_AT_ONCE = 100

# Orders on hold, which are not sent until staff decide, until the price falls, or until
# ``send_after``.
ON_HOLD = Q(status=Status.PENDING, due_at=None)
# Orders on hold that are sent once the price falls, and orders on hold that wait for a decision by
# staff.
ON_HOLD_FOR_PRICE = ON_HOLD & Q(finalized_at=None, send_after=None) & ~Q(review=Review.WANTED)
ON_HOLD_FOR_REVIEW = ON_HOLD & Q(finalized_at=None, review=Review.WANTED)

# Conditions on Boolean columns compare the column with a list. Django turns "= True" and "= False"
# into a bare column and NOT, and SQLite does not use an index for these.

# Orders whose customer was paid back, or is owed money.
PAID_BACK = Q(has_paid_back__in=[True])
OWING = Q(is_owing__in=[True])
# Final orders for which it is unknown what the customer paid.
SALE_UNKNOWN = Q(is_owing__isnull=True, finalized_at__isnull=False)
# Settled orders whose figures from the provider contradict each other.
CONTRADICTORY = Q(is_consistent__in=[False])
# Settled orders for which the ledger does not show the credit that the provider promised.
NOT_CREDITED = Q(is_credited__in=[False])
# Orders with a problem that staff have not acknowledged.
NEEDING_ATTENTION = Q(needs_attention__in=[True])

_NEWEST = ("-created_at", "-pk")


def _is(condition: Q) -> models.ExpressionWrapper[Any]:
    return models.ExpressionWrapper(condition, output_field=models.BooleanField())


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield ``items`` in lists of up to 100 items, one list for each query."""
    iterator = iter(items)
    while batch := list(islice(iterator, _AT_ONCE)):
        yield batch


def leaves_some_out(orders: models.QuerySet[Any]) -> bool:
    """Return True if the queryset ``orders`` has a filter."""
    return bool(orders.query.where)


class Claimed(Protocol):
    pk: Any
    claim: str


def is_held_up(since: datetime) -> Q:
    """Return a condition for orders whose next step is overdue.

    The step was due at the time ``since`` or earlier. Orders on hold are left out.
    """
    return Q(*_due_by(since), _connector=Q.OR) & ~ON_HOLD


def _due_by(since: datetime) -> Iterator[Q]:
    for status, state in STATES.items():
        if not state.is_final:
            yield Q((f"{state.due}__lte", since), finalized_at=None, status=status)


class OrderQueries(OrderSearch[Row]):
    def open(self) -> Self:
        """Return the orders that are not final.

        Queries for open orders start with this method, because the index for them begins with
        ``finalized_at``. With a condition on the status alone, databases would not use this index.
        """
        return self.filter(finalized_at=None)

    def urgent(self) -> Self:
        """Return open orders that can change within seconds.

        The loop that sends and checks orders runs as long as there are such orders. Orders on hold
        are not included.
        """
        return self.open().filter(status__in=URGENT).exclude(ON_HOLD)

    def unclaimed(self, now: datetime) -> Self:
        """Return orders without a claim, or with an expired claim."""
        return self.filter(past("claimed_until", now, max_distance=LONGEST_HOLD))

    def still_claimed(self, orders: Iterable[Claimed]) -> Self:
        """Return the ``orders`` whose claim in the database is unchanged."""
        orders = list(orders)
        return self.filter(
            pk__in=[order.pk for order in orders],
            claim__in={order.claim for order in orders},
            claimed_until__isnull=False,
        )

    def _waiting(self, status: Status) -> Self:
        # The orders are sorted by all columns of the index, because PostgreSQL does not know that
        # finalized_at is the same in all rows.
        return self.open().filter(status=status).order_by("finalized_at", "due_at", "pk")

    def next_due_at(self, statuses: Collection[Status], now: datetime) -> datetime | None:
        """Return the earliest due time of unclaimed orders, or ``None``.

        Only orders whose status is listed in ``statuses`` count.
        """
        # There is one query for each status, because the index yields the first row of a single
        # status only.
        times = (
            self._waiting(status)
            .filter(due_at__isnull=False)
            .unclaimed(now)
            .values_list("due_at", flat=True)
            .first()
            for status in statuses
        )
        return min((due_at for due_at in times if due_at is not None), default=None)

    def to_send(self, now: datetime) -> Self:
        return self._waiting(Status.PENDING).filter(due_at__lte=now).unclaimed(now)

    def on_hold(self) -> Self:
        return self._waiting(Status.PENDING).filter(due_at=None)

    def on_hold_for_price(self) -> Self:
        return self.on_hold().filter(ON_HOLD_FOR_PRICE)

    def on_hold_for_too_long(self, now: datetime) -> Self:
        """Return orders that have been on hold for too long.

        These are orders on hold whose ``send_after`` or ``send_before`` time has passed.
        """
        over = [
            Q(past(name, now, max_distance=LONGEST_WAIT), **{f"{name}__isnull": False})
            for name in ("send_after", "send_before")
        ]
        return self.on_hold().filter(over[0] | over[1])

    def to_recover(self, now: datetime) -> Self:
        """Return lost orders for which a search is due, the earliest due first."""
        return self._waiting(Status.UNCONFIRMED).filter(due_at__lte=now).unclaimed(now)

    def abandoned(self, now: datetime) -> Self:
        """Return orders that a process was sending when it died."""
        return self._waiting(Status.PLACING).unclaimed(now)

    def overdue(self, now: datetime, *, accepted_by: datetime) -> Self:
        """Return unsettled orders that were accepted too long ago.

        They were accepted at the time ``accepted_by`` or earlier. The orders are sorted by due
        time.
        """
        late = self._waiting(Status.HANDLING).filter(accepted_at__lte=accepted_by)
        return late.unclaimed(now)

    def kept_waiting(self, *, recorded_by: datetime) -> Self:
        """Return orders whose customers have been waiting too long.

        These orders were recorded at the time ``recorded_by`` or earlier. Orders whose wait was
        already recorded are left out. Orders that ``REORDER_MISSING`` created are also left out,
        because their customers know that the missing cards were ordered again.
        """
        waiting = self.open().filter(status__in=UNSERVED, created_at__lte=recorded_by)
        return waiting.filter(kept_waiting_at=None, send_before=None).order_by()

    def put_off_too_far(
        self, now: datetime, *, urgent_delay: timedelta, other_delay: timedelta
    ) -> Self:
        """Return open orders whose due time is too far in the future.

        ``urgent_delay`` is the longest allowed time until an urgent order is due. ``other_delay``
        is the longest allowed time for all other open orders.
        """
        return self.open().filter(
            Q(status__in=URGENT, due_at__gt=now + urgent_delay + SLACK)
            | Q(status__in=PATIENT, due_at__gt=now + other_delay + SLACK)
        )

    def to_check(self, *, now: datetime, due_by: datetime, limit: int = 1_000) -> list[Row]:
        """Return up to ``limit`` accepted orders due at ``due_by`` or earlier.

        Delayed orders come last.
        """
        orders: list[Row] = []
        # A tenth of the limit is kept for delayed orders, so that thousands of fresh orders do not
        # block them.
        for status, most in ((Status.HANDLING, limit - limit // 10), (Status.DELAYED, limit)):
            due = self._waiting(status).filter(due_at__lte=due_by).unclaimed(now)
            orders += due[: most - len(orders)]
        return orders

    def unsent(self) -> Self:
        """Return the orders that are waiting to be sent, except orders on hold."""
        return self.open().filter(status=Status.PENDING).exclude(ON_HOLD)

    def held_up(self, since: datetime) -> list[Self]:
        """Return orders whose next step is overdue.

        The step was due at the time ``since`` or earlier. The result contains one queryset for each
        open status. Orders on hold are left out.
        """
        return [self.filter(condition).exclude(ON_HOLD) for condition in _due_by(since)]

    def sent_between(self, start: datetime, end: datetime) -> Self:
        """Return orders that were sent in a period and may have been bought.

        The period includes the times ``start`` and ``end``.
        """
        sent = self.filter(sent_at__range=(start, end)).order_by("sent_at", "pk")
        # SQLite uses the index by time only if the filter excludes statuses instead of listing
        # them.
        return sent.exclude(status__in=UNBOUGHT)

    def known_as(self, names: Iterable[str]) -> Self:
        """Return orders that have one of these names at the provider.

        A name is either an order id or an alias that the provider uses for an order. ``names`` can
        contain up to 200 names. :meth:`owners` accepts any number of names.
        """
        names = set(names) - {""}
        # The first condition on the alias is redundant, but makes SQLite use the index. SQLite
        # judges an index by the average number of orders for each value, and there may be many
        # orders without an alias.
        by_alias = Q(provider_alias__gt="", provider_alias__in=names)
        # The result is unsorted, because SQLite would scan all orders by age to sort it.
        return self.filter(Q(provider_order_id__in=names) | by_alias).order_by()

    def owners(self, names: Iterable[str]) -> Iterator[Row]:
        """Yield the orders that have one of these names at the provider.

        The number of names is not limited.
        """
        for batch in batches(sorted(set(names) - {""})):
            yield from self.known_as(batch)

    def sent_as(self, references: Iterable[str]) -> Self:
        """Return orders that were sent with one of these references.

        Up to 200 references can be passed.
        """
        # The first condition is redundant, but makes SQLite use the index, as in known_as. There
        # may be many orders without a reference.
        named = Q(provider_reference__gt="", provider_reference__in=set(references) - {""})
        return self.filter(named).order_by()

    def not_credited(self) -> Self:
        return self.filter(NOT_CREDITED)

    def needing_attention(self) -> Self:
        return self.filter(NEEDING_ATTENTION)

    def open_lines(self, *, balance_read_at: datetime | None = None) -> models.QuerySet[Any, Any]:
        """Return the lines of the open orders.

        An order counts as charged if it was accepted at or before the time ``balance_read_at``.
        """
        is_charged = (
            _is(Q(accepted_at__isnull=False, accepted_at__lte=balance_read_at))
            if balance_read_at
            else models.Value(value=False)
        )
        return lines_of(
            Kind.OPEN,
            self.open(),
            since="created_at",
            cards=models.F("quantity"),
            status=None,
            product_id=None,
            type_id=None,
            cost=Coalesce("price_per_card", "price_at_placing"),
            is_on_hold=_is(ON_HOLD),
            is_charged=is_charged,
        )

    def settled_lines(
        self, since: datetime, *, accepted_since: datetime | None = None
    ) -> models.QuerySet[Any, Any]:
        """Return the lines of orders settled after ``since``, grouped by cost.

        If ``accepted_since`` is set, only orders that were accepted after this time are included.
        """
        settled = self.filter(finalized_at__gt=since)
        if accepted_since is not None:
            settled = settled.filter(accepted_at__gt=accepted_since)
        cost = models.F("fulfilled_amount")
        return lines_of(Kind.SETTLED, settled, since="finalized_at", cost=cost)

    def spans(self, name: str, start: str, end: str) -> models.QuerySet[Any, Any]:
        """Return a row for each order, with two of its times and a label.

        ``start`` and ``end`` are the names of the columns that contain the times. The label is
        ``name``. In a union of several such querysets, the label shows which queryset a row comes
        from.
        """
        named = self.order_by().annotate(_name=models.Value(name))
        return named.values_list(start, end, "_name")

    def count_by_status(self) -> dict[str, int]:
        counts = self.order_by().values_list("status").annotate(models.Count("pk"))
        return dict.fromkeys(Status.values, 0) | dict(counts)

    def final_lines(
        self, *, after: datetime | None = None, until: datetime | None = None
    ) -> models.QuerySet[Any, Any]:
        """Return the lines of orders that became final in a period, by status.

        The period contains the times later than ``after``, up to and including ``until``. If one of
        these arguments is ``None``, the period has no limit on that side.
        """
        final = self.filter(finalized_at__isnull=False)
        final = final.filter(finalized_at__gt=after) if after else final
        final = final.filter(finalized_at__lte=until) if until else final
        # COALESCE prevents SQLite from using the index by status. With that index, SQLite would
        # have to look up every row.
        status = Coalesce("status", models.Value(""))
        return lines_of(Kind.FINAL, final, since="finalized_at", status=status)
