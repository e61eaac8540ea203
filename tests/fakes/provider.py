"""A provider that can be told, request by request, how to fail, and keeps a ledger of its own."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

PRICE = 490
KEY = "CANARY-KEY-7f3a9c"
Data = dict[str, Any]


@dataclass
class Bought:
    """One order in the ledger; it settles at once."""

    id: str
    product: str
    type: str
    quantity: int
    created_at: datetime
    delivered: int
    cards: list[Data] = field(repr=False)

    @property
    def charged(self) -> int:
        return self.delivered * PRICE

    @property
    def status(self) -> str:
        partly = "PARTIALLY_FILLED" if self.delivered else "REFUNDED"
        return "FULFILLED" if self.delivered == self.quantity else partly

    def show(self, provider: Provider) -> Data:
        return {
            "_id": provider.prefix + self.id,
            "status": self.status,
            "quantity": self.quantity,
            "fulfilled_quantity": self.delivered,
            "fulfilled_amount": self.charged,
            "price_per_card": PRICE,
            "cards": [dict(card) for card in self.cards],
            "product": self.product,
            "type": self.type,
            "time": (self.created_at + provider.skew).isoformat(timespec="milliseconds"),
        }


class Exchange:
    """One request, and the ways to answer it."""

    def __init__(self, provider: Provider, handler: Handler, step: str, body: bytes) -> None:
        self.provider = provider
        self._handler = handler
        self._step = step
        self._body = body

    def good(self) -> tuple[int, Any]:
        """Carry out the request, and return the answer of a working provider."""
        return self.provider.carry_out(self._step, self._handler.path, self._body)

    def reply(self, status: int, body: Any, *headers: tuple[str, str]) -> None:
        """Send an answer; a ``body`` that is not bytes is sent as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.begin(status, len(raw), *headers)
        self.send(raw)

    def begin(self, status: int, length: int, *headers: tuple[str, str]) -> None:
        self._handler.send_response(status)
        for name, value in headers:
            self._handler.send_header(name, value)
        self._handler.send_header("Content-Length", str(length))
        self._handler.end_headers()

    def send(self, raw: bytes) -> None:
        self._handler.wfile.write(raw)
        self._handler.wfile.flush()

    def close(self) -> None:
        """Close the connection without an answer, and over TLS without a close_notify."""
        self._handler.close_connection = True

    def reset(self) -> None:
        connection = self._handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()
        if isinstance(connection, ssl.SSLSocket):
            with socket.socket(fileno=connection.detach()) as plain:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def garble(self) -> None:
        """Break the TLS layer with bytes that are not a valid TLS record."""
        self.close()
        with socket.socket(fileno=self._handler.connection.detach()) as plain:
            plain.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)

    def wait(self, seconds: float) -> bool:
        return self.provider.stopping.wait(seconds)


Fault = Callable[[Exchange], object]


class Provider:
    """The provider on a port of this machine, as a context manager.

    ``script`` sets how the next requests of a step fail. The steps are ``price``, ``place``,
    ``check``, ``list`` and ``validate``. Faults of orders can be limited to one type.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.skew = timedelta()
        #: The prefix that answers put before an order's id in `_id`.
        self.prefix = ""
        #: By type: how many cards of an order arrive, if not all of them do.
        self.delivers: dict[str, int] = {}
        #: By type: a function that changes the delivered cards.
        self.stock: dict[str, Callable[[list[Data]], list[Data]]] = {}
        self.orders: dict[str, Bought] = {}
        #: The number of placing requests by type, including refused and failed ones.
        self.posts: Counter[str] = Counter()
        self.requests: list[str] = []
        self.stopping = threading.Event()
        self._scripts: dict[str, deque[tuple[str, Fault]]] = {}
        self._lock = threading.Lock()
        self._server = _Server(self, context)
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def script(self, step: str, fault: Fault, times: int = 1, *, type_id: str = "") -> None:
        self._scripts.setdefault(step, deque()).extend([(type_id, fault)] * times)

    def recover(self) -> None:
        """Stop failing."""
        self._scripts.clear()

    def answer(self, handler: Handler, body: bytes) -> None:
        step = self._step(handler)
        if step == "place":
            self.posts[json.loads(body)["typeId"]] += 1
        self.requests.append(step)
        exchange = Exchange(self, handler, step, body)
        if fault := self._next_fault(step, self._type_of(step, handler.path, body)):
            fault(exchange)
        else:
            exchange.reply(*exchange.good())

    def _next_fault(self, step: str, type_id: str) -> Fault | None:
        with self._lock:
            waiting = self._scripts.get(step)
            if not waiting or waiting[0][0] not in ("", type_id):
                return None
            return waiting.popleft()[1]

    def _step(self, handler: Handler) -> str:
        parts = urlsplit(handler.path).path.split("/")[2:]
        assert handler.headers["X-Access-Token"] == KEY
        names = {
            "placeOrder": "place",
            "checkProduct": "price",
            "check-order": "check",
            "checkOrder": "check",
            "list": "list",
        }
        return names.get(parts[1], "unknown") if len(parts) > 1 else parts[0]

    def _type_of(self, step: str, path: str, body: bytes) -> str:
        if step == "place":
            return str(json.loads(body)["typeId"])
        if step == "check":
            order = self.orders.get(path.rpartition("/")[2])
            return order.type if order else ""
        return ""

    def carry_out(self, step: str, path: str, body: bytes) -> tuple[int, Any]:
        with self._lock:
            return getattr(self, f"_{step}")(path, body)  # type: ignore[no-any-return]

    def _price(self, path: str, body: bytes) -> tuple[int, Any]:
        names = ("struck", "other", "one", "two", "three")
        types = [{"id": type_id, "price": PRICE} for type_id in names]
        return _good({"types": types})

    def _validate(self, path: str, body: bytes) -> tuple[int, Any]:
        return _good({"apiKey": {"key": KEY, "isEnabled": True, "type": "SANDBOX"}})

    def _unknown(self, path: str, body: bytes) -> tuple[int, Any]:
        return 404, {"message": "no such path", "statusCode": 404}

    def _place(self, path: str, body: bytes) -> tuple[int, Any]:
        line = json.loads(body)
        order_id = self.buy(line["productId"], line["typeId"], line["quantity"])
        return _good({"orderId": order_id})

    def buy(self, product_id: str, type_id: str, quantity: int) -> str:
        """Enter an order into the ledger; return its id."""
        number = len(self.orders) + 1
        delivered = min(self.delivers.get(type_id, quantity), quantity)
        cards = [
            {"value": f"CANARY-CODE-{number}-{n}", "serial": f"CANARY-SERIAL-{number}-{n}"}
            for n in range(delivered)
        ]
        cards = self.stock.get(type_id, list)(cards)
        made = datetime.now(UTC)
        order = Bought(f"P{number}", product_id, type_id, quantity, made, delivered, cards)
        self.orders[order.id] = order
        return order.id

    def _check(self, path: str, body: bytes) -> tuple[int, Any]:
        order = self.orders.get(path.rpartition("/")[2])
        if order is None:
            return 404, {"success": False, "error": {"code": "NOT_FOUND", "message": ""}}
        return _good(order.show(self))

    def _list(self, path: str, body: bytes) -> tuple[int, Any]:
        query = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
        start, end = (datetime.fromisoformat(query[name]) for name in ("from", "to"))
        shown = [
            order.show(self)
            for order in reversed(self.orders.values())
            if start <= order.created_at + self.skew <= end
        ]
        page, size = int(query["page"]), int(query["pageSize"])
        pagination = {
            "page": page,
            "pageSize": size,
            "totalPages": -(-len(shown) // size),
            "totalResults": len(shown),
        }
        rows = shown[(page - 1) * size : page * size]
        return _good({"items": rows, "pagination": pagination})


def _good(data: Data) -> tuple[int, Data]:
    return 200, {"success": True, "data": data}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, provider: Provider, context: ssl.SSLContext | None) -> None:
        self.provider = provider
        self._context = context
        super().__init__(("127.0.0.1", 0), Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(5)
        if self._context:
            connection = self._context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with contextlib.suppress(OSError):
            request.close()  # not shut down: a reset is to stay one

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError | ValueError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.provider.answer(self, body)

    do_GET = do_POST = _handle

    def log_message(self, *args: object) -> None:
        pass


# Faults


def reply(status: int, body: Any, *headers: tuple[str, str], carried_out: bool = False) -> Fault:
    """Return a fault that gives this answer; with ``carried_out``, the request is done first."""

    def fault(exchange: Exchange) -> None:
        if carried_out:
            exchange.good()
        exchange.reply(status, body, *headers)

    return fault


def refuse(
    status: int, code: str, *headers: tuple[str, str], carried_out: bool = False, **error: Any
) -> Fault:
    error = {"code": code, "message": "No.", **error}
    envelope = {"success": False, "error": error}
    return reply(status, envelope, *headers, carried_out=carried_out)


def change(edit: Callable[[Data], Data | None]) -> Fault:
    """Return a fault that answers as usual, with data changed by ``edit``.

    ``edit`` returns new data, or changes its argument.
    """

    def fault(exchange: Exchange) -> None:
        status, envelope = exchange.good()
        data = envelope.get("data")
        edited = edit(data)
        exchange.reply(status, envelope | {"data": data if edited is None else edited})

    return fault


def give(**values: Any) -> Fault:
    """Return a fault that answers as usual, with some values changed."""
    return change(lambda data: data | values)


def leave_out(*names: str) -> Fault:
    return change(lambda data: {name: data[name] for name in data if name not in names})


def rewrite(edit: Callable[[bytes], bytes]) -> Fault:
    """Return a fault that answers as usual, with the text of the answer changed."""

    def fault(exchange: Exchange) -> None:
        status, envelope = exchange.good()
        exchange.reply(status, edit(json.dumps(envelope).encode()))

    return fault


def say(action: Callable[[Exchange], object], *, carried_out: bool) -> Fault:
    """Return a fault that performs ``action`` instead of answering."""

    def fault(exchange: Exchange) -> None:
        if carried_out:
            exchange.good()
        action(exchange)

    return fault


def silence(exchange: Exchange) -> None:
    exchange.wait(1.2)
    exchange.close()


def drip(exchange: Exchange) -> None:
    """Answer one byte at a time, and never complete the answer."""
    exchange.begin(200, 10_000)
    for byte in _bytes_for_ever():
        if exchange.wait(0.05):
            break
        exchange.send(byte)
    exchange.close()


def _bytes_for_ever() -> Iterator[bytes]:
    for _ in range(40):
        yield b" "


def break_off(exchange: Exchange) -> None:
    """Send only a part of the announced answer."""
    exchange.begin(200, 100)
    exchange.send(b'{"success": true, "data": {"_id": "')
    exchange.close()
