"""What the account at the provider holds, what open orders take of it, and how long it will last.

Read from the database alone, and each figure from an index, for the pages that show it to staff.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Self

from django.utils import timezone

from giftcards.models import Order, ProductPrices, ProviderState
from giftcards.models.order_queries import OpenLine
from giftcards.statuses import Status

_ZERO = Decimal("0.00")
# The pace is that of a whole day, so that it is the same in the morning and at night; but of no
# more orders than these, so that reading it takes milliseconds in any shop.
_DAY = timedelta(hours=24)
MOST_CHARGES = 1_000
# A century is as good as for ever.
_MOST_SPANS = 36_500


@dataclass(frozen=True, slots=True)
class OpenMoney:
    """What open orders cost, in dinars. Orders that are held until a person decides are left out.

    ``sent`` is of those that were sent, or may have been: the provider has taken it from the
    balance already, and gives back what it does not deliver. ``unsent`` is of those that are still
    to be sent. Neither includes the ``unknown`` orders, of which no price is known.
    """

    sent: Decimal = _ZERO
    unsent: Decimal = _ZERO
    unknown: int = 0

    @property
    def total(self) -> Decimal:
        return self.sent + self.unsent


@dataclass(frozen=True, slots=True)
class Pace:
    """What was ``spent``, in dinars, on the orders that settled within the last ``span``."""

    spent: Decimal
    span: timedelta

    @property
    def is_of_a_day(self) -> bool:
        """Whether it is that of the last 24 hours, not only of the last ``MOST_CHARGES`` orders."""
        return self.span == _DAY

    def lasts(self, balance: Decimal) -> timedelta | None:
        """For how long ``balance`` will do at this pace; ``None`` if nothing was spent."""
        if self.spent <= 0:
            return None
        spans = float(max(balance, _ZERO) / self.spent)
        return min(spans, _MOST_SPANS) * self.span


@dataclass(frozen=True, slots=True)
class Funds:
    """How the account stands; ``state`` has its balance, if that was ever read."""

    state: ProviderState
    in_orders: OpenMoney
    pace: Pace

    @classmethod
    def read(cls, state: ProviderState) -> Self:
        return cls(state, _money_in_open_orders(), _pace())

    @property
    def is_short(self) -> bool:
        """Whether the balance does not cover the orders that are still to be sent."""
        return self.state.balance is not None and self.state.balance < self.in_orders.unsent

    @property
    def lasts(self) -> timedelta | None:
        """For how long the balance will do; ``None`` if that cannot be told."""
        return None if self.state.balance is None else self.pace.lasts(self.state.balance)


def add_up(lines: Iterable[OpenLine], told: Mapping[tuple[str, str], Decimal]) -> OpenMoney:
    """What these lines cost. ``told``: the prices that the provider told last, by product and type.

    They count where no price is known of the order itself, and for orders that are still to be
    sent: those are bought at the price of that moment.
    """
    sent = unsent = _ZERO
    unknown = 0
    for line in lines:
        is_unsent = line.status == Status.PENDING
        latest = told.get((line.product_id, line.type_id))
        known = (latest, line.price) if is_unsent else (line.price, latest)
        price = next((price for price in known if price is not None), None)
        if price is None:
            unknown += line.orders
        elif is_unsent:
            unsent += line.cards * price
        else:
            sent += line.cards * price
    return OpenMoney(sent, unsent, unknown)


def _money_in_open_orders() -> OpenMoney:
    lines = Order.objects.all().open_lines()
    wanted = {
        line.product_id for line in lines if line.price is None or line.status == Status.PENDING
    }
    told = {
        (row.product_id, type_id): price
        for row in ProductPrices.objects.filter(pk__in=wanted)
        for type_id, price in row.prices.items()
    }
    return add_up(lines, told)


def _pace() -> Pace:
    now = timezone.now()
    charges = Order.objects.all().last_charges(since=now - _DAY, limit=MOST_CHARGES)
    span = _DAY
    if len(charges) == MOST_CHARGES:
        span = max(now - charges[-1][0], timedelta(minutes=1))
    return Pace(sum((charged or _ZERO for _at, charged in charges), start=_ZERO), span)
