"""The shop in the demo: its database, its orders, and how they are displayed."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone
from django_q.models import Task
from django_q.tasks import async_task

from example_project.storefront import mailbox
from example_project.storefront.catalogue import open_shop
from giftcards import catalogue
from giftcards.conf import CURRENCY
from giftcards.delivery.models import Delivery, DeliveryStatus
from giftcards.engine.gateway import Gateway
from giftcards.fulfilment import place_order
from giftcards.management.base import PRODUCT
from giftcards.management.commands.giftcards_selftest import why_not
from giftcards.models import OfferChange, Order, ProductType
from giftcards.refunds import refund_breakdown
from giftcards.settlement import customer_breakdown


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An order of the demo, and its customer.

    The customer receives ``delivered`` of the cards. The provider's sandbox cannot deliver such
    orders, but it has types for tests, so the demo buys the type ``trial`` there.
    """

    name: str
    quantity: int
    delivered: int
    trial: str = ""
    customer: str
    email: str
    phone: str
    language: str


CARD = "type_001"
SALE_PRICE = Decimal(550)
# One line for each outcome.
LINES = (
    Line(
        name="none",
        quantity=2,
        delivered=0,
        trial="TEST_REFUND",
        customer="Karim Haddad",
        email="karim@example.com",
        phone="0661 20 30 40",
        language="fr",
    ),
    Line(
        name="partial",
        quantity=5,
        delivered=3,
        trial="TEST_PARTIAL",
        customer="أمينة بن علي",
        email="amina@example.com",
        phone="+213 550 12 34 56",
        language="ar",
    ),
    Line(
        name="all",
        quantity=3,
        delivered=3,
        customer="Sara Meziane",
        email="sara@example.com",
        phone="0770-11-22-33",
        language="en",
    ),
    Line(
        name="many",
        quantity=25,
        delivered=25,
        customer="Yacine Bouzid",
        email="yacine@example.com",
        phone="00213 555 98 76 54",
        language="fr",
    ),
)
# At most 79 columns, so that a terminal of 80 shows them. ASCII only, because every terminal shows
# it.
COLUMNS = "{:<24} {:<17} {:<28} {:>6}"
HEADINGS = ("order", "cards", "status", "age")
BREAKDOWN = "  {:<24} {:>8} = {:>8} + {:>13} {:>10}"


def prepare(password_file: Path) -> str:
    """Create the tables, the schedule and the user ``admin``; return the user's password."""
    call_command("migrate", verbosity=0)
    call_command("giftcards_setup", verbosity=0)
    open_shop()
    password_file.touch(mode=0o600)
    password = password_file.read_text() or secrets.token_urlsafe(9)
    password_file.write_text(password)
    # The user's address receives the mails about orders over the API.
    values = {"is_staff": True, "is_superuser": True, "is_active": True}
    admin, _ = get_user_model().objects.update_or_create(
        username="admin", defaults={**values, "email": "admin@example.com"}
    )
    admin.set_password(password)
    admin.save()
    return password


def ask_worker() -> str:
    """Queue a task and return its id. The only sign of a running cluster is that it runs a task."""
    return str(async_task("time.time", task_name="demo: is a worker there?"))


def has_answered(task_id: str) -> bool:
    deleted, _ = Task.objects.filter(id=task_id).delete()
    return bool(deleted)


def why_not_order() -> str:
    """Return the reason why the demo must not order with the configured key, or ""."""
    with Gateway() as gateway:
        return why_not(gateway)


def read_catalogue() -> None:
    """Read the catalogue, which provides the names in the orders and the offers of the shop."""
    with Gateway() as gateway:
        catalogue.read_catalogue(gateway, on_wait=lambda _reading: None)


def place(*, has_simulator: bool) -> list[int]:
    """Place the orders, which the worker then sends; return their primary keys."""
    now = timezone.localtime()
    return [
        place_order(
            product_id=PRODUCT,
            type_id=CARD if has_simulator else line.trial or CARD,
            quantity=line.quantity,
            reference=f"demo-{now:%m%d-%H%M%S}-{line.name}",
            customer_name=line.customer,
            customer_email=line.email,
            customer_phone=line.phone,
            customer_language=line.language,
            sale_price=SALE_PRICE,
            sale_amount=line.quantity * SALE_PRICE,
        ).pk
        for line in LINES
    ]


def shortfalls() -> list[str]:
    """Return the simulator's options for the orders with missing cards."""
    options = []
    for line in LINES:
        if line.delivered < line.quantity:
            options += ["--shortfall", CARD, str(line.quantity), str(line.delivered)]
    return options


def find(keys: Sequence[int]) -> list[Order]:
    return list(Order.objects.filter(pk__in=keys).order_by("pk"))


def are_told(keys: Sequence[int]) -> bool:
    """Return True if a mail was sent to the customer of each order."""
    told = Delivery.objects.filter(order__in=keys, status=DeliveryStatus.SENT)
    return told.values("order").distinct().count() == len(keys)


def card_pages(folder: Path) -> Iterator[str]:
    """Yield two lines for each mail in ``folder`` that links to cards: recipient and link."""
    for mail in mailbox.read(folder):
        if mail.link:
            yield f"  {mail.to}:"
            yield f"    {mail.link}"


class Table:
    """A table of the orders: redrawn in place on a terminal, otherwise one line per change."""

    def __init__(self) -> None:
        self._is_live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._shown: dict[str, tuple[str, ...]] = {}
        print(COLUMNS.format(*HEADINGS))

    def show(self, orders: Iterable[Order]) -> None:
        now = timezone.now()
        rows = [_row(order, now) for order in orders]
        # Lines are truncated, because a wrapped line would break redrawing.
        width = shutil.get_terminal_size().columns - 1
        if self._is_live and self._shown:
            print(f"\x1b[{len(rows)}F", end="")
        for row in rows:
            # A change of the age alone does not count.
            is_changed = self._shown.get(row[0]) != row[:-1]
            self._shown[row[0]] = row[:-1]
            if self._is_live:
                print(f"\x1b[2K{COLUMNS.format(*row)[:width]}")
            elif is_changed:
                print(COLUMNS.format(*row))
        sys.stdout.flush()


def _row(order: Order, now: datetime) -> tuple[str, ...]:
    age = (order.finalized_at or now) - order.created_at
    return (
        order.reference,
        f"{order.quantity} x {order.type_name or order.type_id}",
        order.get_status_display(),
        f"{age.total_seconds():.0f} s",
    )


def breakdowns(orders: Iterable[Order]) -> Iterator[str]:
    """Yield the lines of the refund breakdowns: for each order its amounts, and what is owed."""
    yield f"What became of the money, in {CURRENCY}:"
    yield BREAKDOWN.format("", "ordered", "cost", "credited back", "delivered")
    for order in orders:
        breakdown = refund_breakdown(order)
        if breakdown is None:
            yield f"  {order.reference} is unknown: it is {order.get_status_display()}"
            continue
        yield BREAKDOWN.format(
            order.reference,
            _money(breakdown.ordered_amount),
            _money(breakdown.charged_amount),
            _money(breakdown.refunded_amount),
            f"{order.fulfilled_quantity} of {order.quantity}",
        )
        if not breakdown.is_consistent:
            yield "    The provider's figures contradict each other."
        customer = customer_breakdown(order)
        if customer and customer.open_amount:
            missing, price = order.quantity - order.fulfilled_quantity, _money(order.sale_price)
            owed = _money(customer.open_amount)
            yield f"    The customer is owed {missing} x {price} = {owed}."


def partial_page(orders: Iterable[Order]) -> str:
    """Return the path of the order's page in the admin that the README shows."""
    [partial] = [order for order in orders if order.reference.endswith("-partial")]
    return reverse("admin:giftcards_order_change", args=[partial.pk])


def forecast(changes: Iterable[tuple[int, str, str, int]], *, age: float) -> Iterator[str]:
    """Yield a line for each of the simulator's ``changes`` that is still to come."""
    for after, type_id, what, value in changes:
        if after > age:
            kind = ProductType.objects.filter(type_id=type_id)[0]
            before = kind.cost if what == OfferChange.What.PRICE else kind.stock
            change = _difference(kind, what, before, value)
            yield f"  in {after - age:3.0f} s  {change}"


def noticed() -> Iterator[list[str]]:
    """Yield, each time, a line for each change of an offer that the worker has noticed since."""
    last = 0
    while True:
        # New offers are left out, because they existed when the demo began.
        new = OfferChange.objects.filter(pk__gt=last).exclude(what=OfferChange.What.NEW)
        lines = []
        for change in new.select_related("type").order_by("pk"):
            last = change.pk
            difference = _difference(change.type, change.what, change.old_value, change.new_value)
            shown = "sold out" if change.type.stock == 0 else f"at {_money(change.type.price)}"
            lines.append(
                f"  {timezone.localtime(change.at):%H:%M:%S}  {difference}; on the shelf, {shown}"
            )
        yield lines


def _difference(kind: ProductType, what: str, old: Any, new: Any) -> str:
    if what == OfferChange.What.PRICE:
        old, new = _money(old), _money(new)
    return f"{kind.title}: {what} {new} instead of {old}"


def _money(amount: Decimal | None) -> str:
    return "unknown" if amount is None else f"{amount:.2f}"
