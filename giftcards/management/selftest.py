"""Runs the provider's test scenarios against its sandbox and verifies each result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from django.db import transaction

from giftcards.engine.gateway import Gateway
from giftcards.engine.polling import Pulse, fan_out
from giftcards.engine.sending import send_now
from giftcards.engine.sweep import watch
from giftcards.exceptions import DecryptionError
from giftcards.management.base import provider_state, reason
from giftcards.models import Order, new_reference
from giftcards.refunds import refund_breakdown
from giftcards.statuses import Status

# The product in the provider's examples.
PRODUCT = "507f1f77bcf86cd799439011"
TYPE = "type_001"
_SALE_PRICE = Decimal(10_000)


@dataclass(frozen=True, slots=True)
class Scenario:
    """An order and its expected result; ``type_id`` "" stands for an ordinary type."""

    name: str
    type_id: str
    quantity: int
    status: Status
    delivered: int

    @property
    def sale_price(self) -> Decimal | None:
        """The customer's price for a card of a test type; ``None`` for an ordinary type.

        An ordinary type may cost more than any price that is made up here.
        """
        return _SALE_PRICE if self.type_id else None


# The quantities in the provider's guide; TEST_PARTIAL delivers half.
SCENARIOS = (
    Scenario("refund", "TEST_REFUND", 2, Status.REFUNDED, 0),
    Scenario("partial delivery", "TEST_PARTIAL", 4, Status.PARTIALLY_FILLED, 2),
    Scenario("ordinary order", "", 2, Status.FULFILLED, 2),
)


@dataclass(frozen=True, slots=True)
class SelfTestReport:
    """The result of a scenario; it passed if there are no ``complaints``."""

    scenario: Scenario
    order: Order
    complaints: tuple[str, ...]


def why_not(gateway: Gateway) -> str:
    """The reason why the scenarios must not run with this key, in a sentence; "" if they may."""
    if not gateway.try_open():
        return provider_state()
    question = [("key", gateway.client.validate)]
    answers = [answer for _name, answer in fan_out(question, gateway, Pulse())]
    if not answers:
        # Another process has been refused in the meantime.
        return provider_state()
    [key] = answers
    if isinstance(key, Exception):
        return f"The provider could not be asked what the key is for: {key}"
    gateway.note_key(key)
    if key.key_type != "SANDBOX":
        return (
            f"The key is for {key.key_type or 'an unknown environment'}, not for the SANDBOX: the"
            " orders would cost money. Set GIFTCARDS['API_KEY'] to a sandbox key."
        )
    if key.scope == "READ-ONLY":
        return "The key may only read. Set GIFTCARDS['API_KEY'] to a sandbox key that may order."
    return ""


def run(
    gateway: Gateway,
    *,
    product_id: str,
    type_id: str,
    on_wait: Callable[[Scenario, Order], None] = lambda _scenario, _order: None,
) -> Iterator[SelfTestReport]:
    """Place all orders first, so that they settle in parallel; yield a report for each.

    ``on_wait`` is called from time to time while an order has to be waited for.
    """
    with transaction.atomic():
        orders = [
            Order.objects.record(
                Order(
                    product_id=product_id,
                    type_id=scenario.type_id or type_id,
                    quantity=scenario.quantity,
                    sale_price=scenario.sale_price,
                    # The shop's receivers are called for these orders, too, and can recognise them.
                    reference=f"selftest-{new_reference()}",
                )
            )
            for scenario in SCENARIOS
        ]
    orders = [
        send_now(order, gateway, on_wait=partial(on_wait, scenario))
        for scenario, order in zip(SCENARIOS, orders, strict=True)
    ]
    for scenario, placed in zip(SCENARIOS, orders, strict=True):
        order = placed
        on_wait(scenario, order)
        for seen in watch(placed, gateway):
            order = seen
            on_wait(scenario, order)
            if _has_no_price(order):
                break
        yield SelfTestReport(scenario, order, tuple(_complaints(scenario, order)))


def _has_no_price(order: Order) -> bool:
    """True if the order waits for a price that the provider does not tell, maybe for very long."""
    return any(problem.code == "price_unknown" for problem in order.open_problems)


def _complaints(scenario: Scenario, order: Order) -> Iterator[str]:
    if order.status != scenario.status:
        why = reason(order)
        yield f"The order should be {scenario.status}, but is {order.status}. {why}".strip()
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
