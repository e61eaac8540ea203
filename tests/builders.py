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
# What most tests of the engine order.
LINE = {"product_id": PRODUCT, "type_id": TYPE, "quantity": 2}

# What Python takes for a number, and nobody means as an amount.
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
    """The guide's order of five cards, not saved, with what an order in ``status`` always has."""
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
    """These values of an order, with the sale amount that ``place_order`` gives it."""
    price, amount = values.get("sale_price"), values.get("sale_amount")
    if amount is None and price is not None:
        amount = price * values["quantity"]
    return values if amount is None else {**values, "sale_amount": Decimal(amount)}


def with_final_figures(order: Order) -> Order:
    """A final order with the columns that it gets when it becomes final."""
    for name, value in final_figures(order).items():
        setattr(order, name, value)
    return order


def make_guide_order(status: Status = Status.HANDLING, **values: Any) -> Order:
    """:func:`build_guide_order`, saved."""
    order = build_guide_order(status, **values)
    order.save()
    return order


def make_order(
    status: Status = Status.PENDING, *, problems: Iterable[Problem] = (), **values: Any
) -> Order:
    """A small order, two cards, in a status that it could have got into."""
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
    """The category of the provider's products with this title."""
    return Category.objects.named([title])[title]


def hide(title: str) -> Category:
    """Take the category with this title off the shelf."""
    hidden = category(title)
    hidden.is_sold = False
    hidden.save()
    return hidden


def change_cost(type_id: str, cost: Any) -> None:
    """Have the provider charge this for a card."""
    for kind in ProductType.objects.filter(type_id=type_id):
        kind.cost = cost
        kind.save()


def set_shelf(*, by: str = "", **values: Any) -> None:
    """Set values of the whole shop, as its owner does."""
    shelf = Shelf.objects.current()
    assign(shelf, values)
    shelf.save(by=by)


def set_rule(set_conf: Callable[..., None], rule: dict[str, Any] | str | None) -> None:
    """Give the shop a margin, or a function for its prices; without either, it has none."""
    set_conf(PRICING=rule if isinstance(rule, str) else None)
    values = {"margin_percent": None, "margin_fixed": None, "round_to": 0, "least_margin": 0}
    set_shelf(**{**values, **(rule if isinstance(rule, dict) else {})})


def make_offer(type_id: str = TYPE, *, product_id: str = PRODUCT, **values: Any) -> ProductType:
    """A type of the catalogue as read just now: 490 DA, ten in stock."""
    now = timezone.now()
    read = {"listed_at": now, "types_read_at": now, "asked_at": now}
    product, _is_new = Product.objects.get_or_create(
        product_id=product_id, defaults={"name": "PlayStation", "category": category(), **read}
    )
    values = {"name": "PSN 500 DA", "cost": PRICE, "stock": 10, "read_at": now, **values}
    return ProductType.objects.create(product=product, type_id=type_id, **values)


def problems(order: Order) -> list[Problem]:
    """The problems of the order, as they are stored; ``needs_attention`` has to agree."""
    order.refresh_from_db(fields=["problems", "needs_attention"])
    assert order.needs_attention == bool(order.open_problems)
    return [Problem.of(entry) for entry in order.problems]


def surplus(received: int, announced: int) -> Problem:
    return Problem("surplus_cards", {"received": received, "announced": announced})


def not_whole(status: str, delivered: int, cards: int) -> Problem:
    counts = {"delivered": delivered, "ordered": 5, "cards": cards}
    return Problem("not_whole", {"status": status, **counts})


def details(change: StatusChange | None) -> list[Problem]:
    """The problems that began with a change."""
    assert change is not None
    return [Problem.of(entry) for entry in change.details if "ended" not in entry]


def ended(change: StatusChange | None) -> list[Problem]:
    """The problems that ended with a change."""
    assert change is not None
    return [Problem.of(entry) for entry in change.details if "ended" in entry]


def claim(*orders: Order) -> list[Order]:
    """Claim ``orders`` together, as a sweep does before it asks; return them in the given order."""
    now = timezone.now()
    pks = [order.pk for order in orders]
    Order.objects.filter(pk__in=pks).update(due_at=now)
    wanted = list(Order.objects.filter(pk__in=pks).to_check(now=now, due_by=now))
    found = Order.objects.claim(wanted, now=now, due_by=now, until=now + timedelta(minutes=1))
    return sorted(found, key=lambda order: pks.index(order.pk))


def answer(
    status: str | None = "HANDLING", problems: Iterable[Problem] = (), **values: Any
) -> OrderAnswer:
    """The provider's answer about an order; values that are not given are missing from it.

    ``problems`` are those that the order gets for the answer's flaws.
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
    """A whole final answer: every figure is there and fits the cards."""
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
    """An order that the provider has answered about like this, again if it was asked again."""
    order = make_guide_order(reference=reference, **values)
    for _check in range(2):
        if not order.is_final:
            record_answers([(claim(order)[0], answer)], now=timezone.now())
            order.refresh_from_db()
    return order


def receive(reference: str, *cards: CardSecret) -> Order:
    """An order whose cards are these, and have all come."""
    count = len(cards)
    return settle(reference, settled("FULFILLED", cards, quantity=count), quantity=count)


PARTIAL = settled("PARTIALLY_FILLED", CARDS[:3])
FULFILLED = settled("FULFILLED", CARDS)
REFUNDED = settled("REFUNDED", ())
