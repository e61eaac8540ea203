"""The README's example, run unchanged from the order to the codes that the shop receives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django_q.models import OrmQ

from giftcards import tasks
from giftcards.engine.task_queue import SWEEP_TASK
from giftcards.models import Order, StatusChange
from giftcards.signals import order_finalized
from giftcards.simulator import Simulator

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def namespace() -> Iterator[dict[str, Any]]:
    """Yield the names that the example defines, and disconnect its receiver afterwards."""
    names: dict[str, Any] = {}
    yield names
    order_finalized.disconnect(names["deliver"])


@pytest.mark.django_db(transaction=True)
def test_the_example_of_the_readme_leads_to_a_settled_order(
    simulator: Simulator, capsys: pytest.CaptureFixture[str], namespace: dict[str, Any]
) -> None:
    [example] = blocks("python")
    exec(compile(example, "README.md", "exec"), namespace)
    # Only the row and a wake-up call exist at this point.
    order = Order.objects.get()
    assert order.status == "PENDING"
    assert not simulator.requests
    [queued] = OrmQ.objects.all()
    assert queued.func() == SWEEP_TASK
    # Do the work of the worker.
    assert tasks.sweep() == "1 sent, 1 checked, 1 settled, 0 failed"
    order.refresh_from_db()
    assert order.status == "PARTIALLY_FILLED"
    assert [bought.status for bought in simulator.orders.values()] == [order.status]
    assert not StatusChange.objects.filter(announced_at=None).exists()
    assert capsys.readouterr().out in blocks("text")


def test_the_example_of_the_readme_has_five_lines() -> None:
    """Besides two imports and two blank lines, a shop has to add only five lines."""
    [example] = blocks("python")
    lines = [line for line in example.splitlines() if line and "import" not in line]
    assert len(lines) == 5
