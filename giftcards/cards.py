"""A card's code in the clear, on its way between the provider, the vault and a reader."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CardSecret:
    """A delivered code: ``value`` is what the customer types in, ``serial`` names the card.

    Both are secret, so neither is in the ``repr``: error pages and crash reporters print the
    ``repr`` of every local variable. ``serial`` is ``""`` where the provider gave none.
    """

    value: str = field(repr=False)
    serial: str = field(repr=False)
