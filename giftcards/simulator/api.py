"""The simulated API of the provider.

The module implements routes, response envelopes, API keys, limits and faults.
"""

from __future__ import annotations

import math
import random
import secrets
import ssl
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from typing import Any, Literal, Self, TypeVar
from urllib.parse import parse_qs

from giftcards.simulator import paying
from giftcards.simulator.account import Account, NoAnswer, Order, Refusal, Transaction
from giftcards.simulator.bodies import invalid, parse_object
from giftcards.simulator.server import MAX_BODY, Call, Reply, Server

_STATUSES = {
    "ERR_VALIDATION": 400,
    "OUT_OF_STOCK": 400,
    "MISSING_ACCESS_TOKEN": 401,
    "INVALID_ACCESS_TOKEN": 401,
    "IP_BLOCKED": 403,
    "INSUFFICIENT_BALANCE": 403,
    "DUPLICATED_REF": 403,
    "NOT_FOUND": 404,
    "PAYLOAD_TOO_LARGE": 413,
    "RATE_LIMIT_EXCEEDED": 429,
    "INTERNAL_ERROR": 500,
    "SERVICE_UNAVAILABLE": 503,
}
# The default period of a list.
_ALWAYS = {"from": "0001-01-01", "to": "9999-12-31"}
_Data = dict[str, Any]  # the ``data`` of an answer
_Entry = TypeVar("_Entry", Order, Transaction)


@dataclass(frozen=True, slots=True)
class Request:
    """A log entry for a request, without the API key, query string and body.

    ``at`` is the time in seconds on the simulator's clock. ``status`` is 0 if the connection was
    closed without a response. ``key_ok`` is True if the request had a valid key.
    """

    at: float
    method: str
    path: str
    status: int
    key_ok: bool


@dataclass(kw_only=True, eq=False)
class Simulator(Account):
    """The simulated provider as a context manager.

    Invalid options raise :exc:`ValueError`. The documentation describes the options. The options
    can be changed while the simulator runs, except ``host``, ``port``, ``ssl_context`` and
    ``opening_balance``. If an option is a pair of times in seconds, the times are a minimum and a
    maximum.

    If ``port`` is 0, :meth:`start` chooses a free port and stores it. If you stop the simulator and
    start it again, it has the same URL and still contains its orders.

    The simulator takes all times from ``clock``, but ``latency`` passes in real time. A random part
    of ``latency`` passes before the request is counted. ``on_request`` is called in the thread that
    answers the request.
    """

    host: str = "127.0.0.1"
    port: int = 0
    ssl_context: ssl.SSLContext | None = None
    keys: Collection[str] = field(default=(), repr=False)
    key_type: Literal["SANDBOX", "PRODUCTION"] = "SANDBOX"
    rate_limit: int = 60
    lockout: int = 5
    lockout_time: float = 900
    spelling: Literal["both", "check-order", "checkOrder"] = "both"
    has_list: bool = True
    list_delay: float = 0
    shifted_ids: bool = False
    outage: bool = False
    latency: tuple[float, float] = (0, 0)
    on_request: Callable[[Request], None] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError("The port must be from 0 to 65535.")
        if any(limit < 0 for limit in (self.rate_limit, self.lockout, self.lockout_time)):
            raise ValueError("Limits must not be negative.")
        if not self.list_delay >= 0:
            raise ValueError("The delay of the list must not be negative.")
        if not 0 <= self.latency[0] <= self.latency[1] < math.inf:
            raise ValueError(
                "The latencies must not be negative, and the minimum must not exceed the maximum."
            )
        if not all(self.keys):
            raise ValueError("A key must not be empty.")
        self._server: Server | None = None
        super().__post_init__()

    def reset(self) -> None:
        """Return to the initial state, with the same URL and options."""
        with self._lock:
            super().reset()
            self._requests: list[Request] = []
            self._recent: dict[str, deque[float]] = {}  # by key: times of requests, oldest first
            self._wrong_keys: dict[str, int] = {}  # by IP address
            self._blocked_until: dict[str, float] = {}  # by IP address

    # Running.

    def start(self) -> Self:
        """Start answering requests in background threads.

        Raise :exc:`OSError` if the port is in use.
        """
        if self._server is not None:
            raise RuntimeError("The simulator is running already.")
        self._server = Server(self.host, self.port, self.respond, self.ssl_context)
        self.port = self._server.server_port
        return self

    def stop(self) -> None:
        """Close all connections, including those that are waiting for a response.

        Orders are kept.
        """
        if self._server is not None:
            self._server.stop()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The value for ``GIFTCARDS["BASE_URL"]``."""
        return f"{'https' if self.ssl_context else 'http'}://{self.host}:{self.port}"

    # The log.

    @property
    def requests(self) -> list[Request]:
        """All requests so far, oldest first."""
        with self._lock:
            return list(self._requests)

    def forget_requests(self) -> None:
        """Clear the log of requests, but keep their effects, such as rate limits."""
        with self._lock:
            self._requests.clear()

    # Answering.

    def respond(self, call: Call) -> Reply | None:
        """Return the reply to a request.

        The result is ``None`` if the connection must be closed without a response.
        """
        request_id = f"req_{secrets.token_hex(8)}"
        latency = random.uniform(*self.latency)  # noqa: S311 (timing)
        before = random.uniform(0, latency)  # noqa: S311
        time.sleep(before)
        reply: Reply | None
        with self._lock:
            self._settle_due()
            try:
                reply = self._answer(call, request_id)
            except Refusal as refusal:
                reply = _refuse(refusal, request_id)
            except NoAnswer:
                reply = None
            status = reply.status if reply else 0
            key_ok = self._accepts(call.key)
            request = Request(self.clock(), call.method, call.path, status, key_ok)
            self._requests.append(request)
        if self.on_request is not None:
            self.on_request(request)
        time.sleep(latency - before)
        headers = {"Date": format_datetime(self._now(), usegmt=True), "X-Request-Id": request_id}
        return reply and replace(reply, headers=headers | dict(reply.headers))

    def _answer(self, call: Call, request_id: str) -> Reply:
        if self.outage:
            raise Refusal("SERVICE_UNAVAILABLE", "The service is unavailable.")
        if page := self._page_of_link(call):
            return page
        self._check_ip_address(call.address)
        endpoint = self._route(call) or self._route_payments(call)
        if endpoint is None:
            message = f"Cannot {call.method} {call.path}"
            return Reply(404, {"message": message, "error": "Not Found", "statusCode": 404})
        self._check_key(call.key, call.address)
        self._check_rate(call.key)
        if len(call.body) > MAX_BODY:
            raise Refusal("PAYLOAD_TOO_LARGE", "The request body is too large.")
        data, meta = endpoint(), {"timestamp": _iso(self._now())}
        if endpoint == self._show_catalogue:
            meta |= self._count_catalogue()
        payload = {"success": True, "data": data, "meta": meta, "requestId": request_id}
        return Reply(200, payload)

    def _route(self, call: Call) -> Callable[[], _Data] | None:
        spellings = {self.spelling} if self.spelling != "both" else {"check-order", "checkOrder"}
        match call.method, *call.path.split("/")[1:]:
            case "GET", "v3", "validate":
                return partial(self._validate, call.key)
            case "GET", "v3", "account", "balance":
                return self._show_balance
            case "GET", "v3", "account", "transactions":
                return partial(self._show_ledger, call.query)
            case "GET", "v3", "gift-cards", "catalog":
                return self._show_catalogue
            case "GET", "v3", "gift-cards", "checkProduct", product_id:
                return partial(self._show_product, product_id)
            case "POST", "v3", "gift-cards", "placeOrder":
                return partial(self._place_order, call.body)
            case "GET", "v3", "gift-cards", spelling, order_id if spelling in spellings:
                return partial(self._check_order, order_id)
            case "GET", "v3", "gift-cards", "list" if self.has_list:
                return partial(self._show_list, call.query)
        return None

    def _route_payments(self, call: Call) -> Callable[[], _Data] | None:
        match call.method, *call.path.split("/")[1:]:
            case "POST", "v3", "ocpay", "createLink":
                return partial(self._create_link, call.body)
            case "GET", "v3", "ocpay", "checkPayment", ref:
                return partial(self._check_payment, ref)
        return None

    def _page_of_link(self, call: Call) -> Reply | None:
        """Return the reply to a request for a payment page, or ``None``.

        The result is ``None`` for any other request. The requests come from a customer's browser,
        which does not send an API key. They do not count towards the rate limit.
        """
        match call.method, *call.path.split("/")[1:]:
            case "GET", "pay", ref if ref in self._payments:
                return Reply(200, paying.page(self._payment(ref)))
            case "POST", "pay", ref, ("confirm" | "decline") as choice if ref in self._payments:
                with suppress(ValueError):  # the link has expired, or the button was pressed twice
                    self.pay(ref, confirmed=choice == "confirm")
                return paying.way_back(self._payment(ref))
        return None

    # Limits.

    def _accepts(self, key: str) -> bool:
        return bool(key) and (not self.keys or key in self.keys)

    def _check_ip_address(self, address: str) -> None:
        if self.clock() < self._blocked_until.get(address, -math.inf):
            raise Refusal("IP_BLOCKED", "Too many failed attempts; the address is blocked.")

    def _check_key(self, key: str, address: str) -> None:
        if not key:
            raise Refusal("MISSING_ACCESS_TOKEN", "The access token is missing.")
        if self._accepts(key):
            return
        details = None
        if self.lockout:
            # The provider does not document whether an accepted key resets the count. Here, it does
            # not.
            wrong = self._wrong_keys[address] = self._wrong_keys.get(address, 0) + 1
            details = {"attemptsLeft": max(0, self.lockout - wrong)}
            if wrong >= self.lockout:
                self._blocked_until[address] = self.clock() + self.lockout_time
                del self._wrong_keys[address]
        raise Refusal("INVALID_ACCESS_TOKEN", "The access token is invalid.", details=details)

    def _check_rate(self, key: str) -> None:
        if not self.rate_limit:
            return
        now = self.clock()
        recent = self._recent.setdefault(key, deque())
        while recent and recent[0] <= now - 60:
            recent.popleft()
        if len(recent) >= self.rate_limit:
            raise Refusal(
                "RATE_LIMIT_EXCEEDED",
                f"More than {self.rate_limit} requests in a minute.",
                retry_after=math.ceil(recent[-self.rate_limit] + 60 - now),
            )
        recent.append(now)

    # Endpoints.

    def _validate(self, key: str) -> _Data:
        return {
            "username": "+213000000000",
            "apiKey": {
                "key": key,
                "isEnabled": True,
                "type": self.key_type,
                "allowedips": [],
                "scope": "READ-WRITE",
            },
        }

    def _show_balance(self) -> _Data:
        return {"balance": self._balance}

    def _show_catalogue(self) -> _Data:
        categories: dict[str, list[_Data]] = {}
        for product_id, product in self.catalogue.items():
            shown = {"id": product_id, "title": product.title, "region": product.region}
            categories.setdefault(product.category, []).append({**shown, "enabled": True})
        return {
            "categories": [
                {"title": title, "products": products} for title, products in categories.items()
            ]
        }

    def _count_catalogue(self) -> _Data:
        categories = {product.category for product in self.catalogue.values()}
        return {"totalCategories": len(categories), "totalProducts": len(self.catalogue)}

    def _show_product(self, product_id: str) -> _Data:
        product = self._find_product(product_id)
        return {
            "productId": product_id,
            "productTitle": product.title,
            "types": [
                {"id": type_id, "name": kind.name, "price": kind.price, "quantity": kind.stock}
                for type_id, kind in self._types(product_id).items()
                if self.lists_test_types or not type_id.startswith("TEST_")
            ],
        }

    def _create_link(self, body: bytes) -> _Data:
        told = paying.parse(body)
        payment = self._open_payment(told["productInfo"]["amount"], told)
        return {
            "paymentUrl": f"{self.url}/pay/{payment.ref}",
            "paymentRef": payment.ref,
            "paymentLink": {
                **told,
                "ref": payment.ref,
                "isSandbox": self.key_type == "SANDBOX",
                "time": _iso(payment.created_at),
            },
        }

    def _check_payment(self, ref: str) -> _Data:
        if ref not in self._payments:
            raise Refusal("NOT_FOUND", "There is no such payment.")
        payment = self._payment(ref)
        answer: _Data = {
            "status": payment.status,
            "message": f"The payment is {payment.status}.",
            "paymentRef": ref,
        }
        if payment.status == "CONFIRMED":
            answer["transactionDetails"] = {
                "amount": payment.amount,
                "currency": "DZD",
                "isSandbox": self.key_type == "SANDBOX",
                "createdDate": _iso(payment.created_at),
            }
        return answer

    def _place_order(self, body: bytes) -> _Data:
        order = self._place(*_parse_order(body, may_have_reference=self.references != "refused"))
        placed = {"orderId": order.id}
        return placed | {"orderRef": order.reference} if order.reference else placed

    def _show_list(self, query: str) -> _Data:
        now = self._now()
        shown = [
            order
            for order in self._orders.values()
            if (now - order.created_at).total_seconds() >= self.list_delay
        ]
        return _page(query, shown, self._show_order)

    def _check_order(self, order_id: str) -> _Data:
        order = self._orders.get(order_id)
        if order is None:
            raise Refusal("NOT_FOUND", "There is no such order.")
        shown = self._show_order(order)
        if order.is_settled:
            del shown["product"], shown["type"]
        return shown

    def _show_order(self, order: Order) -> _Data:
        self._grow(order)
        shown: _Data = {
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
        if order.reference:
            shown["orderRef"] = order.reference
        return shown | {
            "product": order.product,
            "type": order.type,
            "time": _iso(order.created_at),
        }

    def _show_ledger(self, query: str) -> _Data:
        now = self._now()
        shown = [
            entry
            for entry in self._transactions.values()
            if entry.shown_at is not None and entry.shown_at <= now
        ]
        is_moving = "repeated" in self.ledger_oddities
        return _page(query, shown, self._show_transaction, is_moving=is_moving)

    def _show_transaction(self, entry: Transaction) -> _Data:
        odd = self.ledger_oddities
        row: _Data = {
            "_id": entry.id,
            "type": entry.kind,
            "operation": "IN" if entry.change >= 0 else "OUT",
            "amount": entry.change if "signed" in odd else abs(entry.change),
            "oldBalance": entry.balance - entry.change,
            "newBalance": entry.balance,
            "objid": entry.objid,
            "note": "",
            "time": _iso(entry.created_at),
        }
        if "unsigned" in odd:
            del row["operation"]
        if "no-objid" in odd:
            del row["objid"]
        if "bare" in odd:
            return {name: row[name] for name in ("type", "amount", "time")}
        return row


def _refuse(refusal: Refusal, request_id: str) -> Reply:
    error: _Data = {"code": refusal.code, "message": str(refusal)}
    if refusal.details is not None:
        error["details"] = refusal.details
    headers = {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    payload = {"success": False, "error": error, "requestId": request_id}
    return Reply(_STATUSES[refusal.code], payload, headers)


def _parse_order(body: bytes, *, may_have_reference: bool) -> tuple[str, str, int, str]:
    order = parse_object(body)
    details = [
        f"{name} must be a non-empty string"
        for name in ("productId", "typeId")
        if not isinstance(order.get(name), str) or not order[name]
    ]
    # isinstance() would accept True.
    if type(order.get("quantity")) is not int or order["quantity"] < 1:
        details.append("quantity must be a whole number of at least 1")
    if "ref" in order and not may_have_reference:
        details.append("ref is not allowed")
    elif not isinstance(order.get("ref", ""), str):
        details.append("ref must be a string")
    if details:
        raise invalid(details)
    return order["productId"], order["typeId"], order["quantity"], order.get("ref", "")


def _parse_page(query: str) -> tuple[int, int, datetime, datetime]:
    given = {"page": "1", "pageSize": "20"}
    given |= {name: values[-1] for name, values in parse_qs(query).items()}
    if given.keys().isdisjoint(_ALWAYS):
        given |= _ALWAYS
    first, last = (_parse_time(given.get(name, "")) for name in _ALWAYS)
    details = []
    if not _is_count(given["page"]):
        details.append("page must be a whole number of at least 1")
    if not _is_count(given["pageSize"]) or int(given["pageSize"]) > 100:
        details.append("pageSize must be a whole number from 1 to 100")
    if first is None or last is None:
        raise invalid([*details, "from and to must be ISO 8601 times and must be given together"])
    if details:
        raise invalid(details)
    return int(given["page"]), int(given["pageSize"]), first, last


def _page(
    query: str,
    entries: Iterable[_Entry],
    show: Callable[[_Entry], _Data],
    *,
    is_moving: bool = False,
) -> _Data:
    """Return the requested page of ``entries``, newest entry first.

    ``entries`` are sorted oldest first. ``show`` converts an entry to its form in the response.
    This function is called only for the entries on the page, because a call for a ``SIM_GROW``
    order can deliver cards. If ``is_moving`` is True, each further page begins with the last entry
    of the previous page, as if a new entry had been added in the meantime.
    """
    page, size, first, last = _parse_page(query)
    found = [entry for entry in entries if first <= entry.created_at <= last][::-1]
    moved_by = page - 1 if is_moving and size > 1 else 0
    start = (page - 1) * size - moved_by
    total = len(found) + moved_by
    return {
        "items": [show(entry) for entry in found[start : start + size]],
        "pagination": {
            "page": page,
            "pageSize": size,
            "totalPages": math.ceil(total / size),
            "totalResults": total,
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


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
