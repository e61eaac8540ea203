"""The lines of oscar's orders that are gift cards, and the orders of this app that belong to them.

They belong together by their names: an order is named after the line, and its group is the number
of oscar's order.
"""

from __future__ import annotations

import re
from typing import Any

from django.db.models import QuerySet
from oscar.core.loading import get_model

from giftcards.models import Order
from giftcards.oscar.conf import conf

OscarLine = get_model("order", "Line")
StockRecord = get_model("partner", "StockRecord")

PREFIX = "oscar-line-"
# Digits of the longest primary key.
_REFERENCE = re.compile(rf"{PREFIX}([0-9]{{1,18}})")


def sku_of(product_id: str, type_id: str) -> str:
    """The partner SKU of a card: the provider's ids."""
    return f"{product_id}/{type_id}"


def ids_of(partner_sku: str) -> tuple[str, str]:
    """The provider's ids in a partner SKU: those of the product and of the type."""
    product_id, _, type_id = partner_sku.partition("/")
    return product_id, type_id


def stock_records() -> Any:
    """The stock records of gift cards."""
    return StockRecord.objects.filter(partner__code=conf.partner)


def card_lines(**lookups: Any) -> Any:
    """The lines of oscar's orders that are gift cards, with their orders; in no order."""
    lines = OscarLine.objects.filter(partner__code=conf.partner, **lookups)
    return lines.select_related("order__user", "order__basket").order_by()


def reference_of(line: Any) -> str:
    """The reference of the order that buys the cards of this line."""
    return f"{PREFIX}{line.pk}"


def line_of(order: Order) -> Any | None:
    """The line that ``order`` belongs to, also if it orders missing cards of it again."""
    found = _REFERENCE.fullmatch(order.original.reference)
    return found and card_lines(pk=int(found[1]), order__number=order.group).first()


def parts_of(line: Any) -> list[Order]:
    """The order for the line, if any, and those that order again what was missing, in turn."""
    first = Order.objects.filter(reference=reference_of(line), group=line.order.number).first()
    return first.parts if first else []


def owned_orders(user: Any) -> QuerySet[Order]:
    """The orders for the lines that this customer has bought: for ``OWNED_ORDERS``."""
    bought = card_lines(order__user=user).values_list("pk", "order__number")
    groups = {f"{PREFIX}{pk}": number for pk, number in bought}
    orders = Order.objects.filter(reference__in=groups).order_by()
    owned = {
        key
        for key, reference, group in orders.values_list("pk", "reference", "group")
        if groups[reference] == group
    }
    return Order.objects.filter(pk__in=owned).with_repetitions()
