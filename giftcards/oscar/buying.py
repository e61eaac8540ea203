"""Buying the cards of lines that are paid, once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone, translation
from django.utils.translation import get_language, gettext

from giftcards.catalogue import release
from giftcards.conf import conf as core
from giftcards.exceptions import ReferenceConflict
from giftcards.fulfilment import place_order
from giftcards.models import Order
from giftcards.oscar.checkout import holds_of
from giftcards.oscar.conf import conf
from giftcards.oscar.lines import PREFIX, card_lines, ids_of, reference_of
from giftcards.oscar.progress import note_failure

logger = logging.getLogger(__name__)

# What was missed is bought within this time after oscar's order was placed; so many lines at once.
_MISSED_WITHIN = timedelta(days=30)
_AT_ONCE = 1_000
# Begins a line's notes for its partner.
_LANGUAGE = "Language: "


def take_order(order: Any, **_: Any) -> None:
    """Mark the lines of a new order as ours, and buy them if it is paid. A receiver of a signal.

    Only what is marked is bought later by itself: not lines from before the app was installed. The
    customer's language is kept with the mark.
    """
    for line in list(card_lines(order=order)):
        with _surviving(f"Marking {reference_of(line)}"):
            line.partner_line_reference = reference_of(line)
            line.partner_line_notes = f"{_LANGUAGE}{get_language() or ''}"
            line.save(update_fields=["partner_line_reference", "partner_line_notes"])
    buy_if_paid(order, new_status=order.status)


def buy_if_paid(order: Any, new_status: str, **_: Any) -> None:
    """Buy the cards of an order whose new status says that it is paid. A receiver of a signal.

    It raises nothing: the customer has paid, and the worker tries again.
    """
    if new_status in conf.paid_statuses:
        _buy(list(card_lines(order=order)))


def buy_missed(should_continue: Callable[[], bool]) -> None:
    """Buy the cards of paid lines that have no order, because a process died or failed."""
    paid = card_lines(
        partner_line_reference__startswith=PREFIX,
        order__status__in=conf.paid_statuses,
        order__date_placed__gte=timezone.now() - _MISSED_WITHIN,
    )
    known = Order.objects.filter(reference=OuterRef("partner_line_reference"))
    for line in paid.exclude(Exists(known)).order_by("order__date_placed")[:_AT_ONCE]:
        if not should_continue():
            break
        _buy([line])


def _buy(lines: Sequence[Any]) -> None:
    """Place an order for each line that has none, and end the holds of the baskets."""
    orders = Order.objects.filter(reference__in=list(map(reference_of, lines)))
    known = set(orders.values_list("reference", "group"))
    for line in lines:
        # Not left to place_order, because the customer's address may have changed.
        if (reference_of(line), line.order.number) not in known:
            what = f"Ordering {reference_of(line)}"
            with _surviving(what), translation.override(settings.LANGUAGE_CODE):
                _place(line)
    for basket in {line.order.basket for line in lines if line.order.basket}:
        with _surviving(f"Ending the holds of basket {basket.pk}"):
            for reference in holds_of(basket):
                release(reference)


def _place(line: Any) -> None:
    """Place the order for the line; if it cannot be placed, note why in oscar's order."""
    order, notes = line.order, line.partner_line_notes
    product_id, type_id = ids_of(line.partner_sku)
    if order.currency != core.currency:
        text = gettext("Cards are sold in %(ours)s, and the order is in %(theirs)s.")
        note_failure(line, text % {"ours": core.currency, "theirs": order.currency})
        return
    try:
        place_order(
            product_id=product_id,
            type_id=type_id,
            quantity=line.quantity,
            reference=reference_of(line),
            sale_amount=line.line_price_incl_tax,
            group=order.number,
            customer_email=order.email or "",
            customer_language=notes.removeprefix(_LANGUAGE) if notes.startswith(_LANGUAGE) else "",
        )
    except ValidationError as error:
        texts = (f"{name}: {' '.join(said)}" for name, said in error.message_dict.items())
        note_failure(line, " ".join(texts))
    except ReferenceConflict as error:
        note_failure(line, str(error))


@contextlib.contextmanager
def _surviving(what: str) -> Iterator[None]:
    """Log any error as a failure of ``what``, and go on."""
    try:
        with transaction.atomic():
            yield
    except Exception as error:  # noqa: BLE001 (the customer must not see that it failed)
        # Without a traceback, which may hold a row.
        logger.error("%s failed: %s", what, type(error).__name__)  # noqa: TRY400
