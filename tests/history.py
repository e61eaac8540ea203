"""A shop with a history: many settled orders with their cards and timelines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.db import connection, models, transaction
from django.utils import timezone

from giftcards.books.models import LedgerEntry
from giftcards.conf import conf
from giftcards.delivery.models import CardLink, Delivery, LinkVisit
from giftcards.models import Card, CardReveal, CustomerRefund, Note, Order, OrderTerm, StatusChange
from giftcards.statuses import Status
from giftcards.text.search_terms import TermKind
from tests.builders import build_guide_order

# The tables that grow with a shop.
CORE = (Order, OrderTerm, StatusChange, Card, CardReveal, CustomerRefund, Note, LedgerEntry)
OF_MESSAGES = (Delivery, CardLink, LinkVisit)
# The states of the planner's statistics in which plans are tested. SQLite may have none.
STATISTICS = ["fresh", "none"] if connection.vendor == "sqlite" else ["fresh"]
# The number of orders in a history. SQLite makes the same plans with fewer orders.
ORDERS = 1_000 if connection.vendor == "sqlite" else 3_000
# The share of each final status, in percent.
_SHARES = {Status.REJECTED: 1, Status.REFUNDED: 4, Status.PARTIALLY_FILLED: 5, Status.FULFILLED: 90}
_PATHS = {status: (Status.PLACING, Status.HANDLING, status) for status in _SHARES} | {
    Status.REJECTED: (Status.PLACING, Status.REJECTED)
}
_CARDS = 2
# The number of digits in a reference, a name or an address.
_DIGITS = 10
_INTEGER = {"mysql": "UNSIGNED"}
# The numbers from 1 to `count`, as a table "numbers" with the column "i".
_NUMBERS = {
    "sqlite": (
        "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
        " SELECT i FROM n) numbers"
    ),
    "postgresql": "generate_series(1, {count}) numbers(i)",
    "mysql": "(SELECT seq AS i FROM seq_1_to_{count}) numbers",
}
# SQL for the time that is a number of minutes after another.
_LATER = {
    "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', {start}, '+' || {minutes} || ' minutes')",
    "postgresql": "{start} + {minutes} * interval '1 minute'",
    "mysql": "{start} + INTERVAL {minutes} MINUTE",
}


def add_history(count: int) -> None:
    """Add ``count`` settled orders, one per minute until yesterday.

    Each has two cards and a timeline. The database copies them from one order of each final status,
    which takes a minute for a million. The statistics of the planner are up to date afterwards.
    """
    compact()
    with _patterns(timezone.now() - timedelta(days=1, hours=1, minutes=count)) as statuses:
        _copy_orders(count, statuses)
        # PostgreSQL plans the check of a foreign key only once, and scans a small table completely.
        analyze()
        _copy_changes(statuses)
        _copy_cards(statuses)
    _add_terms()
    analyze()


def add_messages() -> None:
    """Add a message and a used link for each settled order.

    One message in twenty has failed. The statistics of the planner are up to date afterwards.
    """
    order = Order.objects.exclude(finalized_at=None).earliest("pk")
    message = Delivery.objects.create(order=order, kind="delivered", next_attempt_at=None, key="-")
    link = CardLink.objects.create(order=order, origin="message")
    for what in ("opened", "revealed"):
        LinkVisit.objects.create(link=link, what=what)
    orders, settled = Order._meta.db_table, {"order_id": "o.id", "created_at": "o.finalized_at"}
    is_failed = "o.id %% 20 = 0"
    values = {
        "key": _text("past ", "o.id", 10),
        "address": "o.customer_email",
        "status": f"CASE WHEN {is_failed} THEN 'failed' ELSE 'sent' END",
        "failed_at": f"CASE WHEN {is_failed} THEN o.finalized_at END",
    }
    for pattern, more in ((message, values), (link, {"token_hash": values["key"]})):
        source = f"{orders} o JOIN {{table}} p ON p.id = {pattern.pk}"
        _copy(type(pattern), settled | more, f"{source} WHERE o.finalized_at IS NOT NULL")
    links = f"{CardLink._meta.db_table} l JOIN {{table}} p ON p.link_id = {link.pk}"
    at = {"link_id": "l.id", "at": "l.created_at"}
    _copy(LinkVisit, at, f"{links} WHERE l.id <> {link.pk}")
    for pattern in (*link.visits.all(), link, message):
        pattern.delete()
    analyze(*OF_MESSAGES)


def remove_messages() -> None:
    """Remove all messages and links."""
    for model in reversed(OF_MESSAGES):
        model._base_manager.all()._raw_delete(connection.alias)  # type: ignore[attr-defined]


def compact() -> None:
    """Remove from PostgreSQL's indexes what earlier tests have left there.

    Rows that were rolled back leave empty pages, and the planner assumes that a large index is
    slow.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            for model in (*CORE, *OF_MESSAGES):
                cursor.execute(f"VACUUM FULL {model._meta.db_table}")


def analyze(*others: type[models.Model]) -> None:
    """Update the statistics of the planner, as autovacuum does in PostgreSQL.

    This covers the core tables and the ``others``. Do not pass tables that a test leaves empty:
    PostgreSQL scans a table completely if its statistics say that it is empty.
    """
    command = {"mysql": "ANALYZE TABLE", "postgresql": "VACUUM ANALYZE"}.get(
        connection.vendor, "ANALYZE"
    )
    with connection.cursor() as cursor:
        for model in (*CORE, *others):
            cursor.execute(f"{command} {model._meta.db_table}")
    if connection.vendor == "sqlite":
        read_statistics_anew()


@contextmanager
def _patterns(start: object) -> Iterator[dict[Status, Order]]:
    """Yield an order of each final status with cards and changes, and delete them afterwards."""
    patterns: dict[Status, Order] = {}
    for status, path in _PATHS.items():
        sent = {"created_at": start, "sent_at": start, "finalized_at": start}
        order = patterns[status] = build_guide_order(
            status, quantity=_CARDS, **_fitting(status), **sent
        )
        order.save()
        StatusChange.objects.bulk_create(
            StatusChange(
                order=order,
                from_status=origin,
                to_status=target,
                source=StatusChange.Source.CHECK,
                announced_at=start,
                announce_at=None,
                announced_to=[],
            )
            for origin, target in zip((Status.PENDING, *path), path, strict=False)
        )
        Card.objects.bulk_create(
            Card(
                order=order,
                position=position,
                sealed="x" * 200,
                value_fingerprint="-",
                key_fingerprint=conf.keyring().key_fingerprints[0],
            )
            for position in range(1, order.fulfilled_quantity + 1)
        )
    yield patterns
    keys = [order.pk for order in patterns.values()]
    for model in (Card, StatusChange):
        model.objects.filter(order__in=keys).delete()
    Order.objects.filter(pk__in=keys).delete()


def _fitting(status: Status) -> dict[str, int]:
    return {"fulfilled_quantity": 1} if status == Status.PARTIALLY_FILLED else {}


def _copy_orders(count: int, patterns: dict[Status, Order]) -> None:
    minutes = {"minutes": "i"}
    later = _LATER[connection.vendor]
    values = {
        name: later.format(start=f"p.{name}", **minutes)
        for name in ("created_at", "sent_at", "finalized_at")
    }
    values["accepted_at"] = f"CASE WHEN p.accepted_at IS NOT NULL THEN {values['sent_at']} END"
    values["reference"] = _text("shop-", "i", _DIGITS)
    values["customer_email"] = _text("customer-", "i", _DIGITS, "@example.com")
    # One customer in twenty has a different first name.
    names = (_text(f"{name} ", "i", _DIGITS) for name in ("Mohamed", "Amina"))
    values["customer_name"] = "CASE WHEN i %% 20 = 0 THEN {} ELSE {} END".format(*names)
    values["customer_phone"] = _text("+2135", "i", 8)
    recipient = _text("recipient-", "i", _DIGITS, "@example.com")
    values["recipient_email"] = f"CASE WHEN i %% 50 = 3 THEN {recipient} ELSE '' END"
    values["product_id"] = "CASE WHEN i %% 7 < 3 THEN 'product-001' ELSE 'product-002' END"
    values["sale_price"] = "CASE WHEN i %% 4 = 0 THEN 550 END"
    values["sale_amount"] = "CASE WHEN i %% 4 = 0 THEN 550 * p.quantity END"
    owed = "550 * (p.quantity - p.fulfilled_quantity)"
    # The amount paid is known for every fourth order. Half of those orders were paid back.
    values["open_amount"] = f"CASE WHEN i %% 8 = 0 THEN 0 WHEN i %% 4 = 0 THEN {owed} END"
    values["paid_back_amount"] = f"CASE WHEN i %% 8 = 0 THEN {owed} ELSE 0 END"
    values["environment"] = "CASE WHEN i %% 2999 = 0 THEN 'SANDBOX' ELSE 'PRODUCTION' END"
    invoice = _text("invoice-", "i", _DIGITS)
    values["group"] = f"CASE WHEN i %% 2 = 0 THEN {invoice} ELSE '' END"
    values["provider_order_id"] = (
        f"CASE WHEN p.provider_order_id IS NOT NULL THEN {_text('id-', 'i', 20)} END"
    )
    ends, choice = 0, "CASE"
    for status, share in _SHARES.items():
        ends += share
        # This mixes the statuses well, because 37 and 100 have no common factor.
        choice += f" WHEN (i * 37) %% 100 < {ends} THEN {patterns[status].pk}"
    numbers = _NUMBERS[connection.vendor].format(count=count)
    _copy(Order, values, f"{numbers} JOIN {{table}} p ON p.id = {choice} END")


def _add_terms() -> None:
    """Add the search terms of the orders that :func:`_copy_orders` has made."""
    number = f"CAST(SUBSTR(reference, 6) AS {_INTEGER.get(connection.vendor, 'INTEGER')})"
    name = f"SUBSTR(customer_name, 1, LENGTH(customer_name) - {_DIGITS + 1})"
    group = connection.ops.quote_name("group")
    terms = {
        TermKind.REFERENCE: ("reference", "REPLACE(reference, '-', '')"),
        TermKind.NUMBER: (_as_text(number),),
        TermKind.GROUP: (
            group,
            f"REPLACE({group}, '-', '')",
            f"CASE WHEN {group} <> '' THEN {_as_text(number)} END",
        ),
        TermKind.EMAIL: ("customer_email",),
        TermKind.PHONE: ("SUBSTR(customer_phone, 5)",),
        TermKind.NAME: (f"LOWER({name})", _text("", number, _DIGITS)),
        TermKind.RECIPIENT_EMAIL: ("recipient_email",),
        TermKind.PHONE_PART: [
            _between("*", f"SUBSTR(customer_phone, {place})", "") for place in (6, 7, 8)
        ],
    }
    into = f"INSERT INTO {OrderTerm._meta.db_table} (order_id, kind, term)"
    with transaction.atomic(), connection.cursor() as cursor:
        for kind, texts in terms.items():
            for text in texts:
                cursor.execute(
                    f"{into} SELECT id, {int(kind)}, {text} FROM {Order._meta.db_table}"
                    f" WHERE reference LIKE 'shop-%%' AND {text} <> ''",
                    [],
                )


def _copy_changes(patterns: dict[Status, Order]) -> None:
    values = {"order_id": "o.id", "at": "o.sent_at", "announced_at": "o.finalized_at"}
    _copy_rows(StatusChange, values, patterns)


def _copy_cards(patterns: dict[Status, Order]) -> None:
    number = f"o.id * {_CARDS} + p.position"
    values = {
        "order_id": "o.id",
        "identity": _text("", number, 64),
        "value_fingerprint": _text("", number, 64),
        "tail_fingerprint": _text("", f"({number}) %% 10000", 64),
    }
    _copy_rows(Card, values, patterns)


def _copy_rows(
    model: type[models.Model], values: dict[str, str], patterns: dict[Status, Order]
) -> None:
    """Copy the rows of the order with the same status in ``patterns``, for each order."""
    keys = ", ".join(str(order.pk) for order in patterns.values())
    orders = Order._meta.db_table
    _copy(
        model,
        values,
        f"{orders} o JOIN {orders} q ON q.status = o.status AND q.id IN ({keys})"
        f" JOIN {{table}} p ON p.order_id = q.id WHERE o.id NOT IN ({keys})"
        f" AND o.finalized_at IS NOT NULL ORDER BY o.id, p.id",
    )


def _copy(model: type[models.Model], values: dict[str, str], source: str) -> None:
    """Insert copies of the rows ``p`` of ``source``, with some values replaced."""
    table = model._meta.db_table
    columns = [
        field.column
        for field in model._meta.concrete_fields
        if not (field.primary_key or field.generated)
    ]
    quoted = ", ".join(map(connection.ops.quote_name, columns))
    selected = ", ".join(
        values.get(column, f"p.{connection.ops.quote_name(column)}") for column in columns
    )
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({quoted}) SELECT {selected} FROM {source.format(table=table)}",
            [],
        )


def _text(before: str, number: str, digits: int, after: str = "") -> str:
    """Return SQL for a number with leading zeros between two texts."""
    return _between(before, f"LPAD({_as_text(number)}, {digits}, '0')", after)


def _between(before: str, text: str, after: str) -> str:
    """Return SQL for a text between two others."""
    if connection.vendor == "mysql":
        return f"CONCAT('{before}', {text}, '{after}')"
    return f"'{before}' || {text} || '{after}'"


def _as_text(number: str) -> str:
    return f"CAST({number} AS {'CHAR' if connection.vendor == 'mysql' else 'TEXT'})"


def remove_history() -> None:
    """Remove all orders and the rows that belong to them, and update the planner's statistics."""
    for model in (Card, StatusChange, OrderTerm, Order):
        model._base_manager.all()._raw_delete(connection.alias)  # type: ignore[attr-defined]
    analyze()


def forget_statistics() -> None:
    """Delete the statistics of SQLite's planner.

    SQLite has none until somebody requests them, and most sites never do.
    """
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM sqlite_stat1")
    read_statistics_anew()


def read_statistics_anew() -> None:
    """Make SQLite read the planner's statistics again.

    Otherwise, it keeps in memory for good that an index is of no use.
    """
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA writable_schema = RESET")
