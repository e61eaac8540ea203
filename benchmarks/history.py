"""The costs of a long history: the questions of engine and messages, the list, a sweep's memory."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django.utils import timezone

from benchmarks.stage import configure, say
from giftcards.delivery import links
from giftcards.delivery.digest_items import Situation
from giftcards.delivery.models import Delivery
from giftcards.engine.gateway import Gateway
from giftcards.engine.loop import is_work_left
from giftcards.engine.sweep import sweep
from giftcards.models import Card, Order, StatusChange
from giftcards.refunds import refund_breakdown
from giftcards.settlement import customer_breakdown
from giftcards.simulator import Simulator
from giftcards.statuses import FOLLOWED, Status
from giftcards.watch.conditions import Standing
from giftcards.watch.metrics import as_text
from giftcards.watch.overview import count_final_orders
from tests.builders import build_guide_order
from tests.history import add_history, add_messages

# Milliseconds.
QUESTION, FIRST_PAGE, ANY_PAGE = 3, 60, 120
# Of a page of the list, filtered by three things or searched.
QUERIES = 10
Query = dict[str, str]
OPEN = {
    Status.HANDLING: 700,
    Status.DELAYED: 100,
    Status.PENDING: 100,
    Status.UNCONFIRMED: 50,
    Status.PLACING: 50,
}
QUEUED = 20_000
HOUR = timedelta(hours=1)
REPEATS = 15
# At a million on SQLite and PostgreSQL, before there was a bound to it.
BEFORE = {
    "the loop's look for the next due order": "339 / 290",
    "what a sweep has to do": "286 / 4",
    "whether the loop goes on": "169 / 1",
    "renewing 100 claims": "216 / 264",
    "reading claims back": "303 / 216",
    "the list": "94 / 260",
}


class PlainCards(admin.TabularInline):  # type: ignore[type-arg]
    model = Card
    fields = ("position", "received_at")
    readonly_fields = fields
    extra = 0


class PlainChanges(admin.TabularInline):  # type: ignore[type-arg]
    model = StatusChange
    fields = ("from_status", "to_status", "at", "source")
    readonly_fields = fields
    extra = 0


class PlainAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The obvious admin, with the same columns, filters and searches; and a page of an order."""

    # Otherwise, these would be the app's templates, with its search.
    change_list_template = "admin/change_list.html"
    change_form_template = "admin/change_form.html"
    inlines = (PlainCards, PlainChanges)

    list_display = (
        "reference",
        "status",
        "product_name",
        "customer_name",
        "fulfilled_quantity",
        "fulfilled_amount",
        "credited_back",
        "owed",
        "created_at",
    )
    list_filter = (
        "needs_attention",
        "status",
        "product_id",
        "environment",
        "finalized_at",
        "created_at",
    )
    search_fields = (
        "reference",
        "group",
        "provider_order_id",
        "customer_email",
        "customer_phone",
        "customer_name",
    )
    list_per_page = 50

    def credited_back(self, order: Order) -> Any:
        breakdown = refund_breakdown(order)
        return breakdown and breakdown.refunded_amount

    def owed(self, order: Order) -> Any:
        breakdown = customer_breakdown(order)
        return breakdown and breakdown.owed_amount


plain = admin.AdminSite("plain")
plain.register(Order, PlainAdmin)
urlpatterns = [path("admin/", admin.site.urls), path("plain/", plain.urls)]


def run(database: str, *, is_quick: bool) -> None:
    count = 100_000 if is_quick else 1_000_000
    began = time.monotonic()
    with writing_fast():
        add_history(count)
    rows = [
        f"{model.objects.count():,} {name}"
        for model, name in ((Order, "settled orders"), (StatusChange, "changes"), (Card, "cards"))
    ]
    say(f"{database}, {', '.join(rows)}, made in {time.monotonic() - began:.0f} s")
    measure_admin(count)
    measure_order_page()
    with writing_fast():
        add_messages()
    measure_questions(count)
    measure_memory()


@contextmanager
def writing_fast() -> Iterator[None]:
    """SQLite only: without care for what a power cut would leave, and with memory."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA synchronous = OFF")
            cursor.execute("PRAGMA cache_size = -500000")
    yield
    connection.close()


# The engine.


def measure_questions(count: int) -> None:
    say(
        f"the engine's questions: milliseconds, median of {REPEATS}; wanted: {QUESTION} a statement"
    )
    say(f"  with {'none':>9} {'1,000':>9} {'21,000':>9}  orders open")
    figures: dict[str, list[tuple[float, int]]] = {}
    count_final_orders(lambda: True)  # as a worker does once an hour
    for more in (0, sum(OPEN.values()), QUEUED):
        add_changes(add_open(OPEN if 0 < more < QUEUED else {Status.PENDING: more}))
        for name, question in questions(count).items():
            figures.setdefault(name, []).append(cost(question))
    for name, measured in figures.items():
        before = f" (before: {BEFORE[name]})" if name in BEFORE else ""
        statements = max(count for _, count in measured)
        several = f", {statements} statements" if statements > 1 else ""
        mark = " — over" if max(ms for ms, _ in measured) > QUESTION * statements else ""
        columns = " ".join(f"{ms:>9.2f}" for ms, _ in measured)
        say(f"       {columns}  {name}{several}{before}{mark}")
    Order.objects.open().delete()


def add_open(counts: dict[Status, int]) -> list[Order]:
    """Orders that are due."""
    now = timezone.now()
    return Order.objects.bulk_create(
        (
            build_guide_order(
                status,
                sent_at=None if status == Status.PENDING else now,
                due_at=None if status == Status.PLACING else now,
            )
            for status, number in counts.items()
            for _ in range(number)
        ),
        batch_size=1_000,
    )


def add_changes(orders: Iterable[Order]) -> None:
    """A change of each order that nobody has been told of."""
    StatusChange.objects.bulk_create(
        (
            StatusChange(
                order=order,
                from_status=Status.PENDING,
                to_status=order.status,
                source=StatusChange.Source.PLACING,
            )
            for order in orders
        ),
        batch_size=1_000,
    )


def questions(count: int) -> dict[str, Callable[[], Any]]:
    orders, changes, now = Order.objects, StatusChange.objects, timezone.now()
    middle = orders.get(reference=f"shop-{count // 2:010}")
    assert middle.sent_at
    around = middle.sent_at - timedelta(minutes=20), middle.sent_at + timedelta(minutes=20)
    until = now + timedelta(minutes=1)
    handling = orders.open().filter(status=Status.HANDLING).order_by("pk")
    keys = list(handling.values_list("pk", flat=True)[:100])
    orders.filter(pk__in=keys).update(claim="bench", claimed_until=until)
    claimed = list(handling.filter(pk__in=keys))
    names = [f"id-{number:020}" for number in range(1, 101)]
    return {
        "the loop's look for the next due order": lambda: orders.next_due_at(
            [Status.PENDING, *FOLLOWED, Status.UNCONFIRMED], now
        ),
        "whether the loop goes on": is_work_left,
        "what a sweep has to do beside asking": lambda: [
            list(kind[:100])
            for kind in (
                orders.to_send(now),
                orders.abandoned(now),
                orders.to_recover(now),
                orders.overdue(now, accepted_by=now - timedelta(minutes=5)),
            )
        ],
        "100 orders to send": lambda: list(orders.to_send(now)[:100]),
        "100 orders to ask about": lambda: orders.to_check(now=now, due_by=now, limit=100),
        "orders abandoned while they were sent": lambda: list(orders.abandoned(now)),
        "100 lost orders to look for": lambda: list(orders.to_recover(now)[:100]),
        "orders that have not settled in time": lambda: list(
            orders.overdue(now, accepted_by=now - timedelta(minutes=5))
        ),
        "reading claims back": lambda: list(orders.filter(pk__in=keys, claim="bench").order_by()),
        "the orders whose answer was lost": lambda: list(
            orders.open().filter(status=Status.UNCONFIRMED).order_by("sent_at", "pk")
        ),
        "the orders sent within 40 minutes": lambda: list(orders.sent_between(*around)),
        "whose 100 rows of the list are": lambda: list(orders.owners(names)),
        "whose an unknown row is": lambda: orders.known_as(["nobody-s"]).exists(),
        "whether there is something to announce": lambda: changes.to_announce(now).exists(),
        "100 changes to announce": lambda: list(changes.to_announce(now)[:100]),
        "what 100 of their orders have to announce": lambda: list(
            changes.filter(order__in=keys).exclude(announce_at=None).order_by("pk")
        ),
        "an order by its reference": lambda: orders.filter(reference=middle.reference).first(),
        "an order's last change": middle.changes.last,
        "the cards of an order": lambda: list(middle.cards.order_by("position")),
        "a card by its code": lambda: list(Card.objects.with_code("AAAA-BBBB")),
        "whether a message is due": lambda: Delivery.objects.due(now).first(),
        "a link by its token": lambda: links.find("not-a-token"),
        "a digest: what holds": lambda: Situation.judge(Standing()),
        "a scrape of the metrics": as_text,
        "renewing 100 claims": lambda: orders.still_claimed(claimed).update(claimed_until=until),
    }


def cost(question: Callable[[], Any]) -> tuple[float, int]:
    """Milliseconds that the statements of ``question`` and their rows take, and how many they are.

    To make objects of the rows costs the same with any history, and is left out.
    """
    statements: list[tuple[str, Any]] = []

    def keep(execute: Callable[..., Any], sql: str, params: Any, *rest: Any) -> Any:
        statements.append((sql, params))
        return execute(sql, params, *rest)

    with undone(), connection.execute_wrapper(keep):
        question()
    measured = []
    for _ in range(REPEATS):
        with undone(), connection.cursor() as cursor:
            began = time.perf_counter()
            for sql, params in statements:
                cursor.execute(sql, params)
                if cursor.description:
                    cursor.fetchall()
            measured.append((time.perf_counter() - began) * 1_000)
    return statistics.median(measured), len(statements)


@contextmanager
def undone() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


# The admin.


def measure_admin(count: int) -> None:
    settings.ROOT_URLCONF = __name__
    settings.ALLOWED_HOSTS = ["*"]
    browser = Client()
    browser.force_login(get_user_model().objects.create_superuser("bench"))
    say(
        f"the admin's list: milliseconds, best of 5; wanted: {FIRST_PAGE}, and {ANY_PAGE} for any"
        f" other page; {QUERIES} queries"
    )
    say(f"  {'the app':>12} {'a ModelAdmin':>24}")
    for name, (ours, others) in pages(count).items():
        milliseconds, queries = visit(browser, "admin", ours)
        baseline = "                -         "
        if others is not None:
            plain_milliseconds, plain_queries = visit(browser, "plain", others)
            times = plain_milliseconds / milliseconds
            baseline = f"{plain_milliseconds:>8,.0f}, {plain_queries:>2} q {times:>5.1f} ×"
        wanted = FIRST_PAGE if name == "the list" else ANY_PAGE
        before = f" (before: {BEFORE[name]})" if name in BEFORE else ""
        mark = " — over" if milliseconds > wanted or queries > QUERIES else ""
        say(f"  {milliseconds:>6.0f}, {queries:>2} q {baseline}  {name}{before}{mark}")


def measure_order_page() -> None:
    """The page of an order that was partly delivered, out of the middle of the history."""
    browser = Client()
    browser.force_login(get_user_model().objects.get(username="bench"))
    middle = Order.objects.filter(status=Status.PARTIALLY_FILLED).order_by("pk")
    order = middle.filter(pk__gte=Order.objects.latest("pk").pk // 2)[0]
    say(f"the page of an order; wanted: {ANY_PAGE} ms, and no slower than twice a ModelAdmin's")
    address = f"{order.pk}/change/"
    milliseconds, queries = visit(browser, "admin", {}, address)
    others, other_queries = visit(browser, "plain", {}, address)
    mark = " — over" if milliseconds > min(ANY_PAGE, 2 * others) else ""
    say(f"  {milliseconds:>6.0f}, {queries:>2} q {others:>8,.0f}, {other_queries:>2} q{mark}")


def pages(count: int) -> dict[str, tuple[Query, Query | None]]:
    """The addresses of our list and of the plain one, which has no filter for what is owed."""
    now = timezone.now()

    def within(column: str, days: int) -> Query:
        since = str(now - timedelta(days=days))
        return {f"{column}__gte": since, f"{column}__lt": str(now)}

    week = within("created_at", 7)
    # They sort by the same column.
    same: dict[str, Query] = {
        "the list": {},
        "its page 200": {"p": "200"},
        "the oldest first": {"o": "9"},
        "with facets": {"_facets": "True"},
        "status REFUNDED": {"status__exact": "REFUNDED"},
        "status FULFILLED, page 200": {"status__exact": "FULFILLED", "p": "200"},
        "status DELAYED: none": {"status__exact": "DELAYED"},
        "product": {"product_id": "product-001"},
        "product, page 200": {"product_id": "product-001", "p": "200"},
        "sandbox: few": {"environment__exact": "SANDBOX"},
        "production: nearly all": {"environment__exact": "PRODUCTION"},
        "production, status DELAYED: none": {
            "environment__exact": "PRODUCTION",
            "status__exact": "DELAYED",
        },
        "product, production, status REFUNDED": {
            "product_id": "product-001",
            "environment__exact": "PRODUCTION",
            "status__exact": "REFUNDED",
        },
        "settled today": within("finalized_at", 1),
        "settled this year": within("finalized_at", 360),
        "settled this year, page 200": {**within("finalized_at", 360), "p": "200"},
        "settled this year, REFUNDED": {
            **within("finalized_at", 360),
            "status__exact": "REFUNDED",
        },
        "settled this month, product": {
            **within("finalized_at", 30),
            "product_id": "product-001",
        },
        "of this week": week,
        "of this week, REFUNDED": {**week, "status__exact": "REFUNDED"},
        "search: one order": {"q": f"shop-{count // 2:010}"},
        "search: the beginning of one e-mail": {"q": f"customer-{count // 2:010}@"},
        "search: the beginning of one phone": {"q": f"+213{count // 2:010}"[:-1]},
        "search: one name, in small letters": {"q": f"amina {count // 2:010}"},
        "search: the beginning of 100": {"q": f"shop-{count // 2:010}"[:-2]},
        "search: the beginning of all": {"q": "shop-"},
        "search: nothing": {"q": "nothing-like-this"},
    }
    owed = {"refund": "owed"}
    return {
        **{name: (query, query) for name, query in same.items()},
        "to do: none": ({"attention": "needed"}, {"needs_attention__exact": "1"}),
        "owed to the customer": (owed, None),
        "owed to the customer, page 20": ({**owed, "p": "20"}, None),
        "owed to the customer, of this week": ({**owed, **week}, None),
        "owed to the customer, product": ({**owed, "product_id": "product-001"}, None),
    }


def visit(browser: Client, site: str, query: Query, page: str = "") -> tuple[float, int]:
    """Milliseconds and queries of a page: the best of five, because noise only adds."""
    address = f"/{site}/giftcards/order/{page}"
    measured: list[float] = []
    for _ in range(5):
        if measured and measured[0] > 1_000:
            break
        began = time.perf_counter()
        response = browser.get(address, query)
        measured.append((time.perf_counter() - began) * 1_000)
        assert response.status_code == 200, response
    with CaptureQueriesContext(connection) as queries:
        browser.get(address, query)
    return min(measured), len(queries)


# Memory.


def measure_memory() -> None:
    """A sweep that can send some of the orders that wait; the rest has to wait."""
    peaks: dict[int, float] = {}
    with Simulator(rate_limit=0) as simulator:
        configure(BASE_URL=simulator.url, REQUESTS_PER_MINUTE=30)
        # The first one loads what is loaded once.
        for queued in (20, 200, QUEUED):
            add_open({Status.PENDING: queued})
            with Gateway() as gateway:
                peaks[queued] = peak(partial(sweep, gateway))
            if queued < QUEUED:
                Order.objects.open().delete()
    everything = peak(lambda: list(Order.objects.to_send(timezone.now())))
    say(
        f"memory of a sweep: {peaks[200]:.1f} MB at most with 200 orders that wait,"
        f" {peaks[QUEUED]:.1f} MB with {QUEUED:,}; to read all of these: {everything:.1f} MB"
    )


def peak(work: Callable[[], Any]) -> float:
    tracemalloc.start()
    work()
    used = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return used
