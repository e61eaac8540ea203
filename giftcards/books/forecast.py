"""The cost of the open orders, and how long the balance at the provider will last.

Every figure comes from an index of the database, for the pages that show it to staff.
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
    """The cost of the open orders, in dinars. Orders held until a person decides are left out.

    ``sent`` covers the orders that were sent, or may have been: the provider has already taken
    this from the balance, and gives back what it does not deliver. ``unsent`` covers the orders
    still to be sent. ``unknown`` counts the orders without a known price, which neither includes.
    """

    sent: Decimal = _ZERO
    unsent: Decimal = _ZERO
    unknown: int = 0

    @property
    def total(self) -> Decimal:
        return self.sent + self.unsent

    def exceeds(self, balance: Decimal | None) -> bool:
        """True if ``balance`` is known and does not cover the orders still to be sent."""
        return balance is not None and balance < self.unsent


def lasts(state: ProviderState) -> timedelta | None:
    """Estimate how long the balance will last; ``None`` if nothing was spent, or is known.

    The pace is that of the 24 hours before the balance was read: a whole day, so that it is the
    same in the morning and at night.
    """
    balance, spent = state.balance, state.spent_lately
    if balance is None or not spent:
        return None
    days = float(max(balance, _ZERO) / spent)
    return timedelta(days=min(days, _MOST_DAYS))


def money_in_open_orders() -> OpenMoney:
    """Return the cost of the open orders, without reading any others."""
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
    """Add up the cost of ``lines``.

    ``told`` maps product and type to the latest price from the provider. It takes precedence for
    unsent orders, which are bought at the current price. For the others, it is only a fallback.
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
