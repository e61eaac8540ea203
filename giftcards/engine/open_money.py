"""The cost of the open orders, and the part of the balance that is free for others.

Every figure comes from an index of the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from django.utils import timezone

from giftcards.models import Hold, Order, ProductPrices, ProviderState
from giftcards.models.order_queries import OpenLine
from giftcards.rules.states import Status

_ZERO = Decimal("0.00")


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


def money_in_open_orders() -> OpenMoney:
    """Return the cost of the open orders: ``sent``, ``unsent``, ``total``; in dinars.

    It leaves out the orders without a known price, which ``unknown`` counts.
    """
    lines = Order.objects.all().open_lines()
    return add_up(lines, _latest_prices(lines))


def free_balance(*, reference: str = "") -> Decimal | None:
    """The balance less what orders and holds will still take of it; ``None`` if it is unknown.

    It leaves out a hold with this ``reference``. Orders without a known price do not count.
    """
    state = ProviderState.objects.current()
    if state.balance is None or state.balance_read_at is None:
        return None
    # Before the orders: a hold that becomes one meanwhile counts twice rather than never.
    holds = Hold.objects.exclude(reference=reference).amount(timezone.now())
    orders = Order.objects.all()
    lines = orders.lines_charged_after(state.balance_read_at)
    open_orders = add_up(lines, _latest_prices(lines)).total
    settled = orders.charged_since(state.balance_read_at, accepted_since=state.balance_read_at)
    return state.balance - open_orders - settled - holds


def _latest_prices(lines: Iterable[OpenLine]) -> dict[tuple[str, str], Decimal]:
    """The latest prices by product and type, as :func:`add_up` needs them for ``lines``."""
    wanted = {
        line.product_id for line in lines if line.price is None or line.status == Status.PENDING
    }
    return {
        (row.product_id, type_id): price
        for row in ProductPrices.objects.filter(pk__in=wanted)
        for type_id, price in row.prices.items()
    }


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
