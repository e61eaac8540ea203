"""Registry of the optional apps that keep data about customers; see :func:`register`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from giftcards.models import Order
from giftcards.privacy.person import Person, Traces


class Keeper(Protocol):
    """An app that keeps something about the customers of orders."""

    #: The label of the app, by which its rows are found in the log of the admin.
    app_label: str

    def orders(self, person: Person) -> Iterable[int]:
        """The primary keys of orders for which a row of the app names the person."""

    def addresses(self, order: Order) -> Iterable[str]:
        """The e-mail addresses and phone numbers in the app's rows about ``order``."""

    def describe(self, order: Order) -> dict[str, Any]:
        """The app's data about ``order``, as JSON with headings in the active language."""

    def erase(self, order: Order, traces: Traces) -> None:
        """Erase the customer from the app's rows about ``order``.

        Called in a transaction that holds the lock of ``order``.
        """


keepers: list[Keeper] = []


def register(keeper: Keeper) -> None:
    """Have ``keeper`` asked when a customer's data is exported or erased.

    Call it once, from the ``ready`` method of an app.
    """
    if keeper not in keepers:
        keepers.append(keeper)
