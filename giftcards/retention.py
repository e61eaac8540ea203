"""Retention: destroying codes that were kept for long enough. The books stay as they are.

What is destroyed is gone from the database; backups are the shop's own affair.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, Value, When
from django.utils import timezone

from giftcards.conf import conf
from giftcards.models import Card, CustomerRefund, Order, ProviderState
from giftcards.models.moments import is_recent
from giftcards.models.money import RefundState

logger = logging.getLogger(__name__)

# How many orders are looked at in one transaction.
_BATCH = 200
# Once a day, a few seconds at a time.
_PERIOD = timedelta(hours=24)
_SECONDS = 5.0


@dataclass(slots=True)
class Purge:
    """What was destroyed, or would be; and what was left alone, by reason."""

    orders: int = 0
    cards: int = 0
    #: Numbers of orders, by the keys of :data:`REASONS`. An order counts once.
    left_alone: Counter[str] = field(default_factory=Counter)
    is_whole: bool = True


#: Why the codes of an old order are left alone, the first reason that holds, as conditions.
REASONS: dict[str, Q] = {
    "problem": Q(needs_attention=True),
    "owed": Q(open_amount__gt=0),
    "planned_refund": Q(has_planned_refund=True),
    "not_credited": Q(is_credited=False),
    "no_cards": Q(has_cards=False),
}


def purge(
    *,
    settled_before: datetime,
    is_dry_run: bool = False,
    should_continue: Callable[[], bool] = lambda: True,
    on_batch: Callable[[Purge], object] = lambda _purge: None,
) -> Purge:
    """Destroy the codes of the orders that settled before ``settled_before``, the oldest first.

    Left alone is an order with a problem that nobody has ticked off, one of which money is still
    owed to the customer or by the provider, and one without cards: see :data:`REASONS`. With
    ``is_dry_run``, nothing is changed. Between batches, it ends once ``should_continue`` returns
    False; the next call goes on.
    """
    done = Purge()
    for keys in _batches(settled_before):
        if not should_continue():
            done.is_whole = False
            break
        _purge_batch(keys, done, is_dry_run=is_dry_run)
        on_batch(done)
    return done


def purge_if_due(should_continue: Callable[[], bool]) -> None:
    """Destroy what ``CODES_KEPT_DAYS`` says, once a day, for a few seconds at a time."""
    days = conf.codes_kept_days
    if days is None:
        return
    now = timezone.now()
    last = ProviderState.objects.current().purged_at
    if last is not None and is_recent(last, now, within=_PERIOD):
        return
    ends_at = time.monotonic() + _SECONDS
    done = purge(
        settled_before=now - timedelta(days=days),
        should_continue=lambda: time.monotonic() < ends_at and should_continue(),
    )
    if done.orders:
        logger.info("The codes of %d orders were destroyed: %d cards.", done.orders, done.cards)
    if done.is_whole:
        ProviderState.objects.filter(pk=1).update(purged_at=now)


def _batches(settled_before: datetime) -> Iterator[list[int]]:
    """The primary keys of the orders whose codes were kept for long enough, oldest first."""
    rows = Order.objects.filter(settled_at__lt=settled_before, codes_destroyed_at=None)
    rows = rows.order_by("settled_at", "pk")
    found = list(rows.values_list("settled_at", "pk")[:_BATCH])
    while found:
        yield [key for _settled_at, key in found]
        settled_at, key = found[-1]
        later = rows.filter(settled_at__gte=settled_at).filter(
            Q(settled_at__gt=settled_at) | Q(pk__gt=key)
        )
        found = list(later.values_list("settled_at", "pk")[:_BATCH])


def _judged(keys: list[int]) -> QuerySet[Order]:
    """The orders whose codes are there, with what the reasons ask about."""
    planned = CustomerRefund.objects.filter(order=OuterRef("pk"), state=RefundState.CREATED)
    there: QuerySet[Order] = Order.objects.filter(pk__in=keys, codes_destroyed_at=None)
    cards = Card.objects.filter(order=OuterRef("pk"))
    return there.annotate(has_planned_refund=Exists(planned), has_cards=Exists(cards))


def _reason() -> Case:
    """The key of the first reason that holds; "" if the codes are to be destroyed."""
    cases = [When(condition, then=Value(reason)) for reason, condition in REASONS.items()]
    return Case(*cases, default=Value(""))


def _purge_batch(keys: list[int], done: Purge, *, is_dry_run: bool) -> None:
    with transaction.atomic():
        if not is_dry_run:
            # A write before all reads locks the orders: nobody disputes, refunds or reveals
            # between the judgement and the destruction.
            locked = Order.objects.filter(pk__in=keys).order_by()
            locked.update(codes_destroyed_at=F("codes_destroyed_at"))
        destroyed, left_alone = [], Counter[str]()
        for key, reason in _judged(keys).values_list("pk", _reason()):
            if reason:
                left_alone[reason] += 1
            else:
                destroyed.append(key)
        cards = Card.objects.filter(order__in=destroyed)
        if is_dry_run:
            number = cards.count()
        else:
            number = cards.destroy()
            orders = Order.objects.filter(pk__in=destroyed).order_by()
            orders.update(codes_destroyed_at=timezone.now())
    done.orders += len(destroyed)
    done.cards += number
    done.left_alone += left_alone
