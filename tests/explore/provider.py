"""A provider that misbehaves by a script: two simulated accounts behind a server that lies.

The accounts hold the truth: which orders were bought, charged and delivered. Everything that
reaches the shop may be wrong while a :class:`Spell` lasts.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import ThreadingHTTPServer
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlencode

from giftcards.conf import conf
from giftcards.simulator import Simulator
from giftcards.simulator.account import LEDGER_ODDITIES, OfferChange, Order
from giftcards.simulator.api import Request
from giftcards.simulator.server import Call
from tests.explore.simulation import EPOCH, SILENT, Simulation
from tests.fakes.provider import Handler

#: The type that customers reserve, and its stock at the provider, which orders do not reduce.
SCARCE = {"product_id": "507f1f77bcf86cd799439012", "type_id": "type_101"}
STOCK = 5

Data = dict[str, Any]
REFUNDED = {"status": "REFUNDED", "fulfilled_quantity": 0, "fulfilled_amount": 0, "cards": []}
HTML = b"<html><body>Bad Gateway</body></html>"


@dataclass
class Answer:
    """An answer before it is sent; without a ``body``, the connection is closed instead."""

    status: int
    headers: dict[str, str]
    body: bytes | None
    #: The id of the order that was asked about.
    order_id: str = ""
    is_reset: bool = False

    @property
    def data(self) -> Any:
        """The data in the answer, or ``None`` if there is none."""
        if self.status != 200 or self.body is None:
            return None
        return json.loads(self.body, parse_float=Decimal)["data"]

    def say(self, data: Any) -> None:
        """Replace the data."""
        assert self.body is not None
        envelope = json.loads(self.body) | {"data": data}
        self.body = json.dumps(envelope, default=float).encode()


#: Changes an answer. The provider has already carried out the request, unless the lie is early.
Lie = Callable[["Provider", Random, Answer], None]


@dataclass
class Spell:
    """From ``begins`` to ``ends``, ``lie`` changes at most ``times`` answers to ``step``.

    It is tried with the probability ``odds``, and counts only if it changes the answer. With
    ``is_early``, the provider does not carry out the request.
    """

    step: str
    lie: Lie
    begins: float
    times: int
    random: Random
    is_early: bool = False
    ends: float = float("inf")
    odds: float = 1.0


def close(_provider: Provider, _random: Random, answer: Answer) -> None:
    answer.body = None


def reset(_provider: Provider, _random: Random, answer: Answer) -> None:
    answer.body, answer.is_reset = None, True


def be_silent(_provider: Provider, _random: Random, answer: Answer) -> None:
    """Send nothing until the client gives up."""
    answer.status, answer.headers, answer.body = 200, {SILENT: "yes"}, b""


def fail(status: int, body: bytes = HTML, **headers: str) -> Lie:
    def lie(_provider: Provider, _random: Random, answer: Answer) -> None:
        answer.status, answer.body = status, body
        answer.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    return lie


def refuse(status: int, code: str) -> Lie:
    body = {"success": False, "error": {"code": code, "message": "No."}}
    return fail(status, json.dumps(body).encode())


def halve(_provider: Provider, _random: Random, answer: Answer) -> None:
    """Send the first half of the text."""
    answer.body = answer.body and answer.body[: len(answer.body) // 2]


def name_another(provider: Provider, random: Random, answer: Answer) -> None:
    """Name a different order by either of its ids, or an id that does not exist."""
    if answer.data is None:
        return
    placed = provider.find(answer.data["orderId"])
    others = [each for each in provider.orders.values() if each is not placed]
    names = [name for each in others for name in sorted(provider.names(each))]
    answer.say({"orderId": random.choice([*names, _any_id(random)])})


def show_another(provider: Provider, random: Random, answer: Answer) -> None:
    """Show an order of a different type or quantity, which may be invented."""
    asked = provider.find(answer.order_id)
    if answer.data is None or asked is None:
        return
    line = (asked.type, asked.quantity)
    orders = provider.orders.values()
    others = [provider.show(each) for each in orders if (each.type, each.quantity) != line]
    others.append(provider.show(asked) | {"_id": _any_id(random), "type": "other"} | REFUNDED)
    answer.say(random.choice(others))


def _any_id(random: Random) -> str:
    return f"{random.getrandbits(96):024x}"


def end_otherwise(provider: Provider, _random: Random, answer: Answer) -> None:
    """Report an order as refunded, although the shop knows a different end of it."""
    data = deepcopy(answer.data)
    if data is None:
        return
    for order in data.get("items", [data]):
        known = provider.find(order.get("_id", ""))
        if known is not None and known.id in provider.ends_known:
            order |= REFUNDED
    answer.say(data)


def about_orders(edit: Callable[[Random, Data], None]) -> Lie:
    """Return a lie that changes an order, or each order in a list."""

    def lie(_provider: Provider, random: Random, answer: Answer) -> None:
        data = deepcopy(answer.data)
        if data is None:
            return
        for order in data.get("items", [data]):
            edit(random, order)
        answer.say(data)

    return lie


def go_back(_random: Random, order: Data) -> None:
    """Report the order as still in progress."""
    order["status"] = "HANDLING"


def lose_card(_random: Random, order: Data) -> None:
    order["cards"] = order.get("cards", [])[:-1]


def double_card(_random: Random, order: Data) -> None:
    order["cards"] = [*order.get("cards", []), *order.get("cards", [])[:1]]


def add_card(random: Random, order: Data) -> None:
    """Show one card more than there are."""
    if cards := order.get("cards", []):
        order["cards"] = [*cards, {name: f"MORE-{random.getrandbits(48)}" for name in cards[0]}]


def contradict(random: Random, order: Data) -> None:
    """Report an amount that differs from the cost of the cards."""
    if "fulfilled_amount" in order:
        order["fulfilled_amount"] = float(order["fulfilled_amount"]) + random.choice([-490, 1, 490])


def about_list(edit: Callable[[Random, list[Data]], list[Data]]) -> Lie:
    """Return a lie that changes the rows of the list."""

    def lie(_provider: Provider, random: Random, answer: Answer) -> None:
        data = deepcopy(answer.data)
        if data is not None and "items" in data:
            data["items"] = edit(random, data["items"])
            answer.say(data)

    return lie


def omit(_random: Random, rows: list[Data]) -> list[Data]:
    """Leave out some rows, always the same ones."""
    return [row for row in rows if zlib.crc32(repr(row.get("_id")).encode()) % 3]


def repeat(random: Random, rows: list[Data]) -> list[Data]:
    return rows + rows[: random.randint(1, 3)]


def shift(random: Random, rows: list[Data]) -> list[Data]:
    """Leave out the last rows, as if newer orders had moved them to the next page."""
    return rows[: -random.randint(1, 2)]


def empty(_random: Random, _rows: list[Data]) -> list[Data]:
    return []


def be_blind(provider: Provider, _random: Random, answer: Answer) -> None:
    """Show an empty list if the provider supports references, which reveal a repeated order.

    The list may stay empty for longer than it takes to prove an absence.
    """
    if provider.account.references in {"told", "unique"} and conf.send_reference:
        data = deepcopy(answer.data)
        if data is not None:
            # The app would not believe a list that counts rows without showing them.
            pages = data["pagination"] | {"totalResults": 0, "totalPages": 0}
            answer.say(data | {"items": [], "pagination": pages})


def name_otherwise(random: Random, order: Data) -> None:
    """Report no reference, an invented one, or the right one changed."""
    told = order.pop("orderRef", "")
    made_up = f"OCL-{random.getrandbits(32)}"
    reference = random.choice(["", made_up, told[:20], told.upper()])
    if reference:
        order["orderRef"] = reference


def lag(seconds: float) -> Lie:
    """Return a lie that shows the list as it was some time ago."""

    def lie(provider: Provider, _random: Random, answer: Answer) -> None:
        data = deepcopy(answer.data)
        if data is None:
            return
        until = provider.account._now() - timedelta(seconds=seconds)
        shown = [row for row in data["items"] if _is_older(provider.find(row["_id"]), until)]
        pages = data["pagination"]
        pages["totalResults"] -= len(data["items"]) - len(shown)
        pages["totalPages"] = math.ceil(pages["totalResults"] / pages["pageSize"])
        answer.say(data | {"items": shown})

    return lie


def _is_older(order: Order | None, moment: datetime) -> bool:
    return order is not None and order.created_at < moment


def first_page(provider: Provider, _random: Random, answer: Answer) -> None:
    """Show the first page again, whichever was asked for."""
    data = deepcopy(answer.data)
    if data is not None and provider.first_rows:
        answer.say(data | {"items": provider.first_rows})


#: The possible failures and lies of each step, by name.
LIES: dict[str, tuple[str, Lie, bool]] = {
    "placing: no answer, bought": ("place", close, False),
    "placing: no answer, not bought": ("place", close, True),
    "placing: 502, bought": ("place", fail(502), False),
    "placing: 500, not bought": ("place", refuse(500, "INTERNAL_ERROR"), True),
    "placing: reset, bought": ("place", reset, False),
    "placing: silence, bought": ("place", be_silent, False),
    "placing: silence, not bought": ("place", be_silent, True),
    "placing: half an answer": ("place", halve, False),
    "placing: empty answer": ("place", fail(200, b""), False),
    "placing: 429": ("place", refuse(429, "RATE_LIMIT_EXCEEDED"), True),
    "placing: 429, later": ("place", fail(429, b"", Retry_After="20"), True),
    "placing: the id of another": ("place", name_another, False),
    "placing: no stock": ("place", refuse(400, "OUT_OF_STOCK"), True),
    "check: no answer": ("check", close, True),
    "check: silence": ("check", be_silent, True),
    "check: reset": ("check", reset, True),
    "check: 502": ("check", fail(502), True),
    "check: 429": ("check", fail(429, b"", Retry_After="20"), True),
    "check: unknown": ("check", refuse(404, "NOT_FOUND"), True),
    "check: at work again": ("check", about_orders(go_back), False),
    "check: a card short": ("check", about_orders(lose_card), False),
    "check: a card twice": ("check", about_orders(double_card), False),
    "check: a card too many": ("check", about_orders(add_card), False),
    "check: the answer about another": ("check", show_another, False),
    "check: another end": ("check", end_otherwise, False),
    "check: another amount": ("check", about_orders(contradict), False),
    "check: half an answer": ("check", halve, False),
    "list: no answer": ("list", close, True),
    "list: silence": ("list", be_silent, True),
    "list: HTML": ("list", fail(200), True),
    "list: 500": ("list", refuse(500, "INTERNAL_ERROR"), True),
    "list: rows left out": ("list", about_list(omit), False),
    "list: that of 45 s ago": ("list", lag(45), False),
    # This is shorter than the time that proves an absence.
    "list: that of 100 s ago": ("list", lag(100), False),
    "list: rows twice": ("list", about_list(repeat), False),
    "list: pages shift": ("list", about_list(shift), False),
    "list: the first page again": ("list", first_page, False),
    "list: another end": ("list", end_otherwise, False),
    "list: empty": ("list", about_list(empty), False),
    "list: blind": ("list", be_blind, False),
    "list: other references": ("list", about_orders(name_otherwise), False),
    "list: at work again": ("list", about_orders(go_back), False),
    "list: a card short": ("list", about_orders(lose_card), False),
    "price: 500": ("price", refuse(500, "INTERNAL_ERROR"), True),
    "price: no answer": ("price", close, True),
    "ledger: 502": ("ledger", fail(502), True),
    "ledger: rows left out": ("ledger", about_list(omit), False),
}

_STEPS = {
    "placeOrder": "place",
    "checkProduct": "price",
    "check-order": "check",
    "checkOrder": "check",
    "list": "list",
    "transactions": "ledger",
}


@dataclass
class Provider:
    """The provider, on a port of this machine while it runs.

    ``accounts`` maps API keys to the true accounts; the first key is the shop's. A page has at most
    ``page_size`` rows, and ``usual_page_size`` when nothing goes wrong. ``ends_known`` contains the
    ids of the orders whose end the shop has announced.
    """

    simulation: Simulation
    keys: tuple[str, ...]
    accounts: dict[str, Simulator] = field(init=False)
    spells: list[Spell] = field(default_factory=list)
    usual_page_size: int = 100
    page_size: int = 100
    ends_known: set[str] = field(default_factory=set)
    #: How many delivered cards answers report, by the ids of orders that have more.
    understated: dict[str, int] = field(default_factory=dict)
    first_rows: list[Data] = field(default_factory=list)
    #: When the shop was told to wait, and until when.
    pauses: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.accounts = {key: self._open(key) for key in self.keys}

    def _open(self, key: str) -> Simulator:
        account = Simulator(
            keys=[key], delay=(2, 40), rate_limit=40, clock=lambda: self.simulation.now
        )
        account.offer_changes = [OfferChange(0, SCARCE["type_id"], stock=STOCK)]
        account._time_zero = datetime.fromtimestamp(EPOCH, UTC)
        account._clock_zero = self.simulation.now
        account.reset()
        return account

    @property
    def account(self) -> Simulator:
        """The shop's account."""
        return self.accounts[self.keys[0]]

    @property
    def orders(self) -> dict[str, Order]:
        """The orders of all accounts."""
        return {
            name: order for each in self.accounts.values() for name, order in each.orders.items()
        }

    @property
    def requests(self) -> list[Request]:
        return [request for each in self.accounts.values() for request in each.requests]

    def refund_with_card(self, order_id: str) -> None:
        """Refund an order of the shop's account in full, but keep showing one of its cards."""
        account = self.account
        account.settle(order_id, delivered=max(1, len(account.orders[order_id].cards)))
        order = account._orders[order_id]
        account._add("REFUND-ORDER", order.charged, order.id, at=account._now())
        order.status, order.charged = "REFUNDED", Decimal(0)
        order.refunded = order.quantity * order.price
        self.understated[order_id] = 0

    def deliver_late(self, order_id: str) -> None:
        """Show one more card of a settled order that lacks some, without changing its figures."""
        order = self.account._orders[order_id]
        self.understated.setdefault(order_id, len(order.cards))
        self.account._deliver(order, len(order.cards) + 1)

    def delivered(self, order: Order) -> int:
        """Return the number of delivered cards that answers report."""
        return self.understated.get(order.id, len(order.cards))

    def show(self, order: Order) -> Data:
        """Return the order as an answer shows it."""
        return self.account._show_order(order)

    def names(self, order: Order) -> set[str]:
        """Return the id from the placing answer, and the id from all other answers."""
        return {order.id, self.show(order)["_id"]}

    def find(self, name: str | None) -> Order | None:
        """Return the order with this id, which may be either of its two ids."""
        return next((each for each in self.orders.values() if name in self.names(each)), None)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Answer requests; yield the address."""
        server = _Server(self)
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()

    def be_well(self) -> None:
        """Stop all lies."""
        self.spells.clear()
        self.page_size = self.usual_page_size
        for account in self.accounts.values():
            account.ledger_oddities, account.delay = (), (2, 40)

    def be_odd(self, random: Random) -> None:
        """Keep the ledger in a different way from now on."""
        self.account.ledger_oddities = random.sample(sorted(LEDGER_ODDITIES), 2)

    def answer(self, handler: Handler, body: bytes) -> None:
        """Answer a request over the connection of ``handler``."""
        path, _, query = handler.path.partition("?")
        key = handler.headers.get("X-Access-Token", "")
        call = Call(handler.command, path, query, key, body, handler.client_address[0])
        answer = self._answer(call)
        if answer.body is None:
            handler.close_connection = True
            if answer.is_reset:
                at_once = struct.pack("ii", 1, 0)
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            return
        # The date of this machine is not sent, because the answer contains its own date.
        handler.send_response_only(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        handler.wfile.write(answer.body)

    def _answer(self, call: Call) -> Answer:
        steps = [_STEPS[part] for part in call.path.split("/") if part in _STEPS]
        step = steps[0] if steps else "other"
        spells = [each for each in self.spells if each.step == step and self._is_cast(each)]
        if any(each.is_early for each in spells):
            spells = [each for each in spells if each.is_early]
            answer = Answer(200, {}, b'{"success": true, "data": null}')
        else:
            answer = self._tell(step, call)
        truth = replace(answer)
        for spell in spells:
            spell.lie(self, spell.random, answer)
            if answer != truth:
                spell.times -= 1
                self.simulation.note(f"lie: {spell.step} ({spell.lie.__qualname__})")
                break
        if call.key == self.keys[0] and (wait := answer.headers.get("Retry-After")):
            now = self.simulation.now
            self.pauses.append((now, now + float(wait)))
        return answer

    def _tell(self, step: str, call: Call) -> Answer:
        """Return the true answer."""
        if step in ("list", "ledger"):
            call = self._with_small_pages(call)
        path, _, order_id = call.path.rpartition("/")
        if step == "check" and (known := self.find(order_id)):
            call = replace(call, path=f"{path}/{known.id}")
        answer = Answer(0, {}, None, order_id=order_id)
        if reply := self.accounts.get(call.key, self.account).respond(call):
            answer.status, answer.headers = reply.status, dict(reply.headers)
            answer.body = json.dumps(reply.payload, default=float).encode()
        if self.understated:
            self._understate(answer)
        if step == "list" and answer.data is not None and "page=1&" in call.query:
            self.first_rows = answer.data["items"]
        return answer

    def _understate(self, answer: Answer) -> None:
        """For orders with more cards than are counted, report the lower number beside all cards."""
        data = deepcopy(answer.data) if answer.data else None
        if not isinstance(data, dict):
            return
        for order in data.get("items", [data]):
            known = self.find(order.get("_id"))
            if known is not None and known.id in self.understated:
                order |= {
                    "fulfilled_quantity": self.understated[known.id],
                    "fulfilled_amount": known.charged,
                }
        answer.say(data)

    def _with_small_pages(self, call: Call) -> Call:
        query = {name: values[-1] for name, values in parse_qs(call.query).items()}
        size = min(int(query["pageSize"]), self.page_size)
        return replace(call, query=urlencode(query | {"pageSize": str(size)}))

    def _is_cast(self, spell: Spell) -> bool:
        if not (spell.begins <= self.simulation.now < spell.ends and spell.times > 0):
            return False
        return spell.random.random() < spell.odds


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Processes may die while they wait for an answer.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)
