"""A simulated provider ledger, whose pages can be wrong in any way that a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import responses

from giftcards.books.models import LedgerEntry, LedgerState
from giftcards.books.reading import LedgerReading, read_ledger
from giftcards.engine.gateway import Gateway
from giftcards.models import Order
from giftcards.rules.times import begin_of, today
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.stage import PROVIDER

URL = f"{PROVIDER}/v3/account/transactions"
# Most tests book around this moment: yesterday, far from the ends of the day.
NOON = begin_of(today() - timedelta(days=1)).astimezone(UTC) + timedelta(hours=12)

Row = dict[str, Any]


def at(seconds: float) -> datetime:
    """Return the moment ``seconds`` after :data:`NOON`."""
    return NOON + timedelta(seconds=seconds)


def row(
    kind: str, amount: Any, time: datetime, *, name: str = "", objid: str = "", **more: Any
) -> Row:
    """Return a row as the provider might show it, without values that were not given."""
    shown = {"_id": name, "objid": objid, **more}
    return {
        "type": kind,
        "amount": amount,
        "time": time.isoformat(timespec="milliseconds"),
        **{key: value for key, value in shown.items() if value != ""},
    }


def ledger_state() -> LedgerState:
    """Return the state of the ledger's reading."""
    return LedgerState.objects.get()


def note_ledger(**values: Any) -> None:
    """Save these values in the state of the ledger's reading."""
    LedgerState.objects.update_or_create(pk=1, defaults=values)


@dataclass
class Books:
    """The rows, which the pages show newest first, and hooks that make the pages wrong."""

    rows: list[Row] = field(default_factory=list)
    # Functions that change the rows of a page, given its number, and the provider's count of all
    # rows.
    change_page: Callable[[int, list[Row]], list[Row]] = lambda _page, rows: rows
    change_count: Callable[[int], int | None] = lambda count: count
    # A function that is called with the number of each page before the page is shown.
    on_page: Callable[[int], None] = lambda _page: None
    pages_shown: list[int] = field(default_factory=list)

    def book(self, *args: Any, balance: Decimal | None = None, **more: Any) -> Row:
        booked = row(*args, **more)
        self.rows.append(booked)
        return booked

    def answer(self, request: Any) -> tuple[int, dict[str, str], str]:
        query = {name: values[0] for name, values in parse_qs(urlsplit(request.url).query).items()}
        first, last = (datetime.fromisoformat(query[name]) for name in ("from", "to"))
        page, size = int(query["page"]), int(query["pageSize"])
        self.pages_shown.append(page)
        self.on_page(page)
        found = [one for one in self.rows if first <= datetime.fromisoformat(one["time"]) <= last]
        found.sort(key=lambda one: str(one["time"]), reverse=True)
        items = self.change_page(page, found[(page - 1) * size : page * size])
        count = self.change_count(len(found))
        pagination = {} if count is None else {"totalPages": -(-count // size)}
        if count is not None:
            pagination["totalResults"] = count
        data = {"items": items, "pagination": pagination}
        return 200, {}, json.dumps({"success": True, "data": data}, default=float)

    def open(self, wire: responses.RequestsMock) -> None:
        wire.add_callback("GET", URL, self.answer)


def read(since: date | None = None, **options: Any) -> LedgerReading:
    """Read the whole ledger, and fail if the reading has to wait."""

    def fail(reading: LedgerReading) -> None:
        raise AssertionError(f"it waits: {reading}")

    with Gateway() as gateway:
        return read_ledger(gateway, since=since, **{"on_wait": fail, **options})


def ordered(status: Status = Status.HANDLING, **values: Any) -> Order:
    """Make the guide's order, which is sent and accepted at :data:`NOON` by default."""
    times = {"created_at": NOON, "sent_at": NOON, "accepted_at": NOON}
    return make_guide_order(status, **{**times, **values})


def partly_delivered(**values: Any) -> Order:
    """Make an order of which 3 of 5 cards at 490 DA came: 980 DA are promised back.

    It settles ten seconds after it was sent.
    """
    given = {"finalized_at": at(10), "fulfilled_amount": 1470}
    return ordered(Status.PARTIALLY_FILLED, **{**given, **values})


def matches() -> dict[str, tuple[str | None, bool]]:
    """Return the reference of each entry's order, and whether the match is a guess."""
    entries = LedgerEntry.objects.select_related("order")
    return {
        entry.provider_id: (entry.order and entry.order.reference, entry.is_guess)
        for entry in entries
    }
