"""The cost of the open orders, and how long the balance at the provider will last."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from giftcards.engine.open_money import OpenMoney, money_in_open_orders
from giftcards.models import ProviderState

__all__ = ["OpenMoney", "lasts", "money_in_open_orders"]

# A century is as good as for ever.
_MOST_DAYS = 36_500


def lasts(state: ProviderState) -> timedelta | None:
    """Estimate how long the balance will last; ``None`` if nothing was spent, or is known.

    The pace is that of the 24 hours before the balance was read: a whole day, so that it is the
    same in the morning and at night.
    """
    balance, spent = state.balance, state.spent_lately
    if balance is None or not spent:
        return None
    days = float(max(balance, Decimal(0)) / spent)
    return timedelta(days=min(days, _MOST_DAYS))
