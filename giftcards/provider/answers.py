"""Parse the provider's answers strictly into frozen dataclasses.

Any string in an answer could be a card code. Therefore only field names and short numbers from an
answer can appear in ``flaws`` or in the message of :exc:`Unreadable`. This module makes no
requests.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Context, Decimal
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from giftcards.conf import is_loopback
from giftcards.keys.secrecy import CardSecret, contained

JsonObject = dict[str, Any]

# An id in the provider's form; safe in a URL path.
IDENTIFIER = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9_~.:-]{0,99}")
_REFERENCE = re.compile(r"[A-Za-z0-9_-]{1,40}")
# Some of the provider's endpoints use these words for the status HANDLING.
_AT_WORK = {"PENDING": "HANDLING", "QUEUED": "HANDLING"}
# A product or type can be ordered only if its id has this form.
_ORDERABLE = re.compile(r"[!-~]{1,100}")
_ADDRESS = re.compile(r"https?://[!-~]{1,480}")
_STATUS = re.compile(r"[A-Za-z_]{1,32}")
_WORD = re.compile(r"[A-Za-z_-]{1,32}")
# float() and Decimal() also accept exponents, underscores, "nan" and digits of other scripts.
_NUMERAL = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")
_CENT = Decimal("0.01")
# Fractions below this are noise of floats: 3 × 490.10 is 1470.3000000000002.
_NOISE = Decimal("0.000001")
# A larger amount would round up to more than the columns hold.
_MAX_MONEY = Decimal("9999999999.999999")
_MAX_WHOLE = 2**31 - 1
# A longer text cannot be a code or a serial, and would make pages slow.
_LONGEST_SECRET = 4_000
# The thread's decimal context is not used, because the site may have changed its traps.
_CONTEXT = Context(prec=28)


class Unreadable(ValueError):
    """The answer cannot be used at all. The message never quotes the answer."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """The problem code and parameters that describe a flaw in an answer."""

    code: str
    parameters: Mapping[str, str | int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class OrderAnswer:
    """The provider's answer about one order.

    ``None`` and ``""`` mean that a field is missing or unusable. Amounts are in dinars with two
    decimals. ``flaws`` lists unusable numbers and cards. It also lists negative numbers, although
    these are stored. ``provider_id`` can differ from the id in the request. ``cards`` can contain
    fewer cards than ``fulfilled_quantity`` indicates.
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
    flaws: tuple[Flaw, ...]
    #: Our reference for the order, according to the provider, in lower case.
    reference: str = ""

    @property
    def different_cards(self) -> tuple[CardSecret, ...]:
        return without_repetitions(self.cards)


@contained
def without_repetitions(cards: Iterable[CardSecret]) -> tuple[CardSecret, ...]:
    """Return ``cards`` without duplicates.

    A card without a serial counts as a duplicate of a card with the same code and any serial.
    """
    cards = tuple(dict.fromkeys(cards))
    with_serial = {card.value for card in cards if card.serial}
    return tuple(card for card in cards if card.serial or card.value not in with_serial)


@dataclass(frozen=True, slots=True)
class OrderPage:
    """One page of the list of orders."""

    items: tuple[OrderAnswer, ...]
    total_pages: int | None
    total_results: int | None
    flaws: tuple[Flaw, ...]

    @property
    def page_count(self) -> int | None:
        """The number of pages, or ``None`` if it is unknown.

        Only the first page reports the correct number.
        """
        if self.total_pages is not None:
            return self.total_pages
        if self.total_results is None:
            return None
        # The provider may ignore the page size, so the rows are counted.
        return math.ceil(self.total_results / max(len(self.items), 1))


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """The type and the scope of the API key.

    Examples are ``SANDBOX`` and ``READ-WRITE``.
    """

    key_type: str
    scope: str


@dataclass(frozen=True, slots=True)
class ProductType:
    """A product type: the price for this account in dinars, and the stock."""

    type_id: str
    name: str
    price: Decimal | None
    stock: int | None


@dataclass(frozen=True, slots=True)
class Product:
    """A product and its types."""

    title: str
    types: tuple[ProductType, ...]


@dataclass(frozen=True, slots=True)
class ListedProduct:
    """A product in the catalogue, without its types. Missing strings are ""."""

    product_id: str
    title: str
    category: str
    region: str
    is_enabled: bool


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All products of the provider, without duplicates.

    ``unreadable`` is the number of rows that could not be used. ``absent`` is the number of
    products that the total of the answer includes but its list does not.
    """

    products: tuple[ListedProduct, ...]
    unreadable: int
    absent: int = 0


@dataclass(frozen=True, slots=True)
class PaymentLink:
    """A payment page of the provider, on which a customer can pay once.

    The link expires after 20 minutes. The ``ref`` attribute is the provider's reference for the
    payment, and ``url`` is the address of the page. The ``is_sandbox`` attribute is ``None`` if the
    provider does not say whether the payment moves real money.
    """

    ref: str
    url: str
    is_sandbox: bool | None


@dataclass(frozen=True, slots=True)
class PaymentAnswer:
    """The state of a payment, and the amounts of its transaction.

    ``status`` is ``PENDING``, ``CONFIRMED``, ``FAILED`` (declined, cancelled or expired) or another
    value that the provider uses. The ``amount`` is in units of ``currency``, for example ``DZD``.
    If there is no transaction, ``amount`` and ``is_sandbox`` are ``None``, and ``currency`` is "".
    """

    status: str
    amount: Decimal | None
    currency: str
    is_sandbox: bool | None


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A transaction of the account, in dinars.

    The amount is positive if the account received money. ``type`` is the provider's name for the
    kind of transaction, for example ``ORDER``, or :data:`PAYMENT` for a customer's payment.
    ``objid`` is the id of the object that the transaction belongs to, for example an order. An
    unusable string is replaced by "", and an unusable balance by ``None``. The balances that the
    provider reports can contradict the amount.
    """

    row_id: str
    type: str
    amount: Decimal
    time: datetime
    objid: str = ""
    balance_before: Decimal | None = None
    balance_after: Decimal | None = None


@dataclass(frozen=True, slots=True)
class LedgerPage:
    """One page of the list of transactions.

    ``unreadable`` is the number of rows that could not be used. ``total_pages`` and
    ``total_results`` are ``None`` if the provider does not report them.
    """

    rows: tuple[LedgerRow, ...]
    unreadable: int
    total_pages: int | None
    total_results: int | None


def parse(body: bytes) -> JsonObject:
    """Parse ``body`` strictly as a JSON object.

    Numbers become ``int`` or ``Decimal``. Raises :exc:`Unreadable` if the content is invalid.
    Examples of invalid content are NaN, infinities, duplicate keys, deep nesting and huge numbers.
    Invalid UTF-8 is also refused, because a tolerant decoder would put U+FFFD into a code.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_float=partial(Decimal, context=_CONTEXT),
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_keys,
        )
    # An exponent of 20 digits raises ArithmeticError, and an integer of 5,000 digits raises
    # ValueError.
    except (ValueError, ArithmeticError, RecursionError):
        value = None
    # The error is raised outside the ``except`` block. Otherwise, its context would be the
    # JSONDecodeError, which contains the whole text.
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


def _list(data: JsonObject, name: str, kind: str) -> list[Any]:
    rows = data.get(name)
    if not isinstance(rows, list):
        raise Unreadable(f"the answer has no list of {kind}")
    return rows


def read_placed(data: JsonObject) -> str:
    """Return the provider's id of the order from the answer that accepts it."""
    order_id = data.get("orderId")
    # The id goes into paths, so "../x" is refused. The provider's ids are never numbers.
    if not isinstance(order_id, str) or not IDENTIFIER.fullmatch(order_id):
        raise Unreadable("the answer does not contain a usable order id")
    return order_id


def read_order(data: JsonObject) -> OrderAnswer:
    fields = _Fields(data)
    status_field = "orderStatus" if data.get("status") is None else "status"
    status = fields.text(status_field, _STATUS.fullmatch)
    # References are converted to lower case, because ours are in lower case and the provider may
    # change the case.
    references = (fields.text(name, _REFERENCE.fullmatch).lower() for name in ("orderRef", "ref"))
    return OrderAnswer(
        provider_id=fields.text("_id", IDENTIFIER.fullmatch),
        status=_AT_WORK.get(status, status) or None,
        quantity=fields.whole("quantity"),
        fulfilled_quantity=fields.whole("fulfilled_quantity"),
        fulfilled_amount=fields.money("fulfilled_amount"),
        price_per_card=fields.money("price_per_card"),
        cards=fields.cards(),
        product_id=fields.text("product", _is_plain),
        type_id=fields.text("type", _is_plain),
        created_at=fields.moment("time"),
        flaws=tuple(fields.flaws),
        reference=next(filter(None, references), ""),
    )


def read_page(data: JsonObject) -> OrderPage:
    rows, fields = _rows_of(data, "orders")
    # The page number is not used, but an unusable page number is recorded as a flaw.
    fields.whole("page")
    items = tuple(read_order(row) for row in rows if isinstance(row, dict))
    if len(items) < len(rows):
        lost = {"lost": len(rows) - len(items), "total": len(rows)}
        fields.flaws.append(Flaw("rows_unreadable", lost))
    return OrderPage(
        items=items,
        total_pages=fields.whole("totalPages"),
        total_results=fields.whole("totalResults"),
        flaws=tuple(fields.flaws),
    )


def _rows_of(data: JsonObject, kind: str) -> tuple[list[Any], _Fields]:
    rows = _list(data, "items", kind)
    pagination = data.get("pagination")
    return rows, _Fields(pagination if isinstance(pagination, dict) else {})


# The documented types of transactions. Refunds bring money in, too.
_TYPES_IN = {"DEPOSIT", "RECEIVE", "POINT-EXCHANGE"}
_TYPES_OUT = {"FLEXY", "ADSL", "ORDER", "WITHDRAW", "SEND", "SERVICE"}
_REFUNDS = "REFUND-"
# Our type for the payment of a customer. The provider documents no type for payments, but the
# references of all payments begin with the same letters.
PAYMENT = "OCPAY"
_PAYMENT_REFS = "OCPL-"
# The provider does not document the values of ``operation``.
_WORDS_IN = {"IN", "CREDIT", "+"}
_WORDS_OUT = {"OUT", "DEBIT", "-"}


def read_ledger(data: JsonObject) -> LedgerPage:
    """Read a page of transactions, and count its unusable rows.

    A row is unusable if its type, amount or time is missing or invalid.
    """
    told, fields = _rows_of(data, "transactions")
    rows = tuple(filter(None, map(_read_transaction, told)))
    return LedgerPage(
        rows=rows,
        unreadable=len(told) - len(rows),
        total_pages=_count(fields, "totalPages"),
        total_results=_count(fields, "totalResults"),
    )


def _read_transaction(row: object) -> LedgerRow | None:
    if not isinstance(row, dict):
        return None
    fields = _Fields(row)
    kind, amount = _usual_type(fields.label("type", 40)), fields.money("amount")
    time = fields.moment("time")
    if not kind or amount is None or time is None:
        return None
    before, after = fields.money("oldBalance"), fields.money("newBalance")
    direction = _direction(kind, before, after, fields.label("operation").upper())
    amount, objid = _signed(amount, direction), fields.text("objid", IDENTIFIER.fullmatch)
    is_payment = objid.startswith(_PAYMENT_REFS) and amount > 0
    return LedgerRow(
        row_id=fields.text("_id", IDENTIFIER.fullmatch),
        type=PAYMENT if is_payment else kind,
        amount=amount,
        time=time,
        objid=objid,
        balance_before=before,
        balance_after=after,
    )


def _usual_type(told: str) -> str:
    kind = told.upper().replace("_", "-")
    is_known = kind in _TYPES_IN | _TYPES_OUT | {PAYMENT} or kind.startswith(_REFUNDS)
    return kind if is_known else told


def _direction(kind: str, before: Decimal | None, after: Decimal | None, word: str) -> int:
    """Return the direction of a transaction.

    The result is 1 if the account received money, -1 if it paid money, and 0 if the direction is
    unknown.
    """
    if kind in _TYPES_IN or kind.startswith(_REFUNDS):
        return 1
    if kind in _TYPES_OUT:
        return -1
    if before is not None and after is not None and before != after:
        return 1 if after > before else -1
    return (word in _WORDS_IN) - (word in _WORDS_OUT)


def _signed(amount: Decimal, direction: int) -> Decimal:
    if not amount or not direction:
        return amount
    size = amount.copy_abs()  # abs() depends on the thread's context
    return size if direction > 0 else size.copy_negate()


def _count(fields: _Fields, name: str) -> int | None:
    count = fields.whole(name)
    return None if count is None or count < 0 else count


def read_key_info(data: JsonObject) -> KeyInfo:
    # The answer also contains the whole key, which is not copied.
    described = data.get("apiKey")
    if not isinstance(described, dict):
        raise Unreadable("the answer does not describe the key")
    fields = _Fields(described)
    return KeyInfo(
        key_type=fields.text("type", _WORD.fullmatch), scope=fields.text("scope", _WORD.fullmatch)
    )


def read_balance(data: JsonObject) -> Decimal:
    balance = _Fields(data).money("balance")
    if balance is None:
        raise Unreadable("the answer does not contain a usable balance")
    return balance


def read_payment_link(data: JsonObject) -> PaymentLink:
    link = data.get("paymentLink")
    fields = _Fields(data)
    ref, url = fields.text("paymentRef", IDENTIFIER.fullmatch), fields.text("paymentUrl", _is_page)
    if not (ref and url):
        raise Unreadable("the answer does not contain a usable payment link")
    return PaymentLink(ref, url, _Fields(link if isinstance(link, dict) else {}).flag("isSandbox"))


def _is_page(url: str) -> bool:
    """True if it is safe to send customers to ``url``.

    The address must use https, unless it is a page of the simulator.
    """
    if not _ADDRESS.fullmatch(url):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    host = parts.hostname or ""
    return bool(host) and (parts.scheme == "https" or is_loopback(host))


def read_payment(data: JsonObject, *, asked_for: str) -> PaymentAnswer:
    # If the answer does not name a payment, it is about the payment in the request.
    if (data.get("paymentRef") or asked_for) != asked_for:
        raise Unreadable("the answer is about another payment")
    status = _Fields(data).text("status", _STATUS.fullmatch)
    if not status:
        raise Unreadable("the answer has no status of the payment")
    told = data.get("transactionDetails")
    details = _Fields(told if isinstance(told, dict) else {})
    return PaymentAnswer(
        status=status,
        amount=details.money("amount"),
        currency=details.text("currency", _WORD.fullmatch).upper(),
        is_sandbox=details.flag("isSandbox"),
    )


def read_catalogue(data: JsonObject) -> Catalogue:
    """Read the catalogue.

    An empty catalogue raises an error, because it would take all products off sale.
    """
    categories = _list(data, "categories", "categories")
    rows = [row for category in categories for row in _products_of(category)]
    products: dict[str, ListedProduct] = {}
    for row in filter(None, rows):
        products.setdefault(row.product_id, row)
    if not products:
        raise Unreadable("the catalogue does not contain a usable product")
    unreadable = rows.count(None)
    # The provider does not say whether a product in two categories counts twice.
    usable, counted = len(rows) - unreadable, _count(_Fields(data), "totalProducts") or 0
    return Catalogue(tuple(products.values()), unreadable, absent=max(0, counted - usable))


def _products_of(category: object) -> Iterator[ListedProduct | None]:
    rows = category.get("products", []) if isinstance(category, dict) else None
    if not isinstance(category, dict) or not isinstance(rows, list):
        yield None
        return
    name = _title(_Fields(category))
    for row in rows:
        yield _read_listed(row, category=name)


def _read_listed(row: object, *, category: str) -> ListedProduct | None:
    if not isinstance(row, dict):
        return None
    fields = _Fields(row)
    product_id = _id(fields)
    if not product_id:
        return None
    return ListedProduct(
        product_id=product_id,
        title=_title(fields),
        category=category,
        region=fields.label("region"),
        is_enabled=row.get("enabled") is not False,
    )


def _id(fields: _Fields) -> str:
    """Return the id of a product or type.

    The provider's documentation uses different names for this field.
    """
    return fields.text("id", _ORDERABLE.fullmatch) or fields.text("_id", _ORDERABLE.fullmatch)


def _title(fields: _Fields) -> str:
    return fields.label("title") or fields.label("name")


def read_product(data: JsonObject, *, asked_for: str) -> Product:
    rows = _list(data, "types", "types")
    # If the answer does not name a product, it is about the product in the request.
    told = data.get("productId") or data.get("_id") or asked_for
    if told != asked_for:
        raise Unreadable("the answer is about another product")
    fields = _Fields(data)
    types = (_read_type(_Fields(row)) for row in rows if isinstance(row, dict))
    return Product(
        title=fields.label("productTitle"),
        types=tuple(found for found in types if found.type_id),
    )


def _read_type(fields: _Fields) -> ProductType:
    return ProductType(
        type_id=_id(fields),
        name=fields.label("name") or fields.label("title"),
        price=fields.money("price"),
        stock=fields.stock("quantity"),
    )


def plain(text: str, limit: int) -> str:
    """Return ``text`` as one line of at most ``limit`` characters.

    Control characters and bidirectional formatting characters are removed.
    """
    kept = "".join(char for char in text if char.isprintable() or char.isspace())
    return " ".join(kept.split())[:limit]


def _is_plain(text: str) -> bool:
    return text == plain(text, 100)


class _Fields:
    """The fields of a JSON object.

    An unusable string is replaced by ``""``, and any other unusable value by ``None``. Unusable
    cards and unusable or negative numbers are recorded in ``flaws``.
    """

    def __init__(self, data: JsonObject) -> None:
        self.flaws: list[Flaw] = []
        self._data = data

    def text(self, name: str, is_usable: Callable[[str], object]) -> str:
        value = self._data.get(name)
        return value if isinstance(value, str) and is_usable(value) else ""

    def label(self, name: str, limit: int = 100) -> str:
        value = self._data.get(name)
        return plain(value, limit) if isinstance(value, str) else ""

    def flag(self, name: str) -> bool | None:
        value = self._data.get(name)
        return value if isinstance(value, bool) else None

    def whole(self, name: str) -> int | None:
        value = self._number(name)
        if value is None:
            return None
        if value.copy_abs() > _MAX_WHOLE:
            self._doubt(name, "out_of_range")
            return None
        if value != int(value):
            self._doubt(name, "not_whole", value)
            return None
        return int(value)

    def stock(self, name: str) -> int | None:
        """Return the stock in a field, or 0 if the number is negative."""
        value = self._number(name)
        return 0 if value is not None and value < 0 else self.whole(name)

    def money(self, name: str) -> Decimal | None:
        value = self._number(name)
        if value is None:
            return None
        if value.copy_abs() >= _MAX_MONEY:
            self._doubt(name, "out_of_range")
            return None
        rounded = value.quantize(_CENT, context=_CONTEXT)
        if _CONTEXT.subtract(rounded, value).copy_abs() >= _NOISE:
            self._doubt(name, "more_than_two_decimals", value)
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
            self.flaws.append(Flaw("cards_not_listed"))
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
        # Unreadable cards are only counted, because a description of a card might reveal its code.
        if lost := len(rows) - len(cards):
            self.flaws.append(Flaw("cards_unreadable", {"lost": lost, "total": len(rows)}))
        if lost_serials:
            lost = lost_serials
            self.flaws.append(Flaw("serials_unreadable", {"lost": lost, "total": len(rows)}))
        return tuple(cards)

    def _number(self, name: str) -> Decimal | None:
        value = self._data.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not (
            isinstance(value, int | Decimal)
            or (isinstance(value, str) and _NUMERAL.fullmatch(value))
        ):
            self._doubt(name, "not_a_number")
            return None
        number = Decimal(value)
        if number <= -_NOISE:
            self.flaws.append(Flaw("figure_negative", {"field": name, **_shown(number)}))
        return number

    def _doubt(self, name: str, fault: str, number: Decimal | None = None) -> None:
        what = {"field": name, "fault": fault, **_shown(number)}
        self.flaws.append(Flaw("figure_unreadable", what))


def _shown(number: Decimal | None) -> dict[str, str]:
    """Return the parameter of a flaw: the number, unless it could be a code."""
    text = "" if number is None else str(number)
    return {"value": text} if 0 < len(text) <= 8 else {}


def _secret(value: object) -> str | None:
    """Return a code or serial number exactly as the provider sent it.

    Returns ``None`` if the value is unusable.
    """
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        text = str(value)
        return None if "E" in text else text  # Decimal wrote the exponent, not the provider
    if not isinstance(value, str) or len(value) > _LONGEST_SECRET:
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate can be neither encrypted nor shown
        return None
    return value
