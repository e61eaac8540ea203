"""The request quota: at most ``REQUESTS_PER_MINUTE`` in any 60 seconds.

Each request takes a slot. The slots are rows of a database table, so that all processes share the
quota. The provider counts a request at some time between the request and its answer. Therefore, the
slot is free again 60 seconds after the answer. If the process dies, the slot is free 60 seconds
after the time-out of the request.

- Requests for the first page of the list have separate slots, so that many simultaneous purchases
  do not delay card codes. The number of these slots is 60 seconds divided by ``POLL_INTERVAL``, but
  at most a quarter of all slots. Checks of late orders have one separate slot, because checks of
  fresh orders could otherwise take all slots. If the list cannot be used, its slots are used for
  single checks of fresh and late orders.
- All other slots are common slots. Up to a quarter of the common slots is reserved for further
  pages and for single checks. One reading of the list can use only its share of this reserve. If
  the reserve is too small for the readings, single checks leave half of it free for further pages,
  because a page contains up to a hundred orders.
- Purchases, and price requests for orders with a price limit, can use all common slots outside the
  reserve. Further pages and single checks leave an eighth of these slots free. Optional prices, and
  requests about payments, leave half of these slots free. Even if there are no free common slots,
  requests about payments can use the slot that is reserved for late orders.
- Background requests (catalogue, ledger, prices of orders on hold) use at most a tenth of all
  slots, and only while at least half of the common slots are free. If other
  requests use most of the quota, background requests are not sent, and optional prices are not
  requested.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.clock import longest_request
from giftcards.models import RequestSlot
from giftcards.rules.purposes import Purpose

MINUTE = timedelta(seconds=60)
# The maximum number of free slots that a process tries to take. One slot might not be enough,
# because other processes may take it first.
_TRIED = 8
# Most of the quota is in use if requests at the rate of the last ``_LATELY`` would take more than
# the share ``_BUSY`` of the common slots in a minute.
_LATELY = timedelta(seconds=10)
_BUSY = 0.6
# Late orders have a separate slot if at least this many requests per minute are allowed.
_LEAST_FOR_LATE = 30


@dataclass(frozen=True, slots=True)
class Slot:
    """The permission for one request.

    ``until`` is the time when the slot becomes free, unless :meth:`Budget.finish` or
    :meth:`Budget.give_back` changes it.
    """

    number: int
    until: datetime


@dataclass(frozen=True, slots=True)
class Shares:
    """The slots that are reserved for a purpose, and the common slots."""

    listing: range
    late: range
    common: range

    @classmethod
    def of(cls, *, limit: int, poll_interval: float) -> Shares:
        """Return the shares of a quota of ``limit`` requests per minute.

        The list receives at most a quarter of the slots.
        """
        listing = min(math.ceil(60 / poll_interval), limit // 4)
        late = 1 if limit >= _LEAST_FOR_LATE else 0
        return cls(range(listing), range(listing, listing + late), range(listing + late, limit))

    def split(self, questions: int) -> tuple[range, range]:
        """Split the common slots into the reserved slots and the others.

        The reserved slots are for further pages of the list and for single checks. ``questions`` is
        the number of requests that a reading makes after its request for the first page.
        """
        wanted = min(questions * len(self.listing), len(self.common) // 4)
        return self.common[:wanted], self.common[wanted:]

    def pools(
        self, purpose: Purpose, *, has_list: bool, questions: int = 0
    ) -> list[tuple[range, int]]:
        """Return the ranges of slots that a request can use, best range first.

        Each range is paired with the number of slots in it that the request must leave free. If
        ``has_list`` is False, the list cannot be used, and single checks can take its slots.
        """
        wanted, common = self.split(questions)
        is_short = questions * len(self.listing) > len(wanted)
        kept_for_pages = len(wanted) // 2 if is_short else 0
        kept = _left_free(common)
        half = 0 if has_list else len(self.listing) // 2
        for_late = [(self.late, 0), (self.listing[:half], 0)]
        for_fresh = [] if has_list else [(self.listing[half:], 0)]
        match purpose:
            case Purpose.PLACING:
                return [(common, 0)]
            case Purpose.LISTING:
                return [(self.listing, 0), (common, kept)]
            case Purpose.PAGES:
                # The reserved slots are used last, because they have to last for a whole minute.
                return [(common, kept), (wanted, 0)]
            case Purpose.SEARCHING:
                return [(common, kept), (self.listing, len(self.listing) // 2)]
            case Purpose.CHECKING:
                return [(wanted, kept_for_pages), (common, kept), *for_fresh]
            case Purpose.CHECKING_LATE:
                # The reserved slots come first, to leave common slots to other requests.
                return [*for_late, (common, kept)]
            case Purpose.PRICING:
                return [(common, len(common) // 2)]
            case Purpose.PAYING:
                return [(common, len(common) // 2), (self.late, 0)]
            case Purpose.BACKGROUND:
                # All requests for this purpose share the same few slots, which limits their number
                # per minute.
                all_slots = len(self.listing) + len(self.late) + len(self.common)
                return [(self.common[-max(all_slots // 10, 1) :], 0)]


def _left_free(common: range) -> int:
    """Return how many common slots are left free for purchases.

    Single checks and further pages must not take these slots.
    """
    # If there is only one common slot, all requests can use it.
    return max(len(common) // 8, 1) if len(common) > 1 else 0


class Budget:
    """An object that takes and frees slots on behalf of one process."""

    def __init__(self) -> None:
        limit = conf.requests_per_minute
        self._shares = Shares.of(limit=limit, poll_interval=conf.poll_interval)
        self._longest_hold = longest_request()
        RequestSlot.objects.make(limit)
        RequestSlot.objects.cap(now=timezone.now(), max_hold=self._longest_hold)

    def take(self, purpose: Purpose, *, has_list: bool, questions: int = 0) -> Slot | None:
        """Take a slot for a request that is made now.

        Returns ``None`` if there is no free slot for ``purpose``.
        """
        now = timezone.now()
        if not self._has_room(purpose, now):
            return None
        until = now + self._longest_hold
        pools = self._shares.pools(purpose, has_list=has_list, questions=questions)
        for numbers, reserve in pools:
            free = RequestSlot.objects.among(numbers).free(now).values_list("number", flat=True)
            candidates = list(free[reserve : reserve + _TRIED])
            # The candidates are shuffled, so that processes rarely race for the same slot.
            random.shuffle(candidates)
            number = RequestSlot.objects.take_one(candidates, now=now, until=until)
            if number is not None:
                return Slot(number, until)
        return None

    def pages_at_once(self, questions: int) -> int:
        """Return the maximum number of further pages for one reading.

        The limit leaves slots for later readings.
        """
        wanted, common = self._shares.split(questions)
        share = max(len(wanted) // max(len(self._shares.listing), 1), 1)
        return share + max(self._free(common) - _left_free(common), 0)

    def free_for_placing(self, questions: int) -> int:
        """Return how many orders can be placed with the free slots."""
        return self._free(self._shares.split(questions)[1])

    @staticmethod
    def _free(numbers: range) -> int:
        return RequestSlot.objects.among(numbers).free(timezone.now()).count()

    def _has_room(self, purpose: Purpose, now: datetime) -> bool:
        if purpose not in {Purpose.PRICING, Purpose.BACKGROUND}:
            return True
        common = self._shares.common
        lately = RequestSlot.objects.filter(until__gt=now + MINUTE - _LATELY).count()
        if lately * (MINUTE / _LATELY) > len(common) * _BUSY:
            return False
        return purpose == Purpose.PRICING or self._free(common) >= len(common) // 2

    def finish(self, slot: Slot) -> None:
        """Keep the slot of a finished request occupied for another 60 seconds.

        The provider may count the request at any time until it has sent its answer.
        """
        self._hold(slot, timezone.now() + MINUTE)

    def give_back(self, slot: Slot) -> None:
        """Free the slot of a request that was not made."""
        self._hold(slot, timezone.now())

    def _hold(self, slot: Slot, until: datetime) -> None:
        # The filter on ``until`` prevents a change if another request has taken the slot in the
        # meantime.
        RequestSlot.objects.filter(number=slot.number, until=slot.until).update(until=until)

    def wait_for(self, purpose: Purpose, *, has_list: bool, questions: int = 0) -> float:
        """Return the number of seconds to wait before calling :meth:`take`.

        The call can still fail, because another process might take the slot first.
        """
        now = timezone.now()
        free_at: list[datetime] = []
        pools = self._shares.pools(purpose, has_list=has_list, questions=questions)
        for numbers, reserve in pools:
            slots = RequestSlot.objects.among(numbers).values_list("until", flat=True)
            free_at += slots[reserve : reserve + 1]
        wait = min(free_at, default=now + MINUTE) - now
        # A slot that is held for longer than this was taken before the clock was set back.
        return max(min(wait, self._longest_hold).total_seconds(), 0)
