"""The costs of a report and a download, beside going through the orders one by one.

``python -m benchmarks reports 1000000`` compares both to the centime as well, by everything.
"""

from __future__ import annotations

import csv
import io
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from functools import partial
from itertools import islice
from random import Random
from typing import Any

from django.db import connection
from django.utils import timezone

from benchmarks.stage import say
from giftcards.books.exports import as_csv, order_rows
from giftcards.books.reports import By, Figures, Report, report, settled_between
from giftcards.models import Order
from giftcards.refunds import refund_breakdown
from giftcards.rules.times import today
from giftcards.settlement import customer_breakdown
from giftcards.statuses import Status
from tests.books.random_shop import expected
from tests.builders import build_guide_order
from tests.history import analyze

# So many are a month.
MONTH, DAYS = 100_000, 30
_STATUSES = 90 * [Status.FULFILLED] + 5 * [Status.PARTIALLY_FILLED] + 4 * [Status.REFUNDED]
_STATUSES.append(Status.REJECTED)


def run(*args: str, is_quick: bool) -> None:
    count = next(filter(str.isdecimal, args), "")
    wanted = int(count or (20_000 if is_quick else MONTH))
    began = time.monotonic()
    orders = _orders(wanted, Random(wanted))
    while batch := list(islice(orders, 5_000)):
        Order.objects.bulk_create(batch, batch_size=500)
    analyze()
    name = {"mysql": "MariaDB"}.get(connection.vendor, connection.vendor)
    say(f"{name}: {wanted:,} final orders, made in {time.monotonic() - began:.0f} s")
    end = today()
    month, year = end - timedelta(days=DAYS - 1), end - timedelta(days=365)
    _measure_reports(month, end)
    if wanted > MONTH:
        _measure_reports(year, end)
    _measure_downloads(month, end)
    if count:
        _compare(year, end)


def _orders(count: int, random: Random) -> Iterator[Order]:
    """Orders of twenty denominations that have settled one after the other until now."""
    step = timedelta(days=DAYS) / MONTH
    now = timezone.now()
    for number in range(count):
        finalized_at = now - number * step
        status = random.choice(_STATUSES)
        quantity = random.randint(2, 5)
        price = Decimal(random.choice([490, 980, 1960, 4900]))
        delivered = {Status.FULFILLED: quantity, Status.PARTIALLY_FILLED: 1}.get(status, 0)
        order = build_guide_order(
            status,
            product_id=f"product-{number % 5}",
            type_id=f"type-{number % 4}",
            product_name="PlayStation Network",
            quantity=quantity,
            fulfilled_quantity=delivered,
            # Of a few, the provider has not told everything, or something else.
            price_per_card=random.choice([None, *99 * [price]]),
            fulfilled_amount=random.choice([None, Decimal(1), *98 * [price * delivered]]),
            sale_amount=random.choice([None, *9 * [price * quantity + random.randint(0, 99)]]),
            finalized_at=finalized_at,
            created_at=finalized_at - timedelta(seconds=random.randint(3, 45)),
            customer_name="آمنة بن علي",
            customer_email="amina@example.com",
        )
        _see_to(order, random)
        yield order


def _see_to(order: Order, random: Random) -> None:
    """Some customers were paid back, whole or in part; cards of others were ordered again."""
    owed = order.open_amount
    if not owed:
        return
    match random.randrange(3):
        case 0:
            order.paid_back_amount = random.choice([owed, owed // 2])
            order.open_amount = owed - order.paid_back_amount
        case 1:
            order.reordered_amount, order.open_amount = owed, Decimal(0)


def _measure_reports(start: Any, end: Any) -> None:
    found: dict[By, Report] = {}
    for by in By:
        found[by] = _measured(f"report {start} to {end}, by {by}", partial(report, start, end, by))
    slow = _measured("  one by one", lambda: _one_by_one(start, end))
    assert {by: each.total for by, each in found.items()} == dict.fromkeys(By, slow)


def _one_by_one(start: Any, end: Any) -> Figures:
    """The obvious way: every order is read, and added up."""
    return expected(settled_between(Order.objects.all(), start, end))


def _measure_downloads(start: Any, end: Any) -> None:
    def download() -> int:
        return sum(map(len, as_csv(order_rows(start, end))))

    size = _measured("orders as CSV", download)
    _measured("  from a list of them", lambda: len(_as_one_text(start, end)))
    say(f"  {size / 2**20:.1f} MB of CSV")


def _as_one_text(start: Any, end: Any) -> str:
    """The obvious way: all orders, all columns, one text."""
    text = io.StringIO()
    writer = csv.writer(text)
    for order in list(settled_between(Order.objects.all(), start, end)):
        provider, customer = refund_breakdown(order), customer_breakdown(order)
        writer.writerow(
            [
                order.reference,
                order.group,
                order.finalized_at,
                order.status,
                order.product_id,
                order.type_id,
                order.quantity,
                order.fulfilled_quantity,
                *([provider.charged_amount, provider.refunded_amount] if provider else []),
                *([customer.paid_amount, customer.owed_amount] if customer else []),
            ]
        )
    return text.getvalue()


def _measured(name: str, work: Callable[[], Any]) -> Any:
    """Say how long it takes, and then how much memory, which to measure takes time."""
    began = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - began
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    say(f"{name}: {seconds:.2f} s, {peak:.1f} MB at most")
    return result


def _compare(start: Any, end: Any) -> None:
    """Every identity, to the centime, over all of them."""
    orders = settled_between(Order.objects.all(), start, end)
    wanted = expected(orders.iterator(2_000))
    for by in By:
        found = report(start, end, by)
        assert found.total == sum((row.figures for row in found.rows), Figures()) == wanted, by
    assert wanted.paid_amount == wanted.kept_amount + wanted.owed_amount
    assert wanted.customer_paid_back_amount <= wanted.owed_amount
    whole = orders.filter(is_consistent=True, price_per_card__isnull=False).exclude(
        fulfilled_amount=None
    )
    known = expected(whole.iterator(2_000))
    assert known.unknown == known.contradictory == 0
    assert known.ordered_amount == known.charged_amount + known.refunded_amount
    say(f"{wanted.orders:,} orders: every report is their sum, and every dinar is explained")
