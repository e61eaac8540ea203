"""The progress of cards in oscar's orders: the status of each line, and notes for staff."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import translation
from django.utils.translation import gettext
from oscar.apps.order.signals import order_line_status_changed

from giftcards.display import count_text, money_text
from giftcards.models import CustomerRefund, Order
from giftcards.oscar.conf import LineState, conf
from giftcards.oscar.lines import OscarLine, line_of, parts_of, reference_of
from giftcards.rules.states import Status


def follow_order(order: Order, **_: Any) -> None:
    """Bring the line of ``order`` up to date. A receiver of a signal."""
    line = line_of(order)
    if line is None:
        return
    with transaction.atomic():
        # Locks the line, so that two processes do not write the same note.
        OscarLine.objects.filter(pk=line.pk).update(status=F("status"))
        line.refresh_from_db(fields=["status"])
        parts = parts_of(line)
        set_status(line, _state_of(line, parts))
        with translation.override(settings.LANGUAGE_CODE):
            _note_refund(line, parts)


def follow_refund(refund: CustomerRefund, **_: Any) -> None:
    """Bring the line up to date whose customer was paid back. A receiver of a signal."""
    follow_order(refund.order)


def set_status(line: Any, state: LineState) -> None:
    """Set the status of a line for the ``state`` of its cards.

    The pipeline of the shop is not asked: what happened at the provider has happened.
    """
    old, new = line.status, conf.line_statuses[state]
    if new == old:
        return
    line.status = new
    line.save(update_fields=["status"])
    order_line_status_changed.send(sender=line, line=line, old_status=old, new_status=new)


def note_failure(line: Any, why: str) -> None:
    """Note in oscar's order, once, why a line that is paid cannot be ordered."""
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
    """Note what the customer is still owed, unless the last note about it says the same."""
    # What an order owes for cards that were ordered again has moved to the new order.
    due = sum((part.open_amount or Decimal(0) for part in parts), start=Decimal(0))
    # Tells the notes about this line from others.
    name = f"({reference_of(line)})"
    last = line.order.notes.filter(message__endswith=name).order_by("-pk").first()
    if due:
        text = gettext("Refund due: %(amount)s, for %(missing)s of %(quantity)s × “%(title)s”.")
    elif last is not None:
        text = gettext(
            "No refund is due for “%(title)s”: it was paid back or planned, or the missing cards"
            " were ordered again."
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
