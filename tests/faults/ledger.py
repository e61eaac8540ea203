"""A comparison of the shop's rows with the provider's ledger, whatever happened before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from decimal import Decimal
from typing import Any

from giftcards.models import Card, Order, StatusChange
from giftcards.refunds import refund_breakdown
from giftcards.statuses import SETTLED, Status
from tests.fakes.provider import PRICE, Bought, Provider
from tests.leaks import raw_database, traces


def audit(
    provider: Provider, *, unpriced: Collection[int] = (), strangers: Collection[str] = ()
) -> None:
    """Check the shop's orders and cards against the provider's, and search for stored secrets.

    The amounts of the orders with the keys ``unpriced`` are not compared. Orders of the types
    ``strangers`` belong to others, so the shop must not have them.
    """
    linked: dict[str, Order] = {}
    shown: set[str] = set()
    for order in Order.objects.all():
        shown |= {candidate["id"] for candidate in order.candidates}
        if order.provider_order_id:
            order_id = order.provider_order_id.removeprefix(provider.prefix)
            assert order_id not in linked, "two orders own the same one"
            linked[order_id] = order
    assert linked.keys() <= provider.orders.keys(), "an order that the provider does not know"
    ours = {name: order for name, order in provider.orders.items() if order.type not in strangers}
    assert linked.keys() <= ours.keys(), "an order of somebody else"
    assert ours.keys() <= linked.keys() | shown, "bought and lost"
    for order in Order.objects.all():
        _audit_line(order)
    for order_id, order in linked.items():
        _audit_order(order, provider.orders[order_id])
        if order.status in SETTLED and order.pk not in unpriced:
            _audit_amounts(order, provider.orders[order_id])
    bought = Counter((order.type, order.quantity) for order in ours.values())
    recorded = Counter(Order.objects.values_list("type_id", "quantity"))
    assert bought <= recorded, "bought twice"
    stored = {value for value in raw_database() if len(value) > 8}
    assert [found for value in stored for found in traces(value)] == []


def _audit_line(order: Order) -> None:
    """Check that the changes form a chain.

    All sendings except the last must be proven to have bought nothing.
    """
    moves = list(order.changes.order_by("pk").values_list("from_status", "to_status"))
    status = str(Status.PENDING)
    for origin, target in moves:
        assert origin == status
        status = target
    assert status == order.status
    returns = [origin for origin, target in moves if target == Status.PENDING]
    assert len([1 for _, target in moves if target == Status.PLACING]) <= len(returns) + 1
    assert not order.is_final or moves[-1][1] == order.status
    assert StatusChange.objects.filter(order=order, announced_at=None).count() == 0


def _audit_order(order: Order, bought: Bought) -> None:
    held = Counter((card.value, card.serial) for card in _cards(order))
    given = Counter((_text(card.get("value")), _text(card.get("serial"))) for card in bought.cards)
    assert (order.product_id, order.type_id) == (bought.product, bought.type)
    assert order.quantity == bought.quantity
    if order.status not in SETTLED:
        assert held <= given, "cards from nowhere"
        return
    assert held == given, "cards of the provider and of the shop differ"
    assert order.status == bought.status
    assert order.fulfilled_quantity == bought.delivered


def _audit_amounts(order: Order, bought: Bought) -> None:
    breakdown = refund_breakdown(order)
    assert breakdown.is_consistent
    refunded = (bought.quantity - bought.delivered) * PRICE
    assert breakdown.charged_amount == Decimal(bought.charged)
    assert breakdown.refunded_amount == Decimal(refunded)


def _cards(order: Order) -> list[Card]:
    return list(Card.objects.filter(order=order).select_related("order"))


def _text(value: Any) -> str:
    return "" if value is None else str(value)
