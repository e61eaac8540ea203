"""Placing orders, exactly once: first the row, then the claim, the request, and the record."""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from django.core.exceptions import ValidationError
from django.db import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    close_old_connections,
    router,
    transaction,
)
from django.utils import timezone
from django.utils.translation import gettext as _

from giftcards.conf import conf
from giftcards.exceptions import (
    AccessDenied,
    ProviderError,
    ReferenceConflict,
    Refused,
    TryLater,
)
from giftcards.gateway import LONGEST_PAUSE, Gateway
from giftcards.models import Order, ProviderState, StatusChange, new_reference
from giftcards.statuses import Status

logger = logging.getLogger(__name__)

SWEEP_TASK = "giftcards.tasks.sweep"
# The process that runs the loop renews its lease; when it dies, another takes over after this long.
LOOP_LEASE = timedelta(seconds=10)
# Pauses before an order that could not be sent is tried again: doubled each time up to the second.
_FIRST_RETRY = timedelta(seconds=5)
_LONGEST_RETRY = timedelta(minutes=5)
# How long the answer to sending an order is kept for a database that is away (seconds).
_DATABASE_PATIENCE = 30.0
_FIRST_LOOK = timedelta(seconds=10)
_NOT_KNOWN = (
    "Whether it was bought is not known; it is sent again only if it is proven that it was not."
)


def place_order(
    *,
    product_id: str,
    type_id: str,
    quantity: int,
    reference: str | None = None,
    sale_price: Decimal | int | None = None,
    customer_email: str = "",
    customer_language: str = "",
) -> Order:
    """Record an order; once the caller's transaction commits, a worker sends it.

    No request is made here, so it is safe in a web request and in a transaction that may roll back.
    Calling it again with the same ``reference`` and the same line gives back the same order.
    ``sale_price`` is what the customer pays for one card. Raises ``ValidationError`` for values
    that could not be ordered and :exc:`~giftcards.exceptions.ReferenceConflict` for a reference
    that names another line.
    """
    order = record_order(
        product_id=product_id,
        type_id=type_id,
        quantity=quantity,
        reference=reference,
        sale_price=sale_price,
        customer_email=customer_email,
        customer_language=customer_language,
    )
    transaction.on_commit(wake_worker, using=router.db_for_write(Order), robust=True)
    return order


def record_order(
    *,
    product_id: str,
    type_id: str,
    quantity: int,
    reference: str | None,
    sale_price: Decimal | int | None = None,
    customer_email: str = "",
    customer_language: str = "",
) -> Order:
    """:func:`place_order` for a caller who sends the order without a worker's help."""
    order = Order(
        product_id=product_id,
        type_id=type_id,
        quantity=quantity,
        reference=new_reference() if reference is None else reference,
        sale_price=sale_price,
        customer_email=customer_email,
        customer_language=customer_language,
    )
    _validate(order)
    try:
        with transaction.atomic():
            order.save(force_insert=True)
    except IntegrityError:
        known = Order.objects.filter(reference=order.reference).first()
        if known is None:
            raise
        if _line(known) != _line(order):
            raise ReferenceConflict(
                _(
                    "The reference %(reference)s already names an order of %(quantity)d × %(type)s"
                    " (%(product)s). Use another reference for another line."
                )
                % {
                    "reference": known.reference,
                    "quantity": known.quantity,
                    "type": known.type_id,
                    "product": known.product_id,
                }
            ) from None
        return known
    return order


def _line(order: Order) -> tuple[str, str, str, int]:
    # With the reference: some databases find "a" when asked for "A".
    return order.reference, order.product_id, order.type_id, order.quantity


def _validate(order: Order) -> None:
    """Django's own field validation would let ``"2"``, ``True`` and ``1.5`` pass as quantities."""
    wrong: dict[str, Any] = {}
    for name in ("reference", "product_id", "type_id", "customer_email", "customer_language"):
        if not isinstance(getattr(order, name), str):
            wrong[name] = _("This must be a text.")
    if type(order.quantity) is not int:
        wrong["quantity"] = _("This must be a whole number.")
    if not (order.sale_price is None or type(order.sale_price) in {int, Decimal}):
        wrong["sale_price"] = _("This must be a decimal number.")
    if wrong:
        raise ValidationError(wrong)
    order.clean_fields()


def wake_worker() -> None:
    """Queue the loop, unless it is running or has just been queued."""
    if ProviderState.objects.take_kick(now=timezone.now(), lease=LOOP_LEASE):
        queue_sweep()


def queue_sweep() -> None:
    # Imported here: without "django_q" in INSTALLED_APPS its models cannot be imported, and the
    # system check that says so could not run.
    from django_q.conf import Conf
    from django_q.tasks import async_task

    if Conf.SYNC:
        # django-q2's mode for tests: the task would follow the order inside the web request.
        return
    # Task rows can be read in the database and in the admin: no arguments, no row on success.
    async_task(SWEEP_TASK, q_options={"save": False, "ack_failure": True})


def send(order: Order, gateway: Gateway) -> bool:
    """Claim a recorded order and send it; false if calls have to stop now.

    The request has to be afforded already. ``order`` is changed in place; not at all if another
    process was first.
    """
    try:
        # Before the claim. A process that stops between the two, for whatever reason, must not go
        # on to send what has been sent again meanwhile, so there is nothing between them.
        price = gateway.price(order.product_id, order.type_id)
    except ProviderError as error:
        return gateway.heard(error)
    if not claim(order):
        return True
    failure: ProviderError | None = None
    try:
        placed = gateway.client.place(
            product_id=order.product_id, type_id=order.type_id, quantity=order.quantity
        )
    except ProviderError as error:
        failure = error
    if failure is not None:
        _persist(partial(_record_failure, order, failure, price))
        return gateway.heard(failure)
    # Before the database is asked for anything: if it is gone, the log still knows the id.
    logger.info("Order %s was accepted as %s.", order.reference, placed.order_id)
    _persist(partial(_record_acceptance, order, placed.order_id, price))
    return gateway.heard(None)


def _persist(record: Callable[[], None]) -> None:
    """Write down how sending ended, also if the database is away for a moment.

    If it stays away the order is taken for lost later, and looked for at the provider.
    """
    patience = time.monotonic() + _DATABASE_PATIENCE
    while True:
        try:
            return record()
        except (OperationalError, InterfaceError):
            if time.monotonic() >= patience:
                raise
        time.sleep(1)
        close_old_connections()


def claim(order: Order) -> bool:
    """Claim a recorded order for sending; false if another process was first.

    Not to be called inside a transaction: what goes out has to be on record first.
    """
    now = timezone.now()
    # Longer than the request and its record can take.
    lease = timedelta(seconds=conf.request_timeout + _DATABASE_PATIENCE + 5)
    with transaction.atomic(durable=True):
        change = order.move(
            Status.PLACING,
            source=StatusChange.Source.PLACING,
            claim=uuid.uuid4().hex,
            claimed_until=now + lease,
            sent_at=now,
            due_at=None,
        )
    return change is not None


def _record_acceptance(order: Order, provider_order_id: str, price: Decimal | None) -> None:
    now = timezone.now()
    try:
        _leave_placing(
            order,
            Status.HANDLING,
            provider_order_id=provider_order_id,
            price_per_card=price,
            accepted_at=now,
            due_at=now,
            failures=0,
            problem="",
        )
    except IntegrityError:
        problem = (
            f"The provider answered with the id {provider_order_id}, which is another order's."
            f" {_NOT_KNOWN}"
        )
        logger.error("Order %s: %s", order.reference, problem)  # noqa: TRY400 (no row in the log)
        _leave_placing(
            order, Status.UNCONFIRMED, detail=problem, problem=problem, due_at=_first_look()
        )


def _record_failure(order: Order, error: ProviderError, price: Decimal | None) -> None:
    match error:
        case AccessDenied():
            # The pause that follows keeps the order back, not a time of its own.
            _leave_placing(
                order,
                Status.PENDING,
                detail=str(error),
                problem=f"Not sent yet: {error}",
                due_at=timezone.now(),
            )
        case TryLater():
            due_at = timezone.now() + _retry_pause(order, error)
            _leave_placing(
                order,
                Status.PENDING,
                detail=str(error),
                problem=f"Not sent yet: {error}",
                due_at=due_at,
                failures=order.failures + 1,
            )
        case Refused():
            logger.warning("Order %s was refused: %s", order.reference, error)
            _leave_placing(order, Status.REJECTED, detail=str(error), problem="")
        case _:
            problem = f"{error} {_NOT_KNOWN}"
            logger.error("Order %s: %s", order.reference, problem)
            _leave_placing(
                order,
                Status.UNCONFIRMED,
                detail=str(error),
                problem=problem,
                # What it costs if it was bought.
                price_per_card=price,
                due_at=_first_look(),
                failures=0,
            )


def _first_look() -> datetime:
    """When a lost order is looked for first: it may take the provider a moment to show it."""
    return timezone.now() + min(_FIRST_LOOK, timedelta(seconds=conf.proof_of_absence / 4))


def _retry_pause(order: Order, error: TryLater) -> timedelta:
    backoff: timedelta = min(_FIRST_RETRY * 2 ** min(order.failures, 10), _LONGEST_RETRY)
    pause = backoff * random.uniform(1, 1.25)  # noqa: S311 (jitter)
    if error.retry_after is not None:
        pause = max(pause, min(timedelta(seconds=error.retry_after), LONGEST_PAUSE))
    return pause


def _leave_placing(order: Order, target: Status, *, detail: str = "", **values: Any) -> None:
    """Record how sending ended, also when it took so long that the order was taken for lost."""
    move = partial(order.move, target, source=StatusChange.Source.PLACING, detail=detail, **values)
    if move():
        return
    # The claim is left as it is: it tells whether the row is still this attempt's.
    order.refresh_from_db(fields=["status", "provider_order_id"])
    if order.status == Status.UNCONFIRMED != target and move():
        return
    if target == Status.HANDLING:
        if order.provider_order_id == values["provider_order_id"]:
            # It was found in the list meanwhile.
            return
        # It was taken for absent, and waits to be sent again: it must not be.
        if order.status == Status.PENDING and claim(order) and move():
            return
        # Money was spent, and the row says otherwise.
        problem = f"The provider accepted it as {values['provider_order_id']} after all."
        Order.objects.filter(pk=order.pk).update(problem=problem)
        # The problem goes with the next answer; the history stays.
        if last := order.changes.last():
            detail = f"{last.detail} {problem}".strip()
            StatusChange.objects.filter(pk=last.pk).update(detail=detail)
    logger.error(
        "Order %s is %s by now: that sending it ended as %s (%s) could not be recorded.",
        order.reference,
        order.status,
        target,
        values.get("provider_order_id") or detail,
    )


def send_now(order: Order, gateway: Gateway) -> Order:
    """Send ``order`` in this process, or wait until the one that is at it has; return it fresh."""
    while order.status == Status.PENDING and gateway.is_open():
        if gateway.afford(for_placing=True):
            send(order, gateway)
            gateway.note()
            break
        time.sleep(max(gateway.wait_for(for_placing=True), 0.05))
    order.refresh_from_db()
    while order.status == Status.PLACING and not order.is_lost(timezone.now()):
        time.sleep(0.2)
        order.refresh_from_db()
    return order


def send_due(
    orders: Iterable[Order], gateway: Gateway, *, go_on: Callable[[], bool]
) -> tuple[int, int]:
    """Send ``orders``, one after the other, as far as the request budget goes.

    Returns how many were accepted and how many were not. Stops when ``go_on`` says no, when calls
    have to stop, and after an answer that was lost.
    """
    accepted = failed = 0
    for order in orders:
        if not (go_on() and gateway.afford(for_placing=True)):
            break
        claim_before = order.claim
        may_go_on = send(order, gateway)
        if order.status == Status.HANDLING:
            accepted += 1
        elif order.claim != claim_before or not may_go_on:
            # Neither if another process was first.
            failed += 1
        if not may_go_on or order.status == Status.UNCONFIRMED:
            # Also in an outage: nobody could tell what became of the others either.
            break
    return accepted, failed


def give_up(order: Order) -> None:
    """Reject an order that could not be sent for too long: the customer has gone by now."""
    why = f"It could not be sent for {conf.send_timeout:g} s and was given up. {order.problem}"
    if order.move(
        Status.REJECTED, source=StatusChange.Source.CLOCK, detail=why.strip(), problem=""
    ):
        logger.error("Order %s: %s", order.reference, why)


def call_unconfirmed(order: Order) -> None:
    """The process that was sending the order has died: the request may have gone out."""
    problem = f"The process that was sending the order died. {_NOT_KNOWN}"
    if order.move(
        Status.UNCONFIRMED,
        source=StatusChange.Source.RECOVERY,
        detail=problem,
        problem=problem,
        due_at=timezone.now(),
        failures=0,
    ):
        logger.error("Order %s: %s", order.reference, problem)
