"""The provider's API: one client, answers as frozen dataclasses, errors by what to do next.

What leaves here is an answer of :mod:`giftcards.parsing` or a
:exc:`~giftcards.exceptions.ProviderError`, and neither carries the API key or the body of a reply.
To keep them out of tracebacks as well, a failure travels as a return value up to :func:`_unwrap`:
raised there, it has no context (``JSONDecodeError.doc`` is the body, an exception of requests has
the request with the key) and no frame below it whose variables would show them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Self, TypeVar
from urllib.parse import quote

from giftcards.exceptions import (
    AccessDenied,
    NotFound,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Refused,
    TryLater,
)
from giftcards.parsing import (
    JsonObject,
    KeyInfo,
    OrderAnswer,
    OrderPage,
    Placed,
    Product,
    ProductType,
    Unreadable,
    parse,
    plain,
    read_balance,
    read_key_info,
    read_order,
    read_page,
    read_placed,
    read_product,
)
from giftcards.transport import MAX_BODY, Reply, Transport

__all__ = [
    "Client",
    "KeyInfo",
    "OrderAnswer",
    "OrderPage",
    "Placed",
    "Product",
    "ProductType",
]

T = TypeVar("T")
# Makes an answer of an envelope's ``data`` and the request's id; raises Unreadable.
_Reader = Callable[[JsonObject, str], T]

_MAX_LIST_BODY = 2**24  # a hundred orders with all of their cards

# The seed guide spells the path in the first way, the provider's other pages in the second.
_CHECK_PATHS = {"check-order": "checkOrder", "checkOrder": "check-order"}


class Client:
    """A client of the provider's API, for one key.

    A call is one request, takes at most ``timeout`` seconds and raises a
    :exc:`~giftcards.exceptions.ProviderError`. GETs may be made from several threads at once.
    """

    def __init__(
        self, *, base_url: str, api_key: str, timeout: float, check_path: str = "check-order"
    ) -> None:
        #: The spelling of the path to an order that the next question uses.
        self.check_path = check_path if check_path in _CHECK_PATHS else "check-order"
        #: The one that last answered; "" if none has.
        self.known_check_path = ""
        self._base_url = base_url
        self._transport = Transport(base_url=base_url, api_key=api_key, timeout=timeout)
        spellings = {re.escape(api_key), re.escape(quote(api_key, safe=""))}
        self._key_in_text = re.compile("|".join(sorted(spellings)), re.IGNORECASE)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._base_url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept open between calls."""
        self._transport.close()

    def place(self, *, product_id: str, type_id: str, quantity: int) -> Placed:
        """Buy. Not idempotent, so the request reaches the provider once at the most.

        After :exc:`OutcomeUnknown` it may have been carried out; after any other error it was not.
        """
        line = {"productId": product_id, "typeId": type_id, "quantity": quantity}
        return _unwrap(self._post("/v3/gift-cards/placeOrder", line, read_placed))

    def check(self, order_id: str) -> OrderAnswer:
        """Return the state of an order; :exc:`NotFound` if the provider has no such order."""
        spelling = self.check_path
        path = f"/v3/gift-cards/{spelling}/{_segment(order_id)}"
        result = self._get(path, read_order, missing=NotFound)
        if isinstance(result, OrderAnswer | NotFound):
            self.known_check_path = spelling
        elif isinstance(result, OutcomeUnknown) and result.status == 404:
            # The router's "no such path". Of the threads that hear it, one changes the spelling.
            if self.check_path == spelling:
                self.check_path = _CHECK_PATHS[spelling]
            result.is_worth_repeating = True
        return _unwrap(result)

    def list_orders(
        self, *, start: datetime, end: datetime, page: int = 1, page_size: int = 100
    ) -> OrderPage:
        """Return one page (from 1, at most 100 rows) of the orders created in a span of time."""
        params = {
            "page": str(page),
            "pageSize": str(page_size),
            "from": _timestamp(start),
            "to": _timestamp(end),
        }
        read = partial(read_page, asked_for=page)
        return _unwrap(self._get("/v3/gift-cards/list", read, params=params, limit=_MAX_LIST_BODY))

    def validate(self) -> KeyInfo:
        """Return what the key may do."""
        return _unwrap(self._get("/v3/validate", read_key_info))

    def balance(self) -> Decimal:
        """Return the account's balance in dinar."""
        return _unwrap(self._get("/v3/account/balance", read_balance))

    def product(self, product_id: str) -> Product:
        """Return a product with prices and stock; :exc:`NotFound` if there is none such."""
        path = f"/v3/gift-cards/checkProduct/{_segment(product_id)}"
        read = partial(read_product, asked_for=product_id)
        return _unwrap(self._get(path, read, missing=NotFound))

    def _get(
        self,
        path: str,
        read: _Reader[T],
        *,
        params: Mapping[str, str] | None = None,
        limit: int = MAX_BODY,
        missing: type[Refused] = Refused,
    ) -> T | ProviderError:
        reply = self._transport.get(path, params=params, limit=limit)
        result = self._result(reply, read, missing=missing)
        if isinstance(result, ProviderError):
            # Not so an order: it is never sent twice.
            result.is_worth_repeating = reply.was_dropped
        return result

    def _post(self, path: str, json: JsonObject, read: _Reader[T]) -> T | ProviderError:
        return self._result(self._transport.post(path, json=json), read, quotes_message=True)

    def _result(
        self,
        reply: Reply,
        read: _Reader[T],
        *,
        missing: type[Refused] = Refused,
        quotes_message: bool = False,
    ) -> T | ProviderError:
        """Return what ``read`` makes of the answer, or the error that it amounts to."""
        envelope: JsonObject = {}
        trouble = reply.trouble
        if reply.body is not None:
            try:
                envelope = parse(reply.body)
                if reply.is_success and envelope.get("success") is True:
                    return read(_data(envelope), self._request_id(reply, envelope))
            except Unreadable as exc:
                trouble = str(exc)
        return self._error(reply, envelope, trouble, missing, quotes_message=quotes_message)

    def _error(
        self,
        reply: Reply,
        envelope: JsonObject,
        trouble: str,
        missing: type[Refused],
        *,
        quotes_message: bool,
    ) -> ProviderError:
        is_enveloped = envelope.get("success") is False
        error = envelope.get("error") if is_enveloped else None
        error = error if isinstance(error, dict) else {}
        code = self._token(error.get("code"))
        kind: type[ProviderError] = TryLater
        if not reply.is_unsent:
            kind = _kind(reply.status, code, missing, is_enveloped=is_enveloped)
        label = code or (f"HTTP {reply.status}" if reply.status else "")
        # Its message is shown where it is the reason why staff got no cards; in an answer to a
        # question it might quote anything.
        message = self._quote(error.get("message")) if kind is Refused and quotes_message else ""
        if kind is AccessDenied:
            said, advice = _ACCESS_CODES.get(code, _WRONG_KEY)
            text = f"{said} ({label}{_attempts_left(error)}). {advice}"
        elif message:
            text = f"{_TEXTS[kind]} ({label}): {message}"
        else:
            text = f"{_TEXTS[kind]} ({', '.join(filter(None, (label, trouble)))})."
        return kind(
            text,
            status=reply.status,
            code=code,
            request_id=self._request_id(reply, envelope),
            retry_after=_retry_after(reply.headers.get("Retry-After")),
        )

    def _request_id(self, reply: Reply, envelope: JsonObject) -> str:
        in_body = self._token(envelope.get("requestId"))
        return in_body or self._token(reply.headers.get("X-Request-Id"))

    def _token(self, value: object) -> str:
        """Return ``value`` if it is a plain token without the key in it, else ``""``."""
        if isinstance(value, str) and _TOKEN.fullmatch(value):
            return "" if self._key_in_text.search(value) else value
        return ""

    def _quote(self, value: object) -> str:
        text = plain(value, len(value)) if isinstance(value, str) else ""
        # Masked after cleaning, which could put a key together, and before cutting, which could
        # leave the most of one.
        return self._key_in_text.sub("•••", text)[:_MAX_MESSAGE]


def _unwrap(result: T | ProviderError) -> T:
    if isinstance(result, ProviderError):
        raise result
    return result


def _segment(identifier: str) -> str:
    """Return ``identifier`` as one segment of a path."""
    if identifier in ("", ".", ".."):  # quoting does not keep these from changing the path
        raise NotFound(f"{_TEXTS[NotFound]}.")
    return quote(identifier, safe="", errors="replace")


def _timestamp(moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _data(envelope: JsonObject) -> JsonObject:
    data = envelope.get("data")
    if not isinstance(data, dict):
        raise Unreadable("the answer has no data")
    return data


# What a failure amounts to

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_MESSAGE = 500
_TEXTS: dict[type[ProviderError], str] = {
    TryLater: "The provider has not started on the request",
    RateLimited: "The provider has been asked too often",
    OutcomeUnknown: "The provider gave no usable answer",
    Refused: "The provider refused the request",
    NotFound: "The provider knows no such order or product",
}
_WRONG_KEY = (
    "The provider refused the API key",
    "Correct GIFTCARDS['API_KEY'] first: asking on gets this server's address blocked.",
)
_ACCESS_CODES = {
    "MISSING_ACCESS_TOKEN": _WRONG_KEY,
    "INVALID_ACCESS_TOKEN": _WRONG_KEY,
    "ERR_AUTH": _WRONG_KEY,
    "IP_BLOCKED": (
        "The provider has blocked this server's address",
        "Check GIFTCARDS['API_KEY'], and ask nothing for 15 minutes.",
    ),
    "IP_NOT_ALLOWED": (
        "The provider does not allow this server's address",
        "Add it to the key's addresses in the provider's dashboard.",
    ),
    "API_DISABLED": (
        "The provider has disabled the API for this account",
        "Enable it in the provider's dashboard.",
    ),
}
_REFUSAL_CODES = {
    "ERR_VALIDATION",
    "NO_BALANCE",
    "INSUFFICIENT_BALANCE",
    "DUPLICATED_REF",
    "DUPLICATED-REF",
    "NOT_FOUND",
}


def _kind(
    status: int | None, code: str, missing: type[Refused], *, is_enveloped: bool
) -> type[ProviderError]:
    """Return the error for an HTTP status (``None``: no answer) and the provider's error code."""
    family = (status or 0) // 100
    if status == 401:
        return AccessDenied
    if status == 429:
        return RateLimited
    if (status, code) == (503, "AUTH_UNAVAILABLE"):
        return TryLater
    if not is_enveloped or family not in (2, 4):  # a proxy, a router, a crash, half an answer
        return OutcomeUnknown
    if code in _ACCESS_CODES:
        return AccessDenied
    if code == "RATE_LIMIT_EXCEEDED":
        return RateLimited
    # 408 and 425 say nothing of the first copy of the request; a failure that calls itself 200
    # is believed only where its code leaves no doubt.
    if status in (408, 425) or (family == 2 and code not in _REFUSAL_CODES):
        return OutcomeUnknown
    if status == 404 or (family == 2 and code == "NOT_FOUND"):
        return missing
    return Refused


def _attempts_left(error: JsonObject) -> str:
    details = error.get("details")
    left = details.get("attemptsLeft") if isinstance(details, dict) else None
    if isinstance(left, bool) or not isinstance(left, int) or not 0 <= left < 1000:
        return ""
    return f", {left} attempt{'' if left == 1 else 's'} left"


def _retry_after(header: str | None) -> float | None:
    """Return the seconds that ``Retry-After`` names, as a number or a date; ``None`` if none."""
    header = (header or "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", header):
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return seconds if seconds >= 0 else None
