"""Oscar order lines with gift cards, and this app's orders for them.

The reference of an order contains the primary key of the line. The group of an order is the number
of the oscar order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import translation
from django.utils.translation import gettext
from oscar.apps.order.signals import order_line_status_changed
from oscar.core.loading import get_model

from giftcards.models import CustomerRefund, Order
from giftcards.rules.states import Status
from giftcards.text.display import count_text, money_text

OscarLine = get_model("order", "Line")
StockRecord = get_model("partner", "StockRecord")

# The code that oscar derives from the partner name "OneClickDz".
PARTNER_CODE = "oneclickdz"
PREFIX = "oscar-line-"
# A primary key with more than 18 digits may be too large for the database.
_REFERENCE = re.compile(rf"{PREFIX}([0-9]{{1,18}})")


class LineState(StrEnum):
    """The state of a line's cards. The status of the line has the same name."""

    ORDERED = "Ordered"
    DELAYED = "Delayed"
    DELIVERED = "Delivered"
    PARTLY_DELIVERED = "Partly delivered"
    NOT_DELIVERED = "Not delivered"


def sku_of(product_id: str, type_id: str) -> str:
    """Return the partner SKU of a card, which contains the provider's ids."""
    return f"{product_id}/{type_id}"


def ids_of(partner_sku: str) -> tuple[str, str]:
    """Return the provider's product id and type id from a SKU."""
    product_id, _, type_id = partner_sku.partition("/")
    return product_id, type_id


def stock_records() -> Any:
    """Return the stock records of gift cards."""
    return StockRecord.objects.filter(partner__code=PARTNER_CODE)


def card_lines(**lookups: Any) -> Any:
    """Return the lines with gift cards, unsorted, with their oscar orders."""
    lines = OscarLine.objects.filter(partner__code=PARTNER_CODE, **lookups)
    return lines.select_related("order__user", "order__basket").order_by()


def reference_of(line: Any) -> str:
    """Return the reference of the order that buys the cards of this line."""
    return f"{PREFIX}{line.pk}"


def line_of(order: Order) -> Any | None:
    """Return the oscar line that belongs to an order, or ``None``.

    ``order`` can be the order for the line, or a reorder of its missing cards.
    """
    found = _REFERENCE.fullmatch(order.original.reference)
    return found and card_lines(pk=int(found[1]), order__number=order.group).first()


def parts_of(line: Any) -> list[Order]:
    """Return the order for the line and the reorders of its missing cards."""
    first = Order.objects.filter(reference=reference_of(line), group=line.order.number).first()
    return first.parts if first else []


def follow_order(order: Order, **_: Any) -> None:
    """Update the line of ``order``. This function receives a signal."""
    line = line_of(order)
    if line is None:
        return
    with transaction.atomic():
        # The update locks the line, so that no two processes write the same note.
        OscarLine.objects.filter(pk=line.pk).update(status=F("status"))
        line.refresh_from_db(fields=["status"])
        parts = parts_of(line)
        set_status(line, _state_of(line, parts))
        with translation.override(settings.LANGUAGE_CODE):
            _note_refund(line, parts)


def follow_refund(refund: CustomerRefund, **_: Any) -> None:
    """Update the line after a refund to its customer.

    This function receives the signal ``customer_refund_changed``.
    """
    follow_order(refund.order)


def set_status(line: Any, state: LineState) -> None:
    """Set the status of a line according to the ``state`` of its cards.

    The status is set even if the shop's pipeline does not allow the change, because the provider
    has already delivered or refused the cards.
    """
    old, new = line.status, state.value
    if new == old:
        return
    line.status = new
    line.save(update_fields=["status"])
    order_line_status_changed.send(sender=line, line=line, old_status=old, new_status=new)


def note_failure(line: Any, why: str) -> None:
    """Record in the oscar order why the paid line cannot be bought.

    The function adds a note, unless the oscar order already has the same note.
    """
    text = gettext("“%(title)s” could not be ordered. %(why)s")
    message = text % {"title": line.title, "why": why}
    if not line.order.notes.filter(message=message).exists():
        _note(line, message)


def _state_of(line: Any, parts: Sequence[Order]) -> LineState:
    if not all(part.is_final for part in parts):
        is_delayed = any(part.status == Status.DELAYED for part in parts)
        return LineState.DELAYED if is_delayed else LineState.ORDERED
    delivered = _delivered(parts)
    if delivered == line.quantity:
        return LineState.DELIVERED
    return LineState.PARTLY_DELIVERED if delivered else LineState.NOT_DELIVERED


def _delivered(parts: Sequence[Order]) -> int:
    return sum(part.fulfilled_quantity for part in parts)


def _note_refund(line: Any, parts: Sequence[Order]) -> None:
    """Add a note to the oscar order with the amount that is owed for the line.

    The function does nothing if the last note about the line has the same content.
    """
    # If cards were ordered again, the amount is owed for the new order instead.
    due = sum((part.open_amount or Decimal(0) for part in parts), start=Decimal(0))
    # Each note about this line ends with this name, so that the last note can be found.
    name = f"({reference_of(line)})"
    last = line.order.notes.filter(message__endswith=name).order_by("-pk").first()
    if due:
        text = gettext("Refund due: %(amount)s, for %(missing)s of %(quantity)s × “%(title)s”.")
    elif last is not None:
        text = gettext(
            "No refund is due for “%(title)s”, because the amount was paid back or the missing"
            " cards were ordered again."
        )
    else:
        return
    words = {
        "amount": money_text(due),
        "missing": count_text(line.quantity - _delivered(parts)),
        "quantity": count_text(line.quantity),
        "title": line.title,
    }
    message = f"{text % words} {name}"
    if last is None or last.message != message:
        _note(line, message)


def _note(line: Any, message: str) -> None:
    notes = line.order.notes
    notes.create(message=message, note_type=notes.model.SYSTEM)
