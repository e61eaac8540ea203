"""The apps that keep data about people in orders, as their plugins declare them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from giftcards.models import Order
from giftcards.privacy.person import ROLES, Person, Role, Traces


class Keeper(Protocol):
    """An app that keeps something about the customers of orders, or the recipients of gifts."""

    #: The label of the app, by which its rows are found in the log of the admin.
    app_label: str

    def orders(self, person: Person) -> Iterable[int]:
        """The primary keys of orders for which a row of the app names the person."""

    def addresses(self, order: Order) -> Iterable[str]:
        """The e-mail addresses and phone numbers in the app's rows about ``order``."""

    def describe(self, order: Order) -> dict[str, Any]:
        """The app's data about ``order``, as JSON with headings in the active language."""

    def erase(self, order: Order, traces: Traces) -> None:
        """Erase the person from the app's rows about ``order``.

        Called in a transaction that holds the lock of ``order``.
        """


#: The keepers for each role, by the label of their app.
keepers: dict[Role, dict[str, Keeper]] = {role: {} for role in ROLES}


def all_keepers() -> list[Keeper]:
    return [keeper for each in keepers.values() for keeper in each.values()]
