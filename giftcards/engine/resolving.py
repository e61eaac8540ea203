"""Helping staff decide about a lost order: what an id at the provider is, and a way back.

:func:`look_up` asks the provider about an id, :func:`compare` compares the answer with the order,
and :func:`release` takes back an adoption that proved wrong. The decisions themselves are
:func:`~giftcards.engine.recovery.adopt` and :func:`~giftcards.engine.recovery.declare_absent`.
"""

from __future__ import annotations

import enum
import logging
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from giftcards.engine.budget import Purpose
from giftcards.engine.gateway import Gateway
from giftcards.engine.identity import FARTHEST_CLOCK
from giftcards.engine.recovery import describe_row
from giftcards.exceptions import ConfigurationError, NotFound, ProviderError
from giftcards.models import Order, StatusChange
from giftcards.models.orders import cleared_provider_columns
from giftcards.models.times import with_zone
from giftcards.problems import Problem
from giftcards.statuses import FOLLOWED, Status

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]


class NoAnswer(enum.Enum):
    """The reason why the provider has not said what an id is."""

    NOT_FOUND = enum.auto()
    # Calls are paused, by an earlier answer or by this one.
    PAUSED = enum.auto()
    # The request budget has no slot, or another process is trying the key.
    BUSY = enum.auto()
    # The request could not be made, or its answer could not be used.
    UNREACHABLE = enum.auto()
    # This process has no key: only the workers do.
    NOT_CONFIGURED = enum.auto()


def look_up(order: Order, provider_order_id: str) -> Row | NoAnswer:
    """Ask the provider for its order with this id, which may be ``order``.

    Returns what ``describe_row`` does, without cards, and ``is_same_key``: True if ``order`` was
    sent with the API key that is used to ask. Without an answer, returns the reason.

    Takes at most two requests of the shared budget, and about twice ``REQUEST_TIMEOUT``. Do not
    call it in a transaction.
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
    """Comparison of a detail of the provider's order with ours."""

    FITS = enum.auto()
    DIFFERS = enum.auto()
    NOT_TOLD = enum.auto()


def compare(order: Order, row: Row) -> dict[str, Fit]:
    """Compare product, type, quantity, time and key of ``order`` with ``row`` at the provider.

    The times fit if they are at most two hours apart, because a time without a time zone may be off
    by whole hours.
    """
    ours = {"product": order.product_id, "type": order.type_id, "quantity": order.quantity}
    fits = {name: _fit(row.get(name), row.get(name) == value) for name, value in ours.items()}
    # After a restore of the database, it may be unknown when the order was sent.
    created_at = row.get("created_at") if order.sent_at else None
    return fits | {
        "created_at": _fit(created_at, _is_of_its_time(order, row)),
        # A row without this entry is from the list, which was read with the right key.
        "key": Fit.FITS if row.get("is_same_key", True) else Fit.DIFFERS,
    }


def _fit(told: object, is_equal: bool) -> Fit:
    if told in {None, ""}:
        return Fit.NOT_TOLD
    return Fit.FITS if is_equal else Fit.DIFFERS


def _is_of_its_time(order: Order, row: Row) -> bool:
    if not (order.sent_at and row.get("created_at")):
        return False
    created_at = datetime.fromisoformat(row["created_at"])
    return abs(created_at - with_zone(order.sent_at)) <= FARTHEST_CLOCK


def overall(fits: Mapping[str, Fit]) -> Fit:
    """The overall fit: product, type and quantity have to be told, and nothing may differ."""
    if Fit.DIFFERS in fits.values():
        return Fit.DIFFERS
    line = (fits[name] for name in ("product", "type", "quantity"))
    return Fit.NOT_TOLD if Fit.NOT_TOLD in line else Fit.FITS


def may_release(order: Order) -> bool:
    """True if ``order`` was identified after it was lost, has not settled, and has no cards yet."""
    if order.status not in FOLLOWED or order.fulfilled_quantity or order.cards.exists():
        return False
    accepted = order.changes.filter(to_status=Status.HANDLING).last()
    return accepted is not None and (
        accepted.from_status == Status.UNCONFIRMED
        # With source PLACING, the id is from the answer to sending the order.
        and accepted.source != StatusChange.Source.PLACING
    )


def release(order: Order, *, by: str) -> bool:
    """Undo the identification of ``order``: it is lost again, and the id is free for its owner.

    Returns False, and changes nothing, if the order has settled or moved, if cards have come, or if
    its id is from the answer to sending it. The order is searched for again. Recovery does not
    adopt the released id for it, but asks a person.
    """
    if not may_release(order):
        return False
    provider_order_id = order.provider_order_id
    row = Order.objects.filter(
        pk=order.pk, status=order.status, claim=order.claim, fulfilled_quantity=0
    )
    with transaction.atomic():
        # This write locks the row: no card can be stored between it and the move.
        if not row.update(claimed_until=None):
            return False
        change = order.move(
            Status.UNCONFIRMED,
            source=StatusChange.Source.STAFF,
            details=[
                Problem("staff_released", {"by": by, "provider_order_id": str(provider_order_id)})
            ],
            **cleared_provider_columns(),
            # Without the time of sending, it cannot be searched for.
            due_at=order.sent_at and timezone.now(),
            failures=0,
            # A decision that was made when the order was in this status before does not apply now.
            claim=uuid.uuid4().hex,
        )
    if change:
        logger.warning(
            "Order %s is not the provider's order %s; it is %s again.",
            order.reference,
            provider_order_id,
            order.status,
        )
    return change is not None
