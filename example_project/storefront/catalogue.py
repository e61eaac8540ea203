"""The shop's catalogue: that of the provider, as ``giftcards_catalogue`` has read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from example_project.storefront.checkout import sale_price
from giftcards.models import ProductType

#: The types of the sandbox and the simulator that show special outcomes, by name and note.
TRIALS: Mapping[str, tuple[str | Promise, str | Promise]] = {
    "TEST_PARTIAL": (
        _("Half of the cards come"),
        _("The money for the others is paid back. Buy five, and two come."),
    ),
    "TEST_REFUND": (_("No card comes"), _("All of the money is paid back.")),
    "SIM_SLOW": (
        _("It takes longer"),
        _("The customer is asked to wait, and gets the cards a little later."),
    ),
    "SIM_LOST": (
        _("The provider's answer is lost"),
        _("The cards are found all the same, and are never bought twice."),
    ),
    "SIM_REJECT": (_("The provider refuses"), _("All of the money is paid back.")),
}
_PREFIXES = ("TEST_", "SIM_")
NEEDS_COOKIES = _("Your browser has to accept the cookies of this shop. Press the button again.")


@dataclass(frozen=True, slots=True)
class Item:
    """A card that is for sale, and what the customer pays for it."""

    kind: ProductType
    price: Decimal

    @property
    def is_trial(self) -> bool:
        return self.kind.type_id.startswith(_PREFIXES)

    @property
    def name(self) -> str | Promise:
        return TRIALS[self.kind.type_id][0] if self.kind.type_id in TRIALS else str(self.kind)

    @property
    def note(self) -> str | Promise:
        """The outcome of buying a trial, in words; "" for an ordinary card."""
        return TRIALS[self.kind.type_id][1] if self.kind.type_id in TRIALS else ""

    @property
    def is_sold_out(self) -> bool:
        return self.kind.stock == 0


@dataclass(frozen=True, slots=True)
class Shelf:
    cards: list[Item]
    trials: list[Item]


def read() -> Shelf:
    items = [Item(kind, sale_price(kind)) for kind in ProductType.objects.for_sale()]
    # Every product has the same trials: keep one of each.
    trials = {item.kind.type_id: item for item in reversed(items) if item.is_trial}
    return Shelf(
        cards=[item for item in items if not item.is_trial],
        trials=[trials[type_id] for type_id in TRIALS if type_id in trials],
    )
