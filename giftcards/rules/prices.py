"""The price of a card, from its cost and from the margins of the shop."""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal
from typing import NamedTuple

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _

#: The largest values of margins (per cent, dinars) and of ``round_to`` (dinars).
MOST_PERCENT, MOST_FIXED, MOST_ROUNDING = 1_000, 1_000_000, 10_000

_LARGEST = Decimal("999999999999.99")
# The site may have set a different precision for decimal numbers.
_EXACT = Context(prec=50)
_CENTIME = Decimal("0.01")


class PriceSource(TextChoices):
    """The source of the price of a product type.

    If several sources have a value, the first of them in this list determines the price.
    """

    FIXED = "fixed", _("fixed price")
    TYPE = "type", _("margin of the type")
    PRODUCT = "product", _("margin of the product")
    CATEGORY = "category", _("margin of the category")
    FUNCTION = "function", _("rule in your settings")
    SHELF = "shelf", _("margin of the shop")
    #: The shop sets its prices elsewhere.
    OWN = "", _("none")


class NoPrice(TextChoices):
    """The reason why a type does not have a price."""

    OWN = "own", _("Your shop sets this price outside the app.")
    COST = "cost", _("The cost is unknown.")
    LOSS = "loss", _("The card would be sold below its cost.")
    MARGIN = "margin", _("The card would earn less than the minimum margin.")
    FUNCTION = "function", _("The rule in your settings did not return a price.")
    LARGE = "large", _("The price would be too large.")


class Margin(NamedTuple):
    """A margin on the cost, in per cent or in dinars.

    If the margin is inherited, ``percent`` and ``fixed`` are ``None``.
    """

    percent: Decimal | None = None
    fixed: Decimal | None = None

    def __bool__(self) -> bool:
        return self.percent is not None or self.fixed is not None

    def added_to(self, cost: Decimal) -> Decimal:
        share = _EXACT.divide(_EXACT.multiply(cost, self.percent or Decimal(0)), Decimal(100))
        return _EXACT.add(_EXACT.add(cost, share), self.fixed or Decimal(0))


class Terms(NamedTuple):
    """The values of one type that determine its price.

    The values include the cost, the fixed price of the type, and the margins of the type, its
    product and its category. ``accepted_loss`` is the largest loss per card, in dinars, that the
    owner accepts.
    """

    cost: Decimal | None
    fixed_price: Decimal | None = None
    accepted_loss: Decimal = Decimal(0)
    of_type: Margin = Margin()
    of_product: Margin = Margin()
    of_category: Margin = Margin()


class ShelfTerms(NamedTuple):
    """The values that apply to all types.

    If ``has_function`` is True, a function of the shop replaces ``margin``.
    """

    margin: Margin = Margin()
    round_to: int = 0
    least_margin: Decimal = Decimal(0)
    has_function: bool = False


class Priced(NamedTuple):
    """A price in dinars with its source.

    If there is no price, ``why_not`` is the reason.
    """

    price: Decimal | None
    source: PriceSource
    why_not: NoPrice | None = None


def find_source(terms: Terms, shelf: ShelfTerms) -> tuple[PriceSource, Margin]:
    """Return the source of the price, and its margin or an empty margin."""
    if terms.fixed_price is not None:
        return PriceSource.FIXED, Margin()
    for source, margin in (
        (PriceSource.TYPE, terms.of_type),
        (PriceSource.PRODUCT, terms.of_product),
        (PriceSource.CATEGORY, terms.of_category),
    ):
        if margin:
            return source, margin
    if shelf.has_function:
        return PriceSource.FUNCTION, Margin()
    return (PriceSource.SHELF if shelf.margin else PriceSource.OWN), shelf.margin


def find_price(terms: Terms, shelf: ShelfTerms, *, function_price: Decimal | None = None) -> Priced:
    """Return the price of a card.

    ``function_price`` is the price that the shop's function returned for this cost, or ``None`` if
    there is no such price. A price from a margin is rounded up to a multiple of ``round_to``, or to
    whole centimes if ``round_to`` is 0, and must yield at least the minimum margin. A fixed price
    or a price from the function is not rounded, and must not be lower than the cost minus the
    accepted loss.
    """
    source, margin = find_source(terms, shelf)
    price, why_not = _price(terms, shelf, source, margin, function_price)
    return Priced(None if why_not else price, source, why_not)


def _price(
    terms: Terms,
    shelf: ShelfTerms,
    source: PriceSource,
    margin: Margin,
    function_price: Decimal | None,
) -> tuple[Decimal | None, NoPrice | None]:
    cost = terms.cost
    if source == PriceSource.OWN:
        return None, NoPrice.OWN
    if not cost or cost < 0:
        return None, NoPrice.COST
    least = _EXACT.subtract(cost, terms.accepted_loss)
    price, too_little = terms.fixed_price, NoPrice.LOSS
    if source == PriceSource.FUNCTION:
        if function_price is None or function_price <= 0:
            return None, NoPrice.FUNCTION
        price = function_price
    elif price is None:
        least, too_little = _EXACT.add(cost, shelf.least_margin), NoPrice.MARGIN
        price = _rounded_up(margin.added_to(cost), Decimal(shelf.round_to) or _CENTIME)
    if price > _LARGEST:
        return None, NoPrice.LARGE
    return price, (too_little if price < least else None)


def _rounded_up(amount: Decimal, step: Decimal) -> Decimal:
    steps = _EXACT.divide(amount, step).to_integral_value(ROUND_CEILING)
    return _EXACT.quantize(_EXACT.multiply(steps, step), _CENTIME)
