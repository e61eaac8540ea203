"""Tags for the templates of an oscar shop: ``{% load giftcards_oscar %}``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django import template

from giftcards.catalogue import Description
from giftcards.catalogue.descriptions import of_products
from giftcards.models import Product
from giftcards.oscar.lines import ids_of, stock_records
from giftcards.text.display import linked

register = template.Library()
register.filter("linked", linked)


@register.inclusion_tag("giftcards_oscar/redemption.html")
def redemption(product: Any) -> dict[str, Any]:
    """Return the region and instructions of ``product`` if it is a gift card."""
    return {"told": _descriptions([product.pk]).get(product.pk)}


@register.inclusion_tag("giftcards_oscar/basket_redemption.html")
def basket_redemption(basket: Any) -> dict[str, Any]:
    """Return the region and instructions of each gift card in the basket."""
    products = {line.product_id: line.product for line in basket.all_lines()}
    told = _descriptions(products)
    return {"cards": [(products[key].get_title(), each) for key, each in told.items()]}


def _descriptions(products: Collection[int]) -> dict[int, Description]:
    """Return the descriptions of the gift cards among ``products``.

    ``products`` contains primary keys of oscar products. The result maps these keys to
    descriptions. The function makes at most three queries.
    """
    records = stock_records().filter(product__in=products).order_by("product")
    ids = {key: ids_of(sku)[0] for key, sku in records.values_list("product", "partner_sku")}
    told = of_products(Product.objects.filter(product_id__in=ids.values()))
    return {key: told[product_id] for key, product_id in ids.items() if product_id in told}
