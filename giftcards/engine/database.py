"""Handling database errors, for the whole database or for single orders.

Only the type of an error is logged, because PostgreSQL includes the failing row in the message.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

# ``Error`` is the base class of all database errors, from broken connections to missing columns.
from django.db import Error, close_old_connections, connection, connections, router, transaction
from django.db.models import F
from django.utils import timezone

from giftcards.engine.tuning import tuning
from giftcards.models import Order, ProviderState

logger = logging.getLogger(__name__)

T = TypeVar("T")

# The pause before the next attempt for an order that could not be written.
_POSTPONED = timedelta(seconds=30)


@contextlib.contextmanager
def surviving(stop: threading.Event, work: str) -> Iterator[None]:
    """Log a database error in this block, then pause and reconnect.

    ``work`` says in the log what the block does, for example "the loop".
    """
    try:
        yield
    except Error as error:
        logger.error(  # noqa: TRY400 (a traceback may hold a row)
            "A database error occurred in %s, which pauses for %g s: %s",
            work,
            tuning.database_pause,
            type(error).__name__,
        )
        stop.wait(tuning.database_pause)
        close_old_connections()


@contextlib.contextmanager
def waiting_at_most(seconds: float) -> Iterator[None]:
    """Limit how many seconds SQLite waits for a locked database.

    Other databases are not affected.
    """
    if connection.vendor != "sqlite":
        yield
        return
    connection.ensure_connection()
    # Django's cursor refuses statements after an error in a transaction.
    raw = connection.connection
    (before,) = raw.execute("PRAGMA busy_timeout").fetchone()
    raw.execute(f"PRAGMA busy_timeout = {max(0, round(seconds * 1000))}")
    try:
        yield
    finally:
        raw.execute(f"PRAGMA busy_timeout = {before}")


@contextlib.contextmanager
def tolerating(name: str) -> Iterator[None]:
    """Log a database error in this block, and continue after it.

    ``name`` is the name of the object that could not be written, for the log. If the connection was
    lost, the error is raised, because the next statement would also fail.
    """
    try:
        yield
    except Error as error:
        if not is_there():
            raise
        logger.error(  # noqa: TRY400 (a traceback may hold a row)
            "%s: writing to the database failed (%s)", name, type(error).__name__
        )


def is_there() -> bool:
    """Return True if there is a working connection to the database."""
    connection = connections[router.db_for_write(Order)]
    return connection.connection is not None and connection.is_usable()


@contextlib.contextmanager
def isolate_failures(*orders: Order) -> Iterator[None]:
    """Log a database error in this block, and postpone ``orders``.

    If the orders cannot be postponed, there is a short pause before the next sweep. An error is
    raised if the connection was lost, or if the database refuses every write.
    """
    names = ", ".join(order.reference for order in orders)
    is_written = False
    with tolerating(f"Order {names}"):
        yield
        is_written = True
    if is_written:
        return
    now = timezone.now()
    due = Order.objects.filter(pk__in=[order.pk for order in orders], due_at__lte=now)
    try:
        with transaction.atomic():
            due.update(due_at=now + _POSTPONED)
    except Error:
        # This write does not change anything, but raises an error if the database refuses every
        # write, for example because it is read-only.
        ProviderState.objects.filter(pk=1).update(swept_at=F("swept_at"))
        time.sleep(tuning.database_pause / 2)


def write_together(orders: Sequence[Order], write: Callable[[Sequence[Order]], T]) -> list[T]:
    """Call ``write()`` once for all orders, if possible.

    If this call fails, the orders are written one by one. If a single order cannot be written, this
    order is postponed. Returns the results of the successful calls.
    """
    written: list[T] = []
    if len(orders) > 1:
        with tolerating(f"{len(orders)} orders together"):
            written.append(write(orders))
    for order in orders if not written else ():
        with isolate_failures(order):
            written.append(write([order]))
    return written
