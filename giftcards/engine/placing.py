"""Sending each order at most once.

The process that sends an order claims its row, makes the request, and records the outcome.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from django.db import Error, IntegrityError, close_old_connections, transaction
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.approvals import (
    ReviewFailed,
    objection,
    put_on_hold_for_price,
    put_on_hold_for_review,
    put_on_hold_until,
    put_unreviewed_on_hold,
)
from giftcards.engine.backoff import backoff, pause_after_limit
from giftcards.engine.clock import steady_time
from giftcards.engine.database import isolate_failures
from giftcards.engine.gateway import Gateway
from giftcards.engine.reordering import is_still_missing, reorder_by_rule
from giftcards.engine.request_budget import Slot
from giftcards.engine.tuning import tuning
from giftcards.exceptions import (
    AccessDenied,
    AlreadyPlaced,
    NotListed,
    ProviderError,
    RateLimited,
    Refused,
    TryLater,
)
from giftcards.models import ApiKey, Order, ProviderState, StatusChange
from giftcards.models.orders import ReferenceAnswer, cleared_provider_columns
from giftcards.models.provider import Environment, is_test_type
from giftcards.rules.problems import Problem
from giftcards.rules.purposes import Purpose
from giftcards.rules.states import STATES, Status

logger = logging.getLogger(__name__)

_FIRST_RETRY = timedelta(seconds=5)
_LONGEST_RETRY = timedelta(minutes=5)
# After this many failed reviews or price requests (more than a minute), the order itself may be the
# cause.
_PATIENT_FAILURES = 4
# Only a price that was requested within this time, less SLACK, can put an order on hold.
_THIS_MOMENT = timedelta(seconds=10)
# How long an order that replaces missing cards is put on hold if these cards might have arrived
# after all.
_NEXT_LOOK = timedelta(minutes=10)
_FIRST_SEARCH = timedelta(seconds=10)
# The longest time until the provider's list shows a new order.
_LIST_DELAY = timedelta(seconds=1)


def send(order: Order, gateway: Gateway) -> bool:
    """Claim a recorded order and send it.

    The order is put on hold if staff must review it, if a card costs more than the price limit, or
    if the order replaces missing cards and these cards might have arrived after all. The order is
    postponed if ``REVIEW_ORDER`` fails, or if the order has a price limit and the price is unknown.

    Updates ``order`` in place, unless another process has changed the row. Returns False if orders
    cannot be sent at present.
    """
    is_possible = True  # True even if only this order cannot be written
    with isolate_failures(order):
        # The review comes first, because it may take days, and the price has to be recent.
        if _is_wanted(order) and _passes_review(order):
            is_possible = _send(order, gateway)
    return is_possible


def _send(order: Order, gateway: Gateway) -> bool:
    ceiling = order.price_ceiling
    # The price is requested before the claim. If a process stalled between claim and request, it
    # could send an order that was declared lost and sent again in the meantime.
    try:
        price = _price(order, gateway)
    except (AccessDenied, RateLimited):
        return False
    except ProviderError as error:
        if not _is_test(order, error, gateway):
            _postpone_unpriced(order, error, gateway)
            return True
        price = ceiling = None
    if ceiling is not None:
        if price is None:
            return False
        if price > ceiling:
            put_on_hold_for_price(order, price=price, ceiling=ceiling)
            return True
    # The environment is also read before the claim, because this may require a request.
    gateway.environment()
    if order.was_sent_elsewhere(gateway.key):
        elsewhere = Problem("other_environment")
        _postpone(order, elsewhere, because=elsewhere)
        return True
    slot = gateway.begin(Purpose.PLACING)
    if slot is None:
        return False
    _place(order, gateway, slot, price)
    return True


def _price(order: Order, gateway: Gateway) -> Decimal | None:
    """Return the price of a card, or ``None``.

    If the order has a price limit, ``None`` means that the price cannot be requested now. If the
    order does not have a price limit, the price is optional, and ``None`` means that the price is
    unknown.
    """
    ceiling = order.price_ceiling
    if ceiling is None:
        return gateway.prices.price(order.product_id, order.type_id)
    ask = partial(gateway.prices.required_price, order.product_id, order.type_id)
    # After staff have approved a price, the current price is requested, because the stored price
    # may be the approved price, which would never exceed the price limit.
    price = ask(asked_since=None if order.approved_price is None else order.queued_at)
    if price is None or price <= ceiling:
        return price
    # Only a price that was just read may put the order on hold, because a stored price may have
    # been wrong for a moment.
    return ask(asked_since=timezone.now() - _THIS_MOMENT)


def _is_test(order: Order, error: ProviderError, gateway: Gateway) -> bool:
    """Return True if the order is for an unlisted test type of the sandbox.

    The sandbox sells test types without listing them.
    """
    is_unlisted = isinstance(error, NotListed) and is_test_type(order.type_id)
    return is_unlisted and gateway.environment() == Environment.SANDBOX


def _place(order: Order, gateway: Gateway, slot: Slot, price: Decimal | None) -> None:
    # The commit of the claim may take minutes. By then, the order may have been declared lost and
    # sent again, so the request must start by this time.
    start_by = steady_time() + tuning.start_within
    is_claimed = False
    try:
        reference = _reference(order, gateway.key)
        is_claimed = claim(order, key=gateway.key, reference=reference)
    finally:
        if not is_claimed:
            gateway.give_back(slot)
    if not is_claimed:
        return
    failure: ProviderError | None = None
    try:
        provider_id = gateway.client.place(
            product_id=order.product_id,
            type_id=order.type_id,
            quantity=order.quantity,
            reference=reference,
            may_send=lambda: steady_time() < start_by,
        )
    except ProviderError as error:
        failure = error
    try:
        if failure is not None:
            record = partial(_record_failure, order, failure, price, reference)
        else:
            # The id is logged first, in case the database is down.
            logger.info("Order %s was accepted as %s.", order.reference, provider_id)
            record = partial(_record_acceptance, order, provider_id, price, gateway.list_turn())
        _persist(record)
        if failure is None and order.reference_answer == ReferenceAnswer.UNWANTED:
            ApiKey.objects.note_unwanted_references(gateway.key)
    finally:
        # A refusal of the key must be recorded even if the order cannot be written.
        gateway.finish(slot, failure)


def _reference(order: Order, key: ApiKey) -> str:
    """Return the reference to send with a purchase, or "".

    Once an order has been sent with its reference, further attempts use the same reference, unless
    the provider does not want references. A provider that checks references then refuses to sell
    the order a second time.
    """
    if not conf.send_reference:
        ApiKey.objects.forget_unwanted_references(key)
    if key.references_unwanted_at or order.reference_answer == ReferenceAnswer.UNWANTED:
        return ""
    if order.provider_reference or not conf.send_reference:
        return order.provider_reference
    return conf.keyring().sent_references(order.reference)[0]


def _is_wanted(order: Order) -> bool:
    """Return True if the cards of the order are still wanted.

    If the order replaces missing cards, and these cards might have arrived after all, the order is
    put on hold for some minutes.
    """
    if is_still_missing(order):
        return True
    put_on_hold_until(order, timezone.now() + _NEXT_LOOK)
    return False


def _passes_review(order: Order) -> bool:
    """Return True if ``REVIEW_ORDER`` allows the order to be sent.

    Otherwise, the order is put on hold or postponed. If ``REVIEW_ORDER`` fails repeatedly, or if
    the order will have waited for ``SEND_TIMEOUT`` seconds before the next attempt, the failure is
    recorded as a problem with the order.
    """
    failure, reason = "interrupted", ""
    try:
        reason = objection(order)
        failure = ""
    except ReviewFailed as error:
        failure = str(error)
    finally:
        # The order is postponed even if the task has timed out. Otherwise, it would be reviewed
        # again immediately, and would delay other orders.
        if failure:
            pause = _retry_pause(order)
            timeout_at = order.queued_at + timedelta(seconds=conf.send_timeout)
            is_last = timezone.now() + pause >= timeout_at
            is_patient = order.failures < _PATIENT_FAILURES and not is_last
            problem = None if is_patient else Problem("review_failed", {"detail": failure})
            _postpone(order, problem, because=f"REVIEW_ORDER: {failure}.", pause=pause)
    if reason:
        put_on_hold_for_review(order, objection=reason)
    return not (failure or reason)


def _postpone_unpriced(order: Order, error: ProviderError, gateway: Gateway) -> None:
    """Postpone an order because its price is required but unknown.

    If the provider refuses the request or does not know the product, the error is recorded as a
    problem with the order. Any other error is recorded only if it occurs repeatedly while other
    requests to the provider succeed. If other requests also fail, there is an outage, which
    monitoring reports.
    """
    is_patient = order.failures < _PATIENT_FAILURES or not gateway.has_answered_lately
    is_away = gateway.is_outage(error) and is_patient
    problem = None if is_away else Problem("price_unknown", error.parameters)
    _postpone(order, problem, because=error)


def _postpone(
    order: Order, problem: Problem | None, *, because: object, pause: timedelta | None = None
) -> None:
    due_at = timezone.now() + (pause or _retry_pause(order))
    if order.stay_pending(problem, due_at=due_at, failures=order.failures + 1):
        logger.info("Order %s has not been sent yet. %s", order.reference, because)


def _persist(record: Callable[[], None]) -> None:
    """Call ``record()``, and repeat the call while the database fails.

    If the database fails for too long, the error is raised. The claim then expires, and the order
    is recovered from the provider's list.
    """
    patience = time.monotonic() + tuning.database_patience
    while True:
        try:
            return record()
        except Error:
            # Every database error is retried, because a column may be missing during a migration.
            if time.monotonic() >= patience:
                raise
        time.sleep(1)
        close_old_connections()


def claim(order: Order, *, key: ApiKey, reference: str = "") -> bool:
    """Claim a recorded order so that it can be sent with ``key``.

    The row stores the ``reference`` that is sent with the order. Do not call this function in a
    transaction, because the claim must be committed before the request is made. Returns False if
    the row has changed in the meantime.
    """
    # The claim fails if the order was put on hold, or if another price was approved, after the
    # order was read.
    conditions = {"due_at__isnull": False, "approved_price": order.approved_price}
    # The values of an earlier attempt do not apply to this attempt.
    attempt = {
        **cleared_provider_columns(),
        "answered_id": "",
        "provider_reference": reference or order.provider_reference,
        "environment": key.environment,
        "sent_with": key.pk,
        "sent_at": timezone.now(),
    }
    return _take(order, conditions=conditions, **attempt)


def _take(order: Order, *, conditions: Mapping[str, Any] | None = None, **values: Any) -> bool:
    # The claim lasts longer than the request and the recording of its outcome together.
    seconds = tuning.start_within + tuning.request_timeout + tuning.database_patience
    lease = timedelta(seconds=seconds)
    with transaction.atomic(durable=True):
        change = order.move(
            Status.PLACING,
            source=StatusChange.Source.PLACING,
            conditions=conditions,
            claim=uuid.uuid4().hex,
            claimed_until=timezone.now() + lease,
            due_at=None,
            **values,
        )
    return change is not None


def _record_acceptance(
    order: Order, provider_order_id: str, price: Decimal | None, list_turn: datetime | None
) -> None:
    now = timezone.now()
    name = {"provider_order_id": provider_order_id}
    values = {
        **name,
        **_prices(price),
        "accepted_at": now,
        # The id may belong to another order, until an answer confirms it.
        "identified_at": None,
        "answered_id": "",
        "due_at": _first_check(now, list_turn),
        "failures": 0,
    }
    try:
        # The database does not have a constraint for the ids that are aliases of orders.
        if Order.objects.known_as([provider_order_id]).exclude(pk=order.pk).exists():
            raise IntegrityError  # noqa: TRY301 (as the constraint on order ids does)
        is_recorded = _leave_placing(order, Status.HANDLING, **values)
    except IntegrityError:
        _record_not_accepted(
            order,
            Status.UNCONFIRMED,
            Problem("id_taken", name),
            answered_id=provider_order_id,
            **_prices(price),
            due_at=_first_search(),
            failures=0,
        )
        # The id is stored even if the order was declared lost in the meantime, because an order
        # with an answered id is never declared absent.
        lost = Order.objects.filter(pk=order.pk, status=Status.UNCONFIRMED, claim=order.claim)
        lost.update(answered_id=provider_order_id)
        return
    # If the search for lost orders has already stored this id, the row is correct. Otherwise, the
    # order was bought, but its row does not show this.
    if not is_recorded and order.provider_order_id != provider_order_id:
        problem = Problem("accepted_after_all", name)
        Order.objects.filter(pk=order.pk).update(**order.problem_columns(new=[problem]))
        logger.error("Order %s is already %s. %s", order.reference, order.status, problem)


def _record_failure(
    order: Order, error: ProviderError, price: Decimal | None, reference: str
) -> None:
    parameters, now = error.parameters, timezone.now()
    match error:
        case AccessDenied():
            # The order is due now, because all calls are paused anyway.
            _record_not_accepted(order, Status.PENDING, Problem("not_sent", parameters), due_at=now)
        case TryLater():
            problem, failures = Problem("not_sent", parameters), order.failures + 1
            due_at = now + _retry_pause(order, error.retry_after)
            _record_not_accepted(order, Status.PENDING, problem, due_at=due_at, failures=failures)
        case AlreadyPlaced():
            _record_not_accepted(
                order,
                Status.UNCONFIRMED,
                Problem("bought_before", parameters),
                **_prices(price),
                reference_answer=ReferenceAnswer.REPEATED,
                due_at=_first_search(),
                failures=0,
            )
        case Refused() if reference and _may_be_unwanted(error):
            _record_not_accepted(
                order,
                Status.PENDING,
                Problem("reference_unwanted", parameters),
                provider_reference="",
                reference_answer=ReferenceAnswer.UNWANTED,
                due_at=now,
            )
        case Refused():
            problem, reorder = Problem("refused", parameters), partial(reorder_by_rule, order)
            _record_not_accepted(order, Status.REJECTED, problem, after_update=reorder)
            if error.reason == "no_balance":
                needed = None if price is None else order.quantity * price
                ProviderState.objects.doubt_balance(needed)
        case _:
            _record_not_accepted(
                order,
                Status.UNCONFIRMED,
                Problem("answer_lost", parameters),
                # The price is kept, because the order may have been bought.
                **_prices(price),
                due_at=_first_search(),
                failures=0,
            )


def _may_be_unwanted(error: Refused) -> bool:
    """Return True if the provider might accept the order without a reference."""
    return not error.reason and (error.status == 400 or error.code == "ERR_VALIDATION")


def _prices(price: Decimal | None) -> dict[str, Decimal | None]:
    return {"price_per_card": price, "price_at_placing": price}


def _first_check(now: datetime, list_turn: datetime | None) -> datetime:
    """Return the time of the first check of an accepted order.

    If the list is in use, this is the time of the next reading of the list. Otherwise, the result
    is the current time.
    """
    if list_turn is None:
        return now
    if list_turn - now < _LIST_DELAY:
        # The list may not show the order yet.
        list_turn += timedelta(seconds=conf.poll_interval)
    return list_turn


def _first_search() -> datetime:
    """Return the time of the first search for a lost order.

    The list might show the order with a delay, so the search does not start immediately.
    """
    return timezone.now() + min(_FIRST_SEARCH, timedelta(seconds=tuning.proof_of_absence / 4))


def _retry_pause(order: Order, retry_after: float | None = None) -> timedelta:
    pause = backoff(
        order.failures + 1, first_pause=_FIRST_RETRY, max_pause=_LONGEST_RETRY, jitter=0.25
    )
    return pause if retry_after is None else max(pause, pause_after_limit(retry_after))


def _record_not_accepted(order: Order, target: Status, problem: Problem, **values: Any) -> None:
    if _leave_placing(order, target, details=[problem], **values):
        level = STATES[target].log_level
        logger.log(level, "Order %s is %s. %s", order.reference, target, problem)
    else:
        logger.error(
            "Order %s is already %s, but the attempt to send it ended as %s. %s",
            order.reference,
            order.status,
            target,
            problem,
        )


def _leave_placing(order: Order, target: Status, **values: Any) -> bool:
    """Move a sent order to ``target``, even if it was marked as lost.

    An order is marked as lost when its claim expires. If the provider's list then did not contain
    the order, the order has the status PENDING again, although it might have been bought. If
    ``target`` is HANDLING or UNCONFIRMED, such an order is claimed again before it is moved.

    Returns False if another process has changed the status of the order. In this case, ``order``
    receives the new status but keeps its old claim, so that this process cannot overwrite the
    change.
    """
    move = partial(order.move, target, source=StatusChange.Source.PLACING, **values)
    if move():
        return True
    order.refresh_from_db(fields=["status", "provider_order_id", "problems"])
    if order.status == Status.PENDING and target in {Status.HANDLING, Status.UNCONFIRMED}:
        may_move = _take(order)
    else:
        may_move = order.status == Status.UNCONFIRMED and target != Status.UNCONFIRMED
    return may_move and move() is not None


def send_now(
    order: Order, gateway: Gateway, *, on_wait: Callable[[Order], None] = lambda _order: None
) -> Order:
    """Send ``order``, or wait for the process that is sending it.

    An order on hold stays on hold. ``on_wait`` is called at least once a second while the function
    waits. Returns the refreshed order.
    """
    while order.status == Status.PENDING and not order.is_on_hold and gateway.try_open():
        if send(order, gateway):
            gateway.flush()
            break
        on_wait(order)
        time.sleep(min(max(gateway.wait_for(Purpose.PLACING), 0.05), 1))
    order.refresh_from_db()
    while order.status == Status.PLACING and not order.is_lost(timezone.now()):
        on_wait(order)
        time.sleep(0.2)
        order.refresh_from_db()
    return order


def send_due(
    orders: Iterable[Order], gateway: Gateway, *, should_continue: Callable[[], bool]
) -> tuple[int, int]:
    """Send ``orders``, one after the other, within the request quota.

    Returns the number of accepted orders, and the number of orders that were sent but not accepted.
    The function stops when ``should_continue`` returns False, when calls are paused, when the quota
    is used up, or after an answer was lost.
    """
    accepted = failed = 0
    for order in orders:
        claim_before = order.claim
        if not (should_continue() and send(order, gateway)):
            break
        if order.status == Status.HANDLING:
            accepted += 1
        elif order.claim != claim_before:
            # An order without a new claim was not attempted, so it does not count.
            failed += 1
        if order.status == Status.UNCONFIRMED or not gateway.is_open:
            # The answers to other orders would probably also be lost.
            break
    return accepted, failed


def give_up(order: Order) -> None:
    """Reject an order that has waited for longer than ``SEND_TIMEOUT``.

    After such a long wait, the customer has probably left. However, if the order waits because
    ``REVIEW_ORDER`` fails, the order is put on hold until staff decide.
    """
    if put_unreviewed_on_hold(order):
        return
    reason = Problem("given_up", {"seconds": f"{conf.send_timeout:g}"})
    # The move fails if the order was put on hold or queued again after it was read.
    conditions = {"due_at__isnull": False, "queued_at": order.queued_at}
    if order.move(
        Status.REJECTED, source=StatusChange.Source.CLOCK, details=[reason], conditions=conditions
    ):
        logger.error("Order %s is REJECTED. %s", order.reference, reason)


def mark_unconfirmed(order: Order) -> None:
    """Mark an order as UNCONFIRMED because the sending process died.

    The process might have made the request before it died.
    """
    problem = Problem("sender_died")
    if order.move(
        Status.UNCONFIRMED,
        source=StatusChange.Source.RECOVERY,
        details=[problem],
        due_at=timezone.now(),
        failures=0,
    ):
        logger.error("Order %s is UNCONFIRMED. %s", order.reference, problem)
