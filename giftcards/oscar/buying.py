"""Buy the cards for paid lines of oscar orders, once for each line."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone, translation
from django.utils.translation import get_language, gettext

from giftcards.catalogue import release
from giftcards.conf import CURRENCY
from giftcards.engine.backoff import backoff
from giftcards.exceptions import ReferenceConflict
from giftcards.fulfilment import place_order
from giftcards.models import Order
from giftcards.oscar.checkout import reservations_of
from giftcards.oscar.conf import conf
from giftcards.oscar.lines import (
    PREFIX,
    OscarLine,
    card_lines,
    ids_of,
    note_failure,
    parts_of,
    reference_of,
)
from giftcards.rules.times import is_ahead

logger = logging.getLogger(__name__)

# The worker buys missed cards only if the oscar order was placed at most this long ago.
_MISSED_WITHIN = timedelta(days=30)
# The pauses between two tries to buy a line's cards.
_FIRST_PAUSE, _LONGEST_PAUSE, _JITTER = timedelta(minutes=1), timedelta(hours=1), 0.25
# The first row of a line's ``partner_line_notes`` contains the customer's language. After a failed
# attempt, a second row contains the number of attempts and the time of the next one.
_LANGUAGE = "Language: "
_TRIES = re.compile(r"\nTries: (\d+), next (\S+)$")


def take_order(order: Any, **_: Any) -> None:
    """Mark the lines of a new oscar order, so that their cards are bought.

    If the oscar order is already paid, its cards are bought immediately. If the oscar order is paid
    later, the worker buys cards only for marked lines. Otherwise, it would buy cards for orders
    that were placed before this app was installed. The mark contains the customer's language.
    """
    for line in list(card_lines(order=order)):
        with _surviving(f"Marking {reference_of(line)}"):
            line.partner_line_reference = reference_of(line)
            line.partner_line_notes = f"{_LANGUAGE}{get_language() or ''}"
            line.save(update_fields=["partner_line_reference", "partner_line_notes"])
    buy_if_paid(order, new_status=order.status)


def buy_if_paid(order: Any, new_status: str, **_: Any) -> None:
    """Buy the cards of an oscar order if its new status means that it is paid.

    The function does not raise errors, because the customer has paid and the worker will retry.
    """
    if new_status in conf.paid_statuses:
        _buy(list(card_lines(order=order)))


def buy_missed(should_continue: Callable[[], bool]) -> None:
    """Buy the cards of paid lines that have not been bought yet.

    This function is needed if a process died or failed before it bought the cards. Lines with the
    fewest failures come first. The pause before the next attempt doubles with each failure.
    """
    paid = card_lines(
        partner_line_reference__startswith=PREFIX,
        order__status__in=conf.paid_statuses,
        order__date_placed__gte=timezone.now() - _MISSED_WITHIN,
    )
    known = Order.objects.filter(reference=OuterRef("partner_line_reference"))
    now = timezone.now()
    missed = paid.exclude(Exists(known)).order_by("order__date_placed", "pk")
    tries = [(*_tries(notes), pk) for pk, notes in missed.values_list("pk", "partner_line_notes")]
    for failures, due_at, pk in sorted(tries, key=lambda one: one[0]):
        if is_ahead(due_at, now, max_distance=_LONGEST_PAUSE * (1 + _JITTER)):
            continue
        if not should_continue():
            break
        for line in card_lines(pk=pk):
            _buy([line])
            if not parts_of(line):
                with _surviving(f"Putting off {reference_of(line)}"):
                    _put_off(line, failures + 1)


def _tries(notes: str) -> tuple[int, datetime | None]:
    """Read the number of failed attempts and the time of the next attempt.

    Both are stored in the ``notes`` of the line.
    """
    found = _TRIES.search(notes)
    with contextlib.suppress(ValueError):  # staff of the shop may have edited the notes
        if found:
            return int(found[1]), datetime.fromisoformat(found[2])
    return 0, None


def _put_off(line: Any, failures: int) -> None:
    pause = backoff(failures, first_pause=_FIRST_PAUSE, max_pause=_LONGEST_PAUSE, jitter=_JITTER)
    next_try = f"\nTries: {failures}, next {(timezone.now() + pause).isoformat(timespec='seconds')}"
    notes = _TRIES.sub("", line.partner_line_notes) + next_try
    OscarLine.objects.filter(pk=line.pk).update(partner_line_notes=notes)


def _buy(lines: Sequence[Any]) -> None:
    """Place the missing orders for the lines.

    Afterwards, the function ends the reservations of the lines' baskets.
    """
    orders = Order.objects.filter(reference__in=list(map(reference_of, lines)))
    known = set(orders.values_list("reference", "group"))
    for line in lines:
        # Lines that already have an order are skipped, because place_order() would refuse such a
        # line if the customer's address has changed since then.
        if (reference_of(line), line.order.number) not in known:
            what = f"Ordering {reference_of(line)}"
            with _surviving(what), translation.override(settings.LANGUAGE_CODE):
                _place(line)
    for basket in {line.order.basket for line in lines if line.order.basket}:
        with _surviving(f"Ending the reservations of basket {basket.pk}"):
            for reference in reservations_of(basket):
                release(reference)


def _place(line: Any) -> None:
    """Place the order for the line.

    If the order is refused, a note on the oscar order gives the reason.
    """
    order, notes = line.order, line.partner_line_notes.partition("\n")[0]
    product_id, type_id = ids_of(line.partner_sku)
    if order.currency != CURRENCY:
        text = gettext("Cards are sold in %(ours)s, but the order is in %(theirs)s.")
        note_failure(line, text % {"ours": CURRENCY, "theirs": order.currency})
        return
    try:
        place_order(
            product_id=product_id,
            type_id=type_id,
            quantity=line.quantity,
            reference=reference_of(line),
            sale_amount=line.line_price_incl_tax,
            group=order.number,
            user=order.user,
            customer_email=order.email or "",
            customer_language=notes.removeprefix(_LANGUAGE) if notes.startswith(_LANGUAGE) else "",
        )
    except ValidationError as error:
        texts = (f"{name}: {' '.join(said)}" for name, said in error.message_dict.items())
        note_failure(line, " ".join(texts))
    except ReferenceConflict as error:
        note_failure(line, str(error))


@contextlib.contextmanager
def _surviving(work: str) -> Iterator[None]:
    """Log errors that occur in the block instead of raising them.

    ``work`` is the description of the work for the log message.
    """
    try:
        with transaction.atomic():
            yield
    except Exception as error:  # noqa: BLE001 (the customer must not see that it failed)
        # The traceback is not logged, because it may contain a row of the database.
        logger.error("%s failed: %s", work, type(error).__name__)  # noqa: TRY400
