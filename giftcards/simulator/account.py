"""The shop's simulated account at the provider.

The account has products, orders, cards, payments, a balance and a clock.
"""

from __future__ import annotations

import heapq
import itertools
import math
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

_STOCK = 100_000
# The price of a card of every special type, in dinars.
SPECIAL_PRICE = Decimal(490)
_CODE_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
_CUT_REFERENCE = 20
_LINK_LIFE = timedelta(minutes=20)
_random = secrets.SystemRandom()


@dataclass(frozen=True, slots=True)
class Denomination:
    """A product type, with its price in dinars and its stock.

    Orders do not reduce the stock.
    """

    name: str
    price: Decimal
    stock: int = _STOCK


@dataclass(frozen=True, slots=True)
class Product:
    title: str
    region: str
    types: Mapping[str, Denomination]
    category: str = "Gaming"


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
        "Steam", "GLOBAL", {"type_101": Denomination("Steam 5 USD", Decimal("1250.50"))}
    ),
    # A shop of gift cards does not sell this category.
    "507f1f77bcf86cd799439013": Product(
        "Mobilis",
        "DZ",
        {"type_201": Denomination("Mobilis 1000 DA", Decimal(980))},
        category="Mobile & Internet",
    ),
}


@dataclass(frozen=True, slots=True)
class OfferChange:
    """A scheduled change of the price or stock of a product type.

    ``after`` is the time from the creation of the simulator to the change, in seconds. If ``price``
    or ``stock`` is ``None``, this value does not change.
    """

    after: float
    type_id: str
    price: Decimal | None = None
    stock: int | None = None

    def apply(self, kind: Denomination) -> Denomination:
        """Return a copy of the product type with the new price or stock."""
        price = kind.price if self.price is None else self.price
        return replace(kind, price=price, stock=kind.stock if self.stock is None else self.stock)


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A partial delivery of the first order for a type and quantity.

    ``delivered`` is the number of delivered cards.
    """

    type_id: str
    quantity: int
    delivered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Special:
    """The behaviour of the simulator for orders of a special type.

    ``name`` is the name of the type in the catalogue.
    """

    summary: str
    name: str = ""
    delivers: Literal["all", "half", "none"] = "all"
    settles: Literal["in time", "late", "never"] = "in time"
    answer: Literal["accepted", "lost", "dropped", "error", "refused"] = "accepted"
    grows: bool = False


NORMAL = Special(summary="is delivered in full")
# Special types that every product has. All of them have the same price. The provider's sandbox has
# only the first two.
SPECIAL_TYPES: Mapping[str, Special] = {
    "TEST_REFUND": Special(
        name="Test: delivers no cards", summary="ends REFUNDED", delivers="none"
    ),
    "TEST_PARTIAL": Special(
        name="Test: delivers half of the cards",
        summary="delivers half, rounded down, and ends PARTIALLY_FILLED (REFUNDED for one card)",
        delivers="half",
    ),
    "SIM_SLOW": Special(
        name="Test: delivers late", summary="settles after 6 minutes", settles="late"
    ),
    "SIM_NEVER": Special(name="Test: never settles", summary="stays HANDLING", settles="never"),
    "SIM_GROW": Special(
        name="Test: delivers cards one by one",
        summary="shows its cards one by one while HANDLING",
        grows=True,
    ),
    "SIM_LOST": Special(
        name="Test: order placed, response lost",
        summary="creates the order, then closes the connection without a response",
        answer="lost",
    ),
    "SIM_ERROR": Special(
        name="Test: order placed, error returned",
        summary="creates the order, then responds with status 500",
        answer="error",
    ),
    "SIM_DROP": Special(
        name="Test: no response, no order",
        summary="closes the connection without a response, and creates no order",
        answer="dropped",
    ),
    "SIM_REJECT": Special(
        name="Test: refused",
        summary="responds with status 400, and creates no order",
        answer="refused",
    ),
}
# Oddities of the provider's ledger, which may be combined.
LEDGER_ODDITIES: Mapping[str, str] = {
    "signed": "amounts that left the account are negative",
    "unsigned": "amounts are positive, and only the type shows the direction",
    "no-objid": "entries do not name their orders",
    "bare": "an entry consists only of a type, an amount and a time",
    "late": "every second entry appears some time after the time in the entry",
    "repeated": "every page begins with the last entry of the page before",
    "foreign": "each order comes with an unrelated transaction, such as a phone top-up",
    "missing": "undelivered cards are credited back, but the entry is never shown",
    "uncredited": "undelivered cards are never credited back",
}
# These transactions take money from the account; all others bring money in.
_TYPES_OUT = {"FLEXY", "ADSL", "ORDER", "WITHDRAW", "SEND", "SERVICE"}
# The transactions that the oddity ``foreign`` adds, one with each order. Their sum is positive, so
# that the balance does not run out.
_FOREIGN = (
    ("DEPOSIT", 5000),
    ("FLEXY", -500),
    ("ADSL", -2000),
    ("ORDER", -490),
    ("REFUND-ORDER", 490),
    ("WITHDRAW", -1000),
)


class Refusal(Exception):
    """An error response with the provider's error code in ``code``."""

    def __init__(
        self, code: str, message: str, *, details: object = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.details = details
        self.retry_after = retry_after


class NoAnswer(Exception):
    """Raised to close the connection without a response."""


@dataclass(frozen=True, slots=True)
class Card:
    value: str = field(repr=False)
    serial: str = field(repr=False)


@dataclass(slots=True)
class Order:
    """An order in the simulated account.

    The equation ``charged + refunded == quantity * price`` always holds. Amounts are in dinars, and
    ``price`` is for one card. Until the order settles, ``charged`` is the price of all cards. When
    the order settles, the refund is subtracted from ``charged``. If ``settle_at`` is ``None``, the
    order never settles. The ``cards`` field contains the cards delivered so far. The ``reference``
    field is "" if the request had no reference, or if the account ignores references.
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
    special: Special = field(default=NORMAL, repr=False)
    reference: str = ""
    shortfall: Shortfall | None = field(default=None, repr=False)

    @property
    def is_settled(self) -> bool:
        return self.status != "HANDLING"


@dataclass(frozen=True, slots=True)
class Payment:
    """A customer's payment in dinars, together with its payment link.

    ``status`` becomes ``CONFIRMED`` if the customer pays, and ``FAILED`` if the customer declines
    or the link expires. The fields of the request that created the link are stored in ``told``.
    """

    ref: str
    amount: Decimal
    created_at: datetime
    told: Mapping[str, Any] = field(repr=False)
    status: Literal["PENDING", "CONFIRMED", "FAILED"] = "PENDING"


@dataclass(frozen=True, slots=True)
class Transaction:
    """A signed change of the balance, and the balance afterwards, in dinars.

    ``objid`` is the id of the object that the change belongs to, such as an order. The API shows
    the transaction from the time ``shown_at``, or never if ``shown_at`` is ``None``.
    """

    id: str
    kind: str
    change: Decimal
    balance: Decimal
    objid: str
    created_at: datetime
    shown_at: datetime | None


@dataclass(kw_only=True, eq=False)
class Account:
    """The simulated account with its orders, payments and balance.

    All options are also options of :class:`~giftcards.simulator.Simulator`.
    """

    opening_balance: Decimal = Decimal(1_000_000)
    delay: tuple[float, float] = (3, 45)
    slow_delay: float = 360
    catalogue: Mapping[str, Product] = field(default_factory=lambda: CATALOGUE, repr=False)
    price_factor: Decimal | int = 1
    offer_changes: Collection[OfferChange] = ()
    shortfalls: Collection[Shortfall] = ()
    lists_test_types: bool = True
    repeat_codes: bool = False
    references: Literal["ignored", "told", "cut", "unique", "refused"] = "ignored"
    ledger_oddities: Collection[str] = ()
    ledger_delay: float = 60
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if not 0 <= self.delay[0] <= self.delay[1] < math.inf:
            raise ValueError(
                "The delays must not be negative, and the minimum must not exceed the maximum."
            )
        if unknown := sorted(set(self.ledger_oddities) - LEDGER_ODDITIES.keys()):
            raise ValueError(f"Unknown ledger oddities: {', '.join(unknown)}.")
        for name, value in (
            ("slow delay", Decimal(self.slow_delay)),
            ("delay of the ledger", Decimal(self.ledger_delay)),
            ("price factor", Decimal(self.price_factor)),
            ("balance", Decimal(self.opening_balance)),
            *(("time of a change", Decimal(change.after)) for change in self.offer_changes),
            *(("price", Decimal(change.price or 0)) for change in self.offer_changes),
            *(("stock", Decimal(change.stock or 0)) for change in self.offer_changes),
        ):
            if not value.is_finite() or value < 0:
                raise ValueError(f"The {name} must not be negative.")
        types = set(SPECIAL_TYPES).union(*(product.types for product in self.catalogue.values()))
        changed = {change.type_id for change in self.offer_changes}
        changed |= {short.type_id for short in self.shortfalls}
        if unknown := sorted(changed - types):
            raise ValueError(f"Unknown product types: {', '.join(unknown)}.")
        if not all(0 <= short.delivered <= short.quantity for short in self.shortfalls):
            raise ValueError(
                "The number of delivered cards must be from 0 to the number of ordered cards."
            )
        # One lock guards everything: requests are short, and the ledger must stay consistent.
        self._lock = threading.RLock()
        # The clocks are read in this order. If there is a delay between the two readings, the
        # simulator's clock is slow, but never fast.
        self._time_zero = datetime.now(UTC)
        self._clock_zero = self.clock()
        self._next_serial = 100_000_000 + secrets.randbelow(800_000_000)
        self.reset()

    def reset(self) -> None:
        """Delete all orders and payments, and restore the initial balance."""
        with self._lock:
            self._orders: dict[str, Order] = {}
            self._due: list[tuple[datetime, str]] = []  # the open orders to settle, as a heap
            self._payments: dict[str, Payment] = {}
            self._transactions: dict[str, Transaction] = {}
            self._short: set[Shortfall] = set()  # used up by an order
            self._balance = Decimal(0)
            self._foreign = itertools.cycle(_FOREIGN)
            self._add("DEPOSIT", Decimal(self.opening_balance), at=self._now())

    # The ledger.

    @property
    def orders(self) -> dict[str, Order]:
        """A dict that maps ids to copies of all orders, oldest first.

        The copies show the current state of the orders.
        """
        with self._lock:
            self._settle_due()
            for order in self._orders.values():
                self._grow(order)
            return {order.id: replace(order) for order in self._orders.values()}

    @property
    def payments(self) -> dict[str, Payment]:
        """Return all payments with their current status, oldest first."""
        with self._lock:
            return {ref: self._payment(ref) for ref in self._payments}

    @property
    def balance(self) -> Decimal:
        """The balance in dinars."""
        with self._lock:
            self._settle_due()
            return self._balance

    @property
    def transactions(self) -> list[Transaction]:
        """All changes of the balance, oldest first.

        Changes that the API does not show are included.
        """
        with self._lock:
            self._settle_due()
            return list(self._transactions.values())

    def add_transaction(
        self, kind: str, amount: Decimal | int, *, objid: str = "", shown_after: float | None = 0
    ) -> Transaction:
        """Add a transaction that does not belong to an order, and return it.

        The ``kind``, such as ``DEPOSIT`` or ``FLEXY``, decides whether ``amount`` is added to the
        balance or subtracted from it. The API shows the transaction after ``shown_after`` seconds,
        or never if ``shown_after`` is ``None``. Raises :exc:`ValueError` if ``amount`` is invalid,
        or if the balance does not cover it.
        """
        change = Decimal(amount)
        if not change.is_finite() or change <= 0 or change != round(change, 2):
            raise ValueError("The amount must be positive, with at most two decimals.")
        change = -change if kind in _TYPES_OUT else change
        with self._lock:
            self._settle_due()
            if self._balance + change < 0:
                raise ValueError("The balance does not cover the amount.")
            return self._add(kind, change, objid, at=self._now(), shown_after=shown_after)

    def hide(self, transaction_id: str) -> None:
        """Hide a transaction from the API.

        Raises :exc:`KeyError` if the id is unknown.
        """
        with self._lock:
            entry = self._transactions[transaction_id]
            self._transactions[transaction_id] = replace(entry, shown_at=None)

    def settle(self, order_id: str, *, delivered: int | None = None) -> Order:
        """Settle an open order now.

        By default, the type of the order decides how many cards are delivered.

        Raises :exc:`KeyError` if the order does not exist, and :exc:`ValueError` if the order
        cannot settle with this number of cards.
        """
        with self._lock:
            order = self._orders[order_id]
            if not order.is_settled:
                if delivered is not None and not len(order.cards) <= delivered <= order.quantity:
                    raise ValueError(f"Order {order_id} cannot deliver {delivered} cards.")
                self._settle(order, self._now(), delivered)
            elif delivered not in {None, len(order.cards)}:
                raise ValueError(f"Order {order_id} is settled already.")
            return replace(order)

    def pay(self, ref: str, *, confirmed: bool = True) -> Payment:
        """Pay or decline a payment as the customer, and return the payment.

        If ``confirmed`` is False, the payment is declined. Raises :exc:`KeyError` if there is no
        such payment, and :exc:`ValueError` if the payment is no longer pending.
        """
        with self._lock:
            payment = self._payment(ref)
            if payment.status != "PENDING":
                raise ValueError(f"Payment {ref} has ended.")
            self._settle_due()
            status: Literal["CONFIRMED", "FAILED"] = "CONFIRMED" if confirmed else "FAILED"
            payment = self._payments[ref] = replace(payment, status=status)
            if confirmed:
                self._add("DEPOSIT", payment.amount, ref, at=self._now())
            return payment

    # The methods below require the lock.

    def _open_payment(self, amount: Decimal, told: Mapping[str, Any]) -> Payment:
        parts = ("".join(_random.choices(_CODE_ALPHABET, k=length)) for length in (6, 4))
        payment = Payment(f"OCPL-{'-'.join(parts)}", amount, self._now(), told)
        self._payments[payment.ref] = payment
        return payment

    def _payment(self, ref: str) -> Payment:
        payment = self._payments[ref]
        if payment.status == "PENDING" and self._now() >= payment.created_at + _LINK_LIFE:
            payment = self._payments[ref] = replace(payment, status="FAILED")
        return payment

    def _place(self, product_id: str, type_id: str, quantity: int, reference: str = "") -> Order:
        reference = self._take_reference(reference)
        special = SPECIAL_TYPES.get(type_id, NORMAL)
        kind = self._types(product_id).get(type_id)
        if kind is None:
            raise Refusal("NOT_FOUND", "There is no such type.")
        if quantity > kind.stock or special.answer == "refused":
            raise Refusal("OUT_OF_STOCK", "The type is out of stock.")
        amount = quantity * kind.price
        if amount > self._balance:
            raise Refusal("INSUFFICIENT_BALANCE", "The balance does not cover the order.")
        if special.answer == "dropped":
            raise NoAnswer
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
            reference=reference,
            shortfall=self._take_shortfall(type_id, quantity),
        )
        self._orders[order.id] = order
        if order.settle_at is not None:
            heapq.heappush(self._due, (order.settle_at, order.id))
        self._add("ORDER", -amount, order.id, at=now)
        if "foreign" in self.ledger_oddities:
            foreign, change = next(self._foreign)
            self._add(foreign, Decimal(change), _object_id(now), at=now)
        if special.answer == "lost":
            raise NoAnswer
        if special.answer == "error":
            raise Refusal("INTERNAL_ERROR", "Something went wrong.")
        return order

    def _take_reference(self, reference: str) -> str:
        if not reference or self.references == "ignored":
            return ""
        if self.references == "cut":
            return reference[:_CUT_REFERENCE]
        known = {order.reference for order in self._orders.values()}
        if self.references == "unique" and reference in known:
            raise Refusal("DUPLICATED_REF", "The reference is already in use.")
        return reference

    def _take_shortfall(self, type_id: str, quantity: int) -> Shortfall | None:
        for short in self.shortfalls:
            if (short.type_id, short.quantity) == (type_id, quantity) and short not in self._short:
                self._short.add(short)
                return short
        return None

    def _types(self, product_id: str) -> dict[str, Denomination]:
        special = {
            type_id: Denomination(special.name, SPECIAL_PRICE)
            for type_id, special in SPECIAL_TYPES.items()
        }
        kinds = {**self._find_product(product_id).types, **special}
        age = self.clock() - self._clock_zero
        for change in sorted(self.offer_changes, key=lambda change: change.after):
            if change.type_id in kinds and change.after <= age:
                kinds[change.type_id] = change.apply(kinds[change.type_id])
        return {
            name: replace(kind, price=kind.price * self.price_factor)
            for name, kind in kinds.items()
        }

    def _find_product(self, product_id: str) -> Product:
        if product_id not in self.catalogue:
            raise Refusal("NOT_FOUND", "There is no such product.")
        return self.catalogue[product_id]

    def _now(self) -> datetime:
        """Return the current time, rounded down to milliseconds."""
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
            due_at, order_id = heapq.heappop(self._due)
            order = self._orders[order_id]
            if not order.is_settled:  # settle() may have settled the order
                self._settle(order, due_at)

    def _settle(self, order: Order, at: datetime, delivered: int | None = None) -> None:
        if delivered is None:
            by_type = {"all": order.quantity, "half": order.quantity // 2, "none": 0}
            delivered = by_type[order.special.delivers]
            if order.shortfall:
                delivered = order.shortfall.delivered
        order.settle_at = at
        self._deliver(order, delivered)
        if delivered == order.quantity:
            order.status = "FULFILLED"
            return
        order.status = "PARTIALLY_FILLED" if delivered else "REFUNDED"
        order.refunded = (order.quantity - delivered) * order.price
        order.charged -= order.refunded
        if "uncredited" not in self.ledger_oddities:
            shown_after = None if "missing" in self.ledger_oddities else 0
            self._add("REFUND-ORDER", order.refunded, order.id, at=at, shown_after=shown_after)

    def _grow(self, order: Order) -> None:
        """Deliver the cards that are due for a ``SIM_GROW`` order.

        The cards become due one by one, at equal intervals.
        """
        if order.special.grows and not order.is_settled and order.settle_at is not None:
            # The order may have become due since the last _settle_due().
            now = min(self._now(), order.settle_at)
            part = (now - order.created_at) / (order.settle_at - order.created_at)
            self._deliver(order, int(order.quantity * part))

    def _deliver(self, order: Order, count: int) -> None:
        numbers = range(len(order.cards) + 1, count + 1)
        order.cards += tuple(self._new_card(number) for number in numbers)

    def _new_card(self, number: int) -> Card:
        if self.repeat_codes:
            return Card(f"SANDBOX-CARD-{number}", f"SANDBOX-{number}")
        groups = ("".join(_random.choices(_CODE_ALPHABET, k=4)) for _ in range(3))
        self._next_serial += 1
        return Card(f"SIM-{'-'.join(groups)}", str(self._next_serial))

    def _add(
        self,
        kind: str,
        change: Decimal,
        objid: str = "",
        *,
        at: datetime,
        shown_after: float | None = 0,
    ) -> Transaction:
        if self._transactions:
            # An order may settle before the time of the last entry, but the ledger stays sorted by
            # time.
            at = max(at, next(reversed(self._transactions.values())).created_at)
        if "late" in self.ledger_oddities and shown_after == 0 and len(self._transactions) % 2:
            shown_after = self.ledger_delay
        shown_at = None if shown_after is None else at + timedelta(seconds=shown_after)
        self._balance += change
        entry = Transaction(_object_id(at), kind, change, self._balance, objid, at, shown_at)
        self._transactions[entry.id] = entry
        return entry


def _object_id(now: datetime) -> str:
    """Return a new id in MongoDB's format.

    The id consists of 24 hexadecimal digits. The first eight digits are the Unix time.
    """
    return f"{int(now.timestamp()):08x}{secrets.token_hex(8)}"
