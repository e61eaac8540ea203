"""What the provider's answers say: a strict JSON parser, typed fields, frozen answers. All pure.

A text that leaves this module (a problem, an :exc:`Unreadable`) names fields and shows short
numbers. It never quotes anything else, because any string in an answer may be a card's code.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Context, Decimal
from functools import partial
from typing import Any

from giftcards.cards import CardSecret

JsonObject = dict[str, Any]

# An id as this provider gives it, fit for a path.
IDENTIFIER = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9_~.:-]{0,99}")
_STATUS = re.compile(r"[A-Za-z_]{1,32}")
_WORD = re.compile(r"[A-Za-z_-]{1,32}")
# float() and Decimal() also take exponents, underscores, "nan" and the digits of other scripts.
_NUMERAL = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")
_CENT = Decimal("0.01")
# What is smaller was never part of an amount: a backend that calculates with binary fractions sends
# 3 × 490.10 as 1470.3000000000002.
_NOISE = Decimal("0.000001")
# The noise below it would be rounded up to more than the columns hold.
_MAX_MONEY = Decimal("9999999999.999999")
_MAX_WHOLE = 2**31 - 1
# The thread's own decimal context belongs to the site, which may have changed its traps.
_CONTEXT = Context(prec=28)


class Unreadable(ValueError):
    """The answer as a whole is not what was asked for; the text says why and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An accepted order: the provider's id of it, fit for a path, and of the request."""

    order_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class OrderAnswer:
    """What the provider says of one order.

    ``None`` and ``""`` mean that a field is missing or unusable. In the second case ``problems``
    says so, fit for staff, if it is a figure or a card. Negative numbers are given as they came,
    with a problem. Amounts are in dinar, to two decimals. ``provider_id`` may differ from the
    id that was asked for. ``cards`` may be fewer than announced.
    """

    provider_id: str
    status: str | None
    quantity: int | None
    fulfilled_quantity: int | None
    fulfilled_amount: Decimal | None
    price_per_card: Decimal | None
    cards: tuple[CardSecret, ...] = field(repr=False)
    product_id: str
    type_id: str
    created_at: datetime | None
    problems: tuple[str, ...]
    request_id: str


@dataclass(frozen=True, slots=True)
class OrderPage:
    """One page of the list of orders. ``page`` is the number the provider says it has."""

    items: tuple[OrderAnswer, ...]
    page: int
    total_pages: int | None
    total_results: int | None
    problems: tuple[str, ...]

    @property
    def page_count(self) -> int | None:
        """How many pages there are, as far as this one tells, if it is the first."""
        if self.total_pages is not None:
            return self.total_pages
        if self.total_results is None:
            return None
        # By what is on it: the size that was asked for may have been ignored.
        return math.ceil(self.total_results / max(len(self.items), 1))


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What the API key may do, without the key: ``SANDBOX``, ``READ-WRITE`` and the like."""

    key_type: str
    scope: str
    is_enabled: bool | None


@dataclass(frozen=True, slots=True)
class ProductType:
    """One denomination: this account's price in dinar, and how many there are (0: none)."""

    type_id: str
    name: str
    price: Decimal | None
    stock: int | None


@dataclass(frozen=True, slots=True)
class Product:
    """A product and the denominations it is sold in."""

    product_id: str
    title: str
    types: tuple[ProductType, ...]


def parse(body: bytes) -> JsonObject:
    """Return the JSON object in ``body``, numbers as ``int`` and ``Decimal``; be strict about it.

    Raises :exc:`Unreadable` for anything else: broken UTF-8 (which would put U+FFFD into a code),
    NaN and infinities, a key given twice, nesting or numbers too large to be meant.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_float=partial(Decimal, context=_CONTEXT),
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_keys,
        )
    # ArithmeticError: an exponent of twenty digits. ValueError: an integer of five thousand.
    except (ValueError, ArithmeticError, RecursionError):
        value = None
    # Raised out here because a JSONDecodeError holds the whole text, and would be our context.
    if not isinstance(value, dict):
        raise Unreadable("the answer is not a JSON object")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _unique_keys(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def read_placed(data: JsonObject, request_id: str) -> Placed:
    order_id = data.get("orderId")
    # It goes into paths, and a number or "../x" is not an id that this provider gives.
    if not isinstance(order_id, str) or not IDENTIFIER.fullmatch(order_id):
        raise Unreadable("the answer names no usable order id")
    return Placed(order_id, request_id)


def read_order(data: JsonObject, request_id: str) -> OrderAnswer:
    fields = _Fields(data)
    return OrderAnswer(
        provider_id=fields.text("_id", IDENTIFIER.fullmatch),
        status=fields.text("status", _STATUS.fullmatch) or None,
        quantity=fields.whole("quantity"),
        fulfilled_quantity=fields.whole("fulfilled_quantity"),
        fulfilled_amount=fields.money("fulfilled_amount"),
        price_per_card=fields.money("price_per_card"),
        cards=fields.cards(),
        product_id=fields.text("product", _is_plain),
        type_id=fields.text("type", _is_plain),
        created_at=fields.moment("time"),
        problems=tuple(fields.problems),
        request_id=request_id,
    )


def read_page(data: JsonObject, request_id: str, *, asked_for: int) -> OrderPage:
    rows = data.get("items")
    if not isinstance(rows, list):
        raise Unreadable("the answer has no list of orders")
    pagination = data.get("pagination")
    fields = _Fields(pagination if isinstance(pagination, dict) else {})
    page = fields.whole("page")
    total_pages = fields.whole("totalPages")
    total_results = fields.whole("totalResults")
    items = tuple(read_order(row, request_id) for row in rows if isinstance(row, dict))
    if len(items) < len(rows):
        fields.problems.append(f"{len(rows) - len(items)} of {len(rows)} rows are not orders.")
    return OrderPage(
        items=items,
        page=asked_for if page is None else page,
        total_pages=total_pages,
        total_results=total_results,
        problems=tuple(fields.problems),
    )


def read_key_info(data: JsonObject, _request_id: str) -> KeyInfo:
    # The whole key is in here too; nothing of it is taken along.
    described = data.get("apiKey")
    if not isinstance(described, dict):
        raise Unreadable("the answer does not describe the key")
    fields = _Fields(described)
    is_enabled = described.get("isEnabled")
    return KeyInfo(
        key_type=fields.text("type", _WORD.fullmatch),
        scope=fields.text("scope", _WORD.fullmatch),
        is_enabled=is_enabled if isinstance(is_enabled, bool) else None,
    )


def read_balance(data: JsonObject, _request_id: str) -> Decimal:
    balance = _Fields(data).money("balance")
    if balance is None:
        raise Unreadable("the answer has no usable balance")
    return balance


def read_product(data: JsonObject, _request_id: str, *, asked_for: str) -> Product:
    rows = data.get("types")
    if not isinstance(rows, list):
        raise Unreadable("the answer has no list of types")
    fields = _Fields(data)
    types = (_read_type(_Fields(row)) for row in rows if isinstance(row, dict))
    return Product(
        product_id=fields.text("productId", _is_plain) or asked_for,
        title=fields.label("productTitle"),
        types=tuple(found for found in types if found.type_id),
    )


def _read_type(fields: _Fields) -> ProductType:
    return ProductType(
        type_id=fields.text("id", _is_plain) or fields.text("_id", _is_plain),
        name=fields.label("name"),
        price=fields.money("price"),
        stock=fields.whole("quantity"),
    )


def plain(text: str, limit: int) -> str:
    """Return ``text`` as one line without control and bidi characters, cut to ``limit``."""
    kept = "".join(char for char in text if char.isprintable() or char.isspace())
    return " ".join(kept.split())[:limit]


def _is_plain(text: str) -> bool:
    return text == plain(text, 100)


class _Fields:
    """One JSON object, read field by field; a field of no use gives ``None`` (text: ``""``).

    What is wrong with numbers and cards is added to ``problems``, unless they are missing or
    ``null``.
    """

    def __init__(self, data: JsonObject) -> None:
        self.problems: list[str] = []
        self._data = data

    def text(self, name: str, is_usable: Callable[[str], object]) -> str:
        value = self._data.get(name)
        return value if isinstance(value, str) and is_usable(value) else ""

    def label(self, name: str) -> str:
        value = self._data.get(name)
        return plain(value, 100) if isinstance(value, str) else ""

    def whole(self, name: str) -> int | None:
        value = self._number(name)
        if value is None:
            return None
        if value.copy_abs() > _MAX_WHOLE:
            self.problems.append(f"{name} is out of range.")
            return None
        if value != int(value):
            self.problems.append(f"{name} is not a whole number{_shown(value)}.")
            return None
        return int(value)

    def money(self, name: str) -> Decimal | None:
        value = self._number(name)
        if value is None:
            return None
        if value.copy_abs() >= _MAX_MONEY:
            self.problems.append(f"{name} is out of range.")
            return None
        rounded = value.quantize(_CENT, context=_CONTEXT)
        if _CONTEXT.subtract(rounded, value).copy_abs() >= _NOISE:
            self.problems.append(f"{name} has more than two decimals{_shown(value)}.")
            return None
        return rounded or Decimal("0.00")  # no negative zero

    def moment(self, name: str) -> datetime | None:
        try:
            moment = datetime.fromisoformat(self._data.get(name, ""))
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            return None

    def cards(self) -> tuple[CardSecret, ...]:
        rows = self._data.get("cards")
        if rows is None:
            return ()
        if not isinstance(rows, list):
            self.problems.append("cards is not a list.")
            return ()
        cards = []
        lost_serials = 0
        for row in rows:
            value = _secret(row.get("value")) if isinstance(row, dict) else None
            if value is None or not value.strip():
                continue
            serial = "" if row.get("serial") is None else _secret(row["serial"])
            lost_serials += serial is None
            cards.append(CardSecret(value=value, serial=serial or ""))
        # Counted, not listed: what is wrong with a card is said without naming it.
        if lost := len(rows) - len(cards):
            self.problems.append(f"{lost} of {len(rows)} cards without a usable value.")
        if lost_serials:
            self.problems.append(f"{lost_serials} of {len(rows)} cards with an unusable serial.")
        return tuple(cards)

    def _number(self, name: str) -> Decimal | None:
        value = self._data.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not (
            isinstance(value, int | Decimal)
            or (isinstance(value, str) and _NUMERAL.fullmatch(value))
        ):
            self.problems.append(f"{name} is not a number.")
            return None
        number = Decimal(value)
        if number <= -_NOISE:
            self.problems.append(f"{name} is negative{_shown(number)}.")
        return number


def _shown(number: Decimal) -> str:
    """Return the number in brackets, or nothing if it is long enough to be a card's code."""
    text = str(number)
    return f" ({text})" if len(text) <= 8 else ""


def _secret(value: object) -> str | None:
    """Return a code or serial exactly as it was sent; ``None`` if that cannot be done."""
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        text = str(value)
        return None if "E" in text else text  # an exponent is a Decimal's own way to write it
    if not isinstance(value, str):
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair: it can be neither sealed nor shown
        return None
    return value
