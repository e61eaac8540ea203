"""The provider's test scenarios, run to their end against its sandbox, each checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db import transaction

from giftcards.asking import fan_out
from giftcards.exceptions import DecryptionError
from giftcards.following import watch
from giftcards.fulfilment import record_order, send_now
from giftcards.gateway import Gateway
from giftcards.models import Order, ProviderState, new_reference
from giftcards.refunds import refund_breakdown
from giftcards.statuses import Status

# The product of the provider's own examples.
PRODUCT = "507f1f77bcf86cd799439011"
TYPE = "type_001"


@dataclass(frozen=True, slots=True)
class Scenario:
    """An order and how it has to end; ``type_id`` "" stands for an ordinary type."""

    name: str
    type_id: str
    quantity: int
    status: Status
    delivered: int


# The quantities of the provider's guide; TEST_PARTIAL delivers half.
SCENARIOS = (
    Scenario("refund", "TEST_REFUND", 2, Status.REFUNDED, 0),
    Scenario("partial delivery", "TEST_PARTIAL", 4, Status.PARTIALLY_FILLED, 2),
    Scenario("ordinary order", "", 2, Status.FULFILLED, 2),
)


@dataclass(frozen=True, slots=True)
class Report:
    """How a scenario went: well if there are no ``complaints``."""

    scenario: Scenario
    order: Order
    complaints: tuple[str, ...]


def why_not(gateway: Gateway) -> str:
    """Why the scenarios must not be run with the configured key, as a sentence; "" if they may."""
    if not gateway.is_open():
        return ProviderState.objects.current().explain()
    question = [("key", gateway.client.validate)]
    answers = [answer for _name, answer in fan_out(question, gateway, lambda: True)]
    if not answers:
        # Another process was refused meanwhile.
        return ProviderState.objects.current().explain()
    [key] = answers
    if isinstance(key, Exception):
        return f"The provider could not be asked what the key is for: {key}"
    if key.key_type != "SANDBOX":
        return (
            f"The key is for {key.key_type or 'an unknown environment'}, not for the SANDBOX: the"
            " orders would cost money. Set GIFTCARDS['API_KEY'] to a sandbox key."
        )
    if key.scope == "READ-ONLY":
        return "The key may only read. Set GIFTCARDS['API_KEY'] to a sandbox key that may order."
    return ""


def run(gateway: Gateway, *, product_id: str, type_id: str) -> Iterator[Report]:
    """Place all the orders first, so that they settle side by side; yield them as they end."""
    with transaction.atomic():
        orders = [
            record_order(
                product_id=product_id,
                type_id=scenario.type_id or type_id,
                quantity=scenario.quantity,
                # Receivers of the shop hear of these orders as well, and can tell them by this.
                reference=f"selftest-{new_reference()}",
            )
            for scenario in SCENARIOS
        ]
    orders = [send_now(order, gateway) for order in orders]
    for scenario, placed in zip(SCENARIOS, orders, strict=True):
        order = placed
        for seen in watch(placed, gateway):
            order = seen
        yield Report(scenario, order, tuple(_complaints(scenario, order)))


def _complaints(scenario: Scenario, order: Order) -> Iterator[str]:
    if order.status != scenario.status:
        detail = order.problem or getattr(order.changes.last(), "detail", "")
        yield f"The order should be {scenario.status}, but is {order.status}. {detail}".strip()
        return
    cards = list(order.cards.select_related("order"))
    if len(cards) != scenario.delivered or order.fulfilled_quantity != scenario.delivered:
        yield (
            f"{scenario.delivered} of {scenario.quantity} cards should have been delivered, but"
            f" the provider says {order.fulfilled_quantity} and {len(cards)} are stored."
        )
    try:
        if not all(card.value for card in cards):
            yield "A card has no code."
    except DecryptionError as error:
        yield str(error)
    breakdown = refund_breakdown(order)
    if breakdown is None or not breakdown.is_consistent:
        yield "The provider's figures contradict each other."
    elif breakdown.refunded_quantity != scenario.quantity - scenario.delivered:
        yield f"{breakdown.refunded_quantity} cards were refunded."
