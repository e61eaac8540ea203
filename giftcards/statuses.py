"""The statuses of an order, for use by shops.

The table in :mod:`giftcards.rules.states` contains their properties.
"""

from giftcards.rules.states import ACCEPTED, FINAL, FOLLOWED, SETTLED, Review, Status

__all__ = ["ACCEPTED", "FINAL", "FOLLOWED", "SETTLED", "Review", "Status"]
