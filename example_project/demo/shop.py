"""The shop's part of the demo: its database, its orders, and what is shown of them."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.utils import timezone
from django_q.models import Task
from django_q.tasks import async_task

from giftcards.conf import conf
from giftcards.fulfilment import place_order
from giftcards.gateway import Gateway
from giftcards.models import Order
from giftcards.refunds import refund_breakdown
from giftcards.selftest import PRODUCT, why_not

# The outcomes of the provider's sandbox: a name, the type, the quantity.
LINES = (
    ("refund", "TEST_REFUND", 2),
    ("partial", "TEST_PARTIAL", 4),
    ("ordinary", "type_001", 2),
    ("larger", "type_001", 25),
)
SALE_PRICE = Decimal(550)
COLUMNS = "{:<27}{:<13}{:>8}  {:<17}{:>9}{:>10}{:>9}{:>6}"
HEADINGS = ("reference", "type", "quantity", "status", "delivered", "charged", "refunded", "age")


def prepare(password_file: Path) -> str:
    """Make the tables, the schedule and the user ``admin``; return the user's password."""
    call_command("migrate", verbosity=0)
    call_command("giftcards_setup", verbosity=0)
    password_file.touch(mode=0o600)
    password = password_file.read_text() or secrets.token_urlsafe(9)
    password_file.write_text(password)
    admin, _ = get_user_model().objects.update_or_create(
        username="admin", defaults={"is_staff": True, "is_superuser": True, "is_active": True}
    )
    admin.set_password(password)
    admin.save()
    return password


def ask_worker() -> str:
    """Queue a task for :func:`has_answered`: a cluster shows other processes nothing of itself."""
    return str(async_task("time.time", task_name="demo: is a worker there?"))


def has_answered(task_id: str) -> bool:
    deleted, _ = Task.objects.filter(id=task_id).delete()
    return bool(deleted)


def why_not_order() -> str:
    """Why nothing may be ordered with the configured key, as a sentence; "" if it is free."""
    with Gateway() as gateway:
        return why_not(gateway)


def place() -> list[int]:
    """Place the orders as a shop does, for the worker to send; return their primary keys."""
    now = timezone.localtime()
    return [
        place_order(
            product_id=PRODUCT,
            type_id=type_id,
            quantity=quantity,
            reference=f"demo-{now:%m%d-%H%M%S}-{name}",
            sale_price=SALE_PRICE,
        ).pk
        for name, type_id, quantity in LINES
    ]


def find(keys: Sequence[int]) -> list[Order]:
    return list(Order.objects.filter(pk__in=keys).order_by("pk"))


class Table:
    """The orders: drawn over and over on a terminal, elsewhere a line for each change."""

    def __init__(self) -> None:
        self._is_live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._shown: dict[str, tuple[str, ...]] = {}
        print(COLUMNS.format(*HEADINGS))

    def show(self, orders: Iterable[Order]) -> None:
        now = timezone.now()
        rows = [_row(order, now) for order in orders]
        # A line that breaks would upset the drawing.
        width = shutil.get_terminal_size().columns - 1
        if self._is_live and self._shown:
            print(f"\x1b[{len(rows)}F", end="")
        for row in rows:
            # That time passes is not a change.
            is_changed = self._shown.get(row[0]) != row[:-1]
            self._shown[row[0]] = row[:-1]
            if self._is_live:
                print(f"\x1b[2K{COLUMNS.format(*row)[:width]}")
            elif is_changed:
                print(COLUMNS.format(*row))
        sys.stdout.flush()


def _row(order: Order, now: datetime) -> tuple[str, ...]:
    breakdown = refund_breakdown(order)
    age = (order.settled_at or now) - order.created_at
    return (
        order.reference,
        order.type_id,
        str(order.quantity),
        order.status,
        str(order.fulfilled_quantity),
        _money(breakdown.charged_amount) if breakdown else "-",
        _money(breakdown.refunded_amount) if breakdown else "-",
        f"{age.total_seconds():.0f} s",
    )


def breakdowns(orders: Iterable[Order]) -> Iterator[str]:
    """What became of the money, a line for each order."""
    yield f"Refund breakdown, in {conf.currency}:"
    for order in orders:
        breakdown = refund_breakdown(order)
        if breakdown is None:
            yield f"  {order.reference}: none, it is {order.status}"
            continue
        yield (
            f"  {order.reference}: ordered {_money(breakdown.ordered_amount)}"
            f" = charged {_money(breakdown.charged_amount)}"
            f" + refunded {_money(breakdown.refunded_amount)}"
            f" ({breakdown.refunded_quantity} of {order.quantity} cards refunded)"
            f"{'' if breakdown.is_consistent else ': the figures contradict each other'}"
        )


def _money(amount: Decimal | None) -> str:
    return "unknown" if amount is None else f"{amount:.2f}"
