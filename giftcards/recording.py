"""From answers to rows: one short transaction a batch, and an order that fails falls out alone."""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from giftcards.cards import CardSecret
from giftcards.conf import conf
from giftcards.exceptions import NotFound, ProviderError, Refused
from giftcards.models import Order, StatusChange
from giftcards.provider import OrderAnswer
from giftcards.statuses import FOLLOWED, Status, check_move
from giftcards.storing import store_cards
from giftcards.verdict import Verdict, judge

logger = logging.getLogger(__name__)

# How long after it became DELAYED an order has been late for, and the pause until its next check:
# checks at 1, 2, 5 and 15 minutes, then every hour.
_LATE_PAUSES = (
    (timedelta(minutes=1), timedelta(minutes=1)),
    (timedelta(minutes=2), timedelta(minutes=1)),
    (timedelta(minutes=5), timedelta(minutes=3)),
    (timedelta(minutes=15), timedelta(minutes=10)),
)
_HOURLY = timedelta(hours=1)
_WATCH_ENDED = "The late watch has ended and the order has not settled: ask the provider."
_LONGEST_RETRY = timedelta(seconds=30)


def next_check(order: Order, now: datetime) -> datetime | None:
    """When to ask about ``order`` again; ``None`` once the late watch has ended."""
    if order.status == Status.HANDLING:
        return now + timedelta(seconds=conf.poll_interval)
    assert order.accepted_at is not None  # noqa: S101 (a constraint of the table)
    if now - order.accepted_at > timedelta(hours=conf.late_watch_hours):
        return None
    late_for = now - order.accepted_at - timedelta(seconds=conf.poll_timeout)
    return now + next((pause for limit, pause in _LATE_PAUSES if late_for < limit), _HOURLY)


@dataclass(frozen=True, slots=True)
class _Reading:
    """An order, the answer about it, and what that means."""

    order: Order
    answer: OrderAnswer
    verdict: Verdict
    due_at: datetime | None

    @property
    def changes_nothing(self) -> bool:
        return not (
            self.verdict.settlement
            or self.answer.cards
            or self.problem != self.order.problem
            or self.alias != self.order.provider_alias
        )

    @property
    def problem(self) -> str:
        if self.due_at is None and not self.verdict.settlement:
            return f"{_WATCH_ENDED} {self.verdict.problem}".strip()
        return self.verdict.problem

    @property
    def alias(self) -> str:
        """The answer's own id where it is not the order id: rows of a list may carry either."""
        answered = self.answer.provider_id
        if answered and answered != self.order.provider_order_id:
            return answered
        return self.order.provider_alias


def _read(order: Order, answer: OrderAnswer, *, now: datetime) -> _Reading:
    verdict = judge(
        answer,
        quantity=order.quantity,
        known_price=order.price_per_card,
        is_late=order.status != Status.HANDLING,
    )
    return _Reading(order, answer, verdict, None if order.is_final else next_check(order, now))


def record_answers(answers: Sequence[tuple[Order, OrderAnswer]], *, now: datetime) -> int:
    """Record what the provider answered about claimed orders; return how many settled.

    ``now`` is when it was asked. The claims are given back.
    """
    try:
        return _record_batch([_read(*answer, now=now) for answer in answers], now=now)
    except Exception as error:  # noqa: BLE001 (whatever it is: the others have to be recorded)
        if len(answers) > 1:
            return sum(record_answers([answer], now=now) for answer in answers)
        order = answers[0][0]
        logger.error(  # noqa: TRY400 (a traceback may hold a row)
            "What the provider answered about order %s could not be recorded: %s",
            order.reference,
            type(error).__name__,
        )
        record_failures([(order, error)], now=now)
        return 0


@sensitive_variables()
def _record_batch(readings: Sequence[_Reading], *, now: datetime) -> int:
    by_due: dict[datetime | None, list[_Reading]] = defaultdict(list)
    changed = []
    for reading in _without_doubles(readings):
        if reading.changes_nothing:
            by_due[reading.due_at].append(reading)
        else:
            changed.append(reading)
    # Every statement that comes first in its transaction writes: SQLite fails at once where a
    # transaction that has read wants to write.
    for due_at, unchanged in by_due.items():
        _held(unchanged).update(due_at=due_at, checked_at=now, failures=0, claimed_until=None)
    if not changed:
        return 0
    try:
        with transaction.atomic():
            _update(changed, now=now)
            held = store_cards(_telling(changed))
            _flag_surplus(changed, held)
            changes = StatusChange.objects.bulk_create(
                StatusChange(
                    order=reading.order,
                    from_status=reading.order.status,
                    to_status=reading.verdict.settlement.status,
                    source=StatusChange.Source.CHECK,
                    detail=_history(reading),
                )
                for reading in changed
                if reading.verdict.settlement
            )
    except _Overtaken:
        if len(changed) > 1:
            raise
        return _record_overtaken(changed[0], now=now)
    for reading in changed:
        _log(reading)
    return len(changes)


@sensitive_variables()
def _without_doubles(readings: Sequence[_Reading]) -> Iterator[_Reading]:
    """Yield the readings; without what they say where it is about another order of ours.

    That is seen by the id in the answer. It must not be: the cards would be handed out twice.
    """
    news = {reading.alias for reading in readings if reading.alias != reading.order.provider_alias}
    owners: dict[str, str] = {}
    if news:
        for order in Order.objects.known_as(news):
            owners |= {order.provider_order_id or "": str(order), order.provider_alias: str(order)}
    for reading in readings:
        owner = owners.get(reading.alias) if reading.alias else None
        if owner is None or reading.alias == reading.order.provider_alias:
            yield reading
            continue
        answer = replace(reading.answer, provider_id="", cards=())
        problem = f"The provider's answer is about {reading.alias}, which is your order {owner}."
        yield replace(reading, answer=answer, verdict=Verdict(None, problem))


def _held(readings: Iterable[_Reading]) -> Any:
    """The rows of ``readings`` that still are what this process claimed."""
    return Order.objects.filter(
        pk__in=[reading.order.pk for reading in readings],
        claim__in={reading.order.claim for reading in readings},
        status__in=FOLLOWED,
    )


class _Overtaken(Exception):
    """Another process has moved one of the orders, or taken it over, while this one was asking."""


def _update(readings: Iterable[_Reading], *, now: datetime) -> None:
    """Write the orders' new values: one guarded UPDATE for all that get the same ones.

    Raises :exc:`_Overtaken` if a row is no longer what this process claimed.
    """
    settled_at = timezone.now()
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for reading in readings:
        values = _values(reading, now=now, settled_at=settled_at)
        guard = reading.order.status, reading.order.claim
        groups[*guard, *values.items()].append(reading.order.pk)
    for (status, claim, *columns), keys in groups.items():
        rows = Order.objects.filter(pk__in=keys, status=status, claim=claim)
        if rows.update(**dict(columns)) < len(keys):
            raise _Overtaken


def _values(reading: _Reading, *, now: datetime, settled_at: datetime) -> dict[str, Any]:
    """The columns that the answer sets, with values that can be compared."""
    order, settlement = reading.order, reading.verdict.settlement
    values: dict[str, Any] = {
        "checked_at": now,
        "failures": 0,
        "claimed_until": None,
        "problem": reading.problem,
        "provider_alias": reading.alias,
    }
    if settlement:
        check_move(order.status, settlement.status)
        return values | {
            "status": settlement.status,
            "settled_at": settled_at,
            "due_at": None,
            "fulfilled_quantity": settlement.fulfilled_quantity,
            "fulfilled_amount": settlement.fulfilled_amount,
            "price_per_card": settlement.price_per_card,
        }
    arrived = min(len(reading.answer.cards), order.quantity)
    return values | {
        "due_at": reading.due_at,
        "fulfilled_quantity": max(order.fulfilled_quantity, arrived),
    }


def _telling(readings: Iterable[_Reading]) -> Iterator[tuple[Order, Sequence[CardSecret]]]:
    """The readings that tell which cards an order has."""
    for reading in readings:
        if reading.answer.cards or reading.verdict.settlement:
            yield reading.order, reading.answer.cards


def _flag_surplus(readings: Iterable[_Reading], held: Counter[int]) -> None:
    """Show staff the orders that settle with more cards than the provider says it delivered."""
    for reading in readings:
        settlement = reading.verdict.settlement
        if settlement and held[reading.order.pk] > settlement.fulfilled_quantity:
            surplus = _surplus(held[reading.order.pk], settlement.fulfilled_quantity)
            logger.error("Order %s: %s", reading.order.reference, surplus)
            Order.objects.filter(pk=reading.order.pk).update(
                problem=f"{reading.problem} {surplus}".strip()
            )


def _surplus(held: int, announced: int) -> str:
    return f"The provider sent {held} different cards and speaks of {announced}."


def _record_overtaken(reading: _Reading, *, now: datetime) -> int:
    """Another process moved the order while this one was asking: keep what is new in the answer.

    A final status is never left. Cards are never dropped, and a contradiction is shown to staff.
    """
    fresh = Order.objects.get(pk=reading.order.pk)
    reading = _read(fresh, reading.answer, now=now)
    if not fresh.is_final:
        # It became DELAYED, or its claim ran out and another process took it.
        return _record_batch([reading], now=now)
    with transaction.atomic():
        row = Order.objects.filter(pk=fresh.pk)
        row.update(checked_at=now)
        held = store_cards(_telling([reading]))[fresh.pk]
        news = [text for text in _contradictions(reading, held) if text not in fresh.problem]
        if news:
            row.update(problem=" ".join(filter(None, [fresh.problem, *news])))
    for text in news:
        logger.error("Order %s is %s: %s", fresh.reference, fresh.status, text)
    return 0


def _contradictions(reading: _Reading, held: int) -> Iterator[str]:
    """Yield what an answer says against the final order that it came too late for."""
    order, settlement = reading.order, reading.verdict.settlement
    if settlement and (settlement.status, settlement.fulfilled_quantity) != (
        order.status,
        order.fulfilled_quantity,
    ):
        yield (
            f"After the order had settled, the provider called it {settlement.status}"
            f" with {settlement.fulfilled_quantity} of {order.quantity} cards."
        )
    if held > order.fulfilled_quantity:
        yield _surplus(held, order.fulfilled_quantity)


def _history(reading: _Reading) -> str:
    """What is worth keeping about a settlement: what was wrong on the way and what is now."""
    earlier, now = reading.order.problem, reading.verdict.problem
    return " ".join(filter(None, [earlier and f"Earlier: {earlier}", now]))


def _log(reading: _Reading) -> None:
    order, settlement = reading.order, reading.verdict.settlement
    if settlement:
        logger.info(
            "Order %s is %s: %d of %d cards.",
            order.reference,
            settlement.status,
            settlement.fulfilled_quantity,
            order.quantity,
        )
    if reading.problem and reading.problem != order.problem:
        logger.warning("Order %s: %s", order.reference, reading.problem)
    if reading.alias != order.provider_alias:
        logger.info(
            "Order %s, placed as %s, is called %s in the provider's answer.",
            order.reference,
            order.provider_order_id,
            reading.alias,
        )


def record_failures(
    failures: Sequence[tuple[Order, Exception]],
    *,
    now: datetime,
) -> None:
    """Record that asking about claimed orders failed: they are asked again, later each time.

    A late order keeps its regular turn, and gets one before that if the failure is a passing one.
    The claims are given back. Only an answer about the order itself becomes its problem; an outage
    is everybody's, and is kept in ``ProviderState``.
    """
    groups: dict[tuple[Any, ...], list[Order]] = defaultdict(list)
    for order, error in failures:
        is_late = order.status != Status.HANDLING
        is_only_listed = _is_only_listed(order, error)
        # Then the list is asked instead, and it is no trouble.
        problem = None if is_only_listed > order.is_only_listed else _own_problem(error)
        regular = next_check(order, now)
        if regular is None and problem is None:
            # The watch ends with an answer, not with an outage.
            regular = now + _HOURLY
        elif regular is None:
            problem = f"{_WATCH_ENDED} {problem}"
        groups[is_late, regular, order.failures, problem, is_only_listed].append(order)
    for (is_late, due_at, tries, problem, is_only_listed), orders in groups.items():
        retry_after = timedelta(seconds=conf.poll_interval) * 2 ** min(tries, 16)
        jitter = random.uniform(1, 1.25)  # noqa: S311
        if not is_late:
            due_at = max(due_at, now + min(retry_after, _LONGEST_RETRY) * jitter)
        elif problem is None:
            # Its turn may have been the only one in an hour.
            due_at = min(due_at, now + retry_after * jitter)
        values: dict[str, Any] = {"problem": problem} if problem is not None else {}
        Order.objects.filter(
            pk__in=[order.pk for order in orders],
            claim__in={order.claim for order in orders},
            status__in=FOLLOWED,
        ).update(
            due_at=due_at,
            failures=F("failures") + 1,
            is_only_listed=is_only_listed,
            claimed_until=None,
            **values,
        )


def _is_only_listed(order: Order, error: Exception) -> bool:
    """Whether asking about the order itself is of no use: its id there is not the one in the list.

    That can be so for an order that was found in the list, and whose own id nobody has learnt.
    """
    is_found = order.provider_alias == order.provider_order_id
    return order.is_only_listed or (is_found and isinstance(error, NotFound))


def _own_problem(error: Exception) -> str | None:
    """What the failure says about the order itself; ``None`` if it says nothing about it."""
    match error:
        case NotFound():
            return "The provider says that it does not know this order."
        case Refused():
            return f"The provider refuses to answer about this order: {error}"
        case ProviderError():
            return None
        case _:
            return f"The answer about this order cannot be processed ({type(error).__name__})."
