"""One row per fault: what goes wrong, at which step, and how it must end, over real HTTP.

Each order with a fault is among other orders. At the end of each row, the database is compared with
the provider's ledger.
"""

from __future__ import annotations

import gzip
import json
import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone

from giftcards.models import Order, ProviderState
from giftcards.rules.problems import Problem
from giftcards.statuses import FINAL, Status
from tests.builders import problems
from tests.fakes.provider import (
    Data,
    Exchange,
    Fault,
    Provider,
    break_off,
    change,
    drip,
    give,
    leave_out,
    refuse,
    reply,
    rewrite,
    say,
    silence,
)
from tests.faults.ledger import audit
from tests.leaks import logged, traces
from tests.stage import PSN, Log, Setter, ago, fresh, record_order, run_sweep

pytest_plugins = ["tests.fakes.tls", "tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

FOR_EVER = 1_000
HTML = b"<html><body>Bad Gateway</body></html>"
PAUSED_FOR = timedelta(minutes=15)


@dataclass(frozen=True)
class Row:
    """``step`` fails ``times`` times with ``fault``; the order then ends as ``end``.

    ``posts`` is how often it may be sent. ``lost`` means that it is UNCONFIRMED for a while.
    ``also`` lists further faults. ``stops`` means that calls stop at once, until a person resumes
    them. ``over`` lists the ways to the provider on which the row is tried.
    """

    name: str
    step: str
    fault: Fault
    times: int = 1
    end: str = "FULFILLED"
    posts: int = 1
    lost: bool = False
    stops: bool = False
    also: tuple[tuple[str, Fault, int], ...] = ()
    over: tuple[str, ...] = ("http",)
    others: int = 2
    delivers: int = 2
    setup: Callable[[Provider], object] = lambda provider: None
    problem: str = ""
    # The amounts cannot be read: they are unknown, and staff are told.
    is_unpriced: bool = False


def _reset(exchange: Exchange) -> None:
    exchange.reset()


def _close(exchange: Exchange) -> None:
    exchange.close()


def _accept(**values: Any) -> Fault:
    """Return a fault that buys, and answers something other than the order's id."""
    return reply(200, {"success": True, **values}, carried_out=True)


def _data(value: Any) -> Fault:
    return _accept(data=value)


def _text(body: bytes, *headers: tuple[str, str], status: int = 200) -> Fault:
    return reply(status, body, *headers, carried_out=True)


BOTH = ("http", "https")


def placing_is_answered_with_nothing_usable() -> Iterator[Row]:
    """The order was bought, so it is found in the list and never sent again."""
    actions: dict[str, tuple[Callable[[Exchange], object], tuple[str, ...]]] = {
        "silence": (silence, BOTH),
        "drip": (drip, BOTH),
        "close": (_close, BOTH),
        "reset": (_reset, BOTH),
        "half an answer": (break_off, BOTH),
        "garbled TLS": (Exchange.garble, ("https",)),
    }
    for name, (action, over) in actions.items():
        yield Row(name, "place", say(action, carried_out=True), lost=True, over=over)
    redirect = ("Location", "/v3/elsewhere")
    answers = {
        "empty": _text(b""),
        "HTML": _text(HTML),
        "null": _text(b"null"),
        "a list": _text(b"[]"),
        "a number": _text(b"7"),
        "truncated JSON": _text(b'{"success": true, "data": {"orderId": "P'),
        "NaN": _text(b'{"success": true, "data": {"orderId": "P1", "price": NaN}}'),
        "infinite": _text(b'{"success": true, "data": {"orderId": "P1", "x": Infinity}}'),
        "a key twice": _text(b'{"success": true, "data": {"orderId": "P1", "orderId": "P2"}}'),
        "invalid UTF-8": _text(b'{"success": true, "data": {"orderId": "P\xff"}}'),
        "too deep": _text(b'{"success": true, "data": ' + b"[" * 100_000),
        "a number too long": _text(b'{"success": true, "data": {"orderId": ' + b"9" * 5000 + b"}}"),
        "too large": _text(b" " * (2**20 + 1)),
        "a gzip bomb": _text(gzip.compress(b" " * 2**24), ("Content-Encoding", "gzip")),
        "no gzip": _text(b"{}", ("Content-Encoding", "gzip")),
        "no data": _accept(),
        "data null": _data(None),
        "data a list": _data([]),
        "data a text": _data("P1"),
        "no id": _data({}),
        "id null": _data({"orderId": None}),
        "id empty": _data({"orderId": ""}),
        "id a number": _data({"orderId": 7}),
        "id true": _data({"orderId": True}),
        "id too long": _data({"orderId": "P" * 300}),
        "id a path": _data({"orderId": "../validate"}),
        "id with a NUL": _data({"orderId": "P1\0"}),
        "id under another name": _data({"order_id": "P1"}),
        "success a text": reply(
            200, {"success": "true", "data": {"orderId": "P1"}}, carried_out=True
        ),
        "success missing": reply(200, {"data": {"orderId": "P1"}}, carried_out=True),
        "success false": reply(200, {"success": False}, carried_out=True),
        "500": refuse(500, "INTERNAL_ERROR", carried_out=True),
        "503": refuse(503, "SERVICE_UNAVAILABLE", carried_out=True),
        "408": refuse(408, "TIMEOUT", carried_out=True),
        "425": refuse(425, "TOO_EARLY", carried_out=True),
        "403 of a proxy": _text(HTML, status=403),
        "404 of a router": reply(404, {"message": "no", "statusCode": 404}, carried_out=True),
        "302": _text(b"", redirect, status=302),
        "307": _text(b"", redirect, status=307),
        "204": _text(b"", status=204),
    }
    answers |= {
        f"{status} HTML": _text(HTML, status=status) for status in (500, 502, 504, 520, 525)
    }
    for name, fault in answers.items():
        yield Row(name, "place", fault, lost=True)


def placing_bought_nothing_and_says_nothing() -> Iterator[Row]:
    """The order is proven absent after each attempt, and then sent again."""
    for name, action in {"silence": silence, "close": _close, "reset": _reset}.items():
        fault = say(action, carried_out=False)
        yield Row(name, "place", fault, posts=2, lost=True, over=BOTH)
    answers = {
        "500": refuse(500, "INTERNAL_ERROR"),
        "502": reply(502, HTML),
        "403 of a proxy": reply(403, HTML),
        "empty": reply(200, b""),
    }
    for name, fault in answers.items():
        yield Row(name, "place", fault, posts=2, lost=True)
    yield Row("twice", "place", reply(502, HTML), times=2, posts=3, lost=True)


def placing_is_refused() -> Iterator[Row]:
    refusals = {
        "validation": refuse(400, "ERR_VALIDATION", details=["quantity"]),
        "balance": refuse(403, "NO_BALANCE"),
        "balance, otherwise": refuse(403, "INSUFFICIENT_BALANCE"),
        "stock": refuse(400, "OUT_OF_STOCK"),
        "not found": refuse(404, "NOT_FOUND"),
        "conflict": refuse(409, "CONFLICT"),
        "too large": refuse(413, "PAYLOAD_TOO_LARGE"),
        "unprocessable": refuse(422, "WHATEVER"),
        "no code": reply(400, {"success": False, "error": {"message": "No."}}),
        "code a number": reply(400, {"success": False, "error": {"code": 7, "message": "No."}}),
        "balance under 200": refuse(200, "NO_BALANCE"),
        "a long message": refuse(400, "ERR_VALIDATION", message="<b>No!</b> " * 5_000),
        "the key in the message": refuse(400, "ERR_VALIDATION", message="CANARY-KEY-7f3a9c"),
    }
    for name, fault in refusals.items():
        yield Row(name, "place", fault, end="REJECTED")


def placing_is_put_off() -> Iterator[Row]:
    """The provider says that it did nothing, so the order is sent again later."""
    waits = ("0", "7", "3600", "1e9", "999999999", "-5", "soon", "", "9" * 400, "nan")
    dates = ("Tue, 01 Jan 2099 00:00:00 GMT", "Mon, 01 Jan 1990 00:00:00 GMT", "Tue, 99 Foo")
    for wait in (*waits, *dates):
        fault = refuse(429, "RATE_LIMIT_EXCEEDED", ("Retry-After", wait))
        yield Row(f"429, Retry-After {wait[:12]!r}", "place", fault, posts=2)
    yield Row("429", "place", refuse(429, "RATE_LIMIT_EXCEEDED"), posts=2)
    yield Row("429 HTML", "place", reply(429, HTML), posts=2)
    yield Row("429 empty", "place", reply(429, b""), posts=2)
    yield Row("429 three times", "place", reply(429, b""), times=3, posts=4)
    yield Row("429 under 400", "place", refuse(400, "RATE_LIMIT_EXCEEDED"), posts=2)
    later = refuse(503, "AUTH_UNAVAILABLE", ("Retry-After", "5"))
    yield Row("503 before it began", "place", later, posts=2)


def the_key_is_refused() -> Iterator[Row]:
    """One answer stops all calls until a person resumes them."""
    refusals = {
        "wrong": refuse(401, "INVALID_ACCESS_TOKEN", details={"attemptsLeft": 4}),
        "wrong, last attempt": refuse(401, "INVALID_ACCESS_TOKEN", details={"attemptsLeft": 1}),
        "wrong, odd details": refuse(401, "ERR_AUTH", details=["attemptsLeft"]),
        "missing": refuse(401, "MISSING_ACCESS_TOKEN"),
        "401 HTML": reply(401, HTML),
        "blocked": refuse(403, "IP_BLOCKED"),
        "address": refuse(403, "IP_NOT_ALLOWED"),
        "disabled": refuse(403, "API_DISABLED"),
    }
    for name, fault in refusals.items():
        yield Row(name, "place", fault, posts=2, stops=True)
        yield Row(name, "price", fault, stops=True)
        yield Row(name, "check", fault, stops=True)
    yield Row("wrong", "list", refusals["wrong"], stops=True, others=4)


def the_price_is_not_told() -> Iterator[Row]:
    faults = {
        "500": refuse(500, "INTERNAL_ERROR"),
        "404": refuse(404, "NOT_FOUND"),
        "HTML": reply(502, HTML),
        "NaN": reply(
            200, b'{"success": true, "data": {"types": [{"id": "struck", "price": NaN}]}}'
        ),
        "no types": give(types=None),
        "types of nothing": give(types=[None, 7, {}]),
        "negative": give(types=[{"id": "struck", "price": -490}]),
        "a text": give(types=[{"_id": "struck", "price": "490.00"}]),
        "too many decimals": give(types=[{"id": "struck", "price": 490.001}]),
        "silence": say(silence, carried_out=False),
    }
    for name, fault in faults.items():
        yield Row(name, "price", fault)
    # In this case, the order is not sent at first, but later.
    yield Row("429", "price", reply(429, b""))


OUT_OF_RANGE = rewrite(lambda body: body.replace(b"980", b"1e999"))


def a_check_fails() -> Iterator[Row]:
    faults = {
        "500": refuse(500, "INTERNAL_ERROR"),
        "502": reply(502, HTML),
        "503": refuse(503, "SERVICE_UNAVAILABLE"),
        "503 before it began": refuse(503, "AUTH_UNAVAILABLE", ("Retry-After", "5")),
        "429": refuse(429, "RATE_LIMIT_EXCEEDED", ("Retry-After", "7")),
        "404": refuse(404, "NOT_FOUND"),
        "400": refuse(400, "ERR_VALIDATION"),
        "403 of a proxy": reply(403, HTML),
        "302": reply(302, b"", ("Location", "/v3/elsewhere")),
        "HTML": reply(200, HTML),
        "empty": reply(200, b""),
        "null": reply(200, b"null"),
        "too large": reply(200, b" " * (2**20 + 1)),
        "silence": say(silence, carried_out=False),
        "drip": say(drip, carried_out=False),
        "truncated": rewrite(lambda body: body[:-30]),
        "NaN": rewrite(lambda body: body.replace(b"490", b"NaN")),
        "a key twice": rewrite(
            lambda body: body.replace(b'"data": {', b'"data": {"status": "X", ')
        ),
        "invalid UTF-8": rewrite(lambda body: body.replace(b"CANARY-CODE", b"CANARY-CODE\xff")),
        "half a surrogate": rewrite(lambda body: body.replace(b"CANARY-CODE", b"\\ud800CODE")),
        "no data": reply(200, {"success": True}),
        "data a list": reply(200, {"success": True, "data": []}),
    }
    for name, fault in faults.items():
        yield Row(name, "check", fault, posts=1)
    # All cards are there, so the customer does not have to wait.
    yield Row("1e999", "check", OUT_OF_RANGE, problem="figure_unreadable", is_unpriced=True)
    yield Row("404 of a router", "check", reply(404, {"message": "no", "statusCode": 404}))
    twice = {"close": _close, "reset": _reset, "half an answer": break_off}
    for name, action in twice.items():
        yield Row(name, "check", say(action, carried_out=False), times=2, over=BOTH)
    yield Row("garbled", "check", say(Exchange.garble, carried_out=False), times=2, over=BOTH[1:])


def a_check_is_answered_oddly() -> Iterator[Row]:
    """The app uses an odd answer only as far as it is complete, and then the next answer."""
    edits: dict[str, Fault] = {
        "still at it": give(status="HANDLING", cards=[], fulfilled_quantity=0),
        "still at it, a card": change(lambda data: data | _part(data, "HANDLING", 1)),
        "no cards": leave_out("cards"),
        "cards null": give(cards=None),
        "cards empty": give(cards=[]),
        "cards a text": give(cards="CANARY-CODE"),
        "a card is missing": change(lambda data: data | {"cards": data["cards"][:1]}),
        "a card is null": change(lambda data: data | {"cards": [data["cards"][0], None]}),
        "a card is blank": change(
            lambda data: data | {"cards": [data["cards"][0], {"value": " ", "serial": "1"}]}
        ),
        "too few": give(fulfilled_quantity=1),
        "too many": give(fulfilled_quantity=3),
        "too few to mean it": give(fulfilled_quantity=-1),
        "negative amount": give(fulfilled_amount=-980),
        "negative price": give(price_per_card=-490),
        "partly, but all": give(status="PARTIALLY_FILLED"),
        "partly, but none": give(status="PARTIALLY_FILLED", fulfilled_quantity=0, cards=[]),
        "refunded, with cards": give(status="REFUNDED"),
        "refunded, with figures": give(status="REFUNDED", cards=[]),
        "cards in another order": change(lambda data: data | {"cards": data["cards"][::-1]}),
        "status missing": leave_out("status"),
        "another id": give(_id="X1"),
        "no id": leave_out("_id"),
        "numbers as texts": give(
            quantity="2", fulfilled_quantity="2", fulfilled_amount="980.00", price_per_card="490"
        ),
        "numbers with decimals": give(quantity=2.0, fulfilled_amount=980.0),
        "no line": leave_out("product", "type", "time"),
        "bare": leave_out("product", "type", "time", "quantity", "fulfilled_quantity", "_id"),
        "more than was asked": give(extra={"deep": [1, 2, {"x": None}]}),
        "not whole": give(fulfilled_quantity=1.5),
        "time nonsense": give(time="yesterday"),
        "line nonsense": give(product=7, type="\x00", _id={}),
    }
    for status in ("CANCELLED", "fulfilled", "FULFILLED ", 7, None, True, "", "X" * 500):
        edits[f"status {str(status)[:12]!r}"] = give(status=status)
    for name, fault in edits.items():
        yield Row(name, "check", fault)
    # The order does not wait for an amount: it is unknown, and staff are asked.
    amounts = {
        "amount nonsense": give(fulfilled_amount="980 DA"),
        "price of three decimals": give(price_per_card=490.005),
    }
    for name, fault in amounts.items():
        yield Row(name, "check", fault, problem="figure_unreadable", is_unpriced=True)
    # The first answer about a new id concerns a different order. The order's own purchase is found.
    foreign: dict[str, Fault] = {
        "other quantity": give(quantity=3),
        "quantity negative": give(quantity=-2),
        "other product": give(product="another"),
        "other type": give(type="other"),
        "other time": give(time="2025-10-29T01:00:00.000Z"),
        "other line, open": give(type="other", status="HANDLING", cards=[]),
    }
    for name, fault in foreign.items():
        yield Row(name, "check", fault, lost=True)


def _part(data: Data, status: str, count: int) -> Data:
    return {"status": status, "cards": data["cards"][:count], "fulfilled_quantity": count}


def a_check_never_succeeds() -> Iterator[Row]:
    """The order is late after the timeout, a person is told, and no other order suffers."""
    faults = {
        "500": (refuse(500, "INTERNAL_ERROR"), ""),
        "unreadable": (reply(200, b"null"), ""),
        "still at it": (give(status="HANDLING", cards=[], fulfilled_quantity=0), ""),
        "unknown status": (give(status="LOST"), "status_unknown"),
        "a card is missing": (
            change(lambda data: data | {"cards": data["cards"][:1]}),
            "not_whole",
        ),
    }
    for name, (fault, problem) in faults.items():
        yield Row(name, "check", fault, times=FOR_EVER, end="DELAYED", problem=problem)
    # The order is found in the list, and then checked under that id with the same result.
    differs = give(quantity=3)
    late: dict[str, Any] = {"times": FOR_EVER, "end": "DELAYED", "lost": True}
    yield Row("other quantity", "check", differs, problem="quantity_differs", **late)
    # The order is found in the list, and followed there.
    yield Row("404", "check", refuse(404, "NOT_FOUND"), times=FOR_EVER, lost=True)


def the_list_fails() -> Iterator[Row]:
    """The list fails while orders are followed, so each order is checked separately."""

    def rows(edit: Callable[[list[Data]], list[Any]]) -> Fault:
        return change(lambda data: data | {"items": edit(data["items"])})

    def each(**values: Any) -> Fault:
        return rows(lambda items: [item | values for item in items])

    faults: dict[str, Fault] = {
        "500": refuse(500, "INTERNAL_ERROR"),
        "404": refuse(404, "NOT_FOUND"),
        "404 of a router": reply(404, {"message": "no", "statusCode": 404}),
        "403 of a proxy": reply(403, HTML),
        "429": refuse(429, "RATE_LIMIT_EXCEEDED"),
        "HTML": reply(200, HTML),
        "null": reply(200, b"null"),
        "silence": say(silence, carried_out=False),
        "drip": say(drip, carried_out=False),
        "too large": reply(200, b" " * (2**24 + 1)),
        "truncated": rewrite(lambda body: body[:-100]),
        "NaN": rewrite(lambda body: body.replace(b"490", b"NaN")),
        "empty": give(items=[]),
        "no items": leave_out("items"),
        "items null": give(items=None),
        "rows of nothing": give(items=[None, 7, "x", [], {}]),
        "no pagination": leave_out("pagination"),
        "odd pagination": give(pagination={"page": 9, "totalPages": -1, "totalResults": "x"}),
        "a thousand pages": give(pagination={"page": 1, "totalPages": 1000}),
        "three pages": give(pagination={"page": 1, "totalPages": 3}),
        "other ids": rows(lambda items: [i | {"_id": f"X{n}"} for n, i in enumerate(items)]),
        "no ids": rows(lambda items: [{**item, "_id": None} for item in items]),
        "one row left out": rows(lambda items: items[:-1]),
        "each row twice": rows(lambda items: items * 2),
        "a row contradicts itself": rows(
            lambda items: [i | {"status": "REFUNDED", "cards": []} for i in items] + items
        ),
        "without cards": each(cards=[]),
        "with too few cards": rows(lambda items: [i | {"cards": i["cards"][:1]} for i in items]),
        "lagging": each(status="HANDLING", cards=[], fulfilled_quantity=0),
        "unknown status": each(status="LOST"),
        "other quantities": each(quantity=5),
        "numbers as texts": each(quantity="2", fulfilled_amount="980.00"),
    }
    for name, fault in faults.items():
        yield Row(name, "list", fault, others=4)
    yield Row(
        "garbled", "list", say(Exchange.garble, carried_out=False), 2, others=4, over=BOTH[1:]
    )


def the_list_fails_a_lost_order() -> Iterator[Row]:
    """The order was bought, and an incomplete list does not prove that it is absent."""
    lost = say(_close, carried_out=True)

    def looked_for(name: str, fault: Fault, times: int = 2, **values: Any) -> Row:
        return Row(name, "place", lost, lost=True, also=(("list", fault, times),), **values)

    yield looked_for("500", refuse(500, "INTERNAL_ERROR"), 3)
    yield looked_for("404", refuse(404, "NOT_FOUND"), 3)
    yield looked_for("HTML", reply(200, HTML), 3)
    yield looked_for("null", reply(200, b"null"), 3)
    yield looked_for("429", reply(429, b""))
    yield looked_for("silence", say(silence, carried_out=False))
    yield looked_for("truncated", rewrite(lambda body: body[:-50]))
    # The others were accepted at about the same time, and are not shown either.
    yield looked_for("lagging", give(items=[]), 5)
    yield looked_for("page missing", give(items=[], pagination={"totalPages": 2}), 3)
    yield looked_for("same page twice", change(_same_page), 4)
    yield looked_for("rows of nothing", give(items=[None, {}]), 3)
    yield looked_for(
        "clock 5 min", give(), 1, setup=lambda p: setattr(p, "skew", timedelta(minutes=5))
    )


def _same_page(data: Data) -> Data:
    rows = [row for row in data["items"] if row["type"] != "struck"]
    return data | {"items": rows, "pagination": {"totalPages": 2, "totalResults": 3}}


def _shift(provider: Provider) -> None:
    provider.prefix = "X"


def _repeat(provider: Provider) -> None:
    cards = [{"value": f"CANARY-CODE-{n}", "serial": f"CANARY-SERIAL-{n}"} for n in range(2)]
    provider.stock.update(struck=lambda _: cards, other=lambda _: cards)


def odd_deliveries() -> Iterator[Row]:
    """The provider really delivers odd cards: its ledger contains the same ones."""

    def stock(edit: Callable[[list[Data]], list[Data]]) -> Callable[[Provider], object]:
        return lambda provider: provider.stock.update(struck=edit)

    lost = say(_close, carried_out=True)
    nothing = give()
    yield Row("partly", "check", nothing, end="PARTIALLY_FILLED", delivers=1)
    yield Row("not at all", "check", nothing, end="REFUNDED", delivers=0)
    yield Row("partly, lost", "place", lost, end="PARTIALLY_FILLED", delivers=1, lost=True)
    yield Row("not at all, lost", "place", lost, end="REFUNDED", delivers=0, lost=True)
    same = stock(lambda cards: [cards[0]] * len(cards))
    yield Row("the same card twice", "check", nothing, setup=same, problem="cards_repeated")
    sealed = give(status="HANDLING", fulfilled_quantity=1)
    in_parts = "the same card twice, in parts"
    yield Row(in_parts, "check", sealed, setup=same, problem="cards_repeated")
    for step, fault in (("check", nothing), ("list", nothing), ("place", lost)):
        is_lost = step == "place"
        yield Row("other ids everywhere", step, fault, setup=_shift, others=4, lost=is_lost)
        yield Row("the same cards for all", step, fault, setup=_repeat, others=4, lost=is_lost)
    no_serial = stock(lambda cards: [{"value": card["value"]} for card in cards])
    yield Row("no serials", "check", nothing, setup=no_serial)
    null_serial = stock(lambda cards: [card | {"serial": None} for card in cards])
    yield Row("serials null", "check", nothing, setup=null_serial)
    numbers = stock(lambda cards: [{"value": 10**15 + n, "serial": n} for n in range(len(cards))])
    yield Row("numbers for codes", "check", nothing, setup=numbers)
    arabic = stock(lambda cards: [card | {"value": f"رمز-{card['value']}‏"} for card in cards])
    yield Row("codes in Arabic", "check", nothing, setup=arabic)
    spaced = stock(lambda cards: [card | {"value": f" {card['value']}\n"} for card in cards])
    yield Row("codes with spaces", "check", nothing, setup=spaced)
    long = stock(lambda cards: [card | {"value": card["value"] * 100} for card in cards])
    yield Row("very long codes", "check", nothing, setup=long)


GROUPS = [
    placing_is_answered_with_nothing_usable, placing_bought_nothing_and_says_nothing,
    placing_is_refused, placing_is_put_off, the_key_is_refused, the_price_is_not_told,
    a_check_fails, a_check_is_answered_oddly, a_check_never_succeeds, the_list_fails,
    the_list_fails_a_lost_order, odd_deliveries,
]  # fmt: skip
ROWS = [
    pytest.param(row, way, id=f"{group.__name__}: {row.name} [{row.step}, {way}]")
    for group in GROUPS
    for row in group()
    for way in row.over
]


@pytest.fixture
def provider(
    request: pytest.FixtureRequest, settings: Any, shorten: Callable[..., None]
) -> Iterator[Callable[[str], Provider]]:
    with ExitStack() as stack:

        def start(way: str) -> Provider:
            context: ssl.SSLContext | None = None
            if way == "https":
                context = request.getfixturevalue("tls")
            running = stack.enter_context(Provider(context))
            settings.GIFTCARDS = {
                **settings.GIFTCARDS,
                "BASE_URL": running.url,
                "POLL_INTERVAL": 0.1,
                "REQUESTS_PER_MINUTE": 1200,
            }
            shorten(request_timeout=5.0, proof_of_absence=1.0)
            return running

        yield start


@pytest.mark.parametrize(("row", "way"), ROWS)
def test_an_order_struck_by_a_fault_ends_as_its_row_says(
    row: Row,
    way: str,
    provider: Callable[[str], Provider],
    shorten: Callable[..., None],
    caplog: Log,
) -> None:
    running = provider(way)
    if row.name in ("silence", "drip"):
        shorten(request_timeout=0.8)
    row.setup(running)
    running.delivers["struck"] = row.delivers
    for step, fault, times in ((row.step, row.fault, row.times), *row.also):
        type_id = "struck" if step in ("place", "check") else ""
        running.script(step, fault, times, type_id=type_id)
    if row.step == "check":
        # Otherwise, one request for the list would check all orders.
        ProviderState.objects.current()
        ProviderState.objects.update(list_usable_at=ago(-3600))
    struck = _record("struck")
    others = [_record("other") for _ in range(row.others)]
    _open_logs(caplog)
    if row.stops:
        _stop(running)
    _run()
    if row.end == Status.DELAYED:
        Order.objects.filter(pk=struck.pk).update(accepted_at=ago(400))
        _run(rounds=2)
    assert fresh(struck).status == row.end
    found = [problem.code for problem in problems(struck)]
    assert (row.problem in found) if row.problem else (found == [])
    assert struck.changes.filter(to_status=Status.UNCONFIRMED).exists() == row.lost
    assert running.posts == {"struck": row.posts, "other": row.others}
    for order in others:
        assert fresh(order).status == "FULFILLED"
    assert [found for text in logged(caplog) for found in traces(text)] == []
    audit(running, unpriced={struck.pk} if row.is_unpriced else set())


def _open_logs(caplog: Log) -> None:
    """Capture all logs except those of SQL.

    They contain the values of the database, which is searched separately.
    """
    caplog.set_level(logging.INFO, "django.db.backends")
    # The last call also sets the level of the capturing handler.
    for name in ("giftcards", "urllib3", ""):
        caplog.set_level(logging.DEBUG, name or None)


def _record(type_id: str) -> Order:
    return record_order(product_id=PSN, type_id=type_id, quantity=2, reference=None)


def _run(rounds: int = 12) -> None:
    """Sweep until nothing is open, with the waits in between cut short."""
    for _ in range(rounds):
        _pass_time()
        run_sweep()
        pause = ProviderState.objects.current().paused_until
        assert pause is None or pause <= timezone.now() + PAUSED_FOR
        for order in Order.objects.exclude(due_at=None):
            assert order.due_at <= timezone.now() + timedelta(hours=1)
        if not Order.objects.exclude(status__in=FINAL).exists():
            return


def _pass_time() -> None:
    # Within the rounds of a run, an order can be proven absent twice.
    waited = timedelta(seconds=6)
    names = ("sent_at", "accepted_at", "absent_since")
    Order.objects.update(**{name: F(name) - waited for name in names})
    Order.objects.exclude(due_at=None).update(due_at=timezone.now())
    waiting = [ProviderState.Pause.RATE, ProviderState.Pause.OUTAGE]
    ProviderState.objects.filter(pause__in=waiting).update(paused_until=timezone.now())
    # The list is tried again, except in the rows that start without it.
    soon = timezone.now() + timedelta(minutes=30)
    ProviderState.objects.filter(list_usable_at__lte=soon).update(list_usable_at=timezone.now())


def _stop(running: Provider) -> None:
    """Sweep until calls stop; check that no request is made until a person resumes them."""
    while ProviderState.objects.current().paused_because != ProviderState.Pause.ACCESS:
        assert Order.objects.exclude(status__in=FINAL).exists()
        _run(rounds=1)
    made = len(running.requests)
    _run(rounds=3)
    assert len(running.requests) == made
    assert ProviderState.objects.resume()


def test_a_code_in_the_logs_would_be_found(caplog: Log) -> None:
    _open_logs(caplog)
    logging.getLogger("giftcards").debug("CANARY-CODE")
    assert [found for text in logged(caplog) for found in traces(text)]


def _drift() -> Fault:
    """Return a fault as if somebody else's order came in between two pages.

    The last row of a page is missing, and the row before the page appears again.
    """
    seen: list[Data] = []

    def edit(data: Data) -> Data:
        rows = [*seen[-1:], *data["items"]][: len(data["items"])]
        seen.extend(data["items"])
        return data | {"items": rows}

    return change(edit)


@pytest.mark.parametrize("is_lost", [False, True])
def test_orders_settle_though_the_pages_of_the_list_shift(
    is_lost: bool, provider: Callable[[str], Provider], shorten: Setter
) -> None:
    shorten(page_size=2)
    running = provider("http")
    running.script("list", _drift(), 6)
    if is_lost:
        running.script("place", say(_close, carried_out=True), type_id="struck")
    struck = _record("struck")
    orders = [struck, *(_record("other") for _ in range(6))]
    _run()
    for order in orders:
        assert fresh(order).status == "FULFILLED"
    assert running.requests.count("list") > 1
    assert running.posts == {"struck": 1, "other": 6}
    audit(running)


# At -5 minutes, the row is older than the order, although the `Date` header shows the right time.
@pytest.mark.parametrize("minutes", [-60, -15, -5, 15, 60])
def test_a_lost_order_listed_at_another_time_is_left_to_a_person(
    minutes: int, provider: Callable[[str], Provider]
) -> None:
    running = provider("http")
    running.skew = timedelta(minutes=minutes)
    running.script("place", say(_close, carried_out=True), type_id="struck")
    struck, *others = (_record(type_id) for type_id in ("struck", "other", "other", "other"))
    _run()
    assert fresh(struck).status == "UNCONFIRMED"
    assert Problem("choose", {"count": 1}) in problems(struck)
    assert len(struck.candidates) == 1
    for order in others:
        assert fresh(order).status == "FULFILLED"
    assert running.posts == {"struck": 1, "other": 3}


def test_an_outage_delays_orders_and_is_probed_ever_more_rarely(
    provider: Callable[[str], Provider],
) -> None:
    running = provider("http")
    for step in ("price", "place", "check", "list", "validate"):
        running.script(step, reply(503, HTML), FOR_EVER)
    accepted = Order.objects.create(
        product_id=PSN,
        type_id="other",
        quantity=2,
        status=Status.HANDLING,
        provider_order_id="P1",
        sent_at=timezone.now(),
        accepted_at=timezone.now(),
    )
    line = {"productId": PSN, "typeId": "other", "quantity": 2}
    running.carry_out("place", "", json.dumps(line).encode())
    waits = []
    for _ in range(8):
        _pass_time()
        before = len(running.requests)
        run_sweep()
        assert len(running.requests) - before <= 2
        until = ProviderState.objects.current().paused_until
        waits.append((until - timezone.now()).total_seconds())
    assert waits[0] < 2
    assert 10 < waits[-1] <= 19
    assert (fresh(accepted).status, problems(accepted)) == ("HANDLING", [])
    running.recover()
    _run()
    assert fresh(accepted).status == "FULFILLED"
