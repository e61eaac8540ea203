"""The balance of the account as the ledger tells it, and the days on which entries are missing."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import groupby
from typing import NamedTuple, Protocol

from giftcards.models.times import repeated_for

# The most entries before a moment, and after it, that are looked at to find the balance then.
NEAR = 100

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


class Entry(Protocol):
    """A row of the ledger, or the columns of one that are asked for here."""

    @property
    def amount(self) -> Decimal: ...
    @property
    def balance_before(self) -> Decimal | None: ...
    @property
    def balance_after(self) -> Decimal | None: ...
    @property
    def time(self) -> datetime: ...


class DayEnds:
    """The balances at the ends of the days of a period, from entries that are read once.

    :meth:`add` takes the days that have entries, the oldest first. No more entries are kept than
    :data:`NEAR` on each side of an end.
    """

    def __init__(self, before: Sequence[Entry]) -> None:
        """``before`` are the last entries before the period, :data:`NEAR` at most, latest first."""
        self._last = deque(reversed(before), maxlen=NEAR)
        self._sums: dict[date, Decimal] = {}
        # After the last entry before the period, and then after that of each day.
        self._balances: list[Decimal | None] = []
        # Where that is not known, by place in that list: the entries that follow.
        self._following: dict[int, list[Entry]] = {}
        self._end()

    def add(self, day: date, entries: Sequence[Entry]) -> None:
        self._sums[day] = sum((entry.amount for entry in entries), _ZERO)
        self._follow(entries)
        self._last.extend(entries[-NEAR:])
        self._end()

    def _end(self) -> None:
        balance = _first_ends([*reversed(self._last)]).after
        if balance is None:
            self._following[len(self._balances)] = []
        self._balances.append(balance)

    def _follow(self, entries: Sequence[Entry]) -> None:
        for following in self._following.values():
            following += entries[: NEAR - len(following)]

    def compare(self, following: Sequence[Entry]) -> Balances:
        """Compare the balances with the entries.

        ``following`` are the first entries after the period, :data:`NEAR` at most.
        """
        self._follow(following)
        balances = [*self._balances]
        for place, entries in self._following.items():
            balances[place] = _first_ends(entries).before
        # A period without entries may lie before all that was read.
        opening, closing = balances[0] if self._sums else self._balances[0], balances[-1]
        if opening is None or closing is None:
            return Balances(opening, closing)
        gap = closing - opening - sum(self._sums.values(), _ZERO)
        return Balances(opening, closing, gap, tuple(self._breaks(opening, balances[1:])))

    def _breaks(self, opening: Decimal, balances: Sequence[Decimal | None]) -> Iterator[Break]:
        expected = opening
        for (day, total), balance in zip(self._sums.items(), balances, strict=True):
            expected += total
            if balance is None:
                # What is missing on this day is found on the next day whose balance is known.
                continue
            if balance != expected:
                yield Break(day, balance - expected)
            expected = balance


class _Ends(NamedTuple):
    """The balances before and after an entry, or a moment; ``None`` if they are not known."""

    before: Decimal | None
    after: Decimal | None


_UNKNOWN = _Ends(None, None)


def _first_ends(entries: Sequence[Entry]) -> _Ends:
    """The balances before and after the first moment of ``entries`` that is not a circle."""
    moments = [list(same) for _key, same in groupby(entries, key=_moment_of)]
    if len(entries) == NEAR:
        # The last moment may have more entries than were read.
        moments.pop()
    return next((ends for moment in moments if (ends := _ends(moment))), _UNKNOWN)


def _moment_of(entry: Entry) -> object:
    """The key that groups entries whose times do not tell which came first.

    It is the time or, for all of an hour that the clock shows twice, one common key.
    """
    return (entry.time.year, "repeated") if repeated_for(entry.time) else entry.time


def _ends(moment: Sequence[Entry]) -> _Ends | None:
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


def _ends_of(entry: Entry) -> _Ends:
    before, after = entry.balance_before, entry.balance_after
    if before is None and after is not None:
        before = after - entry.amount
    if after is None and before is not None:
        after = before + entry.amount
    return _Ends(before, after)
