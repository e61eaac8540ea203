"""Builders of orders, answers and cards.

The guide's order is for five cards at 490 DA, of which three are delivered.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.utils import timezone

from giftcards.engine.recording import record_answers
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Category, Order, Product, ProductType, Shelf, StatusChange
from giftcards.models.fields import assign
from giftcards.provider.answers import Flaw, OrderAnswer
from giftcards.rules.money import final_figures
from giftcards.rules.problems import Problem
from giftcards.statuses import ACCEPTED, FINAL, Status

PRODUCT = "507f1f77bcf86cd799439011"
TYPE = "type_001"
PRICE = Decimal("490.00")
# The order line that most tests of the engine use.
LINE = {"product_id": PRODUCT, "type_id": TYPE, "quantity": 2}

# Texts that are not valid amounts, although Python parses most of them as numbers.
ODD_AMOUNTS = ("1e3", "1E-1", "Infinity", "NaN", "1_000", "٥٥٠", "+5", ".5", "5.", "549,90")

CARDS = (
    CardSecret("AAAA-AAAA-AAAA-AAAA", "111111111"),
    CardSecret("BBBB-BBBB-BBBB-BBBB", "222222222"),
    CardSecret("CCCC-CCCC-CCCC-CCCC", "333333333"),
    CardSecret("DDDD-DDDD-DDDD-DDDD", "444444444"),
    CardSecret("EEEE-EEEE-EEEE-EEEE", "555555555"),
)


def build_guide_order(
    status: Status = Status.HANDLING, *, problems: Iterable[Problem] = (), **values: Any
) -> Order:
    """Return the guide's order of five cards, unsaved, with the values that ``status`` requires."""
    now = timezone.now()
    values = {"product_id": PRODUCT, "type_id": TYPE, "quantity": 5, **values}
    if status in ACCEPTED:
        values = {
            "provider_order_id": uuid.uuid4().hex[:24],
            "price_per_card": PRICE,
            "sent_at": now,
            "accepted_at": now,
            "due_at": None if status in FINAL else now,
            **values,
        }
    if status in FINAL:
        values = {"finalized_at": now, "due_at": None, **values}
    delivered = {Status.FULFILLED: values["quantity"], Status.PARTIALLY_FILLED: 3}.get(status, 0)
    values.setdefault("fulfilled_quantity", delivered)
    order = Order(status=status, **_sold(values), **Order().problem_columns(new=problems))
    return with_final_figures(order) if status in FINAL else order


def _sold(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with the sale amount that ``place_order`` would add."""
    price, amount = values.get("sale_price"), values.get("sale_amount")
    if amount is None and price is not None:
        amount = price * values["quantity"]
    return values if amount is None else {**values, "sale_amount": Decimal(amount)}


def with_final_figures(order: Order) -> Order:
    """Set the columns that an order gets when it becomes final, and return the order."""
    for name, value in final_figures(order).items():
        setattr(order, name, value)
    return order


def make_guide_order(status: Status = Status.HANDLING, **values: Any) -> Order:
    """Create and return the order of :func:`build_guide_order`."""
    order = build_guide_order(status, **values)
    order.save()
    return order


def make_order(
    status: Status = Status.PENDING, *, problems: Iterable[Problem] = (), **values: Any
) -> Order:
    """Create a small order of two cards in a status that it could have reached."""
    if status in FINAL:
        values = {"finalized_at": timezone.now(), "due_at": None} | values
    delivered = {Status.FULFILLED: 2, Status.PARTIALLY_FILLED: 1}.get(status, 0)
    values = {"fulfilled_quantity": delivered} | values
    if status == Status.PLACING:
        values = {"sent_at": timezone.now(), "due_at": None} | values
    if status in ACCEPTED:
        values = {
            "provider_order_id": f"A{Order.objects.count()}",
            "accepted_at": timezone.now() - timedelta(seconds=1),
        } | values
    values = _sold({**LINE, **values})
    return Order.objects.create(
        **{"status": status, **values, **Order().problem_columns(new=problems)}
    )


def category(title: str = "") -> Category:
    """Return the category of the provider's products with this title."""
    return Category.objects.named([title])[title]


def hide(title: str) -> Category:
    """Take the category with this title off the shelf, and return it."""
    hidden = category(title)
    hidden.is_sold = False
    hidden.save()
    return hidden


def change_cost(type_id: str, cost: Any) -> None:
    """Set what the provider charges for a card of this type."""
    for kind in ProductType.objects.filter(type_id=type_id):
        kind.cost = cost
        kind.save()


def set_shelf(*, by: str = "", **values: Any) -> None:
    """Set values of the whole shop, as its owner does."""
    shelf = Shelf.objects.current()
    assign(shelf, values)
    shelf.save(by=by)


def set_rule(set_conf: Callable[..., None], rule: dict[str, Any] | str | None) -> None:
    """Give the shop a margin (a dict) or a pricing function (a path); ``None`` removes both."""
    set_conf(PRICING=rule if isinstance(rule, str) else None)
    values = {"margin_percent": None, "margin_fixed": None, "round_to": 0, "least_margin": 0}
    set_shelf(**{**values, **(rule if isinstance(rule, dict) else {})})


def make_offer(type_id: str = TYPE, *, product_id: str = PRODUCT, **values: Any) -> ProductType:
    """Create a type of the catalogue that was read just now, at 490 DA with ten in stock."""
    now = timezone.now()
    read = {"listed_at": now, "types_read_at": now, "asked_at": now}
    product, _is_new = Product.objects.get_or_create(
        product_id=product_id, defaults={"name": "PlayStation", "category": category(), **read}
    )
    values = {"name": "PSN 500 DA", "cost": PRICE, "stock": 10, "read_at": now, **values}
    return ProductType.objects.create(product=product, type_id=type_id, **values)


def problems(order: Order) -> list[Problem]:
    """Return the stored problems of the order, after checking that ``needs_attention`` agrees."""
    order.refresh_from_db(fields=["problems", "needs_attention"])
    assert order.needs_attention == bool(order.open_problems)
    return [Problem.of(entry) for entry in order.problems]


def surplus(received: int, announced: int) -> Problem:
    return Problem("surplus_cards", {"received": received, "announced": announced})


def not_whole(status: str, delivered: int, cards: int) -> Problem:
    counts = {"delivered": delivered, "ordered": 5, "cards": cards}
    return Problem("not_whole", {"status": status, **counts})


def details(change: StatusChange | None) -> list[Problem]:
    """Return the problems that began with a change."""
    assert change is not None
    return [Problem.of(entry) for entry in change.details if "ended" not in entry]


def ended(change: StatusChange | None) -> list[Problem]:
    """Return the problems that ended with a change."""
    assert change is not None
    return [Problem.of(entry) for entry in change.details if "ended" in entry]


def claim(*orders: Order) -> list[Order]:
    """Claim ``orders`` together, as a sweep does before it checks them.

    The result has the sequence of ``orders``.
    """
    now = timezone.now()
    pks = [order.pk for order in orders]
    Order.objects.filter(pk__in=pks).update(due_at=now)
    wanted = list(Order.objects.filter(pk__in=pks).to_check(now=now, due_by=now))
    found = Order.objects.claim(wanted, now=now, due_by=now, until=now + timedelta(minutes=1))
    return sorted(found, key=lambda order: pks.index(order.pk))


def answer(
    status: str | None = "HANDLING", problems: Iterable[Problem] = (), **values: Any
) -> OrderAnswer:
    """Return an answer of the provider about an order, without the values that are not given.

    ``problems`` are the problems that the flaws of the answer cause for the order.
    """
    nothing: dict[str, Any] = {
        "provider_id": "",
        "quantity": None,
        "fulfilled_quantity": None,
        "fulfilled_amount": None,
        "price_per_card": None,
        "cards": (),
        "product_id": "",
        "type_id": "",
        "created_at": None,
        "flaws": tuple(Flaw(problem.code, problem.parameters) for problem in problems),
    }
    return OrderAnswer(status=status, **{**nothing, **values})


def settled(
    status: str | None, cards: Iterable[CardSecret], *, quantity: int = 5, **values: Any
) -> OrderAnswer:
    """Return a complete final answer whose figures all fit the cards."""
    cards = tuple(cards)
    figures = {
        "quantity": quantity,
        "fulfilled_quantity": len(cards),
        "fulfilled_amount": len(cards) * PRICE,
        "price_per_card": PRICE,
        "cards": cards,
    }
    return answer(status, **{**figures, **values})


def settle(reference: str, answer: OrderAnswer, **values: Any) -> Order:
    """Create an order and record this answer, a second time if the first does not settle it."""
    order = make_guide_order(reference=reference, **values)
    for _check in range(2):
        if not order.is_final:
            record_answers([(claim(order)[0], answer)], now=timezone.now())
            order.refresh_from_db()
    return order


def receive(reference: str, *cards: CardSecret) -> Order:
    """Create an order for which exactly these cards have been delivered."""
    count = len(cards)
    return settle(reference, settled("FULFILLED", cards, quantity=count), quantity=count)


PARTIAL = settled("PARTIALLY_FILLED", CARDS[:3])
FULFILLED = settled("FULFILLED", CARDS)
REFUNDED = settled("REFUNDED", ())
