"""Fixtures of the tests of django-oscar, which have settings and an environment of their own."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from giftcards.simulator import Simulator


def pytest_configure(config: pytest.Config) -> None:
    # Oscar calls what later versions of treebeard will have moved.
    moved = "ignore::treebeard.deprecation.RemovedInTreebeard8Warning"
    config.addinivalue_line("filterwarnings", moved)


@pytest.fixture
def shop(db: None, simulator: Simulator) -> Simulator:
    """The provider of a shop that is open."""
    from tests.oscar.shop import open_shop

    open_shop()
    simulator.forget_requests()
    return simulator


@pytest.fixture
def till(monkeypatch: pytest.MonkeyPatch) -> list[Decimal]:
    """What customers have paid; the shop takes the payment where oscar says that shops do."""
    from tests.oscar.shop import payment_view

    taken: list[Decimal] = []

    def handle_payment(view: Any, order_number: str, total: Any, **_: Any) -> None:
        taken.append(total.incl_tax)

    monkeypatch.setattr(payment_view(), "handle_payment", handle_payment)
    return taken
