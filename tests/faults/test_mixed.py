"""Many random faults at once; at the end, each row is compared with the provider's ledger.

A placing answer may contain the id of somebody else's order, of another order of ours, or of the
next order. It may be lost, and processes may die before and after sending.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone

from giftcards.engine.gateway import Gateway
from giftcards.engine.recording import record_answers
from giftcards.exceptions import ProviderError
from giftcards.models import Order, ProviderState
from giftcards.provider.answers import OrderAnswer
from giftcards.statuses import FINAL, Status
from tests.fakes.provider import Exchange, Fault, Provider, change, give, say
from tests.faults.ledger import audit
from tests.stage import PSN, Setter, claim_to_send, record_order, refill_budget, run_sweep

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

# The types and quantities of our orders, few enough that many orders are alike.
LINES = [("one", 1), ("two", 2), ("two", 1), ("three", 3)]
STRANGER = "stranger"
SEEDS = range(12)


@pytest.fixture
def provider(set_conf: Setter, shorten: Setter) -> Iterator[Provider]:
    with Provider() as running:
        set_conf(BASE_URL=running.url, POLL_INTERVAL=0.1, REQUESTS_PER_MINUTE=3000)
        shorten(request_timeout=5, proof_of_absence=2)
        yield running


def name_next() -> Fault:
    """Return a fault that buys, and answers the id that the next order will get."""
    return change(lambda data: {"orderId": f"P{int(data['orderId'][1:]) + 1}"})


def name_known(chance: random.Random) -> Fault:
    """Return a fault that buys, and answers the id of this order or of a recent one."""

    def edit(data: dict[str, Any]) -> dict[str, Any]:
        number = int(data["orderId"][1:])
        return {"orderId": f"P{chance.randint(max(number - 4, 1), number)}"}

    return change(edit)


def name_stranger(line: tuple[str, int]) -> Fault:
    """Return a fault that buys, and answers the id of an order that somebody else just placed."""

    def fault(exchange: Exchange) -> None:
        theirs = exchange.provider.buy(PSN, *line)
        give(orderId=theirs)(exchange)

    return fault


def lose(*, carried_out: bool) -> Fault:
    return say(Exchange.close, carried_out=carried_out)


def draw_fault(chance: random.Random) -> Fault | None:
    """Return a fault for a placing answer, or ``None`` for a normal answer."""
    stranger = chance.choice([(STRANGER, 2), (STRANGER, 7)])
    faults: list[Fault | None] = [
        name_next(),
        name_known(chance),
        name_stranger(stranger),
        lose(carried_out=True),
        lose(carried_out=False),
    ]
    return chance.choice([*faults, *[None] * 4])


def place(provider: Provider, chance: random.Random) -> Order:
    kind, quantity = chance.choice(LINES)
    if fault := draw_fault(chance):
        provider.script("place", fault, type_id=kind)
    return record_order(product_id=PSN, type_id=kind, quantity=quantity, reference=None)


def die_while_placing(order: Order, *, has_sent: bool) -> None:
    if order.status == Status.PENDING and claim_to_send(order) and has_sent:
        line = {"product_id": PSN, "type_id": order.type_id, "quantity": order.quantity}
        with Gateway() as gateway, contextlib.suppress(ProviderError):
            gateway.client.place(**line)


def pass_time(seconds: float = 2) -> None:
    """Make all orders due, and end the claims of dead processes."""
    waited = timedelta(seconds=seconds)
    names = ("sent_at", "accepted_at", "absent_since")
    Order.objects.update(**{name: F(name) - waited for name in names})
    Order.objects.exclude(due_at=None).update(due_at=timezone.now())
    Order.objects.exclude(claimed_until=None).update(claimed_until=timezone.now())
    ProviderState.objects.exclude(paused_until=None).update(paused_until=timezone.now())
    ProviderState.objects.update(list_usable_at=None)
    refill_budget()


Answers = list[tuple[Order, OrderAnswer]]


def be_slow_while_asking() -> Answers:
    """Check due orders, and return the answers without recording them.

    Meanwhile, other processes may take over the orders.
    """
    now = timezone.now()
    wanted = Order.objects.to_check(now=now, due_by=now)
    held = Order.objects.claim(wanted, now=now, due_by=now, until=now) if wanted else []
    answers: Answers = []
    with Gateway() as gateway:
        for order in held:
            with contextlib.suppress(ProviderError):
                answers.append((order, gateway.client.check(order.provider_order_id or "")))
    return answers


def live(provider: Provider, chance: random.Random) -> None:
    """Place orders, sweep and die, in random order; then let everything come to its end."""
    on_the_way: Answers = []
    for _step in range(14):
        order = place(provider, chance)
        if chance.random() < 0.2:
            die_while_placing(order, has_sent=chance.random() < 0.7)
        if chance.random() < 0.2:
            on_the_way += be_slow_while_asking()
        if chance.random() < 0.5:
            run_sweep()
        if on_the_way and chance.random() < 0.2:
            record_answers(on_the_way, now=timezone.now())
            on_the_way = []
        if chance.random() < 0.3:
            pass_time(0.1)
    record_answers(on_the_way, now=timezone.now())
    provider.recover()
    for _round in range(12):
        pass_time()
        run_sweep()


@pytest.mark.parametrize("seed", SEEDS)
def test_no_order_is_lost_or_bought_twice_whatever_placing_answers(
    seed: int, provider: Provider
) -> None:
    # In every second run, the provider shows a different id than in its placing answer.
    provider.prefix = "X" * (seed % 2)
    live(provider, random.Random(seed))
    audit(provider, strangers={STRANGER})
    left = Order.objects.exclude(status__in=FINAL)
    # The remaining orders wait for a person, who sees why.
    assert set(left.values_list("status", flat=True)) <= {Status.UNCONFIRMED}
    assert set(left.values_list("needs_attention", flat=True)) <= {True}
