"""The balance of the account as the ledger tells it, and the days on which entries are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import groupby
from typing import NamedTuple

from django.db.models import QuerySet

from giftcards.books.models import LedgerEntry
from giftcards.models.times import bounds, repeated_for

# The most entries that are read before a moment, and after it, to find the balance at that moment.
_NEAR = 100

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Break:
    """A day, and the part of its change of the balance that is without an entry."""

    day: date
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Balances:
    """The balances before and after a period, and what its entries do not explain.

    A balance is ``None`` if it is not known. Then ``gap`` is ``None`` as well, and there are no
    ``breaks``. Otherwise the gap is the sum of the breaks.
    """

    opening: Decimal | None
    closing: Decimal | None
    gap: Decimal | None = None
    breaks: tuple[Break, ...] = ()


def compare_balances(start: date, end: date, sums: Mapping[date, Decimal]) -> Balances:
    """Compare the balances from ``start`` to ``end``, both included, with the entries.

    ``sums`` has the sum of the entries for each day with entries, by day, the oldest first.
    """
    first_moment, next_moment = bounds(start, end)
    # A period without entries may lie before all that was read.
    opening = _balance_at(first_moment) if sums else _balance_before(first_moment)
    closing = _balance_at(next_moment)
    if opening is None or closing is None:
        return Balances(opening, closing)
    gap = closing - opening - sum(sums.values(), _ZERO)
    return Balances(opening, closing, gap, tuple(_breaks(opening, sums)))


def _breaks(opening: Decimal, sums: Mapping[date, Decimal]) -> Iterator[Break]:
    expected = opening
    for day, total in sums.items():
        expected += total
        _begin, next_day = bounds(day, day)
        balance = _balance_at(next_day)
        if balance is None:
            # What is missing on this day is found on the next day whose balance is known.
            continue
        if balance != expected:
            yield Break(day, balance - expected)
        expected = balance


def _balance_at(moment: datetime) -> Decimal | None:
    """The balance after the last entry before ``moment`` or, if unknown, before the next entry."""
    balance = _balance_before(moment)
    if balance is not None:
        return balance
    entries = LedgerEntry.objects.filter(time__gte=moment)
    return _first_ends(entries.order_by("time", "pk")).before


def _balance_before(moment: datetime) -> Decimal | None:
    """The balance after the last entry before ``moment``; ``None`` if it is not known."""
    entries = LedgerEntry.objects.filter(time__lt=moment)
    return _first_ends(entries.order_by("-time", "-pk")).after


class _Ends(NamedTuple):
    """The balances before and after an entry, or a moment; ``None`` if they are not known."""

    before: Decimal | None
    after: Decimal | None


_UNKNOWN = _Ends(None, None)


def _first_ends(entries: QuerySet[LedgerEntry]) -> _Ends:
    """The balances before and after the first moment of ``entries`` that is not a circle."""
    read = list(entries[:_NEAR])
    moments = [list(same) for _key, same in groupby(read, key=_moment_of)]
    if len(read) == _NEAR:
        # The last moment may have more entries than were read.
        moments.pop()
    return next((ends for moment in moments if (ends := _ends(moment))), _UNKNOWN)


def _moment_of(entry: LedgerEntry) -> object:
    """The key that groups entries whose times do not tell which came first.

    It is the time or, for all of an hour that the clock shows twice, one common key.
    """
    return (entry.time.year, "repeated") if repeated_for(entry.time) else entry.time


def _ends(moment: list[LedgerEntry]) -> _Ends | None:
    """The balances before and after the entries of a moment, in whatever order they happened.

    The moment begins with the balance that more entries begin with than end with, because each
    balance in between is the end of one entry and the beginning of another. ``None`` if there is no
    such balance: the entries are a circle, which ends with the balance it began with, whichever
    that is. If there are several, entries are missing within the moment, and neither is known.
    """
    if len(moment) == 1:
        return _ends_of(moment[0])
    befores, afters = (Counter(part) for part in zip(*map(_ends_of, moment), strict=True))
    if None in befores:
        return _UNKNOWN
    first, last = befores - afters, afters - befores
    if first.total() > 1:
        return _UNKNOWN
    return next(map(_Ends, first, last), None)


def _ends_of(entry: LedgerEntry) -> _Ends:
    before, after = entry.balance_before, entry.balance_after
    if before is None and after is not None:
        before = after - entry.amount
    if after is None and before is not None:
        after = before + entry.amount
    return _Ends(before, after)
