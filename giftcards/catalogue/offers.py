"""The shelf: the cards that can be sold now, and quotes for single cards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Self, Unpack

from django.db import transaction
from django.db.models import Case, F, IntegerField, Q, QuerySet, Subquery, Value, When
from django.db.models.expressions import Col
from django.db.models.functions import Coalesce, Greatest
from django.db.models.sql.constants import LOUTER
from django.utils import timezone
from django.utils.translation import gettext, ngettext

from giftcards.conf import conf
from giftcards.engine.balance import free_balance
from giftcards.engine.gateway import Gateway
from giftcards.engine.resolving import NoAnswer
from giftcards.engine.tuning import tuning
from giftcards.exceptions import ConfigurationError, NotForSale, NotFound, ProviderError
from giftcards.models import (
    Order,
    OrderDetails,
    Product,
    ProductPrices,
    ProductType,
    ProviderState,
    Reservation,
    Shelf,
    new_order,
)
from giftcards.models.catalogue import Names, ids_of
from giftcards.models.provider import Environment, is_test_type
from giftcards.rules.prices import PriceSource
from giftcards.rules.purposes import Purpose
from giftcards.rules.times import is_recent
from giftcards.text.display import count_text, duration_text, money_text

# A card cannot be sold if its stock and price are at least this old: one day, or four times
# CATALOGUE_INTERVAL if that is longer. If the catalogue is only read by hand, the limit is a week.
_OLD = timedelta(days=1)
_OLD_PERIODS = 4
_OLD_BY_HAND = timedelta(days=7)
# Up to this age, stock and price count as fresh (seconds).
_FRESH = 60
# If current values could not be requested for one of these reasons, the provider could not take an
# order either.
_AWAY = {NoAnswer.PAUSED, NoAnswer.UNREACHABLE}
# The pause between two checks of whether another caller has received an answer (seconds).
_LOOK = 0.1


def offers() -> QuerySet[ProductType]:
    """Return the product types that can be sold now, sorted by product.

    Evaluating the query set takes one query. Each product type comes with its product and these
    attributes:

    - ``price`` is the amount that a customer pays for one card. Show this price to your customers.
      The price is ``None`` if neither a margin nor another rule sets a price.
    - ``cost`` is the amount that the provider charges you for one card.
    - ``stock`` is the provider's stock at ``read_at``, or ``None`` if the stock is unknown.
    - ``available`` is the part of the stock that you can still sell.

    A product type is left out if it is sold out, if its stock and price are out of date, if your
    shop does not sell it, or if its margin would be too low.

    If the function in ``PRICING`` sets the prices, a product type is left out until a worker has
    calculated the price for its current cost. The price is calculated within about a minute after a
    new cost was read.
    """
    now = timezone.now()
    recent = Q(read_at=None) | Q(read_at__gt=now - stale_after())
    kinds = with_available(ProductType.objects.for_sale().filter(recent), now=now)
    has_price = Q(price__isnull=False) | Q(price_source=PriceSource.OWN)
    return kinds.filter(has_price, Q(stock=None) | Q(available__gt=0))


def is_on_shelf(column: str = "pk") -> Q:
    """Return a condition for the product types that :func:`offers` returns.

    With ``column="product"``, the condition selects the products of these product types.
    """
    return Q(pk__in=offers().order_by().values(column))


def quote(
    product_id: str | None = None,
    type_id: str | None = None,
    quantity: int = 1,
    *,
    product_type: ProductType | None = None,
    max_age: float = 60,
    reference: str = "",
) -> Quote:
    """Return the current cost, price and stock of a card.

    Pass the card as ``product_type``, or as ``product_id`` and ``type_id``. If the stored values
    are older than ``max_age`` seconds, the function makes at most one request to the provider,
    which takes at most ten seconds and counts against the request quota. If the provider does not
    answer, or if the quota is used up, the quote contains the stored values. The ``read_at``
    attribute of the quote is then the time when these values were read, and ``no_answer`` is the
    reason why there are no newer values. While one caller waits for the provider, concurrent
    callers wait for at most one second and then receive the stored values.

    If the customer has a reservation, pass its ``reference``. The reserved cards then count as
    available, and the quote contains the reserved price until the reservation expires.

    Raises :exc:`~django.core.exceptions.ValidationError` if a value is invalid for an order. Raises
    :exc:`RuntimeError` inside a transaction.
    """
    line = Line(*ids_of(product_type, product_id, type_id), quantity, reference)
    line.check_values()
    return line.quote(max_age=max_age)


def check_offer(
    product_id: str | None = None,
    type_id: str | None = None,
    quantity: int = 0,
    *,
    product_type: ProductType | None = None,
    fresh: bool = False,
    **details: Unpack[OrderDetails],
) -> None:
    """Check that an order can be placed and that its price covers the cost.

    Call this function before the customer pays, with the values that you will pass to
    :func:`~giftcards.fulfilment.place_order`. The function checks all of these values. If the
    customer has a reservation, pass its ``reference``. If ``fresh`` is True and the stored values
    are older than a minute, the function asks the provider for the current values.

    Raises :exc:`~giftcards.exceptions.NotForSale` with the code of the first problem. Raises
    :exc:`~django.core.exceptions.ValidationError` if a value is invalid for an order. Raises
    :exc:`RuntimeError` if ``fresh`` is True and the function is called inside a transaction.
    """
    ids = ids_of(product_type, product_id, type_id)
    order = new_order(*ids, quantity, **details)
    order.check_values()
    line = Line(*ids, quantity, details.get("reference") or "")
    known = line.quote(max_age=_FRESH) if fresh else line.known()
    check_stock(line, known)
    _check_sale(order, known)
    check_balance(line, known)
    _check_provider(known)


def check_stock(line: Line, known: Quote) -> None:
    """Raise :exc:`NotForSale` if the card is not sold or is out of stock.

    The card counts as out of stock if fewer than ``line.quantity`` cards are left.
    """
    if not known.is_sold_here:
        raise refusal("delisted", known, gettext("Your shop does not sell this card."))
    if not (known.is_listed and known.cost) and not _is_test(line):
        raise refusal("delisted", known, gettext("The provider does not sell this card."))
    left = known.available
    if left is not None and left < line.quantity:
        text = ngettext(
            "Open orders and reservations leave only %(count)s card.",
            "Open orders and reservations leave only %(count)s cards.",
            left,
        )
        text %= {"count": count_text(left)}
        if buffer := Shelf.objects.current().stock_buffer:
            kept = gettext(
                "In addition, your stock buffer holds back %(count)s of the provider's cards."
            )
            text = f"{text} {kept % {'count': count_text(buffer)}}"
        raise refusal("out_of_stock", known, text)


def _check_sale(order: Order, known: Quote) -> None:
    cost, total_cost, limit = known.cost, known.total_cost, order.max_price
    if cost is None or total_cost is None:
        return
    if limit is not None and cost > limit:
        text = gettext("A card costs %(cost)s, but the price limit of the order is %(limit)s.")
        raise refusal("above_ceiling", known, _amounts(text, cost=cost, limit=limit))
    paid = order.sale_amount
    if paid is not None and paid < total_cost - known.accepted_loss * order.quantity:
        text = gettext("The cards cost %(cost)s, but the customer would pay only %(paid)s.")
        raise refusal("below_cost", known, _amounts(text, cost=total_cost, paid=paid))
    if paid is None and known.price is None and known.has_rule:
        text = gettext("This card has no price because its margin would be too low.")
        raise refusal("below_cost", known, text)


def check_balance(line: Line, known: Quote) -> None:
    """Raise :exc:`NotForSale` if the balance does not cover the cards.

    Open orders and reservations are subtracted from the balance.
    """
    free = None if known.total_cost is None else free_balance(reference=line.reference)
    if free is not None and known.total_cost is not None and free < known.total_cost:
        text = gettext(
            "These cards cost %(cost)s, but open orders and reservations leave only %(free)s of the"
            " balance."
        )
        raise refusal("balance", known, _amounts(text, cost=known.total_cost, free=free))


def _check_provider(known: Quote) -> None:
    now, state = timezone.now(), ProviderState.objects.current()
    if state.is_out_of_service(now) or known.no_answer in _AWAY:
        raise refusal("paused", known, gettext("Requests to the provider are failing or paused."))
    if known.read_at is not None and now - known.read_at >= stale_after():
        age = duration_text(now - known.read_at)
        text = gettext("The price was last read %(age)s ago.") % {"age": age}
        raise refusal("stale", known, text)


def _is_test(line: Line) -> bool:
    is_sandbox = ProviderState.objects.current().environment == Environment.SANDBOX
    return is_test_type(line.type_id) and is_sandbox


def refusal(code: str, known: Quote, reason: str) -> NotForSale:
    """Return the error, with messages for the customer and for staff.

    The message for staff begins with the name of the card.
    """
    for_staff = f"{' – '.join(filter(None, known.names))}: {reason}"
    return NotForSale(code, for_customer=_for_customer(code, known), for_staff=for_staff)


def _for_customer(code: str, known: Quote) -> str:
    if code == "delisted":
        return gettext("This card is no longer for sale.")
    if code == "out_of_stock" and known.available:
        text = ngettext(
            "Only %(count)s of these cards is left.",
            "Only %(count)s of these cards are left.",
            known.available,
        )
        return text % {"count": count_text(known.available)}
    if code == "out_of_stock":
        return gettext("This card is sold out at the moment.")
    if code == "too_many_reserved":
        return gettext(
            "You have reserved too many cards. Buy fewer cards, or pay for the reserved cards"
            " first."
        )
    if code == "network_busy":
        return gettext(
            "Too many cards are reserved for visitors with the same internet connection as yours."
            " Please try again in a few minutes."
        )
    if code == "reserved_too_long":
        return gettext(
            "Your reservation of these cards cannot be extended any further. Please try again in an"
            " hour."
        )
    if code in {"above_ceiling", "below_cost"}:
        return gettext(
            "The price of this card has changed, or a discount is too large. Please reload the page"
            " and check the price."
        )
    return gettext("This card cannot be bought at the moment. Please try again later.")


def _amounts(text: str, **amounts: Decimal | int) -> str:
    return text % {name: money_text(Decimal(amount)) for name, amount in amounts.items()}


@dataclass(frozen=True, slots=True)
class Quote:
    """The price, cost and stock of a card before it is bought.

    Unknown values are ``None``.

    - ``cost`` is the cost of one card, and ``stock`` is the provider's stock. Both values were read
      at ``read_at``.
    - ``available`` and ``price`` have the same meaning as in :func:`~giftcards.catalogue.offers`.
    - ``accepted_loss`` is the largest amount by which the price of a card may be below its cost.
    - ``is_listed`` is False if the provider does not sell the card.
    - ``is_sold_here`` is False if your shop does not sell the card. The app then does not ask the
      provider for current values.
    - ``balance`` is the balance of your account at the provider, as read at ``balance_read_at``.
    - ``no_answer`` is the reason why the app could not get current values from the provider.
      ``no_answer`` is ``None`` if the values are current, or if the app did not request any.
    """

    names: Names
    cost: Decimal | None = None
    stock: int | None = None
    available: int | None = None
    price: Decimal | None = None
    accepted_loss: Decimal = Decimal(0)
    read_at: datetime | None = None
    is_listed: bool = True
    is_sold_here: bool = True
    # False if the shop sets the price elsewhere.
    has_rule: bool = False
    balance: Decimal | None = None
    balance_read_at: datetime | None = None
    no_answer: NoAnswer | None = None
    quantity: int = 1

    @property
    def is_for_sale(self) -> bool:
        """True if both your shop and the provider sell the card.

        If the provider does not list a card, or lists it at a price of 0, the provider does not
        sell it.
        """
        return self.is_listed and self.is_sold_here and self.cost != 0

    @property
    def total_cost(self) -> Decimal | None:
        """The cost of ``quantity`` cards, in dinars."""
        return None if self.cost is None else self.cost * self.quantity

    def is_read_within(self, seconds: float) -> bool:
        return is_recent(self.read_at, timezone.now(), period=timedelta(seconds=seconds))


@dataclass(frozen=True, slots=True)
class Line:
    """The type and the number of cards that a customer wants to buy.

    ``reference`` is the reference of the customer's reservation, or "".
    """

    product_id: str
    type_id: str
    quantity: int = 1
    reference: str = ""

    def check_values(self) -> None:
        """Raise ``ValidationError`` if the product, type or quantity is invalid."""
        new_order(self.product_id, self.type_id, self.quantity).check_values()

    def known(self) -> Quote:
        """Return the quote with the values in the database."""
        state = ProviderState.objects.current()
        known = Quote(
            names=Names(),
            balance=state.balance,
            balance_read_at=state.balance_read_at,
            quantity=self.quantity,
        )
        kinds = ProductType.objects.select_related("product__category").filter(
            product__product_id=self.product_id, type_id=self.type_id
        )
        kind = with_available(kinds, now=timezone.now(), reference=self.reference).first()
        if kind is not None:
            kept = Reservation.objects.price_of(self.reference, kind) if self.reference else None
            return replace(
                known,
                names=Names(kind.product.title, kind.name),
                cost=kind.cost,
                stock=kind.stock,
                available=kind.available,
                price=kind.price if kept is None else kept,
                accepted_loss=kind.accepted_loss,
                read_at=kind.read_at,
                is_listed=kind.product.is_enabled,
                is_sold_here=kind.is_sold_here,
                has_rule=kind.price_source != PriceSource.OWN,
            )
        # An earlier quote may have got the price of a product that the catalogue does not list.
        told = ProductPrices.objects.filter(pk=self.product_id).first()
        cost = told.prices.get(self.type_id) if told else None
        names = Product.objects.names(self.product_id, self.type_id)
        product = Product.objects.filter(product_id=self.product_id).select_related("category")
        return replace(
            known,
            names=names,
            cost=cost,
            read_at=told.asked_at if told and cost else None,
            is_sold_here=all(each.is_sold_here for each in product),
        )

    def quote(self, *, max_age: float) -> Quote:
        """Return the quote, asking the provider if the stored values are too old."""
        with transaction.atomic(durable=True):
            known = self.known()
        if not known.is_sold_here or known.is_read_within(max_age):
            return known
        try:
            with Gateway() as gateway:
                return self._ask(gateway, known)
        except ConfigurationError:
            return replace(known, no_answer=NoAnswer.NOT_CONFIGURED)

    def _ask(self, gateway: Gateway, known: Quote) -> Quote:
        products = Product.objects.filter(product_id=self.product_id)
        claim = products.claim_reading(max_duration=tuning.request_timeout)
        if claim is None:
            return self._answer_to_other(known)
        latest = self.known()
        if latest.read_at != known.read_at:
            # Another process made the request just before the claim.
            products.unclaim_reading(claim)
            return latest
        try:
            told = gateway.prices.product(self.product_id, Purpose.PRICING, may_repeat=False)
        except NotFound:
            return replace(known, is_listed=False, no_answer=NoAnswer.NOT_FOUND)
        except ProviderError:
            why = NoAnswer.UNREACHABLE if gateway.is_open else NoAnswer.PAUSED
            return replace(known, no_answer=why)
        if told is None:
            products.unclaim_reading(claim)
            return replace(known, no_answer=NoAnswer.BUSY if gateway.is_open else NoAnswer.PAUSED)
        kind = next((kind for kind in told.types if kind.type_id == self.type_id), None)
        if kind is None:
            return replace(known, cost=None, read_at=None, is_listed=False)
        # By now, the prices are stored. The type is stored, too, if the catalogue ever listed its
        # product.
        new = self.known()
        names = Names(new.names.product or told.title, new.names.type or kind.name)
        return replace(new, names=names, stock=kind.stock if new.stock is None else new.stock)

    def _answer_to_other(self, known: Quote) -> Quote:
        ends_at = time.monotonic() + tuning.quote_patience
        products = Product.objects.filter(product_id=self.product_id)
        # If the other request has already taken longer than ``quote_patience``, this caller does
        # not wait for it.
        asked = products.being_read(max_duration=tuning.quote_patience)
        while asked.exists() and time.monotonic() < ends_at:
            time.sleep(_LOOK)
        new = self.known()
        return new if new.read_at != known.read_at else replace(new, no_answer=NoAnswer.BUSY)


def stale_after() -> timedelta:
    """Return the age at which stock and prices are too old for a sale."""
    every = timedelta(seconds=conf.catalogue_interval)
    return max(_OLD, _OLD_PERIODS * every) if every else _OLD_BY_HAND


def with_available(
    kinds: QuerySet[ProductType],
    *,
    now: datetime,
    reference: str = "",
    stock_buffer: int | None = None,
) -> QuerySet[ProductType]:
    """Annotate ``kinds`` with ``available``, the number of cards left to sell.

    The number is 0 or more, or NULL if the stock is unknown. It is the stock that the provider
    reported, minus these cards:

    - all cards of open orders, and the delivered cards of settled orders, if the provider had not
      accepted the order yet when it reported the stock
    - reserved cards, except those of the reservation with this ``reference``
    - ``stock_buffer`` cards, or the shop's own stock buffer if this argument is ``None``
    """
    kinds = kinds.all()
    taken = _Taken.join_to(kinds, now, reference)
    stored = Coalesce(Subquery(Shelf.objects.filter(pk=1).values("stock_buffer")), 0)
    buffer = stored if stock_buffer is None else Value(stock_buffer)
    left = Greatest(F("stock") - taken - buffer, 0)
    # GREATEST(NULL, 0) is NULL in SQLite and MariaDB, but 0 in PostgreSQL.
    known = Case(When(stock=None, then=Value(None)), default=left, output_field=IntegerField())
    return kinds.annotate(available=known)  # type: ignore[no-redef]


def sold_out_by_buffer(stock_buffer: int) -> tuple[int, int]:
    """Return the numbers of types that this ``stock_buffer`` would affect.

    The first number is the number of types that would sell out. The second number is the number of
    types that would be back in stock. The function does not count types that are off sale for any
    other reason.
    """
    now = timezone.now()
    kinds = ProductType.objects.for_sale().filter(stock__gt=0).order_by()
    left = Q(("available__gt", 0))
    before, after = (
        {*with_available(kinds, now=now, stock_buffer=each).filter(left).values_list("pk")}
        for each in (None, stock_buffer)
    )
    return len(before - after), len(after - before)


_TAKEN = "giftcards_taken"
# The join is in SQL because no foreign key leads from orders and reservations to a type.
_TYPES = ["giftcards_product", "giftcards_producttype"]
_OF_LINE = (
    "giftcards_product.product_id = {table}.product_id"
    " AND giftcards_producttype.product_id = giftcards_product.id"
    " AND giftcards_producttype.type_id = {table}.type_id"
)
# True if the provider had not accepted the order yet when it reported the stock. This stock still
# includes the cards of the order.
_UNTOLD = (
    "(giftcards_order.accepted_at IS NULL"
    " OR giftcards_order.accepted_at > giftcards_producttype.read_at)"
)


class _Taken:
    """An SQL join that counts the cards to subtract from each type's stock.

    A single subquery adds up the cards of all types. With a separate subquery for each type,
    PostgreSQL might read all open orders once per type if its statistics are out of date. Django
    cannot join a subquery, so this class implements the interface of Django's own joins.
    """

    join_type = LOUTER
    nullable = True
    filtered_relation = None
    table_name = table_alias = _TAKEN

    @classmethod
    def join_to(cls, kinds: QuerySet[ProductType], now: datetime, reference: str) -> Coalesce:
        query: Any = kinds.query
        alias = query.join(cls(query.get_initial_alias(), now, reference), reuse=set())
        # The column of sums is also named ``stock``, so this field can read it.
        stock = ProductType._meta.get_field("stock")  # noqa: SLF001 (documented)
        return Coalesce(Col(alias, stock), 0, output_field=IntegerField())

    def __init__(self, parent_alias: str, now: datetime, reference: str) -> None:
        self.parent_alias = parent_alias
        first, *others = _rows_taken(now, reference)
        # Without order_by(), Django 6.1 would keep the model's ordering.
        self.rows = first.union(*others, all=True).order_by()

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        rows, params = self.rows.query.get_compiler(connection=connection).as_sql()
        totals = f"SELECT kind, SUM(stock) AS stock FROM ({rows}) subquery GROUP BY kind"  # noqa: S608
        # Django 6.1 has renamed quote_name_unless_alias() to quote_name().
        quote = getattr(compiler, "quote_name", None) or compiler.quote_name_unless_alias
        taken, kinds = map(quote, (self.table_alias, self.parent_alias))
        return f"{self.join_type} ({totals}) {taken} ON ({taken}.kind = {kinds}.id)", tuple(params)

    def relabeled_clone(self, aliases: Mapping[str, str]) -> Self:
        clone = copy(self)
        clone.table_alias = aliases.get(self.table_alias, self.table_alias)
        clone.parent_alias = aliases.get(self.parent_alias, self.parent_alias)
        return clone


def _rows_taken(now: datetime, reference: str) -> Iterator[QuerySet[Any]]:
    """Yield query sets of the orders and reservations that reduce the stock.

    Each row contains the primary key of the type as ``kind`` and the number of cards as ``stock``.
    """
    # Orders that settled before this time are ignored, because types that were read before it are
    # not for sale.
    begin = now - stale_after()
    kinds = ProductType.objects.filter(read_at__gt=begin).order_by("read_at")
    first = Subquery(kinds.values("read_at")[:1])
    untold = Order.objects.extra(where=[_UNTOLD])  # noqa: S610 (a constant)
    settled = untold.filter(finalized_at__gt=begin).filter(finalized_at__gt=first)
    reserved = Reservation.objects.current(now).exclude(reference=reference)
    for rows, column in (
        (untold.filter(finalized_at=None), "quantity"),
        (settled, "fulfilled_quantity"),
        (reserved, "quantity"),
    ):
        of_line = _OF_LINE.format(table=rows.model._meta.db_table)  # noqa: SLF001 (documented)
        joined = rows.order_by().extra(  # noqa: S610 (constants)
            select={"kind": "giftcards_producttype.id"}, tables=_TYPES, where=[of_line]
        )
        yield joined.values("kind").annotate(stock=F(column))
