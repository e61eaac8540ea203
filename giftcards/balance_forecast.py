"""What the account at the provider holds, what open orders take of it, and how long it will last.

Read from the database alone, and each figure from an index, for the pages that show it to staff.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from giftcards.models import Order, ProductPrices, ProviderState
from giftcards.models.order_queries import OpenLine
from giftcards.statuses import Status

_ZERO = Decimal("0.00")
# A century is as good as for ever.
_MOST_DAYS = 36_500


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

    def exceeds(self, balance: Decimal | None) -> bool:
        """Whether ``balance`` does not cover the orders that are still to be sent."""
        return balance is not None and balance < self.unsent


def lasts(state: ProviderState) -> timedelta | None:
    """For how long the balance will do at the pace of the 24 hours before it was read.

    A whole day, so that the pace is the same in the morning and at night. ``None`` if nothing was
    spent, or if it is not known.
    """
    balance, spent = state.balance, state.spent_lately
    if balance is None or not spent:
        return None
    days = float(max(balance, _ZERO) / spent)
    return timedelta(days=min(days, _MOST_DAYS))


def money_in_open_orders() -> OpenMoney:
    """What the open orders cost; reads these only."""
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
