"""The provider's assortment, and the course of an order of each type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

_STOCK = 100_000
# That of the special types.
SPECIAL_PRICE = Decimal(490)


@dataclass(frozen=True, slots=True)
class Denomination:
    """A type of a product; ``price`` in dinars, ``stock`` in cards. Orders do not reduce stock."""

    name: str
    price: Decimal
    stock: int = _STOCK


@dataclass(frozen=True, slots=True)
class Product:
    title: str
    region: str
    types: Mapping[str, Denomination]


CATALOGUE: Mapping[str, Product] = {
    "507f1f77bcf86cd799439011": Product(
        "PlayStation Network",
        "DZ",
        {
            "type_001": Denomination("PSN 500 DA", Decimal(490)),
            "type_003": Denomination("PSN 2000 DA", Decimal(1960), stock=0),
        },
    ),
    "507f1f77bcf86cd799439012": Product(
        "Steam", "GLOBAL", {"type_101": Denomination("Steam 5 USD", Decimal("1250.50"))}
    ),
}


@dataclass(frozen=True, slots=True)
class OfferChange:
    """A change of what is for sale: from ``after`` on, a type has another price or stock.

    ``after`` is in seconds since the simulator was made; what is ``None`` stays as it was.
    """

    after: float
    type_id: str
    price: Decimal | None = None
    stock: int | None = None

    def apply(self, kind: Denomination) -> Denomination:
        """The type as it is after the change."""
        price = kind.price if self.price is None else self.price
        return replace(kind, price=price, stock=kind.stock if self.stock is None else self.stock)


@dataclass(frozen=True, slots=True)
class Shortfall:
    """An order that is delivered in part: the first one of this type and quantity.

    Of the others, all cards come.
    """

    type_id: str
    quantity: int
    delivered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Special:
    """The behaviour of an order of one of the :data:`SPECIAL_TYPES`; the defaults are normal.

    ``name`` is that of the type in the catalogue.
    """

    summary: str
    name: str = ""
    delivers: Literal["all", "half", "none"] = "all"
    settles: Literal["in time", "late", "never"] = "in time"
    answer: Literal["accepted", "lost", "dropped", "error", "refused"] = "accepted"
    grows: bool = False


NORMAL = Special(summary="is delivered in full")

# Accepted for every product, at one price. The first two exist in the provider's sandbox.
SPECIAL_TYPES: Mapping[str, Special] = {
    "TEST_REFUND": Special(name="Test: no card comes", summary="ends REFUNDED", delivers="none"),
    "TEST_PARTIAL": Special(
        name="Test: half of the cards come",
        summary="delivers half, rounded down, and ends PARTIALLY_FILLED; one card: REFUNDED",
        delivers="half",
    ),
    "SIM_SLOW": Special(
        name="Test: it takes longer", summary="settles after 6 minutes", settles="late"
    ),
    "SIM_NEVER": Special(name="Test: it never ends", summary="stays HANDLING", settles="never"),
    "SIM_GROW": Special(
        name="Test: one card after another",
        summary="shows its cards one by one while HANDLING",
        grows=True,
    ),
    "SIM_LOST": Special(
        name="Test: the answer is lost",
        summary="creates the order, then closes the connection without an answer",
        answer="lost",
    ),
    "SIM_ERROR": Special(
        name="Test: an error, and an order",
        summary="creates the order, then answers 500",
        answer="error",
    ),
    "SIM_DROP": Special(
        name="Test: no answer, no order",
        summary="closes the connection without an answer; there is no order",
        answer="dropped",
    ),
    "SIM_REJECT": Special(
        name="Test: it is refused", summary="answers 400; there is no order", answer="refused"
    ),
}
