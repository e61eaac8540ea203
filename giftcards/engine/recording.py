"""Recording the provider's answers about orders.

A batch of answers is recorded in one short transaction, or one by one if this fails.

A settled order keeps its status and its amounts. If a later answer contains a different status or
amount, the difference is recorded as a problem until staff acknowledge it. Cards that arrive late
are stored.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import F
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from giftcards.engine.database import isolate_failures, write_together
from giftcards.engine.reordering import reorder_by_rule
from giftcards.engine.schedule import next_check, retry_pause
from giftcards.engine.storing_cards import Arrival, Stored, store_cards
from giftcards.engine.tuning import tuning
from giftcards.exceptions import NotFound, ProviderError, Refused
from giftcards.models import ApiKey, Order, OrderQuerySet, Product, ProductPrices, StatusChange
from giftcards.models.orders import (
    OrderUpdate,
    Overtaken,
    cleared_provider_columns,
    due_after_check,
)
from giftcards.provider.answers import OrderAnswer
from giftcards.rules.identity import find_difference, line_of
from giftcards.rules.problems import Problem, history
from giftcards.rules.states import FOLLOWED, STATES, Kind, Status
from giftcards.rules.verdict import (
    Settlement,
    Verdict,
    cards_left_out,
    evaluate_for,
    find_changes,
    most_cards,
)

logger = logging.getLogger(__name__)

_WATCH_ENDED = Problem("watch_ended")
# Maps the codes of problems with a number of cards to the parameter that contains this number.
_NUMBERS = {"late_cards": "received", "surplus_cards": "received", "cards_left_out": "left_out"}
# An order, the answer about it, and the verdict if the answer was judged before.
Answered = tuple[Order, OrderAnswer] | tuple[Order, OrderAnswer, Verdict | None]
_Evaluate = Callable[..., "_Result"]


@dataclass(frozen=True, slots=True)
class _Result:
    """An answer about an order, the verdict, and the next due time.

    ``identifies`` is True if this answer is the first to confirm the order's id.
    """

    order: Order
    answer: OrderAnswer
    verdict: Verdict
    due_at: datetime | None
    identifies: bool

    @property
    def refutes(self) -> bool:
        """True if the order's unconfirmed id belongs to another order."""
        return not self.verdict.is_ours and self.order.identified_at is None

    @property
    def changes_nothing(self) -> bool:
        return not (
            self.verdict.settlement
            or self.answer.cards
            or self.identifies
            or self.refutes
            or self.problem_columns["problems"] != self.order.problems
            or self.alias != self.order.provider_alias
        )

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems that are recorded because of this answer.

        If this was the last check of an order that is still not settled, the first problem says
        that the order is no longer watched.
        """
        if self.due_at is None and not self.verdict.settlement:
            return _WATCH_ENDED, *self.verdict.problems
        return self.verdict.problems

    @property
    def problem_columns(self) -> dict[str, Any]:
        return self.order.problem_columns(ends={Kind.ANSWER}, new=self.problems)

    @property
    def alias(self) -> str:
        """The id in the answer if it is not the order id, or the stored alias."""
        answered = self.answer.provider_id
        if answered and answered != self.order.provider_order_id:
            return answered
        return self.order.provider_alias


def _evaluate(
    order: Order,
    answer: OrderAnswer,
    verdict: Verdict | None = None,
    *,
    now: datetime,
    watched_since: datetime | None,
    was_clock_right: Callable[[datetime], bool],
) -> _Result:
    due_at = None if order.is_final else next_check(order, now, watched_since=watched_since)
    if verdict is None:
        is_last = due_at is None
        verdict = evaluate_for(order, answer, is_last=is_last, was_clock_right=was_clock_right)
    if not verdict.is_ours:
        answer = replace(answer, provider_id="", cards=())
    # The id is confirmed if the answer has our reference, or the same product, type and quantity.
    # It is also confirmed by a settlement or by cards, because cards are delivered only once.
    is_named = order.provider_reference != "" and answer.reference == order.provider_reference
    is_shown = is_named or line_of(answer) == order.line or verdict.settlement or answer.cards
    identifies = order.identified_at is None and verdict.is_ours and bool(is_shown)
    return _Result(order, answer, verdict, due_at, identifies)


def record_answers(
    answers: Sequence[Answered],
    *,
    now: datetime,
    watched_since: datetime | None = None,
    was_clock_right: Callable[[datetime], bool] = lambda _moment: True,
) -> int:
    """Record the answers about claimed orders, and release the claims.

    ``now`` is the time when the orders were checked. ``watched_since`` is explained in
    :func:`next_check`. ``was_clock_right`` returns whether our clock agreed with the provider's
    clock at a given time.

    A verdict is only valid for the ``Order`` instance in the same tuple. If the row has changed
    since the instance was read, the answer is judged again. Returns the number of orders that were
    settled.
    """
    options: dict[str, Any] = {
        "now": now,
        "watched_since": watched_since,
        "was_clock_right": was_clock_right,
    }
    evaluate = partial(_evaluate, **options)
    try:
        return _record_batch([evaluate(*answer) for answer in answers], evaluate, now=now)
    except Exception as error:  # noqa: BLE001 (one order's error must not block the others)
        if len(answers) > 1:
            return sum(record_answers([answer], **options) for answer in answers)
        order = answers[0][0]
        logger.error(  # noqa: TRY400 (a traceback may hold a row)
            "The provider's answer about order %s could not be recorded: %s",
            order.reference,
            type(error).__name__,
        )
        record_failures([(order, error)], now=now, watched_since=watched_since)
        return 0


@sensitive_variables()
def _record_batch(results: Sequence[_Result], evaluate: _Evaluate, *, now: datetime) -> int:
    due_after = _due_after(now)
    by_due: dict[datetime | None, list[Order]] = defaultdict(list)
    changed = []
    for result in _without_misattributed(results):
        if result.changes_nothing:
            by_due[result.due_at].append(result.order)
        else:
            changed.append(result)
    # Each transaction starts with a write, because a transaction that reads first may fail in
    # SQLite.
    for due_at, unchanged in by_due.items():
        values = {"due_at": due_after(due_at), "checked_at": now, "failures": 0}
        _update_claimed(values, unchanged)
    if not changed:
        return 0
    try:
        with transaction.atomic():
            updates = [_update(result, now, due_after) for result in changed]
            changes = Order.objects.write_batch(updates, source=StatusChange.Source.CHECK)
            _flag_cards(changed, store_cards(_arrivals(changed)))
            _reorder_missing(changed)
            _outdate_prices(changed)
    except Overtaken:
        if len(changed) > 1:
            raise
        return _record_after_race(changed[0], evaluate, now=now)
    for result in changed:
        _log(result)
    return sum(change.to_status != Status.UNCONFIRMED for change in changes)


@sensitive_variables()
def _without_misattributed(results: Sequence[_Result]) -> Iterator[_Result]:
    """Yield the results, but without cards that belong to other orders.

    If an answer contains the id of another order, its cards and its id are removed, and a problem
    replaces its verdict. Otherwise, the same cards would be delivered for two orders.
    """
    new_ids = {result.alias for result in results if result.alias != result.order.provider_alias}
    owners: dict[str, str] = {}
    if new_ids:
        for order in Order.objects.known_as(new_ids):
            owners |= {order.provider_order_id or "": str(order), order.provider_alias: str(order)}
    for result in results:
        owner = name = str(result.order)
        if result.alias and result.alias != result.order.provider_alias:
            # Two answers of this batch may have the same new id.
            owner = owners.setdefault(result.alias, name)
        if owner == name:
            yield result
            continue
        answer = replace(result.answer, provider_id="", cards=())
        parameters = {"provider_order_id": result.alias, "order": owner}
        verdict = Verdict(None, (Problem("answer_of_other", parameters),))
        yield replace(result, answer=answer, verdict=verdict, identifies=False)


def _update_claimed(values: dict[str, Any], orders: Sequence[Order]) -> int:
    """Update the ``orders`` that this process still claims.

    The claims are released. Returns the number of updated orders.
    """
    claimed = Order.objects.still_claimed(orders).filter(status__in=FOLLOWED)
    return claimed.update(claimed_until=None, **values)


def _due_after(checked_at: datetime) -> Callable[[datetime | None], Any]:
    again_at = timezone.now() + tuning.check_soon_every
    return partial(due_after_check, checked_at=checked_at, again_at=again_at)


def _update(
    result: _Result, now: datetime, due_after: Callable[[datetime | None], Any]
) -> OrderUpdate:
    order, settlement = result.order, result.verdict.settlement
    if result.refutes:
        return _release(order, result.verdict.problems, now)
    values: dict[str, Any] = {
        "checked_at": now,
        "failures": 0,
        "provider_alias": result.alias,
        **result.problem_columns,
    }
    if result.identifies:
        values["identified_at"] = now
    if settlement is None:
        arrived = min(len(result.answer.different_cards), order.quantity)
        values |= {
            "due_at": due_after(result.due_at),
            "fulfilled_quantity": max(order.fulfilled_quantity, arrived),
        }
        return OrderUpdate(order, values)
    values |= {
        "fulfilled_quantity": settlement.fulfilled_quantity,
        "fulfilled_amount": settlement.fulfilled_amount,
        "price_per_card": settlement.price_per_card,
    }
    # The problems of this answer, and the problems that the settlement has ended, are added to the
    # timeline.
    details = history(order.problems, values["problems"], result.problems)
    return OrderUpdate(order, values, settlement.status, details)


def _release(order: Order, reasons: Sequence[Problem], now: datetime) -> OrderUpdate:
    problem = Problem("id_of_other", {"provider_order_id": order.provider_order_id or ""})
    values: dict[str, Any] = {
        **cleared_provider_columns(),
        "answered_id": order.provider_order_id,
        "due_at": now,
        "failures": 0,
        **order.problem_columns(ends={Kind.ANSWER}, new=[problem]),
    }
    details = history((), (), [problem, *reasons])
    return OrderUpdate(order, values, Status.UNCONFIRMED, details)


def _arrivals(results: Iterable[_Result]) -> Iterator[Arrival]:
    for result in results:
        answer, settles = result.answer, result.verdict.settlement is not None
        if answer.cards or settles:
            cards = answer.cards if settles else answer.different_cards
            yield Arrival(result.order, cards, settles=settles)


def _flag_cards(results: Iterable[_Result], stored: Stored) -> None:
    """Add problems about surplus cards and about cards that are not stored."""
    for result in results:
        order, settlement = result.order, result.verdict.settlement
        found = []
        if settlement and stored.cards[order.pk] > settlement.fulfilled_quantity:
            announced = settlement.fulfilled_quantity
            counts = {"received": stored.cards[order.pk], "announced": announced}
            found.append(Problem("surplus_cards", counts))
        if left_out := stored.left_out[order.pk]:
            found.append(cards_left_out(result.answer, left_out, quantity=order.quantity))
        if not _is_known(order, found):
            for problem in found:
                logger.error("Order %s: %s", order.reference, problem)
            columns = order.problem_columns(ends={Kind.ANSWER}, new=[*result.problems, *found])
            Order.objects.filter(pk=order.pk).update(**columns)


def _reorder_missing(results: Iterable[_Result]) -> None:
    for result in results:
        order, settlement = result.order, result.verdict.settlement
        if settlement and settlement.fulfilled_quantity < order.quantity:
            reorder_by_rule(order)


def _outdate_prices(results: Iterable[_Result]) -> None:
    """Make workers request the prices of products whose price has changed.

    The stored prices of these products are deleted, so that no process uses them as the required
    price of another purchase. The shelf is updated within about a minute.
    """
    changed = {
        result.order.product_id
        for result in results
        if any(problem.code == "price_changed" for problem in result.verdict.problems)
    }
    if changed:
        ProductPrices.objects.filter(pk__in=changed).delete()
        Product.objects.filter(product_id__in=changed).update(asked_at=None)


def _record_after_race(result: _Result, evaluate: _Evaluate, *, now: datetime) -> int:
    """Record an answer about an order that another process has changed.

    If the order has a final status, this status is kept. New cards are stored, and contradictions
    are recorded as problems.
    """
    fresh = Order.objects.get(pk=result.order.pk)
    if fresh.provider_order_id != result.order.provider_order_id:
        # Another answer has shown that this id belongs to another order.
        return 0
    if fresh.is_final:
        record_changes([(fresh, result.answer)], now=now, is_thorough=True)
        return 0
    # The order is still open. It became DELAYED, or its claim expired and another process claimed
    # it.
    return _record_batch([evaluate(fresh, result.answer)], evaluate, now=now)


def _log(result: _Result) -> None:
    order, settlement = result.order, result.verdict.settlement
    if result.refutes:
        _log_release(order)
    if settlement:
        logger.info(
            "Order %s is %s: %d of %d cards were delivered.",
            order.reference,
            settlement.status,
            settlement.fulfilled_quantity,
            order.quantity,
        )
    known = [Problem.of(entry) for entry in order.problems]
    for problem in result.problems:
        if problem not in known:
            logger.warning("Order %s: %s", order.reference, problem)
    if result.alias != order.provider_alias:
        logger.info(
            "Order %s was accepted with the id %s, but the provider's answer shows the id %s.",
            order.reference,
            order.provider_order_id,
            result.alias,
        )


def _log_release(order: Order) -> None:
    logger.error(
        "Order %s is UNCONFIRMED, because the provider's id %s, which was stored for it,"
        " belongs to another order.",
        order.reference,
        order.provider_order_id,
    )


def record_failures(
    failures: Sequence[tuple[Order, Exception]],
    *,
    now: datetime,
    watched_since: datetime | None = None,
    proof_ago: datetime | None = None,
    key: ApiKey | None = None,
) -> None:
    """Record failed checks of claimed orders, and release the claims.

    The next check is delayed. If the provider does not know the unconfirmed id of an order that was
    sent before ``proof_ago``, the id is removed from the order. If ``key`` is passed, this happens
    only to orders that were sent with this key. The default for ``proof_ago`` is
    ``tuning.proof_of_absence`` before ``now``.

    A late order keeps the time of its next regular check, unless the failure is temporary and a
    retry is due earlier. An error is recorded as a problem with the order only if the order itself
    is the cause.
    """
    due_after = _due_after(now)
    # Orders with the same status and the same number of failures get the same pause, so that they
    # share an UPDATE.
    proof_ago = proof_ago or now - timedelta(seconds=tuning.proof_of_absence)
    pauses: dict[tuple[str, int], timedelta] = {}
    groups: dict[str, tuple[dict[str, Any], list[Order]]] = {}
    for order, error in failures:
        with isolate_failures(order):
            is_theirs = key is None or order.was_sent_with(key)
            is_refuted = is_theirs and _is_refuted_by(error, order, proof_ago)
            if is_refuted and _try_release(order, now):
                continue
        pause = pauses.setdefault((order.status, order.failures), retry_pause(order))
        regular = next_check(order, now, watched_since=watched_since)
        values = _values_after_failure(
            order, error, now=now, regular=regular, pause=pause, is_theirs=is_theirs
        )
        groups.setdefault(repr(values), (values, []))[1].append(order)
    for values, orders in groups.values():
        values["due_at"] = due_after(values["due_at"])
        write_together(orders, partial(_update_claimed, {"failures": F("failures") + 1, **values}))


def _is_refuted_by(error: Exception, order: Order, proof_ago: datetime) -> bool:
    """Return True if ``error`` shows that the order's id was never valid.

    This is only possible for an id from the answer to the purchase. An id from the list remains
    valid, because a single check might not find it.
    """
    was_seen = order.identified_at is not None or order.checked_at is not None
    is_old = order.sent_at is not None and order.sent_at <= proof_ago
    return isinstance(error, NotFound) and is_old and not (was_seen or order.was_adopted)


def _try_release(order: Order, now: datetime) -> bool:
    try:
        with transaction.atomic():
            update = _release(order, [Problem("not_known")], now)
            Order.objects.write_batch([update], source=StatusChange.Source.CHECK)
    except Overtaken:
        return False
    _log_release(order)
    return True


def _values_after_failure(
    order: Order,
    error: Exception,
    *,
    now: datetime,
    regular: datetime | None,
    pause: timedelta,
    is_theirs: bool,
) -> dict[str, Any]:
    # Single checks may not find an id from the list, because the list may use different ids. This
    # is not recorded as a problem, because the order is followed in the list.
    is_only_listed = is_theirs and order.was_adopted and isinstance(error, NotFound)
    is_news = is_only_listed and not order.is_only_listed
    problem = None if is_news else _own_problem(error)
    if order.status == Status.HANDLING:
        due_at: datetime | None = max(regular or now, now + pause)
    elif problem is None:
        # If a check failed, the order is checked again soon, because its regular check may be an
        # hour away, or this may have been the last check.
        longest = STATES[order.status].longest_retry
        due_at = min(regular or now + longest, now + pause)
    else:
        due_at = regular
    is_only_listed = order.is_only_listed or is_only_listed
    values: dict[str, Any] = {"due_at": due_at, "is_only_listed": is_only_listed}
    if problem is None:
        return values
    new = [problem] if due_at else [_WATCH_ENDED, problem]
    return values | order.problem_columns(ends={Kind.ANSWER}, new=new)


def _own_problem(error: Exception) -> Problem | None:
    """Return the problem that ``error`` causes for an order.

    Returns ``None`` if the order is not the cause of the error.
    """
    match error:
        case NotFound():
            return Problem("not_known")
        case Refused():
            return Problem("answer_refused", error.parameters)
        case ProviderError():
            return None
        case _:
            return Problem("answer_unprocessable", {"detail": type(error).__name__})


def find_differences(order: Order, answer: OrderAnswer) -> list[Problem]:
    """Return the differences between an answer and the settled order."""
    if difference := find_difference(answer, order.line_at_provider):
        return [difference]
    status, quantity = Status(order.status), order.fulfilled_quantity
    record = Settlement(status, quantity, order.fulfilled_amount, order.price_per_card)
    count, limit = len(answer.different_cards), most_cards(order.quantity)
    return [
        *find_changes(answer, record, quantity=order.quantity),
        *_more_cards(order, answer, min(count, limit), left_out=max(count - limit, 0)),
    ]


def find_owners(
    rows: Mapping[str, OrderAnswer], orders: OrderQuerySet
) -> Iterator[tuple[Order, OrderAnswer]]:
    """Yield each of the ``orders`` whose id is in ``rows``, with its row."""
    for order in orders.owners(rows):
        yield order, next(rows[name] for name in order.names if name in rows)


def compare_rows(rows: Mapping[str, OrderAnswer]) -> list[Order]:
    """Compare rows of the list with the settled orders on record.

    ``rows`` maps ids to rows. Differences are recorded. Returns the orders with new or known
    differences that staff have not acknowledged.
    """
    differing = []
    for order, row in find_owners(rows, Order.objects.all()):
        differences = find_differences(order, row) if order.is_settled else []
        if differences:
            record_changes([(order, row)], now=timezone.now())
            order.refresh_from_db(fields=["problems"])
            # Only the codes of problems are compared, because the parameters differ if the app has
            # stored more cards than this row contains.
            still_open = {problem.code for problem in order.open_problems}
            if not still_open.isdisjoint(problem.code for problem in differences):
                differing.append(order)
    return differing


def record_changes(
    answers: Iterable[tuple[Order, OrderAnswer]], *, now: datetime, is_thorough: bool = False
) -> None:
    """Record the differences between ``answers`` and the settled orders.

    ``now`` is the time of the answers. Answers without differences do not require a query. If
    ``is_thorough`` is True, each card is compared. Cards are also compared if the answer contains
    surplus cards, because one of them might be new.
    """
    for order, answer in answers:
        differences = find_differences(order, answer)
        has_surplus = any(problem.code == "surplus_cards" for problem in differences)
        if is_thorough or has_surplus or not _is_known(order, differences):
            try:
                _record(order, answer, now)
            except Exception as error:  # noqa: BLE001 (one order's error must not block the others)
                logger.error(  # noqa: TRY400 (a traceback may hold a row)
                    "The provider's answer about order %s could not be recorded: %s",
                    order.reference,
                    type(error).__name__,
                )


def _is_known(order: Order, differences: Sequence[Problem]) -> bool:
    known = [Problem.of(entry) for entry in order.problems]
    return all(
        problem in known or any(_is_covered(problem, by=other) for other in known)
        for problem in differences
    )


def _is_covered(problem: Problem, *, by: Problem) -> bool:
    """Return True if the known problem ``by`` covers the new problem.

    The known problem must report at least as many cards, and both problems must count the same kind
    of cards. If the new number is smaller, the problem is not reported again, because an answer can
    contain fewer cards than the app has stored.
    """
    names = _NUMBERS.get(problem.code), _NUMBERS.get(by.code)
    return names[0] is not None and names[0] == names[1] and _number(problem) <= _number(by)


def _number(problem: Problem) -> int:
    name = _NUMBERS.get(problem.code)
    return int(problem.parameters[name]) if name else 0


@sensitive_variables()
def _record(order: Order, answer: OrderAnswer, now: datetime) -> None:
    is_ours = find_difference(answer, order.line_at_provider) is None
    row = Order.objects.filter(pk=order.pk)
    with transaction.atomic():
        # The write locks the row, because another process may have seen the same answer.
        row.update(checked_at=now)
        order.refresh_from_db(fields=["problems"])
        differences = find_differences(order, answer)
        if is_ours:
            stored = store_cards([Arrival(order, answer.different_cards)])
            count, left_out = stored.cards[order.pk], stored.left_out[order.pk]
            differences = [problem for problem in differences if not _number(problem)]
            differences += _more_cards(order, answer, count, left_out=left_out)
        known = [Problem.of(entry) for entry in order.problems]
        new = [problem for problem in differences if problem not in known]
        if new:
            row.update(**order.problem_columns(new=new))
    for problem in new:
        logger.error("Order %s is %s: %s", order.reference, order.status, problem)


def _more_cards(
    order: Order, answer: OrderAnswer, stored: int, *, left_out: int
) -> Iterator[Problem]:
    if stored > order.fulfilled_quantity:
        # If the provider counts the cards, it also charges them. Such cards are late, not surplus.
        is_counted = (answer.fulfilled_quantity or 0) >= stored
        counts = {"received": stored, "announced": order.fulfilled_quantity}
        yield Problem("late_cards" if is_counted else "surplus_cards", counts)
    if left_out:
        yield cards_left_out(answer, left_out, quantity=order.quantity)
