"""Holds: cards kept for a customer who is about to pay.

The provider knows no holds. Holds only keep this shop from selling a card twice.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import NamedTuple

from django.core.exceptions import ValidationError
from django.db import OperationalError, connection, transaction
from django.db.models import Count, Sum
from django.utils import timezone
from django.utils.translation import gettext

from giftcards.catalogue.offers import Line, Quote, check_balance, check_stock, refusal
from giftcards.catalogue.visitors import Guest
from giftcards.conf import conf
from giftcards.exceptions import ReferenceConflict
from giftcards.models import Hold, Lease, Order
from giftcards.models.holds import LONGEST, MOST_TIMES, HoldQuerySet

# SQLite may refuse its lock to a waiting transaction. The hold is then tried again every _PAUSE
# seconds, for up to _PATIENCE seconds.
_PATIENCE = 20.0
_PAUSE = 0.05
# All guests of a network have at most so many times the cards and holds of one holder: mobile
# carriers give one address to many people.
_GUESTS = 10


def hold(
    *,
    reference: str,
    product_id: str,
    type_id: str,
    quantity: int,
    minutes: float = 20,
    holder: str | Guest = "",
) -> Hold:
    """Hold cards for a customer until the order with this ``reference`` is placed.

    The hold ends after ``minutes``, which is a day at most. Until then, other customers can buy
    only what the hold leaves of the stock and of the balance.

    If the reference already has a hold, the new cards replace its cards, and the hold lasts
    ``minutes`` from now. A hold can be prolonged to three times its first ``minutes`` in total. An
    hour after a hold has ended, its reference can have a new hold.

    ``holder`` names who wants the cards: an account, or a guest; ``holder_of(request)`` returns it.
    One holder has at most ``CARDS_PER_HOLDER`` cards in ``HOLDS_PER_HOLDER`` holds. All guests of
    one network together have at most ten times as many.

    In a transaction, this function blocks its other callers until the transaction ends.

    Raises :exc:`~giftcards.exceptions.NotForSale` (``delisted``, ``out_of_stock``, ``balance``,
    ``held_too_many``, ``network_busy`` or ``held_too_long``) if the cards cannot be held. An
    existing hold then stays as it was. Raises :exc:`~giftcards.exceptions.ReferenceConflict` if the
    order exists, and :exc:`~django.core.exceptions.ValidationError` for values that an order cannot
    have.
    """
    line = Line(product_id, type_id, quantity, reference)
    Order(
        reference=reference, product_id=product_id, type_id=type_id, quantity=quantity
    ).check_values()
    length = timedelta(minutes=minutes)
    if not timedelta(0) < length <= LONGEST:
        raise ValidationError(gettext("Cards can be held for a day at most."))
    ends_at = time.monotonic() + _PATIENCE
    while True:
        try:
            return _hold(line, length, holder)
        except OperationalError as error:
            is_in_vain = connection.in_atomic_block or "database is locked" not in str(error)
            if is_in_vain or time.monotonic() >= ends_at:
                raise
            time.sleep(_PAUSE)


def _hold(line: Line, length: timedelta, holder: str | Guest) -> Hold:
    named, network = holder if isinstance(holder, Guest) else (holder, "")
    Lease.objects.make(Lease.HOLDS)
    with transaction.atomic():
        # The lock keeps two holds from taking the last card, or the rest of the balance.
        Lease.objects.lock(Lease.HOLDS)
        if Order.objects.filter(reference=line.reference).exists():
            raise ReferenceConflict(gettext("The order with this reference has been placed."))
        known = line.known()
        check_stock(line, known)
        check_balance(line, known)
        _check_holder(line, known, named)
        _check_network(line, known, network)
        kept = Hold.objects.filter(reference=line.reference).first()
        kept = kept or Hold(reference=line.reference)
        kept.product_id, kept.type_id, kept.quantity = line.product_id, line.type_id, line.quantity
        kept.price = known.price
        if not kept.keep(length, holder=named, network=network):
            text = gettext("They were held for %(times)s times as long as at first.")
            raise refusal("held_too_long", known, text % {"times": MOST_TIMES})
        kept.save()
        return kept


def _check_holder(line: Line, known: Quote, holder: str) -> None:
    wanted = _with(line, Hold.objects.of_holder(holder)) if holder else None
    if wanted and wanted.exceeds(1):
        text = gettext("With these, one customer would hold %(cards)s cards in %(holds)s holds.")
        raise refusal("held_too_many", known, text % wanted._asdict())


def _check_network(line: Line, known: Quote, network: str) -> None:
    wanted = _with(line, Hold.objects.of_network(network)) if network else None
    if wanted and wanted.exceeds(_GUESTS):
        text = gettext(
            "With these, the guests of one network would hold %(cards)s cards in %(holds)s holds."
        )
        raise refusal("network_busy", known, text % wanted._asdict())


class _Wanted(NamedTuple):
    cards: int
    holds: int

    def exceeds(self, times: int) -> bool:
        """True if this is more than ``times`` what one holder may have."""
        return (
            self.cards > times * conf.cards_per_holder or self.holds > times * conf.holds_per_holder
        )


def _with(line: Line, held: HoldQuerySet) -> _Wanted:
    """Add ``line`` to the holds ``held``, without the hold that it replaces; return the sums."""
    others = held.current(timezone.now()).exclude(reference=line.reference)
    has = others.aggregate(holds=Count("pk"), cards=Sum("quantity"))
    return _Wanted((has["cards"] or 0) + line.quantity, has["holds"] + 1)


def release(reference: str) -> None:
    """End the hold with this reference, if any."""
    Hold.objects.filter(reference=reference).delete()
