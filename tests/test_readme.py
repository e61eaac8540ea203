"""The README's example, run as it stands there: from the order to the codes in the shop's hands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django_q.models import OrmQ

from giftcards import tasks
from giftcards.fulfilment import SWEEP_TASK
from giftcards.models import Order, StatusChange
from giftcards.signals import order_settled
from giftcards.simulator import Simulator

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def _own_receivers() -> Iterator[None]:
    """Forget the example's receiver afterwards."""
    before = order_settled.receivers[:]
    yield
    order_settled.receivers = before
    order_settled.sender_receivers_cache.clear()


@pytest.mark.usefixtures("_own_receivers")
@pytest.mark.django_db(transaction=True)
def test_the_example_leads_to_a_settled_order(
    simulator: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    [example] = blocks("python")
    namespace: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), namespace)

    # Nothing but a row and a wake-up call so far.
    order = Order.objects.get()
    assert order.status == "PENDING"
    assert not simulator.requests
    [queued] = OrmQ.objects.all()
    assert queued.func() == SWEEP_TASK

    # What the worker does with it.
    assert tasks.sweep() == "1 sent, 1 checked, 1 settled, 0 failed"

    order.refresh_from_db()
    assert order.status == "PARTIALLY_FILLED"
    assert [bought.status for bought in simulator.orders.values()] == [order.status]
    assert not StatusChange.objects.filter(announced_at=None).exists()
    assert capsys.readouterr().out in blocks("text")


def test_the_example_is_short() -> None:
    """Two imports and two blank lines aside, five lines are all that a shop needs to add."""
    [example] = blocks("python")
    lines = [line for line in example.splitlines() if line and "import" not in line]
    assert len(lines) == 5
