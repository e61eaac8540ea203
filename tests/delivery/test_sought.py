"""Messages to the customer while a rule reorders missing cards, and after the last attempt."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.core import mail

from giftcards.fulfilment import place_order
from giftcards.models import Order
from giftcards.settlement import customer_breakdown
from giftcards.simulator import Simulator
from tests.builders import PRODUCT
from tests.delivery.mails import ADDRESS, send
from tests.stage import ago, run_sweep

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

SOUGHT = "We have ordered the missing card"


@pytest.fixture
def rule(set_conf: Callable[..., None]) -> None:
    set_conf(REORDER_MISSING={"times": 2, "hours": 6})


def work() -> list[str]:
    """Send and settle everything that waits, and return the bodies of the new mails."""
    Order.objects.exclude(send_after=None).update(send_after=ago(1))
    for _sweep in range(2):
        run_sweep()
    mail.outbox.clear()
    send()
    return [str(message.body) for message in mail.outbox]


def buy(kind: str, quantity: int = 5) -> None:
    place_order(
        product_id=PRODUCT,
        type_id=kind,
        quantity=quantity,
        sale_price=Decimal(550),
        customer_email=ADDRESS,
    )


@pytest.mark.usefixtures("rule")
@pytest.mark.parametrize("kind", ["TEST_REFUND", "SIM_REJECT"])
def test_the_customer_hears_that_cards_are_sought_and_at_the_end_that_they_are_owed(
    kind: str, simulator: Simulator
) -> None:
    buy(kind)
    first, second, last = work(), work(), work()
    assert [SOUGHT in body for body in first] == [True]
    assert "We will refund" not in first[0]
    # The first of two attempts has failed.
    assert second == []
    assert len(last) == 1
    assert SOUGHT not in last[0]
    assert "We will refund ⁨2,750 DA⁩ for the missing cards." in last[0]
    assert work() == []


@pytest.mark.usefixtures("rule")
def test_the_customer_gets_the_cards_that_come_from_each_order(simulator: Simulator) -> None:
    buy("TEST_PARTIAL")
    [first] = work()
    Order.objects.filter(status="PENDING").update(type_id="type_001")
    [second] = work()
    assert "2 of the 5 gift cards that you ordered have arrived." in first
    assert SOUGHT in first
    assert "The 3 gift cards that you ordered have arrived." in second


def test_without_the_rule_the_customer_hears_at_once_what_is_owed(simulator: Simulator) -> None:
    buy("TEST_PARTIAL")
    [body] = work()
    assert "We will refund ⁨1,650 DA⁩ for the missing cards." in body
    breakdown: Any = customer_breakdown(Order.objects.get())
    assert breakdown.open_amount == 1650
