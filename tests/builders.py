"""Orders, answers and cards as the provider's guide shows them: 490 DA a card, 3 of 5 delivered."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.utils import timezone

from giftcards.cards import CardSecret
from giftcards.models import Order
from giftcards.provider import OrderAnswer
from giftcards.statuses import ACCEPTED, FINAL, Status

PRODUCT = "507f1f77bcf86cd799439011"
TYPE = "type_001"
PRICE = Decimal("490.00")

CARDS = (
    CardSecret("AAAA-AAAA-AAAA-AAAA", "111111111"),
    CardSecret("BBBB-BBBB-BBBB-BBBB", "222222222"),
    CardSecret("CCCC-CCCC-CCCC-CCCC", "333333333"),
    CardSecret("DDDD-DDDD-DDDD-DDDD", "444444444"),
    CardSecret("EEEE-EEEE-EEEE-EEEE", "555555555"),
)


def build_order(status: Status = Status.HANDLING, **values: Any) -> Order:
    """An unsaved order in ``status``, with what an order in that status always has."""
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
        values = {"settled_at": now, "due_at": None, **values}
    delivered = {Status.FULFILLED: values["quantity"], Status.PARTIALLY_FILLED: 3}.get(status, 0)
    values.setdefault("fulfilled_quantity", delivered)
    return Order(status=status, **values)


def make_order(status: Status = Status.HANDLING, **values: Any) -> Order:
    order = build_order(status, **values)
    order.save()
    return order


def claim(*orders: Order) -> list[Order]:
    """Claim ``orders`` together, as a sweep does before it asks; return them in the given order."""
    now = timezone.now()
    pks = [order.pk for order in orders]
    Order.objects.filter(pk__in=pks).update(due_at=now)
    wanted = list(Order.objects.filter(pk__in=pks).to_check(now=now, due_by=now))
    found = Order.objects.claim(wanted, now=now, due_by=now, until=now + timedelta(minutes=5))
    return sorted(found, key=lambda order: pks.index(order.pk))


def answer(status: str | None = "HANDLING", **values: Any) -> OrderAnswer:
    """What the provider says of an order; what is not given is missing from the answer."""
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
        "problems": (),
        "request_id": "",
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


PARTIAL = settled("PARTIALLY_FILLED", CARDS[:3])
FULFILLED = settled("FULFILLED", CARDS)
REFUNDED = settled("REFUNDED", ())
