"""The shop's shelf: the provider's catalogue, at the shop's prices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from giftcards import models
from giftcards.catalogue import Description, descriptions, offers
from giftcards.models import ProductType

#: The types of the sandbox and the simulator for special outcomes, with names and notes.
TRIALS: Mapping[str, tuple[str | Promise, str | Promise]] = {
    "TEST_PARTIAL": (
        _("Half of the cards arrive"),
        _("The money for the others is refunded. If you buy five, two arrive."),
    ),
    "TEST_REFUND": (_("No card arrives"), _("The whole amount is refunded.")),
    "SIM_SLOW": (
        _("It takes longer"),
        _("The customer is asked to wait, and gets the cards a little later."),
    ),
    "SIM_LOST": (
        _("The provider's answer is lost"),
        _("The app finds the cards anyway and never buys them twice."),
    ),
    "SIM_REJECT": (_("The provider refuses"), _("The whole amount is refunded.")),
}
NEEDS_COOKIES = _("Your browser has to accept the cookies of this shop. Press the button again.")


@dataclass(frozen=True, slots=True)
class Item:
    """A card on the shelf, and what the customer pays for it."""

    kind: ProductType
    price: Decimal
    is_sold_out: bool
    #: The product's name and region, and how to redeem the card, in the customer's language.
    told: Description

    @property
    def is_trial(self) -> bool:
        return self.kind.is_for_tests

    @property
    def name(self) -> str | Promise:
        return TRIALS[self.kind.type_id][0] if self.kind.type_id in TRIALS else self.kind.title

    @property
    def note(self) -> str | Promise:
        """The outcome of a trial in words, or "" for an ordinary card."""
        return TRIALS[self.kind.type_id][1] if self.kind.type_id in TRIALS else ""


@dataclass(frozen=True, slots=True)
class Shelf:
    cards: list[Item]
    trials: list[Item]


def open_shop() -> None:
    """Add 12 % to the cost of cards, round up to 10 DA, and do not sell phone top-ups.

    If the owner has changed the shelf, it stays as it is.
    """
    if models.ShelfChange.objects.exists():
        return
    shelf = models.Shelf.objects.current()
    shelf.margin_percent, shelf.round_to = Decimal(12), 10
    shelf.save()
    top_ups = models.Category.objects.named(["Mobile & Internet"])["Mobile & Internet"]
    top_ups.is_sold = False
    top_ups.save()


def read() -> Shelf:
    items = list(_items())
    # Every product has the same trials, so only one of each is kept.
    trials = {item.kind.type_id: item for item in reversed(items) if item.is_trial}
    return Shelf(
        cards=[item for item in items if not item.is_trial],
        trials=[trials[type_id] for type_id in TRIALS if type_id in trials],
    )


def find(**wanted: Any) -> Item | None:
    """Return the card on the shelf whose type has these values, or ``None``."""
    return next(_items(**wanted), None)


def _items(**wanted: Any) -> Iterator[Item]:
    """Yield the cards on the shelf, including those sold out, with three queries."""
    on_sale = {kind.pk for kind in offers().filter(**wanted)}
    kinds = list(ProductType.objects.for_sale().filter(**wanted))
    told = descriptions(kinds)
    for kind in kinds:
        if kind.price is not None:
            is_sold_out = kind.pk not in on_sale
            yield Item(kind, kind.price, is_sold_out=is_sold_out, told=told[kind.pk])
