"""Helping staff to decide about lost orders and restored orders.

If the database was restored from a dump, a waiting order might have been bought after the dump. The
provider's list then contains this order, and also later orders that the database does not contain.
Therefore, a waiting order is put on hold if a row of the list could belong to it, unless the row
has the reference of another order.
"""

from __future__ import annotations

import enum
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain, takewhile
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Min
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.gateway import Gateway
from giftcards.engine.recovering import adopt, describe_row
from giftcards.engine.repetitions import by_reference, may_be_adopted, move_sent
from giftcards.engine.tuning import tuning
from giftcards.exceptions import ConfigurationError, NotFound, ProviderError
from giftcards.models import Order, OrderQuerySet, ProviderState, StatusChange
from giftcards.models.order_queries import batches
from giftcards.models.orders import cleared_provider_columns
from giftcards.provider.answers import OrderAnswer
from giftcards.rules.identity import FARTHEST_CLOCK, find_difference
from giftcards.rules.problems import Problem
from giftcards.rules.purposes import Purpose
from giftcards.rules.states import FOLLOWED, UNACCEPTED, Kind, Status
from giftcards.rules.times import with_zone

logger = logging.getLogger(__name__)


Row = Mapping[str, Any]


class NoAnswer(enum.Enum):
    """The reason why the details of an order could not be requested."""

    NOT_FOUND = enum.auto()
    # Calls are paused, perhaps because of this answer.
    PAUSED = enum.auto()
    # The request quota has no slot, or another process is probing the key.
    BUSY = enum.auto()
    # The request could not be made, or its answer could not be used.
    UNREACHABLE = enum.auto()
    # This process does not have an API key. The workers have one.
    NOT_CONFIGURED = enum.auto()


def look_up(order: Order, provider_order_id: str) -> Row | NoAnswer:
    """Request the details of one of the provider's orders.

    ``order`` is the lost order that staff compare with the provider's order. Returns a row with the
    details from ``describe_row``. In addition, ``is_same_key`` in the row is True if ``order`` was
    sent with the API key in use. If there is no usable answer, returns a :class:`NoAnswer` instead.
    Do not call this function in a transaction, because it can take up to 20 seconds.
    """
    try:
        with Gateway() as gateway:
            row = _ask(gateway, provider_order_id)
            if isinstance(row, NoAnswer):
                return row
            return {**row, "is_same_key": order.was_sent_with(gateway.key)}
    except ConfigurationError:
        return NoAnswer.NOT_CONFIGURED


def _ask(gateway: Gateway, provider_order_id: str) -> Row | NoAnswer:
    if not gateway.try_open():
        return NoAnswer.PAUSED
    try:
        row = gateway.ask(
            lambda: describe_row(gateway.client.check(provider_order_id)), Purpose.CHECKING
        )
    except NotFound:
        return NoAnswer.NOT_FOUND
    except ProviderError:
        return NoAnswer.UNREACHABLE if gateway.is_open else NoAnswer.PAUSED
    if row is not None:
        return row
    return NoAnswer.BUSY if gateway.is_open else NoAnswer.PAUSED


class Fit(enum.Enum):
    """The result of comparing one detail with the provider's order."""

    FITS = enum.auto()
    DIFFERS = enum.auto()
    NOT_TOLD = enum.auto()


def compare(order: Order, row: Row) -> dict[str, Fit]:
    """Compare ``order`` with ``row``, which is one of the provider's orders.

    The function compares product, type, quantity, time and API key.
    """
    ours = {"product": order.product_id, "type": order.type_id, "quantity": order.quantity}
    fits = {name: _fit(row.get(name), row.get(name) == value) for name, value in ours.items()}
    created_at, is_near = None, False
    # After a restore of the database, the time of sending may be unknown.
    if order.sent_at and row.get("created_at"):
        created_at = datetime.fromisoformat(row["created_at"])
        is_near = abs(created_at - with_zone(order.sent_at)) <= FARTHEST_CLOCK
    return fits | {
        "created_at": _fit(created_at, is_near),
        # A row without ``is_same_key`` is from the list, which was read with the right key.
        "key": Fit.FITS if row.get("is_same_key", True) else Fit.DIFFERS,
    }


def _fit(told: object, is_equal: bool) -> Fit:
    if told in {None, ""}:
        return Fit.NOT_TOLD
    return Fit.FITS if is_equal else Fit.DIFFERS


def overall(fits: Mapping[str, Fit]) -> Fit:
    """Return the overall fit.

    An order fits if the provider states the product, type and quantity, and no detail differs.
    """
    if Fit.DIFFERS in fits.values():
        return Fit.DIFFERS
    line = (fits[name] for name in ("product", "type", "quantity"))
    return Fit.NOT_TOLD if Fit.NOT_TOLD in line else Fit.FITS


def may_release(order: Order) -> bool:
    """Return True if the identification of ``order`` can be undone.

    The identification can be undone if the order was identified after it was lost, is not settled,
    and does not have cards yet.
    """
    if order.status not in FOLLOWED or order.fulfilled_quantity or order.cards.exists():
        return False
    accepted = order.changes.filter(to_status=Status.HANDLING).last()
    return accepted is not None and (
        accepted.from_status == Status.UNCONFIRMED
        # If the source is PLACING, the id came from the answer to the purchase.
        and accepted.source != StatusChange.Source.PLACING
    )


def release(order: Order, *, by: str) -> bool:
    """Undo the identification of ``order``, so that the order is lost again.

    The id is then free for other orders. The app searches for the order again, but does not give it
    the same id again unless staff confirm this. Returns False without changing anything if the
    ``status`` or ``claim`` of the order has changed since ``order`` was read, if cards have
    arrived, or if the id came from the answer to the purchase. ``by`` is the name of the person who
    decided.
    """
    if not may_release(order):
        return False
    provider_order_id = order.provider_order_id
    row = Order.objects.filter(
        pk=order.pk, status=order.status, claim=order.claim, fulfilled_quantity=0
    )
    with transaction.atomic():
        # The write locks the row, so that cards cannot be stored before the move.
        if not row.update(claimed_until=None):
            return False
        change = order.move(
            Status.UNCONFIRMED,
            source=StatusChange.Source.STAFF,
            details=[
                Problem("staff_released", {"by": by, "provider_order_id": str(provider_order_id)})
            ],
            **cleared_provider_columns(),
            # An order without a time of sending cannot be searched for, so it is never due.
            due_at=order.sent_at and timezone.now(),
            failures=0,
            # The new claim invalidates decisions from the last time when the order was lost.
            claim=uuid.uuid4().hex,
        )
    if change:
        logger.warning(
            "Order %s is not the provider's order %s, so it is %s again.",
            order.reference,
            provider_order_id,
            order.status,
        )
    return change is not None


def _waiting_orders() -> OrderQuerySet:
    return Order.objects.open().filter(status__in=UNACCEPTED)


def last_sign() -> datetime | None:
    """Return the last time at which this database was certainly in use.

    This is the time when a worker last recorded that it was running. If no worker has ever recorded
    this, it is the time when the oldest waiting order was recorded. In both cases,
    ``FARTHEST_CLOCK`` is subtracted. Returns ``None`` if neither time is known.
    """
    at = ProviderState.objects.current().last_tick_at
    if at is None:
        at = _waiting_orders().order_by().aggregate(at=Min("created_at"))["at"]
    return at and with_zone(at) - FARTHEST_CLOCK


class Bought(NamedTuple):
    """Waiting orders that were bought or might have been bought.

    ``adopted`` contains orders that were certainly bought, and ``on_hold`` contains orders that
    might have been bought.
    """

    adopted: list[Order]
    on_hold: list[Order]


def find_bought(
    rows: Sequence[OrderAnswer],
    gateway: Gateway,
    *,
    should_continue: Callable[[], bool] = lambda: True,
) -> Bought:
    """Find waiting orders that were already bought.

    ``rows`` are the rows of the list that do not belong to any of our orders, oldest first. If a
    row has the reference of an order, the order is adopted. An adopted order receives the id of the
    row. If an order is not adopted, but a row might belong to it, the order is put on hold.

    An order that is put on hold becomes ``UNCONFIRMED``. The app neither sends the order nor
    searches for it until staff decide. The function stops when ``should_continue`` returns False.
    """

    def waiting() -> Iterator[Order]:
        return takewhile(lambda _order: should_continue(), _waiting_orders().order_by("pk"))

    named = by_reference(rows)
    adopted = [order for order in waiting() if _adopt_named(order, named, gateway)]
    owners = {
        order.provider_reference: order
        for batch in batches(named)
        for order in Order.objects.sent_as(batch)
    }
    return Bought(adopted, [order for order in waiting() if _hold_alike(order, rows, owners)])


def _references(order: Order) -> list[str]:
    """Return the references that might have been sent with ``order``.

    If the order has a ``provider_reference``, only this reference is returned.
    """
    if order.provider_reference:
        return [order.provider_reference]
    return conf.keyring().sent_references(order.reference)


def _adopt_named(
    order: Order, named: Mapping[str, Sequence[OrderAnswer]], gateway: Gateway
) -> bool:
    found = chain.from_iterable(named.get(reference, ()) for reference in _references(order))
    rows = [row for row in found if may_be_adopted(row, order, gateway)]
    if not rows:
        return False
    first, *repeated = rows
    return _put_on_hold(order, rows, provider_reference=first.reference) and adopt(
        order,
        first.provider_id,
        source=StatusChange.Source.RECOVERY,
        repeated=[row.provider_id for row in repeated],
    )


def _hold_alike(order: Order, rows: Sequence[OrderAnswer], owners: Mapping[str, Order]) -> bool:
    found = [row for row in rows if _may_be(row, order, owners.get(row.reference))]
    is_on_hold = bool(found) and _put_on_hold(order, found)
    if is_on_hold:
        logger.warning("Order %s is on hold. %s", order.reference, order.open_problems[-1])
    return is_on_hold


def _may_be(row: OrderAnswer, order: Order, owner: Order | None) -> bool:
    """Return True if ``row`` might belong to ``order``.

    ``owner`` is our order with the reference of the row, or ``None``.
    """
    if owner not in {None, order} and find_difference(row, owner.line) is None:
        return False
    earliest = with_zone(order.created_at) - FARTHEST_CLOCK
    is_later = row.created_at is None or row.created_at >= earliest
    return is_later and find_difference(row, order.line) is None


def _put_on_hold(order: Order, rows: Sequence[OrderAnswer], **others: Any) -> bool:
    problem = Problem("restored", {"count": len(rows)})
    values: dict[str, Any] = {
        "candidates": [describe_row(row) for row in rows[: tuning.candidates]],
        "absent_since": None,
        "failures": 0,
        # The order was sent at an unknown time after the dump. Without a time, the app never
        # searches for the order.
        "sent_at": None,
        "due_at": None,
        **others,
    }
    if order.status == Status.UNCONFIRMED:
        values |= order.problem_columns(ends={Kind.SENDING, Kind.SEARCH}, new=[problem])
        row = Order.objects.filter(pk=order.pk, status=order.status, claim=order.claim)
        is_on_hold = bool(row.update(**values))
        for name, value in values.items():
            setattr(order, name, value)
        return is_on_hold
    return move_sent(order, problem, **values)
