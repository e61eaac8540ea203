"""A tag for the templates of an oscar shop: ``{% load giftcards_oscar %}``."""

from __future__ import annotations

from typing import Any

from django import template

from giftcards.catalogue import Description, descriptions
from giftcards.models import ProductType
from giftcards.oscar.lines import ids_of, stock_records
from giftcards.text.display import linked

register = template.Library()
register.filter("linked", linked)


@register.inclusion_tag("giftcards_oscar/redemption.html")
def redemption(product: Any) -> dict[str, Description]:
    """The region of a gift card, and how it is redeemed; nothing for oscar's other products."""
    record = stock_records().filter(product=product.pk).first()
    if record is None:
        return {}
    product_id, type_id = ids_of(record.partner_sku)
    kinds = ProductType.objects.select_related("product").filter(
        product__product_id=product_id, type_id=type_id
    )
    return {"told": next(iter(descriptions(kinds).values()), Description())}
