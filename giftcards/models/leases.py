"""Leases on pieces of work, and the slots of the request quota.

Leases are not used for single orders: the claim on an order is stored in the row of the order.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Self

from django.db import connection, models
from django.utils import timezone

from giftcards.rules.times import LONGEST_HOLD, ahead, past

# The initial value of ``until``. It is long past, so a slot that was never used is free.
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class LeaseQuerySet(models.QuerySet["Lease"]):
    def take(self, name: str, length: timedelta) -> str | None:
        """Acquire the lease for the given ``length``, at most 2 minutes.

        The maximum is ``LONGEST_HOLD``. Returns the token of the lease, or ``None`` if another
        process holds the lease.
        """
        assert length <= LONGEST_HOLD  # noqa: S101 (a longer lease would count as past)
        self.get_or_create(name=name)
        now, token = timezone.now(), uuid.uuid4().hex
        free = self.filter(past("until", now, max_distance=LONGEST_HOLD), name=name)
        return token if free.update(token=token, until=now + length) else None

    def make(self, name: str) -> None:
        """Create the row with this name if it does not exist.

        Call this method before a transaction that locks the row. Otherwise, two transactions that
        create the row would wait for each other.
        """
        # In a transaction, the first statement is a write, because SQLite may fail a transaction
        # that reads before it writes. Outside a transaction, the first statement is a read, because
        # a write may have to wait.
        in_transaction = connection.in_atomic_block
        if not (self.lock(name) if in_transaction else self.filter(name=name).exists()):
            self.bulk_create([Lease(name=name)], ignore_conflicts=True)

    def lock(self, name: str) -> bool:
        """Lock the row with this name until the transaction ends.

        Returns False if the row does not exist.
        """
        # An update locks the row, because SQLite may fail a transaction that reads before it
        # writes. The token changes, because InnoDB fails a waiting transaction with an old snapshot
        # only if the row has changed.
        return bool(self.filter(name=name).update(token=uuid.uuid4().hex))

    def keep(self, name: str, token: str, length: timedelta) -> bool:
        """Renew the lease, and return False if another process has taken it."""
        held = self.filter(name=name, token=token)
        return bool(held.update(until=timezone.now() + length))

    def release(self, name: str, token: str) -> None:
        self.filter(name=name, token=token).update(until=None)

    def revoke(self, name: str) -> None:
        """Release the lease, even if another process holds it."""
        self.filter(name=name).update(until=None)

    def is_taken(self, name: str) -> bool:
        held = ahead("until", timezone.now(), max_distance=LONGEST_HOLD)
        return self.filter(held, name=name).exists()


class Lease(models.Model):
    """The exclusive right of one process to a piece of work.

    A token identifies the process. A lease expires, so that a dead process does not block other
    processes for long.
    """

    LOOP = "loop"
    #: The lease on a run of the loop that is queued and has not started.
    QUEUED_SWEEP = "queued sweep"
    #: The leases on announcements to the shop's receivers: ``OUTBOX`` for changes of orders,
    #: ``OFFERS`` for changes of offers.
    OUTBOX = "outbox"
    OFFERS = "outbox of offers"
    CHORES = "chores"
    KEY_PROBE = "key probe"
    #: The lease on the request for an API key's environment. The lease is not released if the
    #: provider does not answer, so that the next attempt is made later.
    KEY_ENVIRONMENT = "key environment"
    #: The lease on the request for the prices of orders on hold. The lease is not released, so that
    #: the next request is made later.
    ON_HOLD_PRICES = "on hold prices"
    #: A row for locking prices, not a lease.
    PRICES = "prices"
    CATALOGUE = "catalogue"
    CATALOGUE_PAUSE = "catalogue pause"
    #: Not a lease. This row exists while a person waits for the catalogue to be read again.
    CATALOGUE_WANTED = "catalogue wanted"
    #: A row for locking reservations, not a lease.
    RESERVATIONS = "reservations"
    #: The lease on the creation or repair of the task queue's schedule.
    SCHEDULE = "schedule"

    name = models.CharField(primary_key=True, max_length=20)
    token = models.CharField(max_length=32, blank=True)
    until = models.DateTimeField(null=True)

    objects = LeaseQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name


class RequestSlotQuerySet(models.QuerySet["RequestSlot"]):
    def make(self, number_of_slots: int) -> None:
        """Create or delete slots until there are exactly ``number_of_slots``.

        The slots have the numbers from 0 to ``number_of_slots`` - 1.
        """
        existing = self.count()
        if existing < number_of_slots:
            # This value replaces the field's default, which has a time zone even if USE_TZ is off.
            free = timezone.now() - timedelta(days=1)
            slots = (RequestSlot(number=number, until=free) for number in range(number_of_slots))
            self.bulk_create(slots, ignore_conflicts=True)
        elif existing > number_of_slots:
            now = timezone.now()
            surplus = self.filter(number__gte=number_of_slots)
            # The remaining slots are held for as long as the deleted slots would have been held.
            for until in surplus.filter(until__gt=now).values_list("until", flat=True):
                numbers = (
                    self.among(range(number_of_slots))
                    .free(now)
                    .values_list("number", flat=True)[:1]
                )
                self.take_one(numbers, now=now, until=until)
            surplus.delete()

    def among(self, numbers: range) -> Self:
        """Return the slots with these numbers, sorted by when they become free."""
        span = self.filter(number__gte=numbers.start, number__lt=numbers.stop)
        return span.order_by("until", "number")

    def free(self, now: datetime) -> Self:
        return self.filter(until__lte=now)

    def cap(self, *, now: datetime, max_hold: timedelta) -> None:
        """Shorten the hold of slots to at most ``max_hold`` after ``now``.

        A slot is held until a later time only if it was taken before the clock was set back.
        """
        self.filter(until__gt=now + max_hold).update(until=now + max_hold)

    def follow_clock(self, *, before: datetime, now: datetime, max_hold: timedelta) -> None:
        """Adjust the slots after the clock was set from ``before`` to ``now``.

        A slot that was still held at ``before`` remains held until ``now + longest``. All other
        slots become free, except slots that might have been taken after the clock was set.
        """
        # A slot that is held for at most ``max_hold`` is not changed, because it may have been
        # taken after the clock was set.
        self.filter(until__gt=now + max_hold, until__lte=before).update(until=now)
        self.filter(until__gt=before).update(until=now + max_hold)

    def take_one(self, numbers: Iterable[int], *, now: datetime, until: datetime) -> int | None:
        """Take the first free slot with one of these numbers.

        Returns its number, or ``None`` if all these slots are taken.
        """
        for number in numbers:
            if self.filter(number=number).free(now).update(until=until):
                return number
        return None


class RequestSlot(models.Model):
    """One of the requests that are allowed per minute.

    See :mod:`giftcards.engine.request_budget`.
    """

    number = models.PositiveIntegerField(primary_key=True)
    until = models.DateTimeField(default=_LONG_AGO, db_index=True)

    objects = RequestSlotQuerySet.as_manager()

    def __str__(self) -> str:
        return f"slot {self.number}"
