"""The statuses of an order, for shops; :mod:`giftcards.rules.states` has their properties."""

from giftcards.rules.states import ACCEPTED, FINAL, FOLLOWED, SETTLED, Review, Status

__all__ = ["ACCEPTED", "FINAL", "FOLLOWED", "SETTLED", "Review", "Status"]
