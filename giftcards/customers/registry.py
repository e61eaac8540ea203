"""Where optional apps say what they keep about customers: :func:`register`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from giftcards.customers.person import Person, Traces
from giftcards.models import Order


class Keeper(Protocol):
    """An app that keeps something about the customers of orders."""

    #: Of the app, for what the admin has logged about its rows.
    app_label: str

    def orders(self, person: Person) -> Iterable[int]:
        """The primary keys of orders that name the person in rows of the app."""

    def addresses(self, order: Order) -> Iterable[str]:
        """The addresses and numbers in the rows that belong to ``order``."""

    def describe(self, order: Order) -> dict[str, Any]:
        """What is kept with ``order``, for the customer: JSON, by headings in their language."""

    def erase(self, order: Order, traces: Traces) -> None:
        """Erase it. It is called in a transaction that holds the lock of ``order``."""


_keepers: list[Keeper] = []


def register(keeper: Keeper) -> Keeper:
    """Have ``keeper`` asked when a customer's data is exported or erased.

    Call it once, from the ``ready`` method of an app.
    """
    if keeper not in _keepers:
        _keepers.append(keeper)
    return keeper


def keepers() -> Sequence[Keeper]:
    return tuple(_keepers)
