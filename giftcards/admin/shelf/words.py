"""Descriptions of margins and sales, and of where these values are set."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.utils.text import capfirst
from django.utils.translation import gettext

from giftcards.catalogue import inherited
from giftcards.models import Category, Product, ProductType, Shelf
from giftcards.models.pricing import ShelfRow
from giftcards.rules.prices import Margin, PriceSource, find_source
from giftcards.text.display import isolated, money_text, percent_text


def yes_or_no(is_so: bool) -> str:
    return gettext("Yes") if is_so else gettext("No")


def name_of(row: Any) -> str:
    """Return the name of a row for use in a sentence or a heading."""
    if isinstance(row, ProductType):
        return f"{isolated(row.product)} – {isolated(row.title)}"
    return str(row) if isinstance(row, Shelf) else isolated(row)


def margin_text(margin: Margin) -> str:
    """Return the margin in the usual notation, such as 12% or 50 DA."""
    if margin.percent is not None:
        return percent_text(margin.percent)
    return money_text(margin.fixed)


def column_text(name: str, value: Any) -> str:
    """Return a text for the value of a column that the shop can set.

    Amounts and percentages can be strings, as JSON stores them.
    """
    if value is None:
        return gettext("inherited") if name == "is_sold" else gettext("none")
    if isinstance(value, bool):
        return yes_or_no(value)
    if name == "margin_percent":
        return percent_text(Decimal(value))
    if name == "own_name":
        return value or gettext("none")
    return str(value) if name == "stock_buffer" else money_text(Decimal(value))


def column_label(model: type[ShelfRow], name: str) -> str:
    return capfirst(str(model._meta.get_field(name).verbose_name))  # type: ignore[union-attr]  # noqa: SLF001


def inherited_margin(row: Product | ProductType | Category, shelf: Shelf) -> str:
    """Return a text that describes the price rule that ``row`` inherits.

    This rule applies if ``row`` does not have a margin of its own. The text also says whether the
    rule comes from the product, the category, the shop or the settings.
    """
    source, margin = inherited(row, shelf)
    return _from(source, margin, row)


def margin_of(row: Product | Category, shelf: Shelf) -> str:
    """Return the margin that applies to ``row``, and where it is set."""
    if row.margin:
        return margin_text(row.margin)
    return inherited_margin(row, shelf)


def rule_of(kind: ProductType, shelf: Shelf) -> str:
    """Describe the rule that sets the price of a product type.

    If the type inherits the rule, the text also says where the rule is set.
    """
    source, margin = find_source(kind.terms, shelf.terms)
    if source == PriceSource.FIXED:
        return gettext("fixed price")
    return margin_text(margin) if source == PriceSource.TYPE else _from(source, margin, kind)


def _from(source: PriceSource, margin: Margin, row: Any) -> str:
    product = row.product if isinstance(row, ProductType) else row
    match source:
        case PriceSource.PRODUCT:
            text = gettext("%(margin)s, as set for the product")
        case PriceSource.CATEGORY:
            text = gettext("%(margin)s, from the category %(name)s")
            if not product.category.title:
                text = gettext("%(margin)s, as set for products without a category")
            return text % {"margin": margin_text(margin), "name": isolated(product.category)}
        case PriceSource.SHELF:
            text = gettext("%(margin)s, from the shop")
        case PriceSource.FUNCTION:
            return gettext("the rule in your settings")
        case _:
            return gettext("none (your shop sets its prices elsewhere)")
    return text % {"margin": margin_text(margin)}


def inherited_sale(row: Product | ProductType) -> str:
    """Describe the sale setting that a product or product type inherits.

    The text also says whether the value is inherited from the product or from the category.
    """
    of_product = row.product if isinstance(row, ProductType) else None
    if of_product is not None and of_product.is_sold is not None:
        text, is_sold = gettext("%(yes_or_no)s, as set for the product"), of_product.is_sold
        return text % {"yes_or_no": yes_or_no(is_sold)}
    category = (of_product or row).category  # type: ignore[union-attr]
    text = gettext("%(yes_or_no)s, from the category %(name)s")
    if not category.title:
        text = gettext("%(yes_or_no)s, as set for products without a category")
    return text % {"yes_or_no": yes_or_no(category.is_sold), "name": isolated(category)}


def sale_of(row: Product | ProductType) -> str:
    """Return a text that says whether ``row`` is sold here.

    If ``row`` inherits the value, the text also says where the value is set.
    """
    return inherited_sale(row) if row.is_sold is None else yes_or_no(row.is_sold)
