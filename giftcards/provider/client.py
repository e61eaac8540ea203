"""The client of the provider's API.

The client returns frozen dataclasses and raises typed errors. Answers, errors and tracebacks never
contain the API key or the body of a reply. A traceback includes the variables of each frame, so the
functions that handle the key or a body return failures instead of raising them. Then
:func:`_unwrap` raises the failure in a stack frame that has neither the key nor a body. The error
is raised without a context, because an exception from ``json`` contains the body, and an exception
from ``requests`` contains the key. The :func:`~giftcards.keys.secrecy.contained` decorator does the
same for other exceptions, for example :exc:`KeyboardInterrupt`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Self, TypeVar
from urllib.parse import quote

from django.utils import timezone

from giftcards.exceptions import (
    AccessDenied,
    NotFound,
    OutcomeUnknown,
    ProviderError,
    Refused,
)
from giftcards.keys.secrecy import contained
from giftcards.provider.answers import (
    Catalogue,
    JsonObject,
    KeyInfo,
    LedgerPage,
    OrderAnswer,
    OrderPage,
    PaymentAnswer,
    PaymentLink,
    Product,
    Unreadable,
    parse,
    plain,
    read_balance,
    read_catalogue,
    read_key_info,
    read_ledger,
    read_order,
    read_page,
    read_payment,
    read_payment_link,
    read_placed,
    read_product,
)
from giftcards.provider.failures import (
    ACCESS_CODES,
    REFUSAL_REASONS,
    TEXTS,
    WRONG_KEY,
    attempts_left,
    failure_kind,
    moment_of,
    retry_after,
)
from giftcards.provider.transport import MAX_BODY, Reply, Transport

T = TypeVar("T")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_MESSAGE = 500
_COUNT = "totalProducts"
# Parses the ``data`` of an envelope; raises Unreadable.
_Reader = Callable[[JsonObject], T]

_MAX_LIST_BODY = 2**24  # a hundred orders with all their cards

# The path has two spellings: the first in the provider's guide, the second on its other pages.
_CHECK_PATHS = {"check-order": "checkOrder", "checkOrder": "check-order"}


class Client:
    """A client for the provider's API that uses one API key.

    Each method makes one request, takes at most ``timeout`` seconds, and raises a
    :exc:`~giftcards.exceptions.ProviderError` if the request fails. Threads can share a client for
    GET requests.
    """

    @contained
    def __init__(
        self, *, base_url: str, api_key: str, timeout: float, check_path: str = "check-order"
    ) -> None:
        #: The spelling of the path that the next check of an order uses.
        self.check_path = check_path if check_path in _CHECK_PATHS else "check-order"
        #: The spelling that answered last, or "".
        self.known_check_path = ""
        #: The provider's clock minus ours, by the ``Date`` of the last successful GET; zero if
        #: unknown.
        self.clock_difference = timedelta(0)
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
        self._transport.close()

    def place(
        self,
        *,
        product_id: str,
        type_id: str,
        quantity: int,
        reference: str = "",
        may_send: Callable[[], bool] = lambda: True,
    ) -> str:
        """Place an order, and return the provider's id of the order.

        The request is sent at most once, because it is not idempotent. If :exc:`OutcomeUnknown` is
        raised, the order might have been placed. If :exc:`AlreadyPlaced` is raised, an earlier
        request with this ``reference`` placed the order. If any other error is raised, the order
        was not placed. An empty ``reference`` is not sent.

        ``may_send`` is called immediately before the request is written. If ``may_send`` returns
        False, the order is not placed, and :exc:`Withheld` is raised.
        """
        order = {"productId": product_id, "typeId": type_id, "quantity": quantity}
        if reference:
            order["ref"] = reference
        return _unwrap(self._post("/v3/gift-cards/placeOrder", order, read_placed, may_send))

    def check(self, order_id: str) -> OrderAnswer:
        """Return the state of an order.

        Raises :exc:`NotFound` if the provider does not know the order.
        """
        spelling = self.check_path
        path = f"/v3/gift-cards/{spelling}/{_segment(order_id)}"
        result = self._get(path, read_order, missing=NotFound)
        if isinstance(result, OrderAnswer | NotFound):
            self.known_check_path = spelling
        elif isinstance(result, OutcomeUnknown) and result.status == 404:
            # The provider does not know this path. Only one of several threads switches the
            # spelling.
            if self.check_path == spelling:
                self.check_path = _CHECK_PATHS[spelling]
            result.is_worth_repeating = True
        return _unwrap(result)

    def list_orders(
        self, *, start: datetime, end: datetime, page: int = 1, page_size: int = 100
    ) -> OrderPage:
        """Return one page of the orders that were created in a period.

        ``page`` counts from 1. ``page_size`` is at most 100.
        """
        path, params = "/v3/gift-cards/list", _period(start, end, page, page_size)
        return _unwrap(self._get(path, read_page, params=params, limit=_MAX_LIST_BODY))

    def transactions(
        self, *, start: datetime, end: datetime, page: int = 1, page_size: int = 100
    ) -> LedgerPage:
        """Return one page of the account's transactions in a period.

        The arguments are those of :meth:`list_orders`.
        """
        path, params = "/v3/account/transactions", _period(start, end, page, page_size)
        return _unwrap(self._get(path, read_ledger, params=params, limit=_MAX_LIST_BODY))

    def validate(self) -> KeyInfo:
        """Return the type and the scope of the API key."""
        return _unwrap(self._get("/v3/validate", read_key_info))

    def balance(self) -> Decimal:
        """Return the balance of the account in dinars."""
        return _unwrap(self._get("/v3/account/balance", read_balance))

    def catalogue(self) -> Catalogue:
        """Return all products, without their types."""
        return _unwrap(self._get("/v3/gift-cards/catalog", read_catalogue))

    def product(self, product_id: str) -> Product:
        """Return a product with prices and stock.

        Raises :exc:`NotFound` if the product does not exist.
        """
        path = f"/v3/gift-cards/checkProduct/{_segment(product_id)}"
        read = partial(read_product, asked_for=product_id)
        return _unwrap(self._get(path, read, missing=NotFound))

    def create_payment_link(self, link: JsonObject) -> PaymentLink:
        """Create a payment link with a single request.

        ``link`` is the JSON body of the request.
        """
        path = "/v3/ocpay/createLink"
        return _unwrap(self._post(path, link, read_payment_link, lambda: True))

    def check_payment(self, ref: str) -> PaymentAnswer:
        """Return the state of the payment with the reference ``ref``."""
        read = partial(read_payment, asked_for=ref)
        return _unwrap(self._get(f"/v3/ocpay/checkPayment/{_segment(ref)}", read))

    @contained
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
        if reply.is_success:
            now = timezone.now().astimezone(UTC)
            self.clock_difference = (moment_of(reply.headers.get("Date")) or now) - now
        result = self._result(reply, read, missing=missing)
        if isinstance(result, ProviderError):
            # Only GETs are repeated; an order is never sent twice.
            result.is_worth_repeating = reply.was_dropped
        return result

    @contained
    def _post(
        self, path: str, json: JsonObject, read: _Reader[T], may_send: Callable[[], bool]
    ) -> T | ProviderError:
        reply = self._transport.post(path, json=json, may_send=may_send)
        return self._result(reply, read, quotes_message=True)

    def _result(
        self,
        reply: Reply,
        read: _Reader[T],
        *,
        missing: type[Refused] = Refused,
        quotes_message: bool = False,
    ) -> T | ProviderError:
        envelope: JsonObject = {}
        trouble = reply.trouble
        if reply.body is not None:
            try:
                envelope = parse(reply.body)
                if reply.is_success and envelope.get("success") is True:
                    return read(_data(envelope))
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
        kind = failure_kind(reply, code, missing, is_enveloped=is_enveloped)
        label = code or (f"HTTP {reply.status}" if reply.status else "")
        # In an answer to a GET, the provider's message might quote a code.
        message = self._quote(error.get("message")) if kind is Refused and quotes_message else ""
        reason = REFUSAL_REASONS.get(code, "") if kind is Refused else ""
        if kind is AccessDenied:
            reason, said, advice = ACCESS_CODES.get(code, WRONG_KEY)
            text = f"{said} ({label}{attempts_left(error)}). {advice}"
        elif message:
            text = f"{TEXTS[kind]} ({label}): {message}"
        else:
            text = f"{TEXTS[kind]} ({', '.join(filter(None, (label, trouble)))})."
        return kind(
            text,
            status=reply.status,
            code=code,
            request_id=(
                self._token(envelope.get("requestId"))
                or self._token(reply.headers.get("X-Request-Id"))
            ),
            retry_after=retry_after(reply.headers.get("Retry-After")),
            reason=reason,
            message=message,
            detail=", ".join(filter(None, ("" if code else label, trouble))),
        )

    def _token(self, value: object) -> str:
        """Return ``value`` if it is a token that does not contain the API key.

        Otherwise, the result is "".
        """
        if isinstance(value, str) and _TOKEN.fullmatch(value):
            return "" if self._key_in_text.search(value) else value
        return ""

    def _quote(self, value: object) -> str:
        text = plain(value, len(value)) if isinstance(value, str) else ""
        # The key is masked after the cleaning, which could join its parts, and before the
        # truncation, which could cut it in two.
        return self._key_in_text.sub("•••", text)[:_MAX_MESSAGE]


def _unwrap(result: T | ProviderError) -> T:
    if isinstance(result, ProviderError):
        raise result
    return result


def _segment(identifier: str) -> str:
    if identifier in ("", ".", ".."):  # quoting leaves these as they are
        raise NotFound(f"{TEXTS[NotFound]}.")
    return quote(identifier, safe="", errors="replace")


def _period(start: datetime, end: datetime, page: int, page_size: int) -> dict[str, str]:
    # The provider refuses a period with only one end.
    period = {"from": _timestamp(start), "to": _timestamp(end)}
    return {"page": str(page), "pageSize": str(page_size), **period}


def _timestamp(moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _data(envelope: JsonObject) -> JsonObject:
    data = envelope.get("data")
    if not isinstance(data, dict):
        raise Unreadable("the answer has no data")
    # The provider's pages disagree about the place of the number of products.
    for part in (envelope, envelope.get("meta")):
        if isinstance(part, dict) and _COUNT in part:
            return {_COUNT: part[_COUNT], **data}
    return data
