"""A stand-in for the provider, OneClickDz API v3, over real HTTP: for tests, demos and development.

It needs the standard library only and keeps everything in memory. In a test::

    with Simulator(delay=(0, 0), rate_limit=0) as simulator:
        ...  # point GIFTCARDS["BASE_URL"] at simulator.url
    assert [order.status for order in simulator.orders.values()] == ["FULFILLED"]

On the command line it is ``manage.py giftcards_simulator``. Where the provider's documentation is
silent it had to choose; those choices are listed on the simulator's page of the documentation.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import math
import secrets
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import parse_qs

STOCK = 100_000
SPECIAL_PRICE = Decimal(490)
MAX_BODY = 100 * 1024
_CODE_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
_random = secrets.SystemRandom()


@dataclass(frozen=True, slots=True)
class Denomination:
    """One type of a product; ``price`` in dinar, ``stock`` in cards. Stock is never used up."""

    name: str
    price: Decimal
    stock: int = STOCK


@dataclass(frozen=True, slots=True)
class Product:
    title: str
    region: str
    types: Mapping[str, Denomination]


CATALOGUE: Mapping[str, Product] = {
    "507f1f77bcf86cd799439011": Product(
        "PlayStation Network",
        "DZ",
        {
            "type_001": Denomination("PSN 500 DA", Decimal(490)),
            "type_003": Denomination("PSN 2000 DA", Decimal(1960), stock=0),
        },
    ),
    "507f1f77bcf86cd799439012": Product(
        "Steam",
        "GLOBAL",
        {"type_101": Denomination("Steam 5 USD", Decimal("1250.50"))},
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Special:
    """What ordering one of the :data:`SPECIAL_TYPES` does; the defaults are a normal order.

    ``answer`` is what placing answers: ``lost`` closes the connection after creating the order,
    ``dropped`` closes it before, ``error`` is a 500 after creating it, ``refused`` a 400 before.
    """

    summary: str
    delivers: Literal["all", "half", "none"] = "all"
    settles: Literal["in time", "late", "never"] = "in time"
    answer: Literal["accepted", "lost", "dropped", "error", "refused"] = "accepted"
    grows: bool = False


_NORMAL = Special(summary="is delivered in full")

# Accepted for every product, at SPECIAL_PRICE. The first two are the provider's own.
SPECIAL_TYPES: Mapping[str, Special] = {
    "TEST_REFUND": Special(summary="ends REFUNDED", delivers="none"),
    "TEST_PARTIAL": Special(
        summary="delivers half, rounded down, and ends PARTIALLY_FILLED; one card: REFUNDED",
        delivers="half",
    ),
    "SIM_SLOW": Special(summary="settles after 6 minutes", settles="late"),
    "SIM_NEVER": Special(summary="stays HANDLING", settles="never"),
    "SIM_GROW": Special(summary="shows its cards one by one while HANDLING", grows=True),
    "SIM_LOST": Special(
        summary="creates the order, then closes the connection without an answer", answer="lost"
    ),
    "SIM_ERROR": Special(summary="creates the order, then answers 500", answer="error"),
    "SIM_DROP": Special(
        summary="closes the connection without an answer; there is no order", answer="dropped"
    ),
    "SIM_REJECT": Special(summary="answers 400; there is no order", answer="refused"),
}


@dataclass(frozen=True, slots=True)
class Card:
    value: str = field(repr=False)
    serial: str = field(repr=False)


@dataclass(slots=True)
class Order:
    """One order in the ledger. At any moment ``charged + refunded == quantity * price``.

    ``price`` is that of one card; all amounts are in dinar. ``charged`` is the whole price from
    the moment of placing, as on the provider's account, until settling gives a part back.
    ``settle_at`` is ``None`` for an order that never settles. ``cards`` are those shown so far.
    """

    id: str
    product: str
    type: str
    quantity: int
    price: Decimal
    created_at: datetime
    settle_at: datetime | None
    charged: Decimal
    refunded: Decimal = Decimal(0)
    status: str = "HANDLING"
    cards: tuple[Card, ...] = ()
    special: Special = field(default=_NORMAL, repr=False)

    @property
    def is_settled(self) -> bool:
        return self.status != "HANDLING"


@dataclass(frozen=True, slots=True)
class Request:
    """One request that was answered, without its key, query and body.

    ``at`` is in seconds on the simulator's clock; ``status`` is 0 where the connection was closed
    instead of an answer; ``key_ok`` says whether the request carried a key that is accepted.
    """

    at: float
    method: str
    path: str
    status: int
    key_ok: bool


@dataclass(frozen=True, slots=True)
class Call:
    """An HTTP request as it came; ``key`` is ``""`` where there is none.

    ``body`` may be cut off after ``MAX_BODY + 1`` bytes.
    """

    method: str
    path: str
    query: str
    key: str = field(repr=False)
    body: bytes = field(repr=False)
    address: str

    @property
    def id(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer: the JSON it carries and its headers beyond the usual."""

    status: int
    payload: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


class _Refusal(Exception):
    """An error the provider answers in its envelope."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.error: dict[str, object] = {"code": code, "message": message}
        if details is not None:
            self.error["details"] = details


class _HangUp(Exception):
    """The connection is closed without an answer."""


_Endpoint = Callable[[Call], Mapping[str, Any]]


@dataclass(kw_only=True, eq=False)
class Simulator:
    """The provider. Every option but the first four may be changed while it runs.

    ``port``: 0 takes a free one; after :meth:`start` this is the real one, so that a simulator
    that is stopped and started again comes back at its old address with its old orders.

    ``ssl_context``: a server's context with its certificate; the simulator then speaks TLS only.

    ``opening_balance``: in dinar.

    ``keys``: the accepted API keys; empty accepts every key. ``key_type``: as ``validate`` tells.

    ``delay``: the least and the most seconds in which an order settles; ``slow_delay``: those
    that ``SIM_SLOW`` takes.

    ``rate_limit``: requests a minute for each key, 0 for no limit. ``lockout``: wrong keys after
    which an address is blocked for ``lockout_time`` seconds, 0 for never.

    ``spelling``: which of ``check-order`` and ``checkOrder`` exists. ``has_list``: whether
    ``/v3/gift-cards/list`` does. ``repeat_codes``: the same codes in every order, as in the
    provider's sandbox. ``shifted_ids``: answers show an ``_id`` that is not the order's id, as
    some examples of the provider do. ``outage``: every answer is 503.

    ``clock``: seconds, as from :func:`time.monotonic`; everything that takes time goes by it.
    ``on_request``: called with each :class:`Request`, from the thread that answers it.
    """

    host: str = "127.0.0.1"
    port: int = 0
    ssl_context: ssl.SSLContext | None = None
    opening_balance: Decimal = Decimal(1_000_000)
    keys: Collection[str] = field(default=(), repr=False)
    key_type: Literal["SANDBOX", "PRODUCTION"] = "SANDBOX"
    delay: tuple[float, float] = (3, 45)
    slow_delay: float = 360
    rate_limit: int = 60
    lockout: int = 5
    lockout_time: float = 900
    spelling: Literal["both", "check-order", "checkOrder"] = "both"
    has_list: bool = True
    repeat_codes: bool = False
    shifted_ids: bool = False
    outage: bool = False
    clock: Callable[[], float] = time.monotonic
    on_request: Callable[[Request], None] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError("The port must be from 0 to 65535.")
        if not 0 <= self.delay[0] <= self.delay[1] < math.inf:
            raise ValueError("The delays must not be negative, nor the least above the most.")
        if not 0 <= self.slow_delay < math.inf:
            raise ValueError("The slow delay must not be negative.")
        balance = Decimal(self.opening_balance)
        if not balance.is_finite() or balance < 0:
            raise ValueError("The balance must not be negative.")
        if any(limit < 0 for limit in (self.rate_limit, self.lockout, self.lockout_time)):
            raise ValueError("Limits must not be negative.")
        if not all(self.keys):
            raise ValueError("A key must not be empty.")
        # One lock for everything below: a request is short, and a ledger must not be torn.
        self._lock = threading.RLock()
        self._server: _Server | None = None
        self._thread = threading.Thread()
        self._clock_zero = self.clock()
        self._time_zero = datetime.now(UTC)
        self._orders: dict[str, Order] = {}
        self._due: list[tuple[datetime, str]] = []  # a heap of the open orders that will settle
        self._requests: list[Request] = []
        self._balance = Decimal(0)
        self._transactions: list[tuple[datetime, dict[str, Any]]] = []
        self._recent: dict[str, deque[float]] = {}  # by key: when it was used, oldest first
        self._wrong_keys: dict[str, int] = {}  # by address
        self._blocked_until: dict[str, float] = {}  # by address
        self._next_serial = 100_000_000 + secrets.randbelow(800_000_000)
        self._book("DEPOSIT", balance, "", self._now())

    # Running.

    def start(self) -> Self:
        """Listen and answer in background threads; raise ``OSError`` if the port is not free."""
        if self._server is not None:
            raise RuntimeError("The simulator is running already.")
        self._server = _Server(self)
        self.port = self._server.server_port
        self._thread = threading.Thread(
            # The interval is how long stop() may have to wait.
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.02},
            name="giftcards-simulator",
            daemon=True,
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close every connection, even one that waits for its answer. The ledger stays."""
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address for ``GIFTCARDS["BASE_URL"]``."""
        return f"{'https' if self.ssl_context else 'http'}://{self.host}:{self.port}"

    # The ledger.

    @property
    def orders(self) -> dict[str, Order]:
        """Copies of all orders by id, oldest first, as they are now."""
        with self._lock:
            self._settle_due()
            for order in self._orders.values():
                self._grow(order)
            return {order.id: replace(order) for order in self._orders.values()}

    @property
    def requests(self) -> list[Request]:
        """Every request so far, oldest first."""
        with self._lock:
            return list(self._requests)

    @property
    def balance(self) -> Decimal:
        """In dinar; always ``opening_balance`` less what the orders are charged."""
        with self._lock:
            self._settle_due()
            return self._balance

    def settle(self, order_id: str, *, delivered: int | None = None) -> Order:
        """Settle an open order now, as its type would or with the given number of cards.

        A settled order is left alone; asking for another number of cards is then an error.
        """
        with self._lock:
            order = self._orders[order_id]
            if not order.is_settled:
                if delivered is not None and not len(order.cards) <= delivered <= order.quantity:
                    raise ValueError(f"Order {order_id} cannot deliver {delivered} cards.")
                order.settle_at = self._now()
                self._settle(order, delivered)
            elif delivered not in {None, len(order.cards)}:
                raise ValueError(f"Order {order_id} is settled already.")
            return replace(order)

    # Answering.

    def respond(self, call: Call) -> Reply | None:
        """Answer one request, whatever brought it; ``None``: close the connection instead."""
        request_id = f"req_{secrets.token_hex(8)}"
        reply: Reply | None
        with self._lock:
            self._settle_due()
            try:
                reply = self._answer(call, request_id)
            except _Refusal as refusal:
                payload = {"success": False, "error": refusal.error, "requestId": request_id}
                reply = Reply(refusal.status, payload, refusal.headers)
            except _HangUp:
                reply = None
            status = reply.status if reply else 0
            key_ok = self._accepts(call.key)
            request = Request(self.clock(), call.method, call.path, status, key_ok)
            self._requests.append(request)
        if self.on_request is not None:
            self.on_request(request)
        return reply and replace(reply, headers={"X-Request-Id": request_id, **reply.headers})

    def _answer(self, call: Call, request_id: str) -> Reply:
        if self.outage:
            raise _Refusal(503, "SERVICE_UNAVAILABLE", "The service is unavailable.")
        self._check_address(call.address)
        endpoint = self._route(call)
        if endpoint is None:
            message = f"Cannot {call.method} {call.path}"
            return Reply(404, {"message": message, "error": "Not Found", "statusCode": 404})
        self._check_key(call.key, call.address)
        self._check_rate(call.key)
        if len(call.body) > MAX_BODY:
            raise _Refusal(413, "PAYLOAD_TOO_LARGE", "The request body is too large.")
        payload = {
            "success": True,
            "data": endpoint(call),
            "meta": {"timestamp": _iso(self._now())},
            "requestId": request_id,
        }
        return Reply(200, payload)

    def _route(self, call: Call) -> _Endpoint | None:
        match call.method, *call.path.split("/")[1:]:
            case "GET", "v3", "validate":
                return self._validate
            case "GET", "v3", "account", "balance":
                return self._show_balance
            case "GET", "v3", "account", "transactions":
                return self._list_transactions
            case "GET", "v3", "gift-cards", "catalog":
                return self._catalog
            case "GET", "v3", "gift-cards", "checkProduct", _:
                return self._check_product
            case "POST", "v3", "gift-cards", "placeOrder":
                return self._place_order
            case "GET", "v3", "gift-cards", ("check-order" | "checkOrder") as spelling, _ if (
                self.spelling in {"both", spelling}
            ):
                return self._check_order
            case "GET", "v3", "gift-cards", "list" if self.has_list:
                return self._list_orders
        return None

    # Limits.

    def _accepts(self, key: str) -> bool:
        return bool(key) and (not self.keys or key in self.keys)

    def _check_address(self, address: str) -> None:
        until = self._blocked_until.get(address)
        if until is None:
            return
        if self.clock() < until:
            raise _Refusal(403, "IP_BLOCKED", "Too many failed attempts; the address is blocked.")
        del self._blocked_until[address]

    def _check_key(self, key: str, address: str) -> None:
        if not key:
            raise _Refusal(401, "MISSING_ACCESS_TOKEN", "The access token is missing.")
        if self._accepts(key):
            return
        details = None
        if self.lockout:
            # Whether a right key forgives the wrong ones before it is not documented: it does not.
            wrong = self._wrong_keys[address] = self._wrong_keys.get(address, 0) + 1
            details = {"attemptsLeft": max(0, self.lockout - wrong)}
            if wrong >= self.lockout:
                self._blocked_until[address] = self.clock() + self.lockout_time
                del self._wrong_keys[address]
        message = "The access token is invalid."
        raise _Refusal(401, "INVALID_ACCESS_TOKEN", message, details=details)

    def _check_rate(self, key: str) -> None:
        if not self.rate_limit:
            return
        now = self.clock()
        recent = self._recent.setdefault(key, deque())
        while recent and recent[0] <= now - 60:
            recent.popleft()
        if len(recent) >= self.rate_limit:
            raise _Refusal(
                429,
                "RATE_LIMIT_EXCEEDED",
                f"More than {self.rate_limit} requests in a minute.",
                headers={"Retry-After": str(math.ceil(recent[-self.rate_limit] + 60 - now))},
            )
        recent.append(now)

    # Endpoints. Each returns what stands in ``data``.

    def _validate(self, call: Call) -> Mapping[str, Any]:
        return {
            "username": "+213000000000",
            "apiKey": {
                "key": call.key,
                "isEnabled": True,
                "type": self.key_type,
                "allowedips": [],
                "scope": "READ-WRITE",
            },
        }

    def _show_balance(self, _: Call) -> Mapping[str, Any]:
        return {"balance": self._balance}

    def _list_transactions(self, call: Call) -> Mapping[str, Any]:
        return _page(call.query, self._transactions)

    def _catalog(self, _: Call) -> Mapping[str, Any]:
        products = [
            {"id": product_id, "title": product.title, "enabled": True, "region": product.region}
            for product_id, product in CATALOGUE.items()
        ]
        return {"categories": [{"title": "Gaming", "products": products}]}

    def _check_product(self, call: Call) -> Mapping[str, Any]:
        product = _product(call.id)
        return {
            "productId": call.id,
            "productTitle": product.title,
            "types": [
                {"id": type_id, "name": kind.name, "price": kind.price, "quantity": kind.stock}
                for type_id, kind in product.types.items()
            ],
        }

    def _place_order(self, call: Call) -> Mapping[str, Any]:
        product_id, type_id, quantity = _parse_order(call.body)
        product = _product(product_id)
        special = SPECIAL_TYPES.get(type_id, _NORMAL)
        kind = product.types.get(type_id)
        if type_id in SPECIAL_TYPES:
            kind = Denomination(type_id, SPECIAL_PRICE)
        if kind is None:
            raise _Refusal(404, "NOT_FOUND", "There is no such type.")
        if quantity > kind.stock or special.answer == "refused":
            raise _Refusal(400, "OUT_OF_STOCK", "The type is out of stock.")
        amount = quantity * kind.price
        if amount > self._balance:
            raise _Refusal(403, "INSUFFICIENT_BALANCE", "The balance does not cover the order.")
        if special.answer == "dropped":
            raise _HangUp
        now = self._now()
        order = Order(
            id=_object_id(now),
            product=product_id,
            type=type_id,
            quantity=quantity,
            price=kind.price,
            created_at=now,
            settle_at=self._choose_settle_at(special, now),
            charged=amount,
            special=special,
        )
        self._orders[order.id] = order
        if order.settle_at is not None:
            heapq.heappush(self._due, (order.settle_at, order.id))
        self._book("ORDER", -amount, order.id, now)
        if special.answer == "lost":
            raise _HangUp
        if special.answer == "error":
            raise _Refusal(500, "INTERNAL_ERROR", "Something went wrong.")
        return {"orderId": order.id}

    def _check_order(self, call: Call) -> Mapping[str, Any]:
        order = self._orders.get(call.id)
        if order is None:
            raise _Refusal(404, "NOT_FOUND", "There is no such order.")
        return self._show(order, with_product=not order.is_settled)

    def _list_orders(self, call: Call) -> Mapping[str, Any]:
        rows = [(order.created_at, order) for order in self._orders.values()]
        page = _page(call.query, rows)
        return page | {"items": [self._show(order, with_product=True) for order in page["items"]]}

    # Orders. Callers hold the lock.

    def _now(self) -> datetime:
        """The time of day by the clock, to the millisecond that answers show."""
        now = self._time_zero + timedelta(seconds=self.clock() - self._clock_zero)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def _choose_settle_at(self, special: Special, now: datetime) -> datetime | None:
        if special.settles == "never":
            return None
        late = special.settles == "late"
        return now + timedelta(seconds=self.slow_delay if late else _random.uniform(*self.delay))

    def _settle_due(self) -> None:
        now = self._now()
        while self._due and self._due[0][0] <= now:
            order = self._orders[heapq.heappop(self._due)[1]]
            if not order.is_settled:  # settle() may have been faster
                self._settle(order)

    def _settle(self, order: Order, delivered: int | None = None) -> None:
        if delivered is None:
            by_type = {"all": order.quantity, "half": order.quantity // 2, "none": 0}
            delivered = by_type[order.special.delivers]
        self._deliver(order, delivered)
        if delivered == order.quantity:
            order.status = "FULFILLED"
            return
        order.status = "PARTIALLY_FILLED" if delivered else "REFUNDED"
        order.refunded = (order.quantity - delivered) * order.price
        order.charged -= order.refunded
        self._book("REFUND-ORDER", order.refunded, order.id, order.settle_at or self._now())

    def _grow(self, order: Order) -> None:
        """Show the cards of a ``SIM_GROW`` order that have come by now, evenly over its delay."""
        if order.special.grows and not order.is_settled and order.settle_at is not None:
            part = (self._now() - order.created_at) / (order.settle_at - order.created_at)
            self._deliver(order, int(order.quantity * part))

    def _deliver(self, order: Order, count: int) -> None:
        numbers = range(len(order.cards) + 1, count + 1)
        order.cards += tuple(self._new_card(number) for number in numbers)

    def _new_card(self, number: int) -> Card:
        """Return a card; ``number`` is its place in the order, from 1."""
        if self.repeat_codes:
            return Card(f"SANDBOX-CARD-{number}", f"SANDBOX-{number}")
        groups = ("".join(_random.choices(_CODE_ALPHABET, k=4)) for _ in range(3))
        self._next_serial += 1
        return Card(f"SIM-{'-'.join(groups)}", str(self._next_serial))

    def _show(self, order: Order, *, with_product: bool) -> dict[str, Any]:
        self._grow(order)
        shown: dict[str, Any] = {
            "_id": f"{int(order.id, 16) + 1:024x}" if self.shifted_ids else order.id,
            "status": order.status,
            "quantity": order.quantity,
        }
        if order.is_settled or order.cards:
            shown |= {
                "fulfilled_quantity": len(order.cards),
                "fulfilled_amount": len(order.cards) * order.price,
                "price_per_card": order.price,
                "cards": [{"value": card.value, "serial": card.serial} for card in order.cards],
            }
        if with_product:
            shown |= {"product": order.product, "type": order.type}
        return shown | {"time": _iso(order.created_at)}

    def _book(self, kind: str, change: Decimal, order_id: str, at: datetime) -> None:
        """Change the balance by a signed amount and write the account's transaction."""
        old = self._balance
        self._balance += change
        transaction = {
            "_id": _object_id(at),
            "type": kind,
            "operation": "IN" if change >= 0 else "OUT",
            "amount": abs(change),
            "oldBalance": old,
            "newBalance": self._balance,
            "objid": order_id,
            "note": "",
            "time": _iso(at),
        }
        self._transactions.append((at, transaction))


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _object_id(now: datetime) -> str:
    """Return a fresh id like MongoDB's: 24 hex digits, the first 8 the second of creation."""
    return f"{int(now.timestamp()):08x}{secrets.token_hex(8)}"


def _product(product_id: str) -> Product:
    if product_id not in CATALOGUE:
        raise _Refusal(404, "NOT_FOUND", "There is no such product.")
    return CATALOGUE[product_id]


def _invalid(details: list[str]) -> _Refusal:
    return _Refusal(400, "ERR_VALIDATION", "The request is not valid.", details=details)


def _parse_order(body: bytes) -> tuple[str, str, int]:
    """Return product id, type id and quantity from the body of ``placeOrder``."""
    try:
        order = json.loads(body)
    except (ValueError, RecursionError):
        order = None
    if not isinstance(order, dict):
        raise _invalid(["the body must be a JSON object"])
    details = [
        f"{name} must be a text that is not empty"
        for name in ("productId", "typeId")
        if not isinstance(order.get(name), str) or not order[name]
    ]
    # Not isinstance: to Python, True is an int as well.
    if type(order.get("quantity")) is not int or order["quantity"] < 1:
        details.append("quantity must be a whole number of at least 1")
    if details:
        raise _invalid(details)
    return order["productId"], order["typeId"], order["quantity"]


def _page(query: str, rows: Sequence[tuple[datetime, Any]]) -> dict[str, Any]:
    """Return one page of ``rows``, which stand oldest first with their times: newest first."""
    given = {name: values[-1] for name, values in parse_qs(query).items()}
    details = []
    number, size = given.get("page", "1"), given.get("pageSize", "20")
    if not _is_count(number):
        details.append("page must be a whole number of at least 1")
    if not (_is_count(size) and int(size) <= 100):
        details.append("pageSize must be a whole number from 1 to 100")
    if "from" in given or "to" in given:
        since, until = (_parse_time(given.get(name, "")) for name in ("from", "to"))
        if since is None or until is None:
            details.append("from and to must be ISO 8601 times and come together")
        else:
            rows = [row for row in rows if since <= row[0] <= until]
    if details:
        raise _invalid(details)
    newest_first = [row for _, row in reversed(rows)]
    page, page_size = int(number), int(size)
    start = (page - 1) * page_size
    return {
        "items": newest_first[start : start + page_size],
        "pagination": {
            "page": page,
            "pageSize": page_size,
            "totalPages": math.ceil(len(newest_first) / page_size),
            "totalResults": len(newest_first),
        },
    }


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) < 10 and int(text) >= 1


def _parse_time(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _number(value: Decimal) -> int | float:
    """Turn money into a JSON number, as the provider sends it: 490, 1250.5."""
    return int(value) if value == value.to_integral_value() else float(value)


class _Server(ThreadingHTTPServer):
    """Serves a simulator, and keeps track of its connections so that it can close them."""

    daemon_threads = True
    request_queue_size = 128  # a burst of clients must not wait for TCP to try again

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.connections: dict[socket.socket, threading.Thread] = {}
        super().__init__((simulator.host, simulator.port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks DNS for the name of the host, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.simulator.ssl_context is not None:
            # The handshake comes later, in the connection's own thread: here, a client that says
            # nothing would keep every other one waiting.
            connection = self.simulator.ssl_context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        self.connections[request] = thread
        thread.start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if isinstance(request, ssl.SSLSocket):
            request.do_handshake()
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.connections.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that go away are what a simulator is for; anything else is a bug in it.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        super().server_close()
        # A thread that waits for the next request of a kept connection would answer it.
        for connection, thread in list(self.connections.items()):
            with contextlib.suppress(OSError):  # closed in the meantime
                # Not SSLSocket.shutdown: it takes the TLS layer away from under the thread.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "giftcards-simulator"
    sys_version = ""
    wbufsize = -1  # headers and body leave in one packet
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.send_error(411)
            return
        body, rest = b"", int(length)
        # What is too large is read all the same: a client sees no answer before it has sent all.
        while rest and (chunk := self.rfile.read(min(rest, 65536))):
            rest -= len(chunk)
            body = (body + chunk)[: MAX_BODY + 1]
        if rest:  # the client broke off: what it began to ask for is not done
            self.close_connection = True
            return
        path, _, query = self.path.partition("?")
        key = self.headers.get("X-Access-Token", "")
        call = Call(self.command, path, query, key, body, self.client_address[0])
        reply = self.server.simulator.respond(call)
        if reply is None:
            self.close_connection = True
            return
        content = json.dumps(reply.payload, default=_number).encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _handle  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Nothing: ``Simulator.on_request`` is the log, and it leaves the query out."""
